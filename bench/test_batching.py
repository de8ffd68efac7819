"""Batching on against off, end to end, on a network that mostly reads its weights: once per pass, for any number of rows."""

from pathlib import Path

import pytest

from measuring import networks
from measuring.deployments import application, deploy
from measuring.load import Request, Side, compare, ratio
from measuring.networks import body_of, features
from measuring.record import Record, throughput
from real_edge import Edge
from real_ray import RayServe

pytestmark = [pytest.mark.bench, pytest.mark.ray, pytest.mark.haproxy, pytest.mark.timeout(900)]

INPUTS = 64
REQUEST = Request(body_of("inputs", [features(INPUTS)]), units=512)
ROUNDS = 4
ON = {"batching": {"maxSize": 32, "maxDelay": "2ms"}}


def test_batching_on_against_off(wrk: None, ray_serve: RayServe, edge: Edge, tmp_path: Path) -> None:
    model = networks.save(tmp_path / "wide", networks.WIDE, [INPUTS])
    deploy(ray_serve, edge, [application("off", model), application("on", model, ON)])
    sides = [Side(name, edge.url(name), REQUEST) for name in ("on", "off")]
    record = Record(
        "batching",
        "Batching of up to 32 rows on against off, MLP of 8.5 million parameters, answers per second",
        ("connections", "on", "off", "on / off", "p50 on, ms", "p50 off, ms"),
    )
    for connections in (1, 16, 64):
        samples = compare(sides, connections, ROUNDS)
        record.keep_samples(f"c{connections}", samples)
        middle = {
            name: sorted(sample.p50_us for sample in rounds)[len(rounds) // 2] for name, rounds in samples.items()
        }
        record.add(
            str(connections),
            throughput(samples["on"]),
            throughput(samples["off"]),
            f"{ratio(samples['on'], samples['off']):.2f}",
            *(f"{middle[name] / 1000:.1f}" for name in ("on", "off")),
        )
    record.finish()
