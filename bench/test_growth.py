"""Cost of an edge by its number of services, arms and replicas. The replicas are fakes that cost almost nothing.

Two edges, a small and a large one, take turns. The resting one is stopped, because its health checks would slow the other. Answers per
second include the load generator and the fakes; the cost of an edge is its CPU per request.
"""

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from fake_replicas import prefix, replicas, serve_naming
from measuring.load import WARM_UP_S, Request, Sample, Side, WrongAnswersError, compare, measure, ratio
from measuring.networks import body_of, features
from measuring.record import Record, throughput
from real_edge import Edge, Json, arm, running_edge, service

pytestmark = [pytest.mark.bench, pytest.mark.haproxy, pytest.mark.timeout(900)]

REQUEST = Request(body_of("inputs", [features()]), units=512)
CONNECTIONS = 16
ROUNDS = 8
ROUND_S = 2
IDLE_S = 4.0


@dataclass
class Grown:
    """One edge of a size, and the cost of each round per request, for HAProxy and the agent."""

    name: str
    edge: Edge
    others: list["Grown"] = field(default_factory=list)
    spent_us: list[tuple[float, float]] = field(default_factory=list)
    idle_cores: float = 0.0
    rss: tuple[int, int] = (0, 0)
    _before: tuple[float, float] = (0.0, 0.0)

    def side(self) -> Side:
        return Side(self.name, self.edge.url("s0"), REQUEST, self.turn, self.took)

    def turn(self) -> None:
        for other in self.others:
            other.signal(signal.SIGSTOP)
        self.signal(signal.SIGCONT)
        # Health checks that ran when it was stopped may have timed out: its replicas are down until the next ones.
        for _ in range(10):
            with contextlib.suppress(WrongAnswersError):
                measure(self.edge.url("s0"), REQUEST, CONNECTIONS, WARM_UP_S)
                break
        self._before = self._spent()

    def took(self, sample: Sample) -> None:
        haproxy_us, agent_us = (
            (now - before) / sample.answers * 1e6 for now, before in zip(self._spent(), self._before, strict=True)
        )
        self.spent_us.append((haproxy_us, agent_us))

    def rest(self) -> None:
        """Measure its cost without requests."""
        self.turn()
        begun, before = time.monotonic(), self._spent()
        time.sleep(IDLE_S)
        self.idle_cores = (sum(self._spent()) - sum(before)) / (time.monotonic() - begun)
        self.rss = tuple(cost.rss for cost in self.edge.costs())  # type: ignore[assignment]

    def signal(self, number: signal.Signals) -> None:
        for process in (self.edge.haproxy, self.edge.agent):
            for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
                os.kill(each.pid, number)

    def _spent(self) -> tuple[float, float]:
        haproxy, agent = self.edge.costs()
        return haproxy.cpu_s, agent.cpu_s


def one_service(number: int, arms: int) -> Json:
    names = ["stable", *(f"arm{index}" for index in range(1, arms))]
    width = 10_000 // arms
    made = [
        arm(
            each, application(number, index), prefix(application(number, index)), [(index * width, (index + 1) * width)]
        )
        for index, each in enumerate(names)
    ]
    made[-1]["ranges"] = [[(arms - 1) * width, 10_000]]
    return service(f"s{number}", made)


def application(number: int, index: int) -> str:
    return f"s{number}-r{index + 1}"


@contextlib.contextmanager
def grown(name: str, services: int, arms: int, count: int) -> Iterator[Grown]:
    counts = {application(number, index): count for number in range(services) for index in range(arms)}
    with replicas(counts) as ports, serve_naming(ports) as dashboard, running_edge(dashboard) as edge:
        edge.apply([one_service(number, arms) for number in range(services)], up=count)
        made = Grown(name, edge)
        try:
            yield made
        finally:
            made.signal(signal.SIGCONT)


SIZES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "services": ((1, 1, 1), (500, 1, 1)),
    # Ten replicas on both sides, for these grow in a part of their own.
    "arms": ((1, 2, 5), (1, 10, 1)),
    "replicas": ((1, 1, 1), (1, 1, 16)),
}


def test_cost_as_it_grows(wrk: None) -> None:
    record = Record(
        "growth",
        f"Cost of one edge as it grows, stand-in replicas, {CONNECTIONS} connections",
        (
            "edge",
            "answers per second",
            "large / small",
            "CPU per request, µs: HAProxy",
            "agent",
            "large / small",
            "HAProxy MiB",
            "agent MiB",
            "cores while idle",
        ),
    )
    for index, (what, sizes) in enumerate(SIZES.items()):
        with contextlib.ExitStack() as stack:
            pair = [
                stack.enter_context(grown(f"{size[index]} {what[: -1 if size[index] == 1 else None]}", *size))
                for size in sizes
            ]
            small, large = pair
            small.others, large.others = [large], [small]
            samples = compare([each.side() for each in pair], CONNECTIONS, ROUNDS, ROUND_S)
            for each in pair:
                each.rest()
                record.add(*row(each, samples, small, large))
            record.keep_samples(what, samples)
    record.finish()


def row(each: Grown, samples: dict[str, list[Sample]], small: Grown, large: Grown) -> list[str]:
    compared = f"{ratio(samples[large.name], samples[small.name]):.2f}" if each is large else ""
    return [
        each.name,
        throughput(samples[each.name]),
        compared,
        *(f"{statistics.median(own):.1f}" for own in zip(*each.spent_us, strict=True)),
        f"{cost_ratio(large, small):.2f}" if each is large else "",
        f"{each.rss[0] / 2**20:.0f}",
        f"{each.rss[1] / 2**20:.0f}",
        f"{each.idle_cores:.2f}",
    ]


def cost_ratio(large: Grown, small: Grown) -> float:
    """Return the ratio of CPU per request of HAProxy and agent together, as median over pairs of rounds."""
    return statistics.median(sum(mine) / sum(other) for mine, other in zip(large.spent_us, small.spent_us, strict=True))
