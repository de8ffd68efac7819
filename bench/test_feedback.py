"""Cost to add an exposure to each answer and to store it: two services of one edge in turns, one with feedback."""

import statistics

import pytest

import fake_replicas
from measuring.load import Request, Sample, Side, compare, ratio
from measuring.record import Record, throughput
from real_edge import Edge, arm, running_edge, service

pytestmark = [pytest.mark.bench, pytest.mark.haproxy, pytest.mark.timeout(900)]

ROUNDS = 10
REQUEST = Request(b'{"inputs": [[0.5, 0.5]]}', units=512)


class Metered:
    """One service, and the cost of each round to HAProxy and the agent, in microseconds of CPU per answer."""

    def __init__(self, edge: Edge, name: str) -> None:
        self.side = Side(name, edge.url(name), REQUEST, self._before, self._after)
        self.haproxy_us: list[float] = []
        self.agent_us: list[float] = []
        self._edge = edge
        self._began = edge.costs()

    def _before(self) -> None:
        self._began = self._edge.costs()

    def _after(self, taken: Sample) -> None:
        spent = zip(self._edge.costs(), self._began, strict=True)
        haproxy, agent = (1e6 * (now.cpu_s - then.cpu_s) / taken.answers for now, then in spent)
        self.haproxy_us.append(haproxy)
        self.agent_us.append(agent)


def split(name: str, **changes: object) -> dict[str, object]:
    prefix = fake_replicas.prefix(name)
    arms = [arm("stable", name, prefix, [(2500, 10000)]), arm("canary", name, prefix, [(0, 2500)])]
    return {**service(name, arms), **changes}


def test_an_exposure_with_each_answer(wrk: None) -> None:
    columns = ("answers/s with", "without", "with / without", "HAProxy µs with", "without", "with / without")
    record = Record(
        "feedback", "Answers per second and CPU per answer, with and without the exposure", ("connections", *columns)
    )
    with (
        fake_replicas.replicas({"telling": 1, "silent": 1}) as ports,
        fake_replicas.serve_naming(ports) as serve,
        running_edge(serve, feedback=True) as edge,
    ):
        edge.apply([split("telling", feedback={"metrics": ["converted"]}), split("silent")])
        for connections in (1, 16):
            telling, silent = Metered(edge, "telling"), Metered(edge, "silent")
            samples = compare([telling.side, silent.side], connections, ROUNDS)
            record.keep_samples(f"c{connections}", samples)
            costs = [statistics.median(each.haproxy_us) for each in (telling, silent)]
            paired = zip(telling.haproxy_us, silent.haproxy_us, strict=True)
            record.add(
                str(connections),
                *(throughput(samples[name]) for name in ("telling", "silent")),
                f"{ratio(samples['telling'], samples['silent']):.3f}",
                *(f"{cost:.1f}" for cost in costs),
                f"{statistics.median(ours / theirs for ours, theirs in paired):.3f}",
            )
            agents = [statistics.median(each.agent_us) for each in (telling, silent)]
            record.notes.append(
                f"At {connections} connections the agent took {agents[0]:.1f} µs per answer, and {agents[1]:.1f} without."
            )
        exposed = edge.evidence()["services"]["telling"]["feedback"]["exposed"]
        assert sum(units for _, _, units in exposed) == REQUEST.units
    record.finish()
