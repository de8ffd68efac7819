"""Cost to clients of a canary that gets copies of their requests: one that answers, one that hangs, one that crashes, none.

Every request is sampled, so each service mirrors as much as it may. The replicas are fakes that take 5 ms and almost no CPU. The mirror
and the canary run on the same cores as everything else.
"""

import statistics
from collections.abc import Sequence

import psutil
import pytest

from fake_replicas import prefix, replicas, serve_naming
from measuring.load import Request, Sample, Side, compare, ratio
from measuring.networks import body_of, features
from measuring.record import Record, throughput
from real_edge import Edge, Json, arm, running_edge, service
from waiting import eventually

pytestmark = [pytest.mark.bench, pytest.mark.haproxy, pytest.mark.timeout(900)]

REQUEST = Request(body_of("inputs", [features()]), units=512)
ROUNDS = 10
CANDIDATES = ("healthy", "hanging", "crashing", "killed")
"""The last is one that answers, whose mirror is killed before each round."""


def entry(candidate: str) -> Json:
    """Return a service with all requests at `stable` and copies at the canary; for `none` without copies."""
    arms = [
        arm("stable", f"working-{candidate}", prefix(f"working-{candidate}"), [(0, 10000)]),
        arm("canary", candidate, prefix(candidate), [], revision=2),
    ]
    shadow = {} if candidate == "none" else {"shadow": {"arm": "canary", "percent": 100}}
    return {**service(candidate, arms), **shadow}


def p99_ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """Return the median over rounds of the ratio of two p99."""
    return statistics.median(mine.p99_us / other.p99_us for mine, other in zip(ours, theirs, strict=True))


def kill_mirror(edge: Edge) -> None:
    """End the agent's only child at once."""
    for child in psutil.Process(edge.agent.pid).children():
        child.kill()


def test_what_a_shadow_costs_callers(wrk: None) -> None:
    names = ("none", *CANDIDATES)
    counts = {name: 1 for each in names for name in (each, f"working-{each}")}
    record = Record(
        "shadow",
        "A shadow of every request, against an edge that knows no shadow",
        ("connections", "candidate", "answers per second", "p50, ms", "p99, ms", "p99 / without", "answers / without"),
    )
    with (
        replicas(counts) as ports,
        serve_naming(ports) as dashboard,
        running_edge(dashboard) as plain,
        running_edge(dashboard) as shadowing,
    ):
        plain.apply([entry("none")])
        shadowing.apply([entry(name) for name in names])
        service = "healthy"
        eventually(lambda: shadowing.evidence()["services"][service]["shadow"]["mirroring"], "a mirror runs")
        sides = [Side("without", plain.url("none"), REQUEST)]
        sides += [
            Side(
                name,
                shadowing.url(name),
                REQUEST,
                before=(lambda: kill_mirror(shadowing)) if name == "killed" else (lambda: None),
            )
            for name in names
        ]
        for connections in (1, 16):
            samples = compare(sides, connections, ROUNDS)
            record.keep_samples(f"c{connections}", samples)
            for side in sides:
                own, without = samples[side.name], samples["without"]
                record.add(
                    str(connections),
                    side.name,
                    throughput(own),
                    f"{statistics.median(each.p50_us for each in own) / 1000:.2f}",
                    f"{statistics.median(each.p99_us for each in own) / 1000:.2f}",
                    f"{p99_ratio(own, without):.2f}",
                    f"{ratio(own, without):.2f}",
                )
        rows = shadowing.evidence().get("shadows", [])
        sent = {row["service"]: row["sent"] for row in rows}
        sampled = {row["service"]: row["sampled"] for row in rows}
        record.notes.append(
            "Copies sent of requests sampled: "
            + ", ".join(f"{each} {sent[each]} of {sampled[each]}" for each in sorted(sent))
            + "."
        )
    record.finish()
