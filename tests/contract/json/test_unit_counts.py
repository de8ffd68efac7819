"""The operator reads the sample of units that an edge's ledger reports."""

import json

from sundog_edge.counting.evidence import AgentState, EvidenceQuery, build_evidence
from sundog_edge.counting.ledger import Ledger
from sundog_operator.adapters.edges import parse_evidence
from sundog_operator.core.analysis import unit_samples
from sundog_operator.core.observed import EdgeReport


def line(attempt: str, arm: str, user: int, status: int) -> bytes:
    head = f"a-1 digits/{attempt}/2/{arm}/assigned/sticky digits - {status} -- 0 s ok 3000 2000"
    return f"{head} 1 500 1000 9 {user} {user % 100} 20000000000".encode()


def test_an_operator_reads_the_units_of_an_edge() -> None:
    ledger = Ledger()
    lines = [line("before", "stable", 1, 500), line("before", "stable", 1, 200)]
    # A hash above half of the range is a negative number in a line.
    lines += [line("uid", "canary", 1, 500), line("uid", "stable", -1, 200), line("uid", "stable", -1, 404)]
    ledger.consume(lines, 20_000.0)
    built = build_evidence(
        AgentState("edge-0", "vision"), None, ledger, 1.0, EvidenceQuery(details=frozenset({"units"}))
    )
    evidence = parse_evidence(json.dumps(built).encode())
    samples = unit_samples.read_unit_samples("uid", [EdgeReport("edge-0", True, False, evidence)])
    assert samples is not None
    found = samples.of(2, ("stable", "canary"), 0.5, ["errors", "rejections"])
    assert found.requests.tolist() == [1, 2]
    assert found.is_treatment.tolist() == [True, False]
    assert [own.tolist() for own in found.events] == [[1, 0], [0, 1]]
    assert found.requests_before.tolist() == [2, 0]
    assert [own.tolist() for own in found.events_before] == [[1, 0], [0, 0]]
