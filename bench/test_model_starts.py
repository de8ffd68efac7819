"""What shortens the start of a replica: each means against the same start without it, in a process of its own as Ray starts one.

The model is in a real S3 server, behind an HAProxy that gives each connection as many bytes per second as such stores do.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import obstore
import pytest
import safetensors.torch
import torch
from obstore.store import S3Store
from rich.console import Console

from measuring import networks
from measuring.record import Record
from ports import free_ports
from store_processes import BUILD_S, S3_KEYS, running, s3_server
from sundog_edge.haproxy import program

pytestmark = [pytest.mark.bench, pytest.mark.haproxy, pytest.mark.timeout(BUILD_S + 3600)]

ROUNDS: Final = 5
LAYERS: Final = 8
MEBIBYTES: Final = 64 * LAYERS
PER_CONNECTION: Final = "50m"
"""Bytes a second that one connection gets. Object stores give 50 to 100 MB to each, and more to more of them."""

LARGE: Final = f"""
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096, bias=False) for _ in range({LAYERS})))

    def forward(self, x):
        return self.layers(x)
"""
SHAPE: Final = [4096]

_LIMITED: Final = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen store
    bind 127.0.0.1:{port}
    filter bwlim-out each default-limit {rate} default-period 1s
    http-request set-bandwidth-limit each
    server s3 127.0.0.1:{behind}
"""

_START: Final = """
import asyncio, dataclasses, json, os, sys
from sundog_runtime.replica import Replica
from sundog_runtime.sources import fetch

asked = json.loads(sys.argv[1])
if asked["connections"]:
    limits = fetch.read_limits
    fetch.read_limits = lambda: dataclasses.replace(limits(), connections=asked["connections"])


async def start():
    replica = await Replica.start(asked["arguments"])
    await replica.reconfigure(None)
    return replica.startup.document()


print(json.dumps(asyncio.run(start())), flush=True)
# As Serve ends a replica: no library's thread is awaited.
os._exit(0)
"""

TITLE: Final = f"From a replica's process to a ready model: {MEBIBYTES} MiB of weights, {ROUNDS} interleaved rounds"
PHASES: Final = ("list", "download", "verify", "load", "warmup")

Phases = dict[str, float]


@dataclass(frozen=True)
class Start:
    """One kind of start.

    Attributes:
        name: as shown.
        uri: the model's.
        before: the kind that does without the last means; empty for the first of a group.
        connections: most at a time to the store; 0 for as many as by default.
        is_kept: whether the cache of the last start is there.
    """

    name: str
    uri: str
    before: str = ""
    connections: int = 0
    is_kept: bool = False

    def run(self, cache: Path) -> Phases:
        """Start in a new process. Return seconds by phase."""
        model = {"uri": self.uri, "entrypoint": "net:Net"}
        arguments = {"version": 1, "namespace": "bench", "service": "net", "revision": 1, "model": model}
        asked = json.dumps({"arguments": arguments, "connections": self.connections})
        environment = {**os.environ, "SUNDOG_CACHE_DIR": str(cache)}
        done = subprocess.run(
            [sys.executable, "-c", _START, asked], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: Phases = json.loads(done.stdout.splitlines()[-1])["phases"]
        return found


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A bucket `models` that is there, of which replicas get so many bytes a second with each connection."""
    port, behind = free_ports(2)
    (tmp_path / "s3" / "models").mkdir(parents=True)
    config = tmp_path / "haproxy.cfg"
    config.write_text(_LIMITED.format(port=port, behind=behind, rate=PER_CONNECTION))
    address = {"SUNDOG_SOURCE_ALLOW_HOSTS": "127.0.0.1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    for name, value in {**S3_KEYS, **address}.items():
        monkeypatch.setenv(name, value)
    limited = (str(program.find_haproxy()), "-f", str(config))
    with s3_server(tmp_path / "s3", behind, tmp_path / "s3.log"), running(limited, port, tmp_path / "haproxy.log"):
        yield S3Store("models", endpoint=f"http://127.0.0.1:{behind}", client_options={"allow_http": True})


def put(bucket: S3Store, name: str, model: Path) -> str:
    """Upload a model. Return its URI."""
    for path in model.iterdir():
        obstore.put(bucket, f"{name}/{path.name}", path)
    return f"s3://models/{name}"


def as_safetensors(pickled: Path, folder: Path) -> Path:
    """Return a copy of the model whose weights are in that format."""
    shutil.copytree(pickled, folder)
    state = torch.load(folder / "weights.pt", weights_only=True)
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    (folder / "weights.pt").unlink()
    return folder


def compiled(folder: Path) -> Path:
    """Return a small model that is compiled."""
    networks.save(folder, networks.MLP, [networks.FEATURES])
    description = json.loads((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(json.dumps({**description, "compile": {"enabled": True}}))
    return folder


def test_what_shortens_the_start_of_a_model(bucket: S3Store, tmp_path: Path) -> None:
    pickled = networks.save(tmp_path / "pickled", LARGE, SHAPE)
    mapped = as_safetensors(pickled, tmp_path / "mapped")
    of_pickle, of_tensors = put(bucket, "pickled", pickled), put(bucket, "mapped", mapped)
    small = f"file://{compiled(tmp_path / 'small')}"
    plain, safe, several = "a pickle, by one connection", "as safetensors", "by eight connections"
    compiling = "a small compiled network"
    starts = (
        Start(plain, of_pickle, connections=1),
        Start(safe, of_tensors, plain, connections=1),
        Start(several, of_tensors, safe),
        Start("from the cache of the node", of_tensors, several, is_kept=True),
        Start(compiling, small),
        Start("its code in the cache", small, compiling, is_kept=True),
    )
    taken: dict[str, list[Phases]] = {start.name: [] for start in starts}
    console = Console(markup=False, highlight=False)
    for number in range(ROUNDS):
        for start in starts:
            cache = tmp_path / "cache"
            if not start.is_kept:
                shutil.rmtree(cache, ignore_errors=True)
            taken[start.name].append(start.run(cache))
            console.print(f"round {number + 1} of {ROUNDS}: {start.name}: {sum(taken[start.name][-1].values()):.2f} s")
    record = Record("model_starts", TITLE, ("start", *PHASES, "in all", "lowest to highest", "of the row above"))
    for start in starts:
        rounds = taken[start.name]
        whole = [sum(phases.values()) for phases in rounds]
        medians = (statistics.median(each.get(phase, 0.0) for each in rounds) for phase in PHASES)
        record.add(
            start.name,
            *(f"{median:.2f} s" for median in medians),
            f"{statistics.median(whole):.2f} s",
            f"{min(whole):.2f}–{max(whole):.2f} s",
            of_pairs(whole, taken.get(start.before, [])),
        )
    record.raw = dict(taken)
    record.finish()


def of_pairs(whole: Sequence[float], before: Sequence[Phases]) -> str:
    """Return the median of the ratios to the starts without the means, in the same rounds."""
    ratios = [own / sum(phases.values()) for own, phases in zip(whole, before, strict=True)] if before else []
    return f"{statistics.median(ratios):.2f}" if ratios else ""
