"""`sundog experiment report`: the choice of the rollout, and the outputs."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from sundog_operator.shell.exit_codes import ExitCode


@pytest.fixture
def rolling(on_server: Any, server: Any, manifest: Any) -> Any:
    """Abort revision 2, and roll out revision 3 to 25 %."""
    on_server("apply", "-f", str(manifest()))
    server.serve_revision(1)
    for number in (2, 3):
        on_server("apply", "-f", str(manifest(f"file:///models/v{number}")))
        server.until(lambda cluster, n=number: cluster.at_weight(n, 25), "25 %")
    server.pause()
    return on_server


def report(call: Any, *arguments: str) -> Any:
    return call("experiment", "report", *arguments)


def test_by_the_name_of_an_experiment_and_of_a_model_deployment(rolling: Any) -> None:
    by_model, by_name = report(rolling, "digits"), report(rolling, "digits-r3")
    assert (by_model.code, by_model.out.splitlines()[0]) == (0, "Rollout vision/digits-r3")
    assert by_name.out.splitlines()[:2] == by_model.out.splitlines()[:2]
    assert "0 % from 0:00:0" in by_model.out
    ended = report(rolling, "digits-r2").out.splitlines()
    assert ended[:3] == [
        "Rollout vision/digits-r2",
        "Ended without a verdict on evidence: Superseded",
        "Superseded: revision 3 replaces it",
    ]


def test_of_one_that_has_no_rollout_under_way_the_newest(rolling: Any, server: Any, manifest: Any) -> None:
    rolling("abort", "digits", "--no-wait")
    server.operator.set()

    async def ended(cluster: Any) -> bool:
        return (await cluster.status()).get("experiment", "") == ""

    server.until(ended, "the end")
    assert report(rolling, "digits").out.startswith("Rollout vision/digits-r3\nEnded without a verdict on evidence: A")


def test_a_page_is_written_where_it_is_asked_for(rolling: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = report(rolling, "digits", "-o", str(path))
    assert (done.code, done.out) == (0, f"wrote {path}\n")
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert [each.text for each in root.iter("h1")] == ["vision/digits-r3"]


def test_its_numbers_are_printed_as_json(rolling: Any) -> None:
    document = report(rolling, "digits", "-o", "json").json
    assert document["title"] == "vision/digits-r3"
    assert [each["name"] for each in document["arms"]] == ["stable", "canary"]
    assert not any("_" in key for key in document)


@pytest.mark.parametrize(
    ("file", "code", "problem"),
    [
        ("report.json", ExitCode.USAGE, "report.json: expected a file that ends with .html"),
        ("nowhere/report.html", ExitCode.REFUSED, "nowhere/report.html: cannot be written: No such file or directory"),
    ],
)
def test_an_unwritable_page_is_one_line(rolling: Any, tmp_path: Path, file: str, code: int, problem: str) -> None:
    done = report(rolling, "digits", "-o", str(tmp_path / file))
    assert done.code == code
    assert problem in done.err
    assert len(done.err.splitlines()) == 1


def test_what_is_not_there_is_shown_by_name(on_server: Any, server: Any, manifest: Any) -> None:
    done = report(on_server, "nothing")
    assert (done.code, done.err) == (
        ExitCode.NOT_FOUND,
        "error: no Experiment and no ModelDeployment is named vision/nothing\n",
    )
    on_server("apply", "-f", str(manifest()))
    done = report(on_server, "digits")
    assert (done.code, done.err) == (
        ExitCode.NOT_FOUND,
        "error: ModelDeployment vision/digits has had no rollout yet\n",
    )
