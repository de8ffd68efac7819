"""Archives that hold network and weights, torch.export and TorchScript, and refused ones."""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import CodeNotTrusted, FormatNotRecognised, LoadFailed, StartError
from sundog_runtime.formats.detect import Content, detect_content
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.sources.open_model import open_model

BATCH = torch.export.Dim("batch")


class Digits(torch.nn.Module):
    """A small network for 8 × 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((64,), 1 / 16))
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image * self.scale)


class Two(torch.nn.Module):
    """Two inputs, and outputs of the requested kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
        self.kind = kind

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        scores, shifted = self.layer(left), right + 1
        if self.kind == "dict":
            return {"scores": scores, "shifted": shifted}
        return (scores, shifted) if self.kind == "tuple" else scores


def export(module: torch.nn.Module, path: Path, *args: torch.Tensor, batch: Any = BATCH) -> Path:
    program = torch.export.export(module.eval(), args, dynamic_shapes=[{0: batch} if batch else None for _ in args])
    torch.export.save(program, path)
    return path


def script(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def load(path: Path, **model: Any) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{path}", "trustCode": True, **model})
    return load_model(open_model(spec.uri, spec.digest), spec)


@pytest.fixture
def digits() -> np.ndarray[Any, Any]:
    images = load_digits().data[:7]
    return np.asarray(images, dtype=np.float32)


SAVE = {"exported": lambda net, path: export(net, path, torch.zeros(2, 64)), "torchscript": script}


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("asked", ["auto", "itself"])
async def test_an_archive_answers_as_its_network_does(
    tmp_path: Path, serve: Any, args: Any, digits: np.ndarray[Any, Any], name: str, asked: str
) -> None:
    network = Digits()
    SAVE[name](network, tmp_path / "digits.bin")
    client = await serve(args(tmp_path, "", trustCode=True, format=name if asked == "itself" else "auto"))
    answer = await client.post("/", json={"inputs": digits.tolist()})
    assert answer.status_code == 200
    np.testing.assert_allclose(
        answer.json()["outputs"], network(torch.from_numpy(digits)).detach().numpy(), rtol=1e-4, atol=1e-5
    )


async def test_a_program_declares_its_own_inputs(tmp_path: Path, serve: Any, args: Any) -> None:
    export(Digits(), tmp_path / "digits.pt2", torch.zeros(2, 64))
    client = await serve(args(tmp_path, "", trustCode=True))
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}]
    assert metadata["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 10]}]
    answer = await client.post("/", json={"inputs": [[1.0, 2.0]]})
    assert answer.status_code == 400
    assert "has the shape [1, 2]; expected [-1, 64]" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [("dict", ["scores", "shifted"]), ("tuple", ["output_0", "output_1"]), ("tensor", ["output"])],
)
async def test_several_inputs_and_outputs_have_names(
    tmp_path: Path, serve: Any, args: Any, kind: str, outputs: list[str]
) -> None:
    network = Two(kind)
    export(network, tmp_path / "two.pt2", torch.zeros(2, 4), torch.zeros(2))
    client = await serve(args(tmp_path, "", trustCode=True))
    sent = {"inputs": {"right": [1.0], "left": [[1.0, 2.0, 3.0, 4.0]]}}
    answer = (await client.post("/", json=sent)).json()["outputs"]
    scores = network.layer(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist()
    if kind == "tensor":
        np.testing.assert_allclose(answer, scores, rtol=1e-5)
    else:
        assert list(answer) == outputs
        np.testing.assert_allclose(answer[outputs[0]], scores, rtol=1e-5)
        assert answer[outputs[1]] == [2.0]


def test_names_of_model_yaml_override_the_program_s(tmp_path: Path) -> None:
    network = Two("tuple")
    export(network, tmp_path / "two.pt2", torch.zeros(2, 4), torch.zeros(2))
    (tmp_path / "model.yaml").write_text(
        "inputs:\n- {name: a, dtype: float32, shape: [-1, 4]}\n- {name: b, dtype: float32, shape: [-1]}\n"
        "outputs:\n- {name: x, dtype: float32, shape: [-1, 3]}\n- {name: y, dtype: float32, shape: [-1]}\n"
    )
    answer = load(tmp_path).predict({"a": np.zeros((1, 4), np.float32), "b": np.ones(1, np.float32)})
    assert answer["y"].tolist() == [2.0]
    assert list(answer) == ["x", "y"]


async def test_a_program_of_half_precision(tmp_path: Path, serve: Any, args: Any) -> None:
    network = torch.nn.Linear(4, 3).bfloat16()
    export(network, tmp_path / "half.pt2", torch.zeros(2, 4, dtype=torch.bfloat16))
    client = await serve(args(tmp_path, "", trustCode=True))
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"][0]["datatype"] == "BF16"
    answer = await client.post("/", json={"inputs": [[1.0, 2.0, 3.0, 4.0]]})
    assert answer.status_code == 200
    wanted = network(torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16)).float().tolist()
    np.testing.assert_allclose(answer.json()["outputs"], wanted, rtol=0.02)


class Words(torch.nn.Module):
    """Inputs by position and by keyword, of tokens and of numbers; a constant; one dict of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)

    def forward(self, ids: torch.Tensor, double: bool, *, weights: dict[str, torch.Tensor], bias: torch.Tensor) -> Any:
        found = self.embedding(ids) * weights["scale"] + bias
        return found * 2 if double else found


def export_words(path: Path) -> Path:
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length", max=8)
    kwargs = {"weights": {"scale": torch.ones(2, 4, 3)}, "bias": torch.zeros(3)}
    shapes = {"ids": {0: rows, 1: length}, "double": None, "weights": {"scale": {0: rows, 1: length}}, "bias": None}
    args = torch.zeros(2, 4, dtype=torch.int64), True
    torch.export.save(torch.export.export(Words().eval(), args, kwargs, dynamic_shapes=shapes), path)
    return path


async def test_inputs_by_keyword_are_inputs_as_those_by_position(tmp_path: Path, serve: Any, args: Any) -> None:
    program = torch.export.load(export_words(tmp_path / "words.pt2"))
    client = await serve(args(tmp_path, "", trustCode=True))
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [
        {"name": "ids", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "weights_scale", "datatype": "FP32", "shape": [-1, -1, 3]},
        {"name": "bias", "datatype": "FP32", "shape": [3]},
    ]
    ids, scale, bias = torch.tensor([[1, 4]]), torch.rand(1, 2, 3), torch.rand(3)
    given = {"ids": ids, "weights_scale": scale, "bias": bias}
    answer = await client.post("/", json={"inputs": {name: value.tolist() for name, value in given.items()}})
    assert answer.status_code == 200, answer.text
    wanted = program.module()(ids, True, weights={"scale": scale}, bias=bias)
    np.testing.assert_allclose(answer.json()["outputs"], wanted.tolist(), rtol=1e-5)


@pytest.mark.parametrize("names", [["ids", "weights_scale", "bias"], ["a", "b", "c"]])
@pytest.mark.parametrize(
    ("ids", "scale", "message"),
    [
        ((2, 4), (3, 4, 3), "'{1}' has the size 3 in dimension 0; expected 2, as input '{0}' has in dimension 0"),
        ((2, 4), (2, 5, 3), "'{1}' has the size 5 in dimension 1; expected 4, as input '{0}' has in dimension 1"),
        ((2, 9), (2, 9, 3), "'{0}' has the size 9 in dimension 1; expected at most 8"),
    ],
)
@pytest.mark.parametrize("protocol", ["plain", "open inference"])
async def test_sizes_that_a_program_does_not_accept_are_the_client_s_error(
    tmp_path: Path,
    serve: Any,
    args: Any,
    names: list[str],
    ids: tuple[int, ...],
    scale: tuple[int, ...],
    message: str,
    protocol: str,
) -> None:
    export_words(tmp_path / "words.pt2")
    if names[0] == "a":
        (tmp_path / "model.yaml").write_text(
            "inputs:\n- {name: a, dtype: int64, shape: [-1, -1]}\n- {name: b, dtype: float32, shape: [-1, -1, 3]}\n"
            "- {name: c, dtype: float32, shape: [3]}\n"
        )
    client = await serve(args(tmp_path, "", trustCode=True))
    values = dict(zip(names, (np.zeros(ids, int), np.zeros(scale), np.zeros(3)), strict=True))
    if protocol == "plain":
        answer = await client.post("/", json={"inputs": {name: value.tolist() for name, value in values.items()}})
    else:
        tensors = [
            {
                "name": name,
                "datatype": "FP32" if value.dtype.kind == "f" else "INT64",
                "shape": list(value.shape),
                "data": value.ravel().tolist(),
            }
            for name, value in values.items()
        ]
        answer = await client.post("/v2/models/digits/infer", json={"inputs": tensors})
    assert (answer.status_code, answer.json()["code"]) == (400, "WrongShape")
    assert answer.json()["detail"] == "input " + message.format(*names)


class Scaled(torch.nn.Module):
    """A factor that is a tensor without a dimension, which no request can provide."""

    def forward(self, image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return image * factor


def test_a_program_that_no_request_can_be_given_to_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Scaled(), (torch.ones(2), torch.tensor(1.0))), tmp_path / "scaled.pt2")
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert "scaled.pt2: input 'factor' of the program is torch.float32 []; expected a tensor" in caught.value.message


def test_model_yaml_declares_every_input_of_a_program(tmp_path: Path) -> None:
    export(Two("tuple"), tmp_path / "two.pt2", torch.zeros(2, 4), torch.zeros(2))
    (tmp_path / "model.yaml").write_text("inputs:\n- {name: a, dtype: float32, shape: [-1, 4]}\n")
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert caught.value.message == "model.yaml: inputs has 1 tensors; expected 2 as in the program: left, right"


def test_rows_are_joined_only_where_the_program_takes_any_number(tmp_path: Path) -> None:
    assert load(export(Digits(), tmp_path / "any.pt2", torch.zeros(2, 64))).is_batchable
    assert not load(export(Digits(), tmp_path / "two.pt2", torch.zeros(2, 64), batch=None)).is_batchable


def test_parameters_of_a_script_are_those_of_its_forward(tmp_path: Path) -> None:
    model = load(script(Two("tensor"), tmp_path / "two.ts"))
    assert model.parameters is not None
    assert list(model.parameters.parameters) == ["left", "right"]


def test_whole_numbers_for_a_script_that_begins_with_an_embedding(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Linear(2, 1))
    assert load(script(net, tmp_path / "words.ts")).integer_dtype == "int64"


@pytest.mark.parametrize("name", SAVE)
def test_without_trust_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    SAVE[name](Digits(), tmp_path / "digits.bin")
    monkeypatch.setattr("torch.export.load", pytest.fail)
    monkeypatch.setattr("torch.jit.load", pytest.fail)
    with pytest.raises(CodeNotTrusted) as caught:
        load(tmp_path, trustCode=False)
    assert caught.value.message.startswith("digits.bin is a ")
    assert "set spec.model.trustCode: true" in caught.value.message


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        ("exported", "torchscript", "found digits.bin is a torch.export archive; expected "),
        ("torchscript", "exported", "found digits.bin is a TorchScript archive; expected "),
        ("exported", "torch", "found digits.bin is a torch.export archive; expected "),
        ("torchscript", "python", "format python needs model.entrypoint"),
    ],
)
def test_another_format_than_there_is(tmp_path: Path, saved: str, asked: str, message: str) -> None:
    SAVE[saved](Digits(), tmp_path / "digits.bin")
    with pytest.raises(StartError) as caught:
        load(tmp_path, format=asked)
    assert message in caught.value.message


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("damage", ["cut", "emptied", "zeroed"])
def test_a_damaged_archive_is_a_start_error(tmp_path: Path, name: str, damage: str) -> None:
    path = SAVE[name](Digits(), tmp_path / "digits.bin") or tmp_path / "digits.bin"
    whole = path.read_bytes()
    middle = len(whole) // 3
    match damage:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "emptied":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            with zipfile.ZipFile(path, "w") as archive:
                for inner in names:
                    archive.writestr(inner, b"")
        case _:
            path.write_bytes(whole[:middle] + bytes(middle) + whole[2 * middle :])
    with pytest.raises((LoadFailed, FormatNotRecognised)) as caught:
        load(tmp_path)
    assert "digits.bin" in caught.value.message


def members(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(f"m/{name}", b"x")

    return write


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


REFUSED = [
    (members("data/aotinductor/model/a.so", "archive_format"), Content.AOT_INDUCTOR, "native code"),
    (members(".data/extern_modules", "model/m.pkl"), Content.TORCH_PACKAGE, "save the state dict"),
    (members("data.pkl", "constants.pkl"), Content.TORCHSCRIPT, ""),
    (members("readme"), Content.ZIP, ""),
    (content(b"\x08\x08\x12\x07pytorch\x1a\x052.0.0"), Content.ONNX, "onnxruntime in a predictor class"),
    (content(b"GGUF\x03\x00\x00\x00" + bytes(16)), Content.GGUF, "convert it to safetensors"),
    (content(b"\x89HDF\r\n\x1a\n" + bytes(16)), Content.HDF5, "convert it to safetensors"),
    (content(b"\x80\x04\x95" + bytes(16)), Content.PICKLE, "safetensors.torch.save_file"),
]


@pytest.mark.parametrize(("write", "found", "instead"), REFUSED, ids=[str(found) for _, found, _ in REFUSED])
def test_refused_archives_come_with_a_hint(
    tmp_path: Path, write: Callable[[Path], None], found: Content, instead: str
) -> None:
    write(tmp_path / "model.safetensors")
    assert detect_content(tmp_path / "model.safetensors") is found
    with pytest.raises(FormatNotRecognised) as caught:
        load(tmp_path, format="torch", entrypoint="net:Net")
    assert f"model.safetensors is {found}" in caught.value.message
    assert instead in caught.value.message


def test_a_real_package_of_torch_is_known(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.package.PackageExporter(tmp_path / "p.pt") as exporter:
            exporter.save_pickle("model", "m.pkl", {"a": 1})
    assert detect_content(tmp_path / "p.pt") is Content.TORCH_PACKAGE
