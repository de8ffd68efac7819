"""From files to a model in memory: which formats are detected, which are refused, and which code runs."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import (
    DigestMismatch,
    EntrypointMissing,
    FormatNotRecognised,
    LoadFailed,
    StartError,
)
from sundog_runtime.formats.load import describe_entrypoint, load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.model_code import ModelCode
from sundog_runtime.sources.file_digests import read_tree, tree_digest
from sundog_runtime.sources.open_model import ModelFiles, open_model


def load(path: Path, entrypoint: str = "net:Net", digest: str = "", **model: Any) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{path}", "entrypoint": entrypoint, "digest": digest, **model})
    return load_model(open_model(spec.uri, spec.digest), spec)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


X = np.array([[0.5, -1.0, 2.0, 0.25]], dtype=np.float32)


def test_a_state_dict_gives_the_network_s_own_answers(torch_model: Path, network: torch.nn.Module) -> None:
    model = load(torch_model)
    assert model.platform == "pytorch"
    torch.testing.assert_close(model.predict(X), network(torch.from_numpy(X)).detach())
    assert not model.predict(X).requires_grad


def test_pt_and_config(torch_model: Path) -> None:
    (torch_model / "model.safetensors").unlink()
    weights = {
        "first.weight": torch.ones(16, 4),
        "first.bias": torch.zeros(16),
        "second.weight": torch.ones(3, 16),
        "second.bias": torch.zeros(3),
    }
    torch.save(weights, torch_model / "weights.bin")
    model = load(torch_model, config={"hidden": 16})
    assert model.predict(np.ones((1, 4), np.float32)).tolist() == [[64.0, 64.0, 64.0]]


@pytest.mark.parametrize("declared", ["", "inputs: [{name: x, dtype: bfloat16, shape: [-1, 4]}]\n"])
def test_weights_of_half_precision(torch_model: Path, network: torch.nn.Module, declared: str) -> None:
    append(torch_model / "net.py", "\ndef Half():\n    return Net().bfloat16()\n")
    (torch_model / "model.yaml").write_text(declared)
    safetensors.torch.save_file(network.bfloat16().state_dict(), torch_model / "model.safetensors")
    answer = load(torch_model, "net:Half").predict(X)
    torch.testing.assert_close(answer, network(torch.from_numpy(X).bfloat16()).detach())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_integers_are_no_weights_of_a_module_that_has_fractions(
    torch_model: Path, network: torch.nn.Module, suffix: str
) -> None:
    """Without this check, quantised weights without their scales would be served like trained ones."""
    state = network.state_dict()
    state["second.weight"] = (state["second.weight"] * 100).to(torch.int8)
    (torch_model / "model.safetensors").unlink()
    save = safetensors.torch.save_file if suffix == "safetensors" else torch.save
    save(state, torch_model / f"model.{suffix}")
    with pytest.raises(LoadFailed) as caught:
        load(torch_model)
    assert f"model.{suffix}: tensor 'second.weight' is int8; expected float32" in caught.value.message


def test_weights_of_another_precision_are_converted(torch_model: Path, network: torch.nn.Module) -> None:
    safetensors.torch.save_file(network.half().state_dict(), torch_model / "model.safetensors")
    torch.testing.assert_close(load(torch_model).predict(X), network.float()(torch.from_numpy(X)).detach())


def test_the_manifest_overrides_model_yaml(torch_model: Path) -> None:
    (torch_model / "model.yaml").write_text("entrypoint: net:Nowhere\nconfig: {hidden: 5, wrong: 1}\nformat: python\n")
    append(torch_model / "net.py", "\ndef make(hidden, wrong):\n    assert wrong == 1\n    return Net(hidden)\n")
    model = load(torch_model, "net:make", config={"hidden": 8}, format="torch")
    assert model.predict(X).shape == (1, 3)


def test_model_yaml_alone_is_enough_to_load(torch_model: Path) -> None:
    (torch_model / "model.yaml").write_text("entrypoint: net:Net\nconfig: {hidden: 8}\nformat: torch\n")
    assert load(torch_model, "").predict(X).shape == (1, 3)


def test_a_model_does_not_vouch_for_itself(torch_model: Path) -> None:
    (torch_model / "model.yaml").write_text("trustCode: true\n")
    with pytest.raises(LoadFailed, match=r"model\.yaml: trustCode: unknown field; set spec.model.trustCode"):
        load(torch_model)


def test_evaluation_mode(torch_model: Path) -> None:
    (torch_model / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Parameter(torch.zeros(1))\n"
        "    def forward(self, x):\n        return torch.full((1, 3), float(self.training))\n"
    )
    safetensors.torch.save_file({"w": torch.zeros(1)}, torch_model / "model.safetensors")
    assert load(torch_model).predict(X).tolist() == [[0.0, 0.0, 0.0]]


def test_auto_logs_the_detected_format(torch_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ray.serve.sundog"):
        load(torch_model)
    assert f"format auto: found model.safetensors, which is safetensors in {torch_model}" in caplog.text


def test_weights_are_known_by_content_not_by_name(torch_model: Path) -> None:
    (torch_model / "model.safetensors").rename(torch_model / "model.txt")
    assert load(torch_model).found == "model.txt, which is safetensors"


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_a_pickled_module_is_not_called_a_state_dict(torch_model: Path) -> None:
    (torch_model / "model.safetensors").unlink()
    (torch_model / "model.yaml").unlink()
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch_model / "model.pt")
    for entrypoint in ("", "net:Net"):
        with pytest.raises(
            FormatNotRecognised, match=r"model.pt holds pickled objects \(torch.nn.*Sequential.*state dict"
        ):
            load(torch_model, entrypoint)


@pytest.mark.parametrize(
    ("entrypoint", "expected"),
    [
        ("net:Net", "class net.Net (torch.nn.Module)"),
        ("net:make", "function net.make"),
        ("net:Other", "class net.Other (no torch.nn.Module, no predictor)"),
        ("net:NUMBER", "net.NUMBER, a int"),
    ],
)
def test_an_entrypoint_is_described_without_weights(tmp_path: Path, entrypoint: str, expected: str) -> None:
    code = "import torch\nclass Net(torch.nn.Module): pass\nclass Other: pass\ndef make(): pass\nNUMBER = 1\n"
    (tmp_path / "net.py").write_text(code)
    arguments = ModelArguments(uri=f"file://{tmp_path}", entrypoint=entrypoint)
    assert describe_entrypoint(ModelFiles(tmp_path), arguments) == expected


def test_a_missing_entrypoint_is_named_only_where_the_format_needs_one(torch_model: Path) -> None:
    files, arguments = ModelFiles(torch_model), ModelArguments(uri=f"file://{torch_model}")
    (torch_model / "model.yaml").write_text("format: torch")
    with pytest.raises(EntrypointMissing, match=r"model.safetensors is safetensors: set model.entrypoint"):
        describe_entrypoint(files, arguments)
    (torch_model / "model.yaml").write_text("format: transformers")
    assert describe_entrypoint(files, arguments) == ""


@pytest.mark.parametrize("how", ["torch.save", "pickle", "named safetensors"])
def test_a_pickle_of_anything_else_is_refused_and_does_not_run(torch_model: Path, tmp_path: Path, how: str) -> None:
    mark = tmp_path / "ran"
    (torch_model / "model.safetensors").unlink()
    match how:
        case "torch.save":
            torch.save(Evil(str(mark)), torch_model / "m.pt")
        case "pickle":
            (torch_model / "m.pt").write_bytes(pickle.dumps(Evil(str(mark))))
        case _:
            (torch_model / "m.safetensors").write_bytes(pickle.dumps(Evil(str(mark))))
    with pytest.raises(FormatNotRecognised, match="pickle"):
        load(torch_model)
    assert not mark.exists()


def test_a_module_instead_of_a_state_dict(torch_model: Path) -> None:
    (torch_model / "model.safetensors").unlink()
    torch.save([torch.zeros(1)], torch_model / "m.pt")
    with pytest.raises(FormatNotRecognised, match="holds a list; expected a state dict"):
        load(torch_model)


def test_an_empty_directory(tmp_path: Path) -> None:
    with pytest.raises(FormatNotRecognised, match="found no weights; expected "):
        load(tmp_path, entrypoint="")


def test_code_without_weights_and_entrypoint(tmp_path: Path) -> None:
    (tmp_path / "predictor.py").write_text("class Predictor: ...")
    message = "predictor.py is code: set model.entrypoint to the class to load, such as predictor:Predictor"
    with pytest.raises(EntrypointMissing, match=message):
        load(tmp_path, entrypoint="")


def test_one_weight_file_only(torch_model: Path) -> None:
    (torch_model / "other").write_bytes((torch_model / "model.safetensors").read_bytes())
    with pytest.raises(LoadFailed, match=r"2 weight files \(model.safetensors, other\); expected one"):
        load(torch_model)


@pytest.mark.parametrize(
    ("entrypoint", "message"),
    [
        ("", "set model.entrypoint to its module, such as net:Net"),
        ("net", "expected the form module:attribute"),
        ("net:", "expected the form"),
        ("../net:Net", "expected the form"),
        ("net:Net()", "expected the form"),
        ("nut:Net", "has no module 'nut'"),
        ("net.deeper:Net", "has no module 'net.deeper'"),
        ("net:Nut", "has no attribute 'Nut'"),
        ("net:__name__", "the entrypoint is a str"),
        ("builtins:dict", "returned a dict; expected a torch.nn.Module"),
    ],
)
def test_entrypoints_that_name_nothing(torch_model: Path, entrypoint: str, message: str) -> None:
    with pytest.raises(EntrypointMissing) as caught:
        load(torch_model, entrypoint)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('bo\\nom')", "importing 'net' raised ValueError: bo om"),
        ("x = (", "importing 'net' raised SyntaxError"),
        ("import no_such_package", "no module named 'no_such_package' in the model or the image"),
        ("def Net(): raise OSError('x')", "the entrypoint raised OSError: x"),
        ("def Net(): return 1 / 0", "the entrypoint raised ZeroDivisionError"),
        ("import torch\ndef Net(): return torch.nn.Linear(2, 2)", "model.safetensors does not fit"),
    ],
)
def test_code_that_fails(torch_model: Path, code: str, message: str) -> None:
    (torch_model / "net.py").write_text(code)
    with pytest.raises(LoadFailed) as caught:
        load(torch_model)
    assert message in caught.value.message


def test_config_that_does_not_fit(torch_model: Path) -> None:
    with pytest.raises(LoadFailed, match="unexpected keyword argument 'depth'"):
        load(torch_model, config={"depth": 3})


def test_truncated_weights(torch_model: Path) -> None:
    whole = (torch_model / "model.safetensors").read_bytes()
    (torch_model / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(LoadFailed, match=r"reading model\.safetensors raised"):
        load(torch_model)


def test_the_digest_covers_code_and_nothing_is_written(torch_model: Path) -> None:
    digest = tree_digest(read_tree(torch_model))
    load(torch_model, digest=digest)
    assert tree_digest(read_tree(torch_model)) == digest, "loading left something behind"


def test_only_verified_code_runs_even_if_the_file_changes(torch_model: Path) -> None:
    files = open_model(f"file://{torch_model}", tree_digest(read_tree(torch_model)))
    (torch_model / "net.py").write_text("raise AssertionError('not what was verified')")
    assert ModelCode(files).resolve("net:Net").__name__ == "Net"
    with pytest.raises(DigestMismatch, match=r"net\.py changed"):
        load_model(files, ModelArguments.model_validate({"uri": "file:///x", "entrypoint": "net:Net"}))


def test_an_installed_entrypoint(torch_model: Path) -> None:
    safetensors.torch.save_file(torch.nn.Linear(4, 3).state_dict(), torch_model / "model.safetensors")
    model = load(torch_model, "torch.nn:Linear", config={"in_features": 4, "out_features": 3})
    assert model.predict(X).shape == (1, 3)


def test_a_single_file_is_all_there_is(torch_model: Path) -> None:
    (torch_model / "other.py").write_text("raise AssertionError('not part of the model')")
    with pytest.raises(EntrypointMissing, match="has no module 'net'"):
        load(torch_model / "model.safetensors")


PREDICTOR = """
import numpy as np

class Predictor:
    def load(self, path, config):
        self.names = sorted(file.name for file in path.iterdir()) if path.is_dir() else [path.name]
        self.factor = config["factor"]

    def predict(self, batch):
        return batch * self.factor
"""


def test_a_predictor_class(python_model: Callable[[str], Path]) -> None:
    root = python_model(PREDICTOR)
    for declared in ("auto", "python"):
        model = load(root, "predictor:Predictor", config={"factor": 3}, format=declared)
        assert model.platform == "python"
        assert model.predict(np.array([1, 2])).tolist() == [3, 6]
        assert model.example is None


def test_a_predictor_beside_weights_is_a_predictor(
    python_model: Callable[[str], Path], network: torch.nn.Module
) -> None:
    root = python_model(PREDICTOR)
    safetensors.torch.save_file(network.state_dict(), root / "model.safetensors")
    assert load(root, "predictor:Predictor", config={"factor": 3}).platform == "python"


def test_a_predictor_in_one_file(python_model: Callable[[str], Path]) -> None:
    root = python_model(PREDICTOR)
    assert load(root / "predictor.py", "predictor:Predictor", config={"factor": 3}).platform == "python"


def test_a_predictor_that_lacks_a_method_or_fails(python_model: Callable[[str], Path]) -> None:
    root = python_model("class Predictor:\n    def load(self, path, config): pass\n")
    with pytest.raises(EntrypointMissing, match="lacks predict"):
        load(root, "predictor:Predictor", format="python")
    with pytest.raises(LoadFailed, match=r"predictor:Predictor.load raised KeyError: 'factor'"):
        load(python_model(PREDICTOR), "predictor:Predictor")


def test_a_predictor_changed_while_it_loads(python_model: Callable[[str], Path]) -> None:
    root = python_model(
        "class Predictor:\n"
        "    def load(self, path, config): (path / 'data').write_text('other')\n"
        "    def predict(self, batch): return batch\n"
    )
    (root / "data").write_text("first")
    with pytest.raises(DigestMismatch, match="data changed while the model was loaded"):
        load(root, "predictor:Predictor", digest=tree_digest(read_tree(root)))


def test_every_failure_is_a_start_error(torch_model: Path) -> None:
    (torch_model / "model.safetensors").unlink()
    (torch_model / "model.safetensors").mkdir()
    with pytest.raises(StartError):
        load(torch_model)
