"""Durations of the phases of a start."""

import time
from pathlib import Path
from typing import Any

import httpx

from sundog_runtime.telemetry.startup import StartupPhases


async def test_the_phases_of_the_start_can_be_read(torch_model: Path, args: Any, serve: Any) -> None:
    before = time.time()
    client: httpx.AsyncClient = await serve(args(torch_model))
    document = (await client.get("/-/startup")).json()
    assert document["version"] == 1
    assert before - 0.001 <= document["beganAt"] <= time.time()
    assert list(document["phases"]) == ["download", "load", "warmup"]
    assert all(seconds >= 0 for seconds in document["phases"].values())
    assert client.replica.metrics.startup.keys() == document["phases"].keys()  # type: ignore[attr-defined]


def test_the_parts_of_a_phase_replace_it() -> None:
    startup = StartupPhases(iter((1.0, 6.0, 6.0, 7.0)).__next__)
    for name in ("download", "load"):
        with startup.phase(name):
            pass
    startup.detail("load", {})
    assert startup.phases == {"download": 5.0, "load": 1.0}
    startup.detail("download", {"list": 1.0, "verify": 4.0})
    assert list(startup.phases.items()) == [("list", 1.0), ("verify", 4.0), ("load", 1.0)]
