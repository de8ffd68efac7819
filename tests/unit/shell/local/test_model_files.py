"""Files of models that change behind their URI."""

import os
from pathlib import Path
from typing import Any

import pytest

from doubles.cluster import NAME, NAMESPACE, Cluster, model_deployment
from sundog_operator.ports import MODEL_DEPLOYMENT, Ref
from sundog_operator.shell.local import model_files
from sundog_operator.shell.local.model_files import ModelFiles

ANNOTATION = "serving.sundog.dev/model-files"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "v%201"
    folder.mkdir()
    write(folder, "one")
    return folder


def write(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)


def touch(folder: Path) -> None:
    os.utime(folder / "weights", ns=(1, 1))


@pytest.fixture
def digests(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths whose digest was asked for; it is the text of the weights."""
    asked: list[Path] = []

    async def run(path: Path) -> str:
        asked.append(path)
        return f"sha256:{(path / 'weights').read_text()}"

    monkeypatch.setattr(model_files, "_run_digest", run)
    return asked


def document(model: Path, **spec: Any) -> dict[str, Any]:
    """A ModelDeployment; its path is taken literally, as the model server does."""
    return model_deployment(f"file://{model}", **spec)


async def test_a_change_is_seen_and_digested_once_files_have_settled(model: Path, digests: list[Path]) -> None:
    files = ModelFiles()

    async def seen() -> str:
        return str((await files.add_to(document(model)))["metadata"]["annotations"][ANNOTATION])

    assert [await seen() for _ in range(3)] == ["sha256:one"] * 3
    assert digests == [model], "the same size and time are the same files"
    write(model, "a second")
    assert await seen() == "sha256:one", "it may still be written"
    assert await seen() == "sha256:a second"
    touch(model)
    assert [await seen() for _ in range(3)] == ["sha256:a second"] * 3
    assert len(digests) == 3, "another time, but the same content"
    (model / "weights").unlink()
    assert await seen() == "sha256:a second"


async def test_with_watch_the_digest_makes_a_revision_unless_one_is_given(model: Path, digests: list[Path]) -> None:
    files = ModelFiles(watch=True)
    made = await files.add_to(document(model))
    assert made["spec"]["model"]["digest"] == "sha256:one"
    assert "annotations" not in made["metadata"]
    own = document(model)
    own["spec"]["model"]["digest"] = "sha256:mine"
    assert (await files.add_to(own))["spec"]["model"]["digest"] == "sha256:mine"


@pytest.mark.parametrize("spec", [None, {}, {"model": None}, {"model": {"uri": 7}}, {"model": {"uri": "s3://b/m"}}])
async def test_other_objects_stay_as_they_are(spec: Any, digests: list[Path]) -> None:
    given = {**model_deployment(), "spec": spec}
    assert await ModelFiles().add_to(given) == given
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}
    assert await ModelFiles().add_to(secret) == secret
    assert digests == []


async def test_the_digest_is_that_of_the_command(model: Path) -> None:
    made = await ModelFiles().add_to(document(model))
    assert made["metadata"]["annotations"][ANNOTATION].startswith("sha256:")
    (model / "link").symlink_to("weights")
    assert await ModelFiles().add_to(document(model)) == document(model), "a model that cannot be read is refused later"


async def test_a_condition_reports_changed_files_until_a_revision_has_them() -> None:
    cluster = Cluster()
    ref = Ref(MODEL_DEPLOYMENT, NAMESPACE, NAME)

    async def apply(uri: str, digest: str) -> None:
        made = model_deployment(uri)
        made["metadata"]["annotations"] = {ANNOTATION: digest}
        await cluster.kube.apply(made)

    await apply("file:///models/v1", "sha256:one")
    await cluster.settle(10)
    assert await cluster.condition("ModelUnchanged") == ("Absent", "")
    await apply("file:///models/v1", "sha256:two")
    await cluster.settle(3)
    assert await cluster.condition("ModelUnchanged") == ("False", "FilesChanged")
    assert await cluster.condition("Ready") == ("True", "Serving")
    assert (await cluster.status())["stable"]["revision"] == 1
    await apply("file:///models/v2", "sha256:two")
    await cluster.settle(3)
    assert await cluster.condition("ModelUnchanged") == ("Absent", "")
    await cluster.kube.delete(ref)
