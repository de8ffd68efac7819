"""Plain JSON through the edge, end to end, against other model servers from PyPI, each on its own port without a proxy."""

import contextlib
from pathlib import Path

import psutil
import pytest

from measuring import networks
from measuring.deployments import application, deploy
from measuring.load import Request, Side, compare, ratio
from measuring.networks import body_of, features
from measuring.peers import PEERS, NotInstalledError, serving
from measuring.record import Record, throughput
from real_edge import Edge
from real_ray import RayServe

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(1800)]

OURS = "Sundog: edge, split, counting, runtime"
BATCHED = "Sundog, with batching"
BATCHING = {"batching": {"maxSize": 32}}
REQUEST = Request(body_of("inputs", [features()]), units=512)
ROUNDS = 5


def idle_cores(seconds: float = 3.0) -> float:
    """Measure the CPU without requests, in cores: Ray's share in every peer's rounds."""
    return psutil.cpu_percent(seconds) / 100 * (psutil.cpu_count() or 1)


def test_end_to_end_against_other_servers(wrk: None, ray_serve: RayServe, edge: Edge, tmp_path: Path) -> None:
    model = networks.save(tmp_path / "mlp", networks.MLP, [networks.FEATURES])
    deploy(ray_serve, edge, [application("mlp", model), application("batched", model, BATCHING)])
    record = Record(
        "peers",
        "End to end against other model servers, MLP of 256 floats as JSON, answers per second",
        ("server", "1 connection", "16 connections", "Sundog / it, 1", "Sundog / it, 16", "configured"),
    )
    sides, missing = [Side(OURS, edge.url("mlp"), REQUEST), Side(BATCHED, edge.url("batched"), REQUEST)], {}
    with contextlib.ExitStack() as stack:
        for peer in PEERS:
            try:
                url = stack.enter_context(serving(peer, tmp_path / peer.name))
                sides.append(Side(peer.title, url, peer.request))
            except (NotInstalledError, TimeoutError) as error:
                missing[peer.title] = str(error).splitlines()[0][:150]
        record.notes.append(f"With all servers up and nothing asked, the machine uses {idle_cores():.2f} cores.")
        taken = {connections: compare(sides, connections, ROUNDS) for connections in (1, 16)}
    for connections, samples in taken.items():
        record.keep_samples(f"c{connections}", samples)
    one, many = taken[1], taken[16]
    record.add(OURS, throughput(one[OURS]), throughput(many[OURS]), "", "", "as deployed by default, `cpu: 1`")
    found = [f"{ratio(each[OURS], each[BATCHED]):.2f}" for each in (one, many)]
    record.add(BATCHED, throughput(one[BATCHED]), throughput(many[BATCHED]), *found, "`runtime.batching.maxSize: 32`")
    for peer in PEERS:
        if peer.title in missing:
            record.add(peer.title, "–", "–", "–", "–", f"does not run here: {missing[peer.title]}")
            continue
        found = [f"{ratio(each[OURS], each[peer.title]):.2f}" for each in (one, many)]
        record.add(peer.title, throughput(one[peer.title]), throughput(many[peer.title]), *found, peer.configured)
    record.finish()
