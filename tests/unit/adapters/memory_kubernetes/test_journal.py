import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from damaged_files import garbage, overwritten
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes, StateRefused
from sundog_operator.adapters.memory_kubernetes.journal import FORMAT
from sundog_operator.errors import DependencyError
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, Ref

WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes

class Clock:
    def now(self): return datetime.now(UTC)
    async def sleep(self, seconds): await asyncio.sleep(seconds)

async def main():
    kube = MemoryKubernetes.open(Path(sys.argv[1]), Clock())
    for n in range(100_000):
        metadata = {"name": f"d{n % 7}", "namespace": "vision"}
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"n": str(n)}}
        print(n, (await kube.apply(obj))["metadata"]["resourceVersion"], flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


async def test_uids_are_never_given_twice(path: Path, tmp_path: Path, clock: Any, mdep: Any) -> None:
    uids = set()
    for place in (path, path, tmp_path / "other.db"):
        kube = MemoryKubernetes.open(place, clock)
        uids.add((await kube.create(mdep()))["metadata"]["uid"])
        await kube.delete(Ref(MODEL_DEPLOYMENT, "vision", "digits"))
        kube.close()
    assert len(uids) == 3


def test_a_kill_loses_nothing_that_was_acknowledged(path: Path, clock: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = [writer.stdout.readline().split() for _ in range(40)]
        with pytest.raises(StateRefused, match=f"in use by process {writer.pid}"):
            MemoryKubernetes.open(path, clock)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged += [line.split() for line in writer.stdout if line.endswith("\n")]
    kube = MemoryKubernetes.open(path, clock)
    stored = {obj["metadata"]["name"]: obj for obj in kube.store.list(CONFIG_MAP, None, {})}
    latest = {f"d{int(n) % 7}": (int(n), int(version)) for n, version in acknowledged}
    assert stored.keys() == latest.keys()
    for name, (n, version) in latest.items():
        # One more write may be committed but not acknowledged.
        found = int(stored[name]["data"]["n"]), int(stored[name]["metadata"]["resourceVersion"])
        assert found in {(n, version), (n + 7, version + 7)}
    kube.close()


async def test_orphans_of_a_crash_go_at_the_next_start(path: Path, clock: Any, mdep: Any, config_map: Any) -> None:
    kube = MemoryKubernetes.open(path, clock)
    await kube.apply(config_map("split", await kube.apply(mdep())))
    kube.close()
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM objects WHERE kind = 'ModelDeployment'")
    database.close()
    kube = MemoryKubernetes.open(path, clock)
    assert await kube.list(CONFIG_MAP) == []
    kube.close()


def test_a_newer_format_is_refused_and_left_alone(path: Path, clock: Any) -> None:
    MemoryKubernetes.open(path, clock).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {FORMAT + 1}")
    database.close()
    content = path.read_bytes()
    with pytest.raises(StateRefused, match=f"state format {FORMAT + 1}; expected at most {FORMAT}"):
        MemoryKubernetes.open(path, clock)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", [garbage, overwritten])
async def test_a_corrupt_file_is_moved_aside_and_a_new_one_begins(
    path: Path, clock: Any, mdep: Callable[[], Any], damage: Callable[[Path], bytes]
) -> None:
    kube = MemoryKubernetes.open(path, clock)
    await kube.apply(mdep())
    kube.close()
    content = damage(path)
    kube = MemoryKubernetes.open(path, clock)
    assert kept(kube) == content
    assert await kube.list(MODEL_DEPLOYMENT) == []
    await kube.apply(mdep())
    kube.close()
    kube = MemoryKubernetes.open(path, clock)
    assert (kube.corrupt_file, len(await kube.list(MODEL_DEPLOYMENT))) == (None, 1)
    kube.close()


def kept(kube: MemoryKubernetes) -> bytes:
    assert kube.corrupt_file is not None
    return kube.corrupt_file.read_bytes()


def test_a_database_of_something_else_is_refused_and_left_alone(path: Path, clock: Any) -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {FORMAT}")
    database.execute("CREATE TABLE mine (a)")
    database.close()
    for _ in range(2):
        with pytest.raises(StateRefused, match="not a usable state file"):
            MemoryKubernetes.open(path, clock)
    assert [each.name for each in path.parent.glob("*.corrupt-*")] == []


async def test_one_file_one_server(path: Path, clock: Any) -> None:
    kube = MemoryKubernetes.open(path, clock)
    with pytest.raises(StateRefused, match=f"in use by process {os.getpid()}"):
        MemoryKubernetes.open(path, clock)
    kube.close()
    MemoryKubernetes.open(path, clock).close()


async def test_a_full_disk_loses_the_write_and_nothing_else(path: Path, clock: Any, mdep: Any) -> None:
    kube = MemoryKubernetes.open(path, clock)
    first = await kube.apply(mdep())
    blocker = sqlite3.connect(path)
    blocker.execute("PRAGMA busy_timeout = 0")
    kube.store._journal._database.execute("PRAGMA busy_timeout = 0")  # type: ignore[union-attr]
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(DependencyError, match="cannot be written"):
        await kube.apply(mdep(replicas=2))
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await kube.list(MODEL_DEPLOYMENT) == [first]
    second = await kube.apply(mdep(replicas=2))
    assert int(second["metadata"]["resourceVersion"]) == int(first["metadata"]["resourceVersion"]) + 1
    kube.close()
