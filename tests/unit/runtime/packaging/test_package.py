"""`sundog package` and `sundog digest`: the server loads what they write."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner, Result
from sklearn.datasets import load_digits

from small_models import NET, predictor
from sundog_runtime.shell.digest import digest
from sundog_runtime.shell.package import package

OF_NET = ("--entrypoint", "net:Net", "--weights", "weights.pt")
namespace: dict[str, Any] = {}
exec(NET, namespace)
Net = namespace["Net"]


def sundog(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def packaged(*arguments: object) -> Result:
    """Return the result of a `sundog package` that succeeds."""
    done = sundog(package, *arguments)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a current folder with the files that a user has after training."""
    root = tmp_path / "workshop"
    root.mkdir()
    (root / "net.py").write_text(NET)
    torch.manual_seed(3)
    torch.save({"epoch": 7, "state_dict": Net().state_dict()}, root / "weights.pt")
    monkeypatch.chdir(root)
    return root


def written(root: Path) -> Any:
    return yaml.safe_load((root / "model.yaml").read_text())


async def test_the_smallest_call(workshop: Path, serve: Any, args: Any) -> None:
    done = packaged("model", *OF_NET)
    root = workshop / "model"
    assert sorted(path.name for path in root.iterdir()) == ["model.safetensors", "model.yaml", "net.py"]
    assert written(root) == {
        "entrypoint": "net:Net",
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "outputs", "dtype": "float32", "shape": [-1, 3]}],
    }
    report = dict(line.split(None, 1) for line in done.output.splitlines())
    assert report["parameters"] == "67"
    assert report["digest"] == sundog(digest, "model").output.strip()
    client = await serve(args(root, "", digest=report["digest"]))
    torch.manual_seed(3)
    answer = (await client.post("/", json={"inputs": [[1, 2, 3, 4]]})).json()["outputs"]
    np.testing.assert_allclose(answer, Net()(torch.tensor([[1.0, 2, 3, 4]])).detach().numpy(), rtol=1e-5)


def test_it_can_be_run_again_and_changes_nothing(workshop: Path) -> None:
    first = sundog(package, "model", *OF_NET, "-o", "json")
    path = workshop / "model" / "model.yaml"
    path.write_text(f"# mine\n{path.read_text()}")
    again = sundog(package, "model", "-o", "json")
    assert path.read_text().startswith("# mine\n")
    first_report, second = json.loads(first.output), json.loads(again.output)
    assert second["inputs"] == first_report["inputs"]
    assert second["batchable"] is True
    assert second["loadSeconds"] > 0
    assert second["latencySeconds"] > 0


def test_an_existing_model_directory_is_completed(workshop: Path) -> None:
    packaged(".", "--entrypoint", "net:Net", "--config", "hidden=8")
    assert not (workshop / "weights.pt").exists()
    assert written(workshop)["config"] == {"hidden": 8}
    assert (workshop / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_failure_leaves_the_directory_unchanged(workshop: Path) -> None:
    before = {path.name: path.read_bytes() for path in workshop.iterdir()}
    done = sundog(package, ".", "--entrypoint", "net:Net", "--config", "hidden=9")
    assert done.exit_code == 1
    assert done.output.startswith("Error: LoadFailed: model.safetensors does not fit")
    assert {path.name: path.read_bytes() for path in workshop.iterdir()} == before


def test_real_digits_by_example(workshop: Path) -> None:
    torch.save(torch.nn.Linear(64, 10).state_dict(), workshop / "linear.pt")
    image = load_digits().data[:1].tolist()
    (workshop / "request.json").write_text(json.dumps(image))
    done = sundog(
        package,
        *("model", "--entrypoint", "torch.nn:Linear", "--weights", "linear.pt"),
        *("--config", "in_features=64", "--config", "out_features=10", "--example", "@request.json"),
    )
    assert done.exit_code == 0, done.output
    assert written(workshop / "model")["inputs"] == [{"name": "input", "dtype": "float32", "shape": [-1, 64]}]


def test_declared_inputs_are_kept_and_tried(workshop: Path) -> None:
    common = ("model", *OF_NET)
    done = sundog(package, *common, "--input", "x:float32:-1,5")
    assert done.exit_code == 1
    assert "a prediction raised RuntimeError" in done.output
    assert not (workshop / "model").exists()
    done = sundog(package, *common, "--input", "x:float32:2,4")
    assert written(workshop / "model")["inputs"] == [{"name": "x", "dtype": "float32", "shape": [2, 4]}]
    assert "batchable   no" in done.output


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("scores, scores[:, :2]", "a prediction returned a tuple or list of arrays; expected one array, or a dict"),
        ("scores, scores", "a prediction returned a tuple or list of arrays; expected one array, or a dict"),
        ('{"words": [["a"], ["b", "c"]]}', ""),
    ],
)
def test_outputs_that_cannot_be_declared(workshop: Path, returned: str, message: str) -> None:
    forward = f"scores = self.second(torch.relu(self.first(x)))\n        return {returned}"
    (workshop / "net.py").write_text(NET.replace("return self.second(torch.relu(self.first(x)))", forward))
    done = sundog(package, "model", *OF_NET)
    if message:
        assert (done.exit_code, done.output.count("\n")) == (1, 1)
        assert done.output.startswith(f"Error: LoadFailed: {message}")
    else:
        assert done.exit_code == 0, done.output
        assert "outputs" not in written(workshop / "model")


def test_other_weights_take_the_place_of_those_that_are_there(workshop: Path) -> None:
    packaged("model", *OF_NET)
    (workshop / "model" / "model.yaml").unlink()
    program = torch.export.export(Net().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("b")},))
    torch.export.save(program, "net.pt2")
    refused = sundog(package, "model", "--weights", "net.pt2")
    assert "CodeNotTrusted" in refused.output
    assert (workshop / "model" / "model.safetensors").exists()
    packaged("model", "--weights", "net.pt2", "--trust-code")
    assert {path.name for path in (workshop / "model").iterdir()} == {"net.py", "net.pt2"}


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_predictor_that_streams(workshop: Path, kind: str) -> None:
    (workshop / "words.py").write_text(predictor("for word in batch: yield word", kind=kind, example="['a', 'b']"))
    done = packaged("model", "--entrypoint", "words:Predictor")
    assert "batchable   no: the model streams" in done.output


PICTURES = """assert all(value for value in batch), "an empty file"
return {"length": [len(value) for value in batch], "turned": [value[::-1] for value in batch]}"""


def test_a_predictor_of_bytes_is_described_by_its_example(workshop: Path) -> None:
    (workshop / "pictures.py").write_text(predictor(PICTURES, example="[b'\\xff\\0']"))
    done = packaged("pictures", "--entrypoint", "pictures:Predictor")
    assert written(workshop / "pictures")["inputs"] == [{"name": "inputs", "dtype": "bytes", "shape": [-1]}]
    assert [(each["name"], each["dtype"], each["shape"]) for each in written(workshop / "pictures")["outputs"]] == [
        ("length", "int64", [-1]),
        ("turned", "bytes", [-1]),
    ]
    assert "turned bytes [-1]" in done.output


def test_missing_bytes_are_not_guessed(workshop: Path) -> None:
    (workshop / "pictures.py").write_text(predictor(PICTURES))
    arguments = ("pictures", "--entrypoint", "pictures:Predictor", "--input", "picture:bytes:-1")
    done = packaged(*arguments)
    assert "not run" in done.output
    assert written(workshop / "pictures")["inputs"] == [{"name": "picture", "dtype": "bytes", "shape": [-1]}]
    assert "batchable   no: input 'picture' holds bytes values, which are not batched" in done.output


WHOLE = base64.b64encode(bytes(range(256))).decode()


@pytest.mark.parametrize(
    ("example", "lengths"), [([{"base64": WHOLE}, "é"], "[256, 2]"), ({"picture": ["four"]}, "[4]")]
)
def test_an_example_of_bytes_is_text_or_base64(workshop: Path, example: Any, lengths: str) -> None:
    check = f"assert [len(value) for value in batch] in ({lengths}, 2 * {lengths}), batch"
    (workshop / "pictures.py").write_text(predictor(f"{check}\n{PICTURES}"))
    arguments = ("pictures", "--entrypoint", "pictures:Predictor", "--input", "picture:bytes:-1", "-o", "json")
    done = packaged(*arguments, "--example", json.dumps(example))
    report = json.loads(done.output)
    assert report["latencySeconds"] > 0
    assert report["batchable"] is False
    assert [each["name"] for each in written(workshop / "pictures")["outputs"]] == ["length", "turned"]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (["text", 7], "input 'picture' holds integer values; expected string"),
        ([{"base64": "§"}], "input 'picture': base64 is not valid base64: "),
        ([{"base32": "MFRGG==="}], "input 'picture' holds object values; expected string"),
        ([["a"]], "input 'picture' has the shape [1, 1]"),
        ({"photo": ["a"]}, "inputs has 'photo'; expected 'picture'"),
    ],
)
def test_an_example_that_holds_no_bytes_is_refused(workshop: Path, example: Any, message: str) -> None:
    (workshop / "pictures.py").write_text(predictor(PICTURES))
    arguments = ("pictures", "--entrypoint", "pictures:Predictor", "--input", "picture:bytes:-1")
    done = sundog(package, *arguments, "--example", json.dumps(example))
    assert done.exit_code == 1
    assert f"--example: {message}" in done.output


def test_bytes_beside_an_array_are_given_by_name(workshop: Path) -> None:
    (workshop / "pictures.py").write_text(
        predictor("assert batch['picture'] == [b'\\xff'] and batch['scale'].tolist() == [2.0]\nreturn batch['scale']")
    )
    inputs = ("--input", "picture:bytes:1", "--input", "scale:float32:1")
    example = {"picture": [{"base64": "/w=="}], "scale": [2]}
    arguments = ("pictures", "--entrypoint", "pictures:Predictor", *inputs)
    packaged(*arguments, "--example", json.dumps(example))


@pytest.mark.parametrize(
    "arguments", [(), ("--code", "net.py"), ("--entrypoint", "nut:Net"), ("--entrypoint", "net:Nut")]
)
def test_no_message_names_the_folder_in_which_it_was_tried(workshop: Path, arguments: tuple[str, ...]) -> None:
    done = sundog(package, "model", *arguments)
    assert done.exit_code == 1
    assert ".model." not in done.output
    if arguments[:1] == ("--code",):
        assert "EntrypointMissing: net.py is code: set model.entrypoint to the class to load" in done.output


def test_an_error_in_the_users_own_file_names_that_file(workshop: Path) -> None:
    (workshop / "net.py").write_text("raise OSError(f'no licence beside {__file__}')\n")
    done = sundog(package, "model", *OF_NET)
    assert done.exit_code == 1
    assert f"no licence beside {workshop / 'net.py'}" in " ".join(done.output.split())


def test_tied_weights_become_safetensors(workshop: Path) -> None:
    weight = torch.ones(2, 2)
    torch.save({"a": weight, "b": weight}, workshop / "tied.pt")
    (workshop / "tied.py").write_text(
        "import torch\nclass Tied(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = torch.nn.Parameter(torch.zeros(2, 2))\n        self.b = self.a\n"
        "    def forward(self, x): return x @ self.a + self.b.sum()\n"
    )
    done = sundog(
        package, "model", "--entrypoint", "tied:Tied", "--weights", "tied.pt", "--example", "[[1.0, 2.0], [3.0, 4.0]]"
    )
    assert done.exit_code == 0, done.output
    assert sorted(safetensors.torch.load_file(workshop / "model" / "model.safetensors")) == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--input", "x"], 2, "'x': expected name:dtype:shape"),
        (["--input", "x:float31:1"], 2, "dtype 'float31': expected one of bool"),
        (["--input", "x:bool:-2"], 2, "found a size below -1"),
        (["--config", "x"], 2, "'x': expected key=value"),
        (["--example", "{"], 2, "expected JSON"),
        (["--example", "@nowhere"], 2, "nowhere: No such file"),
        (["--weights", "net.py", "--entrypoint", "net:Net"], 1, "net.py is something else; expected a state dict"),
        (
            ["--weights", "whole.pt", "--entrypoint", "net:Net"],
            1,
            "whole.pt holds pickled objects (torch.nn.modules.linear.Linear), whose",
        ),
        (["--weights", "list.pt", "--entrypoint", "net:Net"], 1, "list.pt holds a list; expected a state dict"),
        (["--weights", "weights.pt"], 1, "EntrypointMissing: model.safetensors is safetensors"),
        (["--weights", "weights.pt", "--entrypoint", "nut:Net"], 1, "EntrypointMissing: entrypoint 'nut:Net'"),
        (["--weights", "weights.pt", "--entrypoint", "net:Net", "--example", "[[1, []]]"], 1, "--example: "),
    ],
)
def test_errors_are_reported_in_one_line(workshop: Path, arguments: list[str], code: int, message: str) -> None:
    torch.save(torch.nn.Linear(1, 1), workshop / "whole.pt")
    torch.save([torch.zeros(1)], workshop / "list.pt")
    done = sundog(package, "model", *arguments)
    assert (done.exit_code, done.exception.__class__) == (code, SystemExit)
    assert message in " ".join(done.output.split())
    assert sorted(path.name for path in workshop.iterdir()) == ["list.pt", "net.py", "weights.pt", "whole.pt"]


def test_the_digest_of_a_file_is_its_hash(workshop: Path) -> None:
    (workshop / "empty").write_bytes(b"")
    assert sundog(digest, "empty").output == (
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
    )


def test_a_path_may_lead_up(workshop: Path) -> None:
    done = packaged("../workshop/model", *OF_NET)
    assert f"directory   {workshop}/model\n" in done.output


def test_a_model_that_answers_nan_is_refused_in_one_line(workshop: Path) -> None:
    weights = {name: torch.full_like(value, float("nan")) for name, value in Net().state_dict().items()}
    torch.save(weights, workshop / "weights.pt")
    done = sundog(package, "model", *OF_NET)
    assert done.exit_code == 1, done.output
    assert done.output.startswith("Error: LoadFailed: a prediction failed: ")
    assert not (workshop / "model").exists()
