"""Record a rollout on real Ray Serve and a real edge, for the pictures: `make record-rollout`. Takes six to eight minutes.

Stable fails 1 % of 30 requests a second. The canary fails 5 %, and `rollout: {}` decides. `recorded.json` gets what the clients
saw, each look of the operator, and the series that a Prometheus would have scraped.
"""

import contextlib
import json
import re
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from campaigning.clients import Samples
from campaigning.fleet import Fleet, fleet
from campaigning.services import Digits, Release
from measuring.record import ROOT, machine

RECORDED: Final = ROOT / "tools" / "pictures" / "recorded.json"
BIN_S: Final = 5
"""Seconds of the clients' requests that are counted together, and between two scrapes."""

_RPS: Final = 30
_STABLE: Final = {"failing": 0.01, "median_ms": 3.0}
_CANARY: Final = {**_STABLE, "failing": 0.05}
_BEFORE_S: Final = 75.0
_AFTER_S: Final = 45.0
_LONGEST_S: Final = 600.0
_SERIES: Final = re.compile(
    r"^((?:sundog_edge_(?:requests_total|request_duration_seconds_bucket|replicas|refused_total))\{[^}]*\}) (\S+)$",
    re.MULTILINE,
)

Json = dict[str, Any]


def main() -> None:
    """The program."""
    with tempfile.TemporaryDirectory() as folder, fleet(Path(folder), seed=7) as running:
        digits = running.add("digits", _RPS)
        running.begin([digits], digits=_STABLE)
        scrapes: list[tuple[float, Mapping[str, float]]] = []
        looks: dict[str, Json] = {}
        weights: list[tuple[float, int]] = []
        _watch(running, digits, None, _BEFORE_S, scrapes, looks, weights)
        release = digits.release(**_CANARY)
        _watch(running, digits, release, _LONGEST_S, scrapes, looks, weights)
        _watch(running, digits, None, _AFTER_S, scrapes, looks, weights)
        status = release.status
        document = {
            "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "machine": machine(),
            "released": release.released,
            "verdict": status["verdict"],
            "ended": release.over_at,
            "plan": status["plan"],
            "looks": [*looks.values()],
            "weights": weights,
            "clients": _bins(digits.samples),
            "scrapes": {"at": [at for at, _ in scrapes], "series": _columns([found for _, found in scrapes])},
        }
    RECORDED.write_text(json.dumps(document, indent=None, separators=(",", ":"), ensure_ascii=False) + "\n")
    print(f"{document['verdict']}; {RECORDED.stat().st_size} bytes in {RECORDED}")  # noqa: T201


def _watch(
    running: Fleet,
    digits: Digits,
    release: Release | None,
    most_s: float,
    scrapes: list[tuple[float, Mapping[str, float]]],
    looks: dict[str, Json],
    weights: list[tuple[float, int]],
) -> None:
    """Add to the lists for so long, or until the rollout of a release is over."""
    until, scraped = time.monotonic() + most_s, 0.0
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            if time.monotonic() - scraped >= BIN_S:
                scraped = time.monotonic()
                scrapes.append((time.time(), _scrape(running.up.state)))
        found = digits.read().get("status") or {}
        weight = int((found.get("candidate") or {}).get("weight", 0))
        if not weights or weights[-1][1] != weight:
            weights.append((time.time(), weight))
        if release is not None:
            over = release.is_over()
            for look in release.status.get("history", ()):
                looks[look["at"]] = look
            if over:
                return
        time.sleep(1.0)


def _scrape(state: Path) -> dict[str, float]:
    (record,) = (state / "edge").glob("*/unit.json")
    port = json.loads(record.read_bytes())["facts"]["agentPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in _SERIES.findall(text)}


def _columns(scrapes: list[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """Return each series' values at the times of the scrapes; None where it had none."""
    names = sorted({name for found in scrapes for name in found})
    return {name: [found.get(name) for found in scrapes] for name in names}


def _bins(samples: Samples) -> dict[str, list[list[float]]]:
    """Return by revision [start in Unix seconds, answers, failures] of each bin."""
    counted: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for sent, revision, status in zip(samples.sent, samples.revisions, samples.statuses, strict=True):
        both = counted[revision, BIN_S * int(sent // BIN_S)]
        both[0] += 1
        both[1] += status != 200
    found: dict[str, list[list[float]]] = defaultdict(list)
    for (revision, start), both in sorted(counted.items()):
        found[str(revision)].append([start, *both])
    return found


if __name__ == "__main__":
    main()
