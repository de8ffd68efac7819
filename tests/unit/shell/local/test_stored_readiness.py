"""What the API server shows at the start of an instance that nothing serves yet."""

import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from sundog_operator.adapters.clock import SystemClock
from sundog_operator.adapters.local.process_table import ProcessCommand, SystemProcessTable
from sundog_operator.adapters.local.processes import Processes, find_marked_processes
from sundog_operator.adapters.local.state_directory import StateDirectory
from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.api import Condition, ModelDeploymentStatus
from sundog_operator.api.reasons import DeploymentReason
from sundog_operator.ports import MODEL_DEPLOYMENT, Clock, Kubernetes, Ref
from sundog_operator.shell.local.api_server import open_api_server
from sundog_operator.shell.local.instance import InstanceParts, LocalController, StopRequest, run_instance
from sundog_operator.shell.local.views import LineView

BEFORE = datetime(2026, 11, 26, 12, tzinfo=UTC)
DIGITS = Ref(MODEL_DEPLOYMENT, "default", "digits")


@pytest.fixture
def state() -> Iterator[StateDirectory]:
    """Return a state directory whose stored ModelDeployment served when its instance ended."""
    path = Path(tempfile.mkdtemp(prefix="sdr-"))
    made = StateDirectory.at(path)
    made.prepare()
    yield made
    table = SystemProcessTable()
    for process in find_marked_processes(made, table):
        table.signal(process, signal.SIGKILL)
    shutil.rmtree(path, ignore_errors=True)


async def store(state: StateDirectory, ready: Literal["True", "False"]) -> None:
    """Store a ModelDeployment with that `Ready`."""
    with contextlib.closing(open_api_server(state.path / "objects.db", SystemClock())) as kube:
        stored = await kube.apply(
            {
                "apiVersion": MODEL_DEPLOYMENT.api_version,
                "kind": MODEL_DEPLOYMENT.kind,
                "metadata": {"namespace": DIGITS.namespace, "name": DIGITS.name},
                "spec": {"model": {"uri": "file:///v1"}},
            }
        )
        conditions = (
            Condition(type="Ready", status=ready, reason="Stored", message="as stored", last_transition_time=BEFORE),
            Condition(type="Promoted", status="True", reason="Complete", last_transition_time=BEFORE),
        )
        status = ModelDeploymentStatus(conditions=conditions, url="http://127.0.0.1:8080/digits").to_json()
        await kube.patch_status(DIGITS, status, resource_version=stored["metadata"]["resourceVersion"])


async def status_at_start(state: StateDirectory) -> ModelDeploymentStatus:
    """Return the stored status when an instance makes its controllers."""
    seen: list[Any] = []

    def read(kube: Kubernetes, _state: Path, _clock: Clock) -> Sequence[LocalController]:
        assert isinstance(kube, MemoryKubernetes)
        seen.append(kube.store.get(DIGITS))
        return ()

    def end(_kube: Kubernetes, _session: aiohttp.ClientSession, _token: str, _clock: Clock) -> Any:
        raise KeyError("enough was seen")

    with pytest.raises(KeyError, match="enough was seen"):
        await run_instance(state.path, state.path, StopRequest(), LineView(), parts=InstanceParts(read, end))
    return ModelDeploymentStatus.parse(seen[0]["status"])


async def test_a_model_is_not_ready_when_an_instance_starts(state: StateDirectory) -> None:
    await store(state, "True")
    status = await status_at_start(state)
    ready, promoted = (each for each in status.conditions if each.type in ("Ready", "Promoted"))
    assert (ready.status, ready.reason) == ("False", DeploymentReason.NO_HEALTHY_REPLICA)
    assert ready.message == "the local instance starts: no replica runs yet"
    assert ready.last_transition_time > BEFORE
    assert (promoted.status, promoted.last_transition_time) == ("True", BEFORE)
    assert status.url == "http://127.0.0.1:8080/digits"


async def test_the_reason_why_a_model_was_not_ready_stays(state: StateDirectory) -> None:
    await store(state, "False")
    ready, *_ = (await status_at_start(state)).conditions
    assert (ready.status, ready.reason, ready.message) == ("False", "Stored", "as stored")


async def test_a_model_stays_ready_if_processes_of_a_killed_instance_still_run(state: StateDirectory) -> None:
    await store(state, "True")
    processes = Processes(state, SystemProcessTable(), SystemClock())
    command = (sys.executable, "-c", "import time; time.sleep(300)")
    await processes.start(ProcessCommand("haproxy", command, {}, state.path, state.logs / "haproxy.log"))
    ready, *_ = (await status_at_start(state)).conditions
    assert (ready.status, ready.reason) == ("True", "Stored")
