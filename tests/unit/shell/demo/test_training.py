"""The training: held-out images, repeatability, and files."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import torch
from safetensors.torch import load_file

from sundog_operator.shell.demo import dataset, training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("models")
    threads = torch.get_num_threads()
    try:
        return folder, training.train_models(folder, lambda *_: None)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.extended
def test_v1_is_fair_and_v2_is_better(trained: tuple[Path, dict[str, float]]) -> None:
    _, reached = trained
    assert 0.85 <= reached["v1"] < reached["v2"]
    assert reached["v2"] >= 0.96


def test_what_was_written_reads_as_well_as_what_was_trained(trained: tuple[Path, dict[str, float]]) -> None:
    folder, reached = trained
    data = training.read_digits()
    for name, code in (("v1", "linear"), ("v2", "conv")):
        net = training.make_network(code)
        net.load_state_dict(load_file(folder / name / "model.safetensors"))
        assert training.measure_accuracy(net.eval(), data) == reached[name]


def test_the_broken_model_does_not_load(trained: tuple[Path, dict[str, float]]) -> None:
    folder, _ = trained
    assert (folder / "v3" / "net.py").read_bytes() == (folder / "v2" / "net.py").read_bytes()
    with pytest.raises(RuntimeError, match="Missing key"):
        training.make_network("conv").load_state_dict(load_file(folder / "v3" / "model.safetensors"))


def test_whoever_serves_a_model_may_read_it(trained: tuple[Path, dict[str, float]]) -> None:
    folder, _ = trained
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files if not path.stat().st_mode & 0o004} == set()


def test_no_held_out_image_was_trained_on() -> None:
    data = training.read_digits()
    assert (len(data.images), len(data.held_out_images)) == (1257, 540)
    seen = {tuple(image.flatten().tolist()) for image in data.images}
    assert not any(tuple(image.flatten().tolist()) in seen for image in data.held_out_images)
    assert data.held_out_labels.bincount().tolist() == pytest.approx([54] * 10, abs=3)


def test_the_split_and_the_training_repeat() -> None:
    short = training.TrainingRecipe("v2", "conv", 1, 0.01)
    first, second = (training.train(short, training.read_digits(), lambda *_: None).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_clients_send_the_held_out_images(trained: tuple[Path, dict[str, float]]) -> None:
    folder, reached = trained
    held_out = dataset.read_held_out(folder)
    data = training.read_digits()
    assert held_out.labels == tuple(data.held_out_labels.tolist())
    assert held_out.offline == reached
    assert len(held_out.bodies) == 540
    rows = data.held_out_images[0].int().tolist()
    assert held_out.bodies[0].decode().replace(" ", "") == f'{{"inputs":[{rows}]}}'.replace(" ", "")


def test_progress_is_shown_after_each_pass() -> None:
    progress_calls: list[tuple[str, int, int]] = []
    training.train(
        training.TrainingRecipe("v1", "linear", 2, 0.1),
        training.read_digits(),
        lambda *progress: progress_calls.append(progress),
    )
    assert progress_calls == [("v1", 1, 2), ("v1", 2, 2)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "v1: 93.5 % of the held-out images are right\nv2: 97 % of the held-out images are right\n"),
        (("--json",), '{"model":"v1","epoch":1,"of":2}\n{"model":"v1","epoch":2,"of":2}\n'),
    ],
)
def test_the_program_prints_a_line_per_model_and_its_progress_for_programs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    options: tuple[str, ...],
    expected: str,
) -> None:
    def train(directory: Path, progress: training.ProgressCallback) -> dict[str, float]:
        assert directory == tmp_path
        for done in (1, 2):
            progress("v1", done, 2)
        return {"v1": 0.935, "v2": 0.97}

    monkeypatch.setattr(training, "train_models", train)
    monkeypatch.setattr("sys.argv", ["training", str(tmp_path), *options])
    training.main()
    assert capsys.readouterr().out == expected
