"""A process that is killed by SIGKILL while it writes an exposure log, and the next one, which writes the same log."""

import asyncio
import gzip
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from doubles.outcomes import MemoryOutcomes, section
from fake_ray_head import end
from sundog_edge.feedback import export
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome

UNITS, PLACE = 3000, "s3://logs/vision/ab/uid-1/000001"
FILES = ("exposures.jsonl.gz", "outcomes.jsonl.gz", "plan.json")
EXPERIMENT = {
    "metadata": {"name": "ab", "namespace": "vision", "uid": "uid-1", "generation": 1},
    "spec": {"modelDeployment": "digits"},
    "status": {},
}
WRITER = """
import asyncio, json, sys
from datetime import UTC, datetime
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter

experiment, pods, place = json.loads(sys.argv[1])
write = EdgeExposureLogWriter().write(experiment, pods, place, "jsonl.gz", datetime.now(UTC), final=True)
print(asyncio.run(write).problem)
"""


@dataclass
class Site(MemoryOutcomes):
    """An edge's agent and an S3 server on one port, which kill the writer at a stage.

    Stages are the rows that the edge has read, and the files before and after they are stored.
    """

    stage: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    port: int = 0
    writer: Process | None = None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/feedback/{service}/{attempt}/export", export.make_export_handler(lambda: self, section))
        app.router.add_put("/logs/vision/ab/uid-1/000001/{name}", self.put)
        return app

    async def put(self, request: web.Request) -> web.Response:
        name, content = request.match_info["name"], await request.read()
        if self.reach(f"before {name}"):
            raise web.HTTPServiceUnavailable
        self.files[name] = content
        self.reach(f"after {name}")
        return web.Response(headers={"etag": '"1"'})

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        async for row in super().exposures(attempt):
            self.reach(f"row {row.unit}")
            yield row

    def reach(self, stage: str) -> bool:
        """Kill the writer if this is the stage; return whether it is."""
        if stage == self.stage:
            assert self.writer is not None
            os.kill(self.writer.pid, signal.SIGKILL)
        return stage == self.stage

    async def write(self) -> tuple[int, str]:
        """Run a process that writes the log; return its exit code and the problem that it prints."""
        ports = [{"name": "agent", "containerPort": self.port}]
        pod = {
            "metadata": {"name": "sundog-edge-0"},
            "spec": {"containers": [{"name": "agent", "ports": ports}]},
            "status": {"podIP": "127.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
        given = json.dumps([EXPERIMENT, [pod], PLACE])
        self.writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, given, stdout=PIPE, env=environment
        )
        printed, _ = await self.writer.communicate()
        assert self.writer.returncode is not None
        return self.writer.returncode, printed.decode().strip()

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gzip.decompress(self.files[name]).splitlines()]

    def assert_whole(self) -> None:
        """Each unit and each outcome of the store is in the files once, and the plan has their numbers."""
        exposures, outcomes = (self.rows(name) for name in FILES[:2])
        assert [row["unit"] for row in exposures] == [f"{each.unit:016x}" for each in self.exposed]
        assert [(row["unit"], row["value"]) for row in outcomes] == [
            (f"{each.unit:016x}", each.value / 1_000_000) for each in self.told
        ]
        plan = json.loads(self.files["plan.json"])
        assert plan["rows"] == {"exposures": len(self.exposed), "outcomes": len(self.told)}
        assert plan["complete"] is True


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    made.exposed = [ExportedExposure(unit, 1_750_000_000_000_000 + unit, 1, "control") for unit in range(UNITS)]
    made.told = [
        ExportedOutcome(unit, "bought", 1, "control", unit * 1_000_000, 1_750_000_000) for unit in range(0, UNITS, 2)
    ]
    runner = web.AppRunner(made.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await end(runner)


@pytest.mark.parametrize(
    "stage",
    ["row 0", "row 1500", "row 2999", *(f"{when} {name}" for name in FILES for when in ("before", "after"))],
)
async def test_the_next_process_writes_every_row_once(site: Site, stage: str) -> None:
    site.stage = stage
    assert (await site.write())[0] == -signal.SIGKILL
    # What a reader may trust has been whole all the time.
    assert ("plan.json" in site.files) == (stage == "after plan.json")
    if "plan.json" in site.files:
        site.assert_whole()
    # The store took more before the next process began.
    site.stage, site.told = "", [*site.told, ExportedOutcome(1, "bought", 1, "control", 7_000_000, 1_750_000_001)]
    assert await site.write() == (0, "")
    assert {*site.files} == {*FILES}
    site.assert_whole()
