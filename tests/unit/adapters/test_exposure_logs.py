"""An exposure log, from an edge's answer to its folder, or the reason why it is missing."""

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from doubles.outcomes import MemoryOutcomes, section
from fake_ray_head import end
from sundog_edge.feedback import export
from sundog_edge.feedback.export import ExportedExposure, ExportedOutcome
from sundog_operator.adapters import exports, exposure_logs, log_tables
from sundog_operator.adapters.exposure_logs import EdgeExposureLogWriter
from sundog_operator.adapters.log_tables import Format
from sundog_operator.core.analysis.counters import Counters
from sundog_operator.core.analysis.feedback import FeedbackSums
from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.core.trial.experiment.exposure_log import ExposureLogReader
from sundog_operator.ports import Object
from waiting import PATIENCE_S

parquet = pytest.importorskip("pyarrow.parquet")

AT = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
UID = "uid-1"


JUDGED = FeedbackSums("s1", 7)


def experiment(judged: FeedbackSums = JUDGED) -> Object:
    return {
        "metadata": {"name": "ab", "namespace": "vision", "uid": UID, "generation": 1},
        "spec": {"modelDeployment": "digits"},
        "status": {
            "phase": "Concluded",
            "verdict": {"decision": "Winner"},
            "tallies": Counters(UID, {}, feedback=judged).pack(),
        },
    }


@dataclass
class Edge:
    """A pod on loopback with an agent, and a folder to write to."""

    folder: Path
    store: MemoryOutcomes = field(default_factory=MemoryOutcomes)
    port: int = 0
    ready: bool = True

    def fill(self, units: int = 3) -> None:
        self.store.exposed = [
            ExportedExposure(unit, 1_750_000_000_000_000 + unit, 1, "control") for unit in range(units)
        ]
        self.store.told = [ExportedOutcome(1, "bought", 1, "control", 1_500_000, 1_750_000_000, '{"plan":"pro"}')]

    @property
    def pods(self) -> list[Object]:
        ports = [{"name": "agent", "containerPort": self.port}]
        conditions = [{"type": "Ready", "status": str(self.ready)}]
        return [
            {
                "metadata": {"name": "sundog-edge-0"},
                "spec": {"containers": [{"name": "agent", "ports": ports}]},
                "status": {"podIP": "127.0.0.1", "conditions": conditions},
            }
        ]

    async def write(
        self, number: int = 1, *, form: Format = "parquet", final: bool = False, **changes: Any
    ) -> ExposureLogResult:
        place = f"file://{self.folder}/{number:06d}"
        return await EdgeExposureLogWriter(PATIENCE_S).write(
            experiment(**changes), self.pods, place, form, AT, final=final
        )

    def names(self, number: int = 1) -> list[str]:
        folder = self.folder / f"{number:06d}"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    made = Edge(tmp_path / "logs")
    made.fill()
    app = web.Application()
    app.router.add_get("/feedback/{service}/{attempt}/export", export.make_export_handler(lambda: made.store, section))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await end(runner)


async def test_it_is_three_files_in_a_folder(edge: Edge) -> None:
    answer = await edge.write(final=True)
    assert answer == ExposureLogResult(AT, 3, 1, complete=True, final=True)
    assert edge.names() == ["exposures.parquet", "outcomes.parquet", "plan.json"]
    rows = parquet.read_table(edge.folder / "000001/exposures.parquet").to_pylist()
    assert [row["unit"] for row in rows] == ["0000000000000000", "0000000000000001", "0000000000000002"]
    (outcome,) = parquet.read_table(edge.folder / "000001/outcomes.parquet").to_pylist()
    assert (outcome["metric"], outcome["value"]) == ("bought", 1.5)
    plan = json.loads((edge.folder / "000001/plan.json").read_text())
    assert (plan["exportedAt"], plan["status"]["verdict"]["decision"]) == ("2026-11-20T09:30:00Z", "Winner")
    assert edge.store.asked == [f"digits/{UID}"] * 2


async def test_compressed_lines_have_the_same_rows(edge: Edge) -> None:
    await edge.write(1)
    await edge.write(2, form="jsonl.gz")
    assert edge.names(2) == ["exposures.jsonl.gz", "outcomes.jsonl.gz", "plan.json"]
    for name in ("exposures", "outcomes"):
        lines = gzip.decompress((edge.folder / f"000002/{name}.jsonl.gz").read_bytes()).splitlines()
        rows = [{**row, "time": datetime.fromisoformat(row["time"])} for row in map(json.loads, lines)]
        table = parquet.read_table(edge.folder / f"000001/{name}.parquet").to_pylist()
        assert rows == [row | {key: json.loads(row[key]) for key in row if key == "properties"} for row in table]


async def test_a_table_without_rows_has_a_version_too(edge: Edge) -> None:
    edge.store.exposed, edge.store.told = [], []
    await edge.write()
    found = parquet.read_schema(edge.folder / "000001/outcomes.parquet")
    assert found.metadata == {b"sundog.version": b"2"}
    assert found.names[0] == "version"


async def test_files_of_a_killed_process_are_replaced(edge: Edge) -> None:
    (edge.folder / "000001").mkdir(parents=True)
    (edge.folder / "000001/exposures.parquet").write_bytes(b"half of one")
    await edge.write()
    assert parquet.read_table(edge.folder / "000001/exposures.parquet").num_rows == 3


@pytest.mark.parametrize(
    ("change", "changes", "problem"),
    [
        ({"ready": False}, {}, "namespace vision has no edge that is ready"),
        ({"fails_after": 0}, {}, "pod sundog-edge-0: status 503: the store is away"),
        ({"fails_after": 1}, {}, "pod sundog-edge-0: the export broke off: "),
        ({"grows": 1}, {"final": True}, "outcomes changed during the export, although the experiment has ended"),
        (
            {},
            {"judged": FeedbackSums("s1", 8)},
            "feedback store at change 7: the last evaluation used change 8; ",
        ),
        ({}, {"judged": FeedbackSums("s0", 7)}, "feedback store s1: the last evaluation used store s0, which is lost"),
        ({"most": 2}, {}, "pod sundog-edge-0: the log has 3 exposures; expected at most 2. "),
    ],
)
async def test_a_failed_export_has_a_problem_and_leaves_no_folder(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], changes: dict[str, Any], problem: str
) -> None:
    edge.ready = change.pop("ready", True)
    monkeypatch.setattr(exposure_logs, "MAX_EXPOSURES", change.pop("most", 1000))
    vars(edge.store).update(change)
    answer = await edge.write(**changes)
    assert answer.problem.startswith(problem)
    assert (answer.exposures, edge.names()) == (0, [])


async def test_the_plan_of_a_running_experiment_notes_changes_during_the_export(edge: Edge) -> None:
    edge.store.grows = 1
    assert await edge.write() == ExposureLogResult(AT, 3, 1, complete=False)
    assert json.loads((edge.folder / "000001/plan.json").read_text())["complete"] is False


async def test_a_place_that_cannot_be_written_is_named(edge: Edge) -> None:
    edge.folder.write_text("a file")
    answer = await edge.write()
    assert answer.problem.startswith(f"{edge.folder}/000001: cannot be written")


async def test_a_claim_is_written_to_where_it_is_mounted(edge: Edge, tmp_path: Path) -> None:
    (tmp_path / "claims/logs").mkdir(parents=True)
    logs, place = EdgeExposureLogWriter(claims=tmp_path / "claims"), "pvc://{}/a/000001"
    answer = await logs.write(experiment(), edge.pods, place.format("logs"), "parquet", AT, final=False)
    assert answer == ExposureLogResult(AT, 3, 1, complete=True)
    written = tmp_path / "claims/logs/a/000001"
    assert sorted(path.name for path in written.iterdir()) == ["exposures.parquet", "outcomes.parquet", "plan.json"]
    answer = await logs.write(experiment(), edge.pods, place.format("others"), "parquet", AT, final=False)
    assert answer.problem == f"pvc://others/a/000001: claim others is not mounted at {tmp_path}/claims/others"
    assert not (tmp_path / "claims/others").exists()


async def test_an_unreachable_claim_blocks_no_export(
    edge: Edge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away, back = threading.Event(), threading.Event()

    def waits(path: Path) -> bool:
        away.set()
        back.wait()
        return False

    monkeypatch.setattr(Path, "is_dir", waits)
    place = "pvc://logs/a/000001"
    answer = await EdgeExposureLogWriter(0.5, tmp_path).write(
        experiment(), edge.pods, place, "parquet", AT, final=False
    )
    assert await asyncio.to_thread(away.wait, PATIENCE_S), "it was looked at"
    assert answer.problem == f"{place}: not written within 0.5 s"
    back.set()


async def test_one_is_written_at_a_time(edge: Edge) -> None:
    class Slow(MemoryOutcomes):
        async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
            for _ in range(500):
                # A second caller could run here.
                await asyncio.sleep(0)
            for each in self.exposed:
                yield each

    edge.store = Slow()
    edge.fill()
    logs = EdgeExposureLogWriter()
    places = [f"file://{edge.folder}/{number}" for number in range(3)]
    answers = await asyncio.gather(
        *(logs.write(experiment(), edge.pods, place, "parquet", AT, final=False) for place in places)
    )
    # An edge rejects a second export during the first.
    assert [answer.problem for answer in answers] == [""] * 3


async def test_namespaces_take_turns(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    async def write(_self: EdgeExposureLogWriter, experiment: Object, *_: object, **_final: bool) -> ExposureLogReader:
        written.append(experiment["metadata"]["namespace"])
        await asyncio.sleep(0)
        return ExposureLogReader()

    monkeypatch.setattr(EdgeExposureLogWriter, "_export", write)
    monkeypatch.setattr(ExposureLogReader, "is_whole", True)
    logs = EdgeExposureLogWriter()
    asked = [
        {**experiment(), "metadata": {**experiment()["metadata"], "namespace": namespace}}
        for namespace in ("many", "many", "many", "vision")
    ]
    await asyncio.gather(*(logs.write(each, edge.pods, "file:///", "parquet", AT, final=False) for each in asked))
    assert written == ["many", "vision", "many", "many"]


def answering(*lines: bytes) -> web.Application:
    """An agent whose export is a head and these lines."""

    async def export_(_: web.Request) -> web.Response:
        head = {"version": 1, "events": 0, "feedback": {}}
        return web.Response(body=b"\n".join([json.dumps({"head": head}).encode(), *lines]))

    app = web.Application()
    app.router.add_get("/feedback/{service}/{attempt}/export", export_)
    return app


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([b"a" * (exports.MAX_LINE_BYTES + 1)], "a line has over 4194304 bytes; expected fewer"),
        ([b"{" * 300_000, b""], "a line of 300000 bytes may take over 33554432 bytes of memory"),
        (
            [json.dumps({"exposure": ["0", 1, 1, "a" * 2048]}).encode(), b""],
            "exposure: a line of 2077 bytes; expected at most 2048",
        ),
        (
            [json.dumps({"exposure": [f"{unit:x}", 1, 1, "a"]}).encode() for unit in range(4)],
            "the log has 3 exposures; expected at most 2. Use `sundog experiment export`, which has no limit.",
        ),
        (
            [json.dumps({"outcome": ["0", "m", 1, "a", 1, 1]}).encode()] * 100,
            "the files have ",
        ),
    ],
    ids=["line", "memory", "row", "exposures", "files"],
)
async def test_an_export_without_end_is_given_up(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], problem: str
) -> None:
    monkeypatch.setattr(exposure_logs, "MAX_EXPOSURES", 2)
    monkeypatch.setattr(exposure_logs, "MAX_FILES_BYTES", 300)
    monkeypatch.setattr(log_tables, "ROWS_PER_BLOCK", 1)
    async with TestServer(answering(*lines)) as server:
        edge.port = server.port or 0
        answer = await edge.write(form="jsonl")
    assert answer.problem.startswith(f"pod sundog-edge-0: {problem}")


@pytest.mark.parametrize(
    ("timeout_s", "read_timeout_s", "problem"),
    [
        (0.2, PATIENCE_S, "file://{}/1: not written within 0.2 s"),
        (PATIENCE_S, 0.2, "the edge's export takes over 0.2 s"),
    ],
)
async def test_a_hanging_edge_is_given_up(edge: Edge, timeout_s: float, read_timeout_s: float, problem: str) -> None:
    class Hanging(MemoryOutcomes):
        async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
            await asyncio.Event().wait()
            yield self.exposed[0]

    edge.store = Hanging()
    logs = EdgeExposureLogWriter(timeout_s, read_timeout_s=read_timeout_s)
    answer = await logs.write(experiment(), edge.pods, f"file://{edge.folder}/1", "parquet", AT, final=False)
    assert answer.problem == problem.format(edge.folder)
