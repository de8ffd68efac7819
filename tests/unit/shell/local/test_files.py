"""Follow manifests: edits, mistakes, removals, restarts."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from doubles.clock import FakeClock
from doubles.hooked_kubernetes import HookedKubernetes
from sundog_operator.ports import MODEL_DEPLOYMENT, Object, Ref
from sundog_operator.shell.local import state_dir_paths
from sundog_operator.shell.local.api_server import crd_schemas, find_admission_violations
from sundog_operator.shell.local.files import ManifestFiles
from sundog_operator.shell.local.manifest_origins import OriginStore

TEXT = """
apiVersion: serving.sundog.dev/v1alpha1
kind: ModelDeployment
metadata: {name: NAME}
spec: {model: {uri: "file:///URI"}}
"""


def text(name: str = "a", uri: str = "v1") -> str:
    return TEXT.replace("NAME", name).replace("URI", uri)


@dataclass
class Seen:
    """A view that records everything."""

    notices: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    now: list[str] = field(default_factory=list)

    def notice(self, message: str) -> None:
        self.notices.append(message)

    def problem(self, message: str) -> None:
        self.problems.append(message)

    def show_problems(self, problems: Any) -> None:
        self.now = list(problems)

    def deployments(self, objects: Any) -> None: ...

    def event(self, event: Object) -> None: ...

    def close(self) -> None: ...


class World:
    """A folder of manifests and the API server that they are applied to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "manifests"
        self.folder.mkdir()
        self.state = folder
        self.clock = FakeClock()
        self.kube = HookedKubernetes(self.clock, schemas=crd_schemas(), admit=find_admission_violations)
        self.view = Seen()
        self.root = self.folder
        self.files: ManifestFiles

    def start(self) -> "World":
        self.files = ManifestFiles(
            self.root,
            self.kube,
            OriginStore(self.state / "origins.json"),
            self.clock,
            self.view,
            namespace="default",
            save_problems=partial(state_dir_paths.write_manifest_problems, self.state),
        )
        return self

    async def settle(self) -> None:
        """Sync now, and again after no file has changed for 5 s."""
        await self.files.sync()
        self.clock.advance(5)
        await self.files.sync()

    def write(self, file: str, content: str) -> None:
        (self.folder / file).write_text(content)

    async def uris(self) -> dict[str, str]:
        objects = await self.kube.list(MODEL_DEPLOYMENT)
        return {obj["metadata"]["name"]: obj["spec"]["model"]["uri"].removeprefix("file:///") for obj in objects}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made.start()
    made.kube.close()


async def test_edits_are_applied_and_nothing_else_is(world: World) -> None:
    world.write("a.yaml", text("a"))
    world.write("b.yaml", text("b"))
    await world.settle()
    assert await world.uris() == {"a": "v1", "b": "v1"}
    world.kube.writes.clear()
    await world.settle()
    assert list(world.kube.writes) == []
    world.write("a.yaml", text("a", "v2"))
    await world.settle()
    assert await world.uris() == {"a": "v2", "b": "v1"}
    assert [write.ref.name for write in world.kube.writes] == ["a"]
    assert world.view.problems == []


async def test_what_was_applied_by_command_stays_until_the_file_changes(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    stored = await world.kube.get(Ref(MODEL_DEPLOYMENT, "default", "a"))
    assert stored is not None
    stored["spec"]["model"]["uri"] = "file:///other"
    await world.kube.apply(stored, manager="sundog-cli")
    world.write("b.yaml", text("b"))
    await world.settle()
    assert await world.uris() == {"a": "other", "b": "v1"}


async def test_what_was_deleted_by_command_stays_away_until_the_file_changes(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.view.notices.clear()
    await world.kube.delete(Ref(MODEL_DEPLOYMENT, "default", "a"))
    for _ in range(3):
        await world.settle()
    assert await world.uris() == {}
    (message,) = world.view.notices
    assert message.startswith("ModelDeployment default/a was deleted; ")
    assert "a.yaml still describes it, so an edit or the next start creates it again" in message
    world.write("a.yaml", text("a", "v2"))
    await world.settle()
    assert await world.uris() == {"a": "v2"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("a: [1", "a.yaml: line 1: "),
        (text() + "# made\nmade: 2024-13-45", "a.yaml: line 7: value is not a valid YAML timestamp"),
        (text() + "spec: {}", "a.yaml: line 6: duplicate key 'spec', first in line 5"),
        ("a: &a [" + "x, " * 9_000 + "]\nb: [" + "*a, " * 60 + "]", "a.yaml: line 2: aliases expand to more than"),
        (text(uri="v2").replace("model:", "modle:"), "a.yaml: ModelDeployment default/a: spec.modle: unknown field"),
        (
            text(uri="v2").replace("spec: {", "spec: {replicas: -1, "),
            "a.yaml: ModelDeployment default/a: spec.replicas: -1; expected 0 to 1000",
        ),
        (
            text().replace("file:///v1", "file://v1"),
            "a.yaml: ModelDeployment a: spec.model.uri: 'file://v1' is not absolute",
        ),
        (text().replace("serving.sundog.dev/v1alpha1", "serving.sundog.dev/v2"), "a.yaml: apiVersion: "),
        (text().replace("serving.sundog.dev/v1alpha1", "serving.sundg.dev/v1alpha1"), "a.yaml: kind 'ModelDeployment'"),
        (text().replace("ModelDeployment", "ModelDeploymnet"), "a.yaml: kind 'ModelDeploymnet'"),
        (text().replace("ModelDeployment", "[ModelDeployment]"), "a.yaml: kind ['ModelDeployment']"),
        (text().replace("{name: a", "{name: a, labels: [b]"), "default/a: metadata.labels: list; expected an object"),
        (text().replace("{name: a", "{name: a, annotations: b"), "a: metadata.annotations: str; expected an object"),
        (
            text().replace("{name: a", "{name: a, finalizers: [{}]"),
            "finalizers: a list of dict; expected a list of str",
        ),
        (text().replace("{name: a", "{name: a, ownerReferences: b"), "metadata.ownerReferences: str; expected a list"),
        (text().replace("{name: a", "{name: a, ownerReferences: [{}]"), "ownerReferences[0].uid: missing; expected"),
    ],
)
async def test_a_mistake_is_shown_once_and_keeps_what_serves(world: World, bad: str, message: str) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.write("a.yaml", bad)
    for _ in range(3):
        await world.settle()
    assert len(world.view.problems) == 1
    assert message in world.view.problems[0]
    assert world.view.problems[0].removeprefix("skipped: ").startswith(str(world.folder))
    assert "\n" not in world.view.problems[0]
    assert await world.uris() == {"a": "v1"}
    world.write("a.yaml", text("a", "v3"))
    await world.settle()
    assert await world.uris() == {"a": "v3"}


async def test_an_unexpected_error_stays_with_its_object(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.kube.faults = lambda _verb, ref: KeyError("uid") if ref.name == "a" else None
    world.write("a.yaml", text("a"))
    world.write("b.yaml", text("b"))
    await world.settle()
    assert await world.uris() == {"b": "v1"}
    assert world.view.now == [
        f"{world.folder}/a.yaml: ModelDeployment default/a: in sundog itself: KeyError: 'uid'. The log has the traceback"
    ]
    assert "Traceback" in caplog.text


async def test_what_is_refused_stands_until_it_is_fixed(world: World) -> None:
    world.write("a.yaml", text("a"))
    world.write("bad.yaml", "a: [")
    await world.settle()
    world.write("a.yaml", text("a").replace("spec: {", "spec: {replicas: -1, "))
    await world.settle()
    await world.settle()
    refused, unreadable = world.view.now
    assert refused.startswith(f"{world.folder}/a.yaml: ModelDeployment default/a: spec.replicas: ")
    assert unreadable.startswith(f"{world.folder}/bad.yaml: ")
    assert state_dir_paths.read_problems(world.state) == [refused, unreadable]
    world.write("a.yaml", text("a", "v2"))
    (world.folder / "bad.yaml").unlink()
    await world.settle()
    assert world.view.now == state_dir_paths.read_problems(world.state) == []


async def test_removed_documents_and_files_take_their_objects_with_them(world: World) -> None:
    world.write("a.yaml", f"{text('a')}---\n{text('b')}")
    world.write("c.yaml", text("c"))
    await world.settle()
    world.write("a.yaml", text("a"))
    (world.folder / "c.yaml").unlink()
    await world.settle()
    assert await world.uris() == {"a": "v1"}


async def test_objects_that_came_from_no_file_are_not_touched(world: World) -> None:
    await world.kube.apply({**_object("mine"), "spec": {"model": {"uri": "file:///mine"}}}, manager="sundog-cli")
    world.write("a.yaml", text("a"))
    await world.settle()
    (world.folder / "a.yaml").unlink()
    await world.settle()
    assert await world.uris() == {"mine": "mine"}


async def test_a_deletion_is_announced_and_waits_until_the_file_is_stable(world: World) -> None:
    world.write("a.yaml", f"{text('a')}---\n{text('b')}")
    await world.settle()
    world.view.notices.clear()
    world.write("a.yaml", text("a"))
    await world.files.sync()
    announced = (
        "ModelDeployment default/b: no manifest describes it any more; it is deleted in 5 s unless one does again"
    )
    assert world.view.notices == [announced]
    world.clock.advance(4)
    os.utime(world.folder / "a.yaml", ns=(1, 1))
    await world.files.sync()
    world.clock.advance(4)
    await world.files.sync()
    assert await world.uris() == {"a": "v1", "b": "v1"}, "the file was written 4 s ago"
    assert world.view.notices == [announced]
    world.clock.advance(1)
    await world.files.sync()
    assert await world.uris() == {"a": "v1"}
    assert world.view.notices[1].startswith("ModelDeployment default/b deleted")


async def test_a_file_that_lacks_an_object_for_a_moment_deletes_nothing(world: World) -> None:
    whole = f"{text('a')}---\n{text('b')}"
    world.write("a.yaml", whole)
    await world.settle()
    world.write("a.yaml", text("a"))
    await world.files.sync()
    world.clock.advance(3)
    world.write("a.yaml", whole)
    await world.files.sync()
    world.clock.advance(60)
    await world.files.sync()
    assert await world.uris() == {"a": "v1", "b": "v1"}


async def test_a_file_that_is_empty_for_a_moment_deletes_nothing(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.write("a.yaml", "")
    await world.files.sync()
    world.clock.advance(3)
    world.write("a.yaml", text("a", "v2"))
    await world.settle()
    assert await world.uris() == {"a": "v2"}
    assert not any("deleted" in notice for notice in world.view.notices)
    assert world.view.problems == []


@pytest.mark.parametrize("empty", ["", "\n", "---\n", "---\n---\n", "# a comment\n", "null", "kind: List\nitems: []"])
async def test_an_emptied_file_keeps_what_it_described_and_is_shown_once(world: World, empty: str) -> None:
    world.write("a.yaml", f"{text('a')}---\n{text('b')}")
    await world.settle()
    world.write("a.yaml", empty)
    for _ in range(3):
        await world.settle()
    message = (
        f"{world.folder}/a.yaml: the file is empty; its objects are kept until you remove it:"
        " ModelDeployment default/a, ModelDeployment default/b"
    )
    assert world.view.problems == [message]
    assert await world.uris() == {"a": "v1", "b": "v1"}
    await world.start().settle()
    assert world.view.problems == [message, message], "a later start keeps and tells it too"
    assert await world.uris() == {"a": "v1", "b": "v1"}
    (world.folder / "a.yaml").unlink()
    await world.settle()
    assert await world.uris() == {}


async def test_an_emptied_file_is_shown_anew_after_it_described_something(world: World) -> None:
    for round_ in (1, 2):
        world.write("a.yaml", text("a"))
        await world.settle()
        world.write("a.yaml", "# " + text("a").replace("\n", "\n# "))
        await world.settle()
        assert len(world.view.problems) == round_


async def test_what_was_emptied_here_may_be_described_elsewhere(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.write("a.yaml", "")
    world.write("b.yaml", text("a", "v2"))
    await world.settle()
    assert await world.uris() == {"a": "v2"}
    assert world.view.problems == []
    (world.folder / "b.yaml").unlink()
    await world.settle()
    assert await world.uris() == {}


async def test_a_file_that_was_moved_and_then_emptied_keeps_what_it_described(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    (world.folder / "a.yaml").rename(world.folder / "b.yaml")
    await world.settle()
    world.write("a.yaml", "")
    world.write("b.yaml", "")
    await world.settle()
    assert await world.uris() == {"a": "v1"}
    (message,) = world.view.problems
    assert message.startswith(f"{world.folder}/b.yaml: the file is empty; its objects are kept until you remove it")
    (world.folder / "b.yaml").unlink()
    await world.settle()
    assert await world.uris() == {}


async def test_an_empty_file_is_no_problem_without_objects(
    world: World,
) -> None:
    world.write("notes.yaml", "# nothing here\n")
    world.write("a.yaml", text("a"))
    await world.settle()
    await world.kube.delete(Ref(MODEL_DEPLOYMENT, "default", "a"))
    world.write("a.yaml", "")
    await world.settle()
    assert world.view.problems == []


async def test_a_file_that_describes_another_object_takes_the_one_before_with_it(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.write("a.yaml", text("b"))
    await world.settle()
    assert await world.uris() == {"b": "v1"}


async def test_a_single_file_that_was_emptied_keeps_what_it_described(world: World) -> None:
    world.write("a.yaml", text("a"))
    world.root = world.folder / "a.yaml"
    await world.start().settle()
    world.write("a.yaml", "")
    await world.settle()
    assert await world.uris() == {"a": "v1"}
    assert len(world.view.problems) == 1


async def test_a_folder_that_is_gone_deletes_nothing(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.folder.rename(world.state / "moved")
    await world.settle()
    assert await world.uris() == {"a": "v1"}


async def test_a_start_at_another_path_takes_nothing_away(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    world.root = world.state / "elsewhere"
    world.root.mkdir()
    (world.root / "b.yaml").write_text(text("b"))
    await world.start().files.begin()
    assert await world.uris() == {"a": "v1", "b": "v1"}
    assert any("default/a is kept although it came from" in notice for notice in world.view.notices)


async def test_a_restart_knows_what_came_from_files(world: World) -> None:
    world.write("a.yaml", text("a"))
    world.write("b.yaml", text("b"))
    await world.settle()
    (world.folder / "a.yaml").unlink()
    world.write("b.yaml", text("b", "v2"))
    await world.start().settle()
    assert await world.uris() == {"b": "v2"}


async def test_an_object_that_somebody_made_anew_is_left_alone(world: World) -> None:
    world.write("a.yaml", text("a"))
    await world.settle()
    ref = Ref(MODEL_DEPLOYMENT, "default", "a")
    await world.kube.delete(ref)
    await world.kube.apply({**_object("a"), "spec": {"model": {"uri": "file:///mine"}}}, manager="sundog-cli")
    (world.folder / "a.yaml").unlink()
    await world.settle()
    assert await world.uris() == {"a": "mine"}


async def test_a_single_file_is_a_root_too(world: World) -> None:
    world.write("a.yaml", text("a"))
    world.write("b.yaml", text("b"))
    world.root = world.folder / "a.yaml"
    await world.start().settle()
    assert await world.uris() == {"a": "v1"}
    world.root.unlink()
    await world.settle()
    assert await world.uris() == {}


async def test_other_kinds_are_skipped_with_a_line(world: World) -> None:
    world.write("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}")
    await world.settle()
    assert [problem.split(":")[0] for problem in world.view.problems] == ["skipped"]


def _object(name: str) -> Object:
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": "default"},
    }
