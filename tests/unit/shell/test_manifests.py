from pathlib import Path
from typing import Any

import pytest

from sundog_operator.shell import manifests

GOOD = """
apiVersion: serving.sundog.dev/v1alpha1
kind: ModelDeployment
metadata: {name: NAME}
spec: {model: {uri: "URI"}}
"""


def good(name: str = "digits", uri: str = "file:///m") -> str:
    return GOOD.replace("NAME", name).replace("URI", uri)


BOMB = f"{good()}# many\nlabels: &a [{'x, ' * 9_000}]\nb: [{'*a, ' * 60}]"
"""Aliases that write out to more than they may."""


def read(text: str, path: Path | None = Path("/x/a.yaml")) -> tuple[list[Any], list[str]]:
    documents, problems = manifests.parse_manifest(text, "a.yaml", path, "default")
    return documents, [str(problem) for problem in problems]


def test_several_documents_and_lists_are_read_in_order() -> None:
    listed = "kind: List\napiVersion: v1\nitems:\n- " + good("c").strip().replace("\n", "\n  ")
    documents, problems = read(f"{good('a')}---\n---\n{good('b')}---\n{listed}")
    assert [document.ref.name for document in documents] == ["a", "b", "c"]
    assert {document.ref.namespace for document in documents} == {"default"}
    assert problems == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "a.yaml: line 1: expected ',' or ']', but got '<stream end>'"),
        (BOMB, "a.yaml: line 8: aliases expand to more than 1048576 characters"),
        (f"a: {'[' * 5000}", "a.yaml: values are nested too deeply"),
        (
            good().replace("spec: {", "spec: {model: {}, "),
            "a.yaml: line 5: duplicate key 'model', first in line 5",
        ),
        (good() + good(), "a.yaml: line 7: duplicate key 'apiVersion', first in line 2"),
        ("just text", "a.yaml: document is a str; expected an object with apiVersion and kind"),
        (
            "kind: Pod\napiVersion: v1",
            "is not supported; expected ModelDeployment, Experiment of serving.sundog.dev/v1alpha1",
        ),
        ("model: {uri: file:///m}", "a.yaml: found no apiVersion and kind; expected ModelDeployment, Experiment of "),
        (
            good().replace("v1alpha1", "v9"),
            "a.yaml: apiVersion: found 'serving.sundog.dev/v9'; expected serving.sundog.dev/v1alpha1",
        ),
        (good().replace("{name: digits}", "{}"), "a.yaml: ModelDeployment: metadata.name is required"),
        (good().replace("{name: digits}", ""), "a.yaml: ModelDeployment: metadata.name is required"),
        (good().replace("digits", "''"), "a.yaml: ModelDeployment: metadata.name is required"),
        (good(name="5"), "a.yaml: ModelDeployment: metadata.name: 5 is not a string. Put it in quotes"),
        (good(name="no"), "a.yaml: ModelDeployment: metadata.name: false is not a string. Put it in quotes"),
        (good(name="[a]"), 'a.yaml: ModelDeployment: metadata.name: ["a"] is not a string'),
        (good().replace("{name: digits}", "digits"), 'a.yaml: ModelDeployment: metadata: "digits" is not an object'),
        (
            good(uri="file://models/v1"),
            "'file://models/v1' is not absolute; expected file:///… or file://${MANIFEST_DIR}/…",
        ),
        (
            good(uri="file://./models/v1"),
            "ModelDeployment digits: spec.model.uri: 'file://./models/v1' is not absolute",
        ),
        (good().replace("model:", "1: 2, model:"), "cannot be written as JSON"),
    ],
)
def test_each_mistake_is_one_line_with_its_place(text: str, message: str) -> None:
    documents, problems = read(text)
    assert documents == []
    assert len(problems) == 1
    assert message in problems[0]
    assert "\n" not in problems[0]


def test_anchors_aliases_and_merge_keys_are_written_out() -> None:
    text = (
        good()
        .replace("metadata:", "x-usual: &usual {replicas: 2}\nmetadata: &meta")
        .replace("{model:", "{<<: *usual, model:")
    )
    documents, problems = read(f"{text}copy: *meta\n")
    assert problems == []
    assert documents[0].object["spec"] == {"replicas": 2, "model": {"uri": "file:///m"}}
    assert documents[0].object["copy"]["name"] == "digits"


def test_what_comes_before_a_mistake_is_read() -> None:
    documents, problems = read(f"{good('a')}---\nb: [1")
    assert [document.ref.name for document in documents] == ["a"]
    assert len(problems) == 1


@pytest.mark.parametrize(
    ("uri", "expanded"),
    [
        ("file://${MANIFEST_DIR}/models/v1", "file:///x/models/v1"),
        ("file://${MANIFEST_DIR}/../models", "file:///models"),
        ("file://${MANIFEST_DIR}", "file:///x"),
        ("file:///models/${MANIFEST_DIR}", "file:///models/${MANIFEST_DIR}"),
        ("s3://models/${MANIFEST_DIR}", "s3://models/${MANIFEST_DIR}"),
    ],
)
def test_manifest_dir_is_the_folder_of_the_manifest(uri: str, expanded: str) -> None:
    documents, problems = read(good(uri=uri))
    assert problems == []
    assert documents[0].object["spec"]["model"]["uri"] == expanded


def test_manifest_dir_needs_a_file() -> None:
    assert (
        "${MANIFEST_DIR} is for manifests in files, not for standard input"
        in read(good(uri="file://${MANIFEST_DIR}/m"), None)[1][0]
    )


def test_folders_are_read_without_hidden_and_other_files(tmp_path: Path) -> None:
    for place in ("b.yaml", "a/a.yml", ".hidden/c.yaml", ".d.yaml", "e.txt"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(good(path.stem.strip(".")))
    reading = manifests.read_manifests(tmp_path, "default")
    assert [document.ref.name for document in reading.documents] == ["a", "b"]
    assert reading.problems == ()


def test_of_two_descriptions_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(good(uri="file:///first"))
    (tmp_path / "b.yaml").write_text(good(uri="file:///second"))
    reading = manifests.read_manifests(tmp_path, "default")
    assert [document.object["spec"]["model"]["uri"] for document in reading.documents] == ["file:///first"]
    assert str(reading.problems[0]) == (
        f"{tmp_path}/b.yaml: ModelDeployment default/digits is also in {tmp_path}/a.yaml, which counts"
    )


def test_files_that_cannot_be_read_are_shown_and_unsure(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    (tmp_path / "large.yaml").write_bytes(b"#" * (manifests.MAX_MANIFEST_BYTES + 1))
    (tmp_path / "pod.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}")
    reading = manifests.read_manifests(tmp_path, "default")
    message = {Path(problem.source).name: problem.message for problem in reading.problems if not problem.skipped}
    assert message == {
        "large.yaml": f"file is larger than {manifests.MAX_MANIFEST_BYTES} bytes",
        "latin.yaml": "file is not UTF-8 text",
    }
    assert reading.can_contain(tmp_path / "latin.yaml", "any")
    assert reading.can_contain(tmp_path / "large.yaml", "any")
    # Another kind need not be a mistake; only an object with that name may be the misspelt one.
    assert reading.can_contain(tmp_path / "pod.yaml", "x")
    assert not reading.can_contain(tmp_path / "pod.yaml", "any")
