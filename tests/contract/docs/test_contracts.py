"""The page on the JSON between the parts has each key of the edge's documents, and no other one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from sundog_edge.counting.boots import Boot
from sundog_edge.counting.evidence import (
    DETAILS,
    AgentState,
    AppliedDocument,
    EvidenceQuery,
    ServerCounts,
    build_evidence,
)
from sundog_edge.counting.ledger import Ledger
from sundog_edge.counting.rows import RowCounters
from sundog_edge.counting.unit_sample import UnitSample
from sundog_edge.feedback.join import render_feedback_section
from sundog_edge.haproxy.client import MirrorSampling
from sundog_edge.mirror.supervisor import MirrorSupervisor
from sundog_edge.replicas.startup_reports import parse_startup
from sundog_edge.split.document import SplitDocument, parse_document
from sundog_edge.state_dir import StateDir

PAGE = Path(__file__).parents[3] / "docs" / "contracts.md"
FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
KEY = re.compile(r'"([^"]+)":')
NAMES = {
    *("sundog", "digits", "stable", "canary", "digits-r7", "digits-r8", "x-canary", "x-team"),
    *("load", "warmup", "argmax", "exact", "size", "revenue", "converted"),
}
"""Keys of the page's examples that are names: of objects, headers, phases of a start, comparators, reasons and metrics."""


def section(number: int) -> str:
    """Return the text of one of the page's documents."""
    return PAGE.read_text().split("\n## ")[number].partition("\n")[2]


def example_keys(text: str) -> set[str]:
    """Return the keys in the examples of a text, except names."""
    return {key for block in FENCE.findall(text) for key in KEY.findall(block)} - NAMES


def named_keys(text: str) -> set[str]:
    """Return the keys in the examples of a text, and all words that its prose shows as code."""
    spans = re.findall(r"`([^`]+)`", FENCE.sub("", text))
    return example_keys(text) | {word for span in spans for word in re.findall(r"\w+", span)}


def schema_keys(schema: Any) -> Iterator[str]:
    """Yield the names of all fields in a JSON Schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from schema_keys(each)


def keys(document: Any) -> Iterator[str]:
    """Yield all keys of a document."""
    if isinstance(document, dict):
        yield from document
        document = list(document.values())
    if isinstance(document, list):
        for each in document:
            yield from keys(each)


def evidence_keys(folder: Path) -> set[str]:
    """Return all keys that an edge's evidence may have, except names."""
    (example,) = (json.loads(block.replace("…", "0")) for block in FENCE.findall(section(2)) if '"services"' in block)
    (service,) = example["services"]
    service |= {
        "shadow": {"arm": "canary", "percent": 20},
        "match": {"arm": "canary", "headers": {"x-canary": "true"}},
    }
    for place in (2, 3):
        service["arms"][1][f"slowMicroseconds{place}"] = 300_000
    document = parse_document(json.dumps(example).encode(), "vision")
    mirror = MirrorSupervisor(Mock(), Mock(), StateDir(folder))
    mirror.sampled["a", "digits/uid/1"] = MirrorSampling(all=1, taken=1)
    boot = Boot("a", 42, 1.0, refused={"digits": {"auth": 1}, "": {"source": 1}})
    boot.rows["digits/uid/2/canary/assigned/anonymous"] = RowCounters(ended=1)
    agent = AgentState(
        "edge-0",
        "vision",
        servers={"digits-r7": ServerCounts(up=1)},
        feedback={"digits": render_feedback_section("uid", "a", {})},
        mirrored=mirror.rows,
        starts={"digits-r7": parse_startup({"phases": {}, "beganAt": 1.0})},
    )
    ledger = Ledger({"a": boot}, samples={"digits/uid": UnitSample()})
    built = build_evidence(agent, AppliedDocument(document, 1.0, {}), ledger, 2.0, EvidenceQuery(details=DETAILS))
    return {*keys(built)} - NAMES


def test_the_page_has_each_key_that_an_edge_reads() -> None:
    assert {*schema_keys(SplitDocument.model_json_schema())} - named_keys(section(2)) == set()


def test_an_edge_reads_each_key_of_the_page() -> None:
    assert example_keys(section(2)) - {*schema_keys(SplitDocument.model_json_schema())} == set()


def test_the_page_has_each_key_that_an_edge_reports(tmp_path: Path) -> None:
    assert evidence_keys(tmp_path) - named_keys(section(3)) == set()


def test_an_edge_reports_each_key_of_the_page(tmp_path: Path) -> None:
    assert example_keys(section(3)) - evidence_keys(tmp_path) == set()
