"""The commands that control rollouts, with the real planner."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from doubles.cluster import NAMESPACE
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.api import ModelDeploymentStatus
from sundog_operator.core.revisions import Revision
from sundog_operator.errors import DependencyError
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode
from sundog_operator.shell.verbs.get import get_object
from sundog_operator.shell.verbs.rollout_commands import find_previous_revision, find_revision_to_retry


def test_promote_walks_the_steps_of_the_candidate(canary: Any, server: Any) -> None:
    assert canary("promote", "digits").out == "digits: promote revision 2 accepted\n"
    server.until(lambda cluster: cluster.at_weight(2, 50), "50 %")
    assert canary("promote", "digits", "--full", "--revision", "2").code == 0
    server.serve_revision(2)


def test_a_command_that_is_not_handled_yet_is_not_overwritten(canary: Any, server: Any) -> None:
    server.pause()
    assert canary("promote", "digits", "--no-wait").code == 0
    done = canary("abort", "digits", "--no-wait")
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith("error: ModelDeployment vision/digits: the command 'promote revision=2 id=")


COMMAND = "serving.sundog.dev/command"
THEIRS = "abort revision=2 id=theirs"


@pytest.fixture
def written_after_reading(monkeypatch: pytest.MonkeyPatch, server: Any) -> Callable[..., None]:
    """Annotate the object right after a command has read it for the given time."""

    def arrange(time: int, **annotations: str) -> None:
        times = itertools.count(1)

        async def read(of: Any, ref: Ref) -> Object:
            obj = await get_object(of, ref)
            if next(times) == time:
                server.do(lambda cluster: cluster.kube.annotate(ref, annotations))
            return obj

        monkeypatch.setattr("sundog_operator.shell.verbs.rollout_commands.get_object", read)

    return arrange


def annotations(server: Any) -> Any:
    stored = server.do(lambda cluster: cluster.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")))
    return stored["metadata"]["annotations"]


def test_of_two_commands_at_once_the_first_stays(canary: Any, server: Any, written_after_reading: Any) -> None:
    server.pause()
    written_after_reading(1, **{COMMAND: THEIRS})
    done = canary("pause", "digits", "--no-wait")
    assert done.code == ExitCode.REFUSED
    assert f"the command {THEIRS!r} is not handled yet. Try again later" in done.err
    assert annotations(server) == {COMMAND: THEIRS}


def test_another_write_keeps_no_command_back(canary: Any, server: Any, written_after_reading: Any) -> None:
    written_after_reading(1, other="written")
    assert canary("pause", "digits").out == "digits: pause revision 2 accepted\n"
    assert annotations(server)["other"] == "written"


def test_whose_command_is_overwritten_is_shown_by_what(canary: Any, server: Any, written_after_reading: Any) -> None:
    server.pause()
    written_after_reading(2, **{COMMAND: THEIRS})
    done = canary("pause", "digits")
    assert done.code == ExitCode.REFUSED
    assert f"was overwritten before its result was known; the annotation is {THEIRS!r}" in done.err


def test_skip_leads_to_the_next_step_and_to_no_promotion(canary: Any, server: Any) -> None:
    assert canary("skip", "digits").out == "digits: skip revision 2 accepted\n"
    server.until(lambda cluster: cluster.at_weight(2, 50), "50 %")
    done = canary("skip", "digits", "--revision", "2")
    assert done.code == ExitCode.REFUSED
    assert "all traffic follows step 2 of 3; use promote instead" in done.err


def test_a_command_for_another_revision_is_rejected_with_the_reason(canary: Any, server: Any) -> None:
    done = canary("promote", "digits", "--revision", "1")
    assert done.code == ExitCode.REFUSED
    assert done.err == (
        "error: ModelDeployment vision/digits: promote revision 1 was rejected: revision 1 is not the candidate; expected revision 2\n"
    )
    assert server.do(lambda cluster: cluster.weights()) == {1: 75, 2: 25}


def test_pause_and_resume(canary: Any, server: Any) -> None:
    assert canary("pause", "digits").code == 0

    async def paused(cluster: Any) -> bool:
        return await cluster.condition("Progressing") == ("True", "Paused")

    server.until(paused, "paused")
    assert "paused (Manual)" in canary("describe", "digits").out
    assert canary("resume", "digits").code == 0
    again = canary("resume", "digits")
    assert (again.code, again.out) == (ExitCode.REFUSED, "")
    assert again.err == (
        "error: ModelDeployment vision/digits: resume revision 2 was rejected: revision 2 is not paused: there is nothing to resume;"
        " it waits for promote\n"
    )


def test_abort_and_retry(canary: Any, server: Any) -> None:
    assert canary("abort", "digits").code == 0
    server.serve_revision(1)
    assert canary("abort", "digits").err == ("error: ModelDeployment vision/digits: no rollout to abort\n")
    assert canary("retry", "digits").out == (
        "digits: retry revision 2 accepted\n"
        "digits: attempt 2 of this revision, with an alpha of its own of 0.05: the chance that one of them promotes a revision that is"
        " worse than its margin adds up to at most 0.1\n"
    )
    server.until(lambda cluster: cluster.at_weight(2, 25), "25 % again")


def test_rollback_goes_to_the_revision_that_served_before(canary: Any, server: Any, manifest: Any) -> None:
    # Revision 2 is aborted and 3 promoted: revision 1 served before 3.
    assert canary("abort", "digits").code == 0
    server.serve_revision(1)
    canary("apply", "-f", str(manifest("file:///models/v3")))
    server.until(lambda cluster: cluster.at_weight(3, 25), "25 %")
    assert canary("promote", "digits", "--full").code == 0
    server.serve_revision(3)
    assert canary("rollback", "digits").out == "digits: rollback revision 1 accepted\n"
    server.serve_revision(1)
    assert canary("rollback", "digits", "--to", "9").err.startswith(
        "error: ModelDeployment vision/digits: rollback revision 9 was rejected: revision 9 is not in the history; expected one of 1, 2, 3"
    )
    assert canary("rollback", "digits", "--to", "2").code == 0
    server.serve_revision(2)


@pytest.mark.parametrize(
    ("verb", "problem"), [("retry", "nothing to retry"), ("rollback", "no revision was stable before 1")]
)
def test_a_command_without_effect_is_refused(served: Any, verb: str, problem: str) -> None:
    done = served(verb, "digits")
    assert done.code == ExitCode.REFUSED
    assert done.err.startswith(f"error: ModelDeployment {NAMESPACE}/digits: ")
    assert problem in done.err


def test_who_stops_an_experiment_by_its_own_name_is_shown_whose_it_is(canary: Any, tmp_path: Path) -> None:
    head = {"apiVersion": "serving.sundog.dev/v1alpha1", "kind": "Experiment", "metadata": {"name": "wide"}}
    path = tmp_path / "wide.yaml"
    path.write_text(json.dumps({**head, "spec": {"modelDeployment": "digits", "arms": [{"name": "wide"}]}}))
    assert canary("apply", "-f", str(path)).code == 0
    done = canary("stop", "wide")
    assert done.code == ExitCode.NOT_FOUND
    assert done.err == (
        f"error: ModelDeployment {NAMESPACE}/wide does not exist. Experiment wide runs on digits: use `sundog stop digits`\n"
    )
    assert canary("stop", "narrow").err == f"error: ModelDeployment {NAMESPACE}/narrow does not exist\n"


def test_without_an_operator_the_wait_ends_with_code_5(canary: Any, server: Any) -> None:
    server.pause()
    done = canary("promote", "digits", "--timeout", "0.5")
    assert done.code == ExitCode.TIMEOUT
    assert "no operator handled the command within 0.5 s" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_lost_api_server_shows_where_a_command_is(canary: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pause()
    get, annotate = KubernetesClient.get, KubernetesClient.annotate
    written = False

    async def goes_away(client: KubernetesClient, ref: Ref) -> Object | None:
        if written:
            raise DependencyError(f"{ref}: the API server does not answer: Cannot connect")
        return await get(client, ref)

    async def writes(client: KubernetesClient, *what: Any, **how: Any) -> Object:
        nonlocal written
        written = True
        return await annotate(client, *what, **how)

    monkeypatch.setattr(KubernetesClient, "get", goes_away)
    monkeypatch.setattr(KubernetesClient, "annotate", writes)
    done = canary("abort", "digits")
    assert done.code == ExitCode.UNREACHABLE
    begin = f"error: ModelDeployment {NAMESPACE}/digits: abort revision 2 is stored as "
    assert done.err.startswith(begin)
    assert "; an operator handles it when it runs (ModelDeployment" in done.err

    async def is_gone(*_what: Any, **_how: Any) -> Object:
        raise DependencyError("the API server does not answer")

    written = False
    monkeypatch.setattr(KubernetesClient, "annotate", is_gone)
    server.do(lambda cluster: cluster.kube.annotate(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits"), {COMMAND: None}))
    done = canary("abort", "digits")
    assert done.code == ExitCode.UNREACHABLE
    assert "the API server may have stored the command; `sundog describe` shows it" in done.err


def test_no_wait_writes_the_annotation_and_returns(canary: Any, server: Any) -> None:
    server.pause()
    done = canary("promote", "digits", "--no-wait")
    ident = done.out.split()[-1]
    stored = server.do(lambda cluster: cluster.kube.get(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")))
    assert stored["metadata"]["annotations"] == {"serving.sundog.dev/command": f"promote revision=2 id={ident}"}


def _status(
    stable: int | None, candidate: int | None = None, held: int | None = None, before: Sequence[int] = ()
) -> ModelDeploymentStatus:
    document: dict[str, Any] = {"stableBefore": list(before)}
    if stable:
        document["stable"] = {"revision": stable}
    if candidate:
        document["candidate"] = {"revision": candidate}
    if held:
        last = {"experiment": "", "revision": held, "outcome": "Aborted", "at": "2026-01-01T00:00:00Z"}
        document["lastRollout"] = last
    return ModelDeploymentStatus.parse(document)


@pytest.mark.parametrize(
    ("status", "known", "wanted"),
    [
        (_status(3, before=[2, 1]), [1, 2, 3], 2),
        # Revision 2 was a candidate that failed, or an arm of an Experiment.
        (_status(3, before=[1]), [1, 2, 3], 1),
        (_status(1, before=[3]), [1, 2, 3], 3),
        (_status(3, before=[2, 1]), [1, 3], 1),
        (_status(3, candidate=4, before=[1]), [1, 3, 4], 3),
        (_status(1), [1, 2], "no revision was stable before 1. Choose one with --to; the history has 1, 2"),
        (_status(None), [1], "no revision serves yet"),
    ],
)
def test_which_revision_a_rollback_goes_to(status: ModelDeploymentStatus, known: list[int], wanted: int | str) -> None:
    revisions = [Revision(number, "", {}) for number in known]
    if isinstance(wanted, int):
        assert find_previous_revision(status, revisions) == wanted
        return
    with pytest.raises(CommandFailed, match=wanted):
        find_previous_revision(status, revisions)


def test_which_revision_is_retried() -> None:
    assert find_revision_to_retry(_status(1, candidate=2)) == 2
    assert find_revision_to_retry(_status(1, held=2)) == 2
    with pytest.raises(CommandFailed, match="nothing to retry"):
        find_revision_to_retry(_status(1))
