"""Hugging Face directories: which models are served, and that no code of them runs and nothing is downloaded."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import logging as library_logging

from sundog_runtime.arguments import ModelArguments
from sundog_runtime.errors import FormatNotRecognised, LoadFailed, Problem, StartError
from sundog_runtime.formats.load import load_model
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.sources.open_model import open_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a"]
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
LABELS = {"id2label": {0: "NEG", 1: "POS"}, "label2id": {"NEG": 0, "POS": 1}}

library_logging.disable_progress_bar()


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a model was looked up on the network"))


def bert(kind: Any = BertForSequenceClassification, **config: Any) -> Any:
    torch.manual_seed(1)
    given = {"vocab_size": len(WORDS), "max_position_embeddings": 12, **SMALL, **LABELS, **config}
    return kind(BertConfig(**given)).eval()


def gpt2() -> Any:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=3)
    return GPT2LMHeadModel(config).eval()


def tokenizer(*, marks: bool = True) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if marks:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


def save(root: Path, network: Any, words: Any = None) -> Path:
    network.save_pretrained(root)
    if words is not None:
        words.save_pretrained(root)
    return root


def load(root: Path, **model: Any) -> LoadedModel:
    spec = ModelArguments.model_validate({"uri": f"file://{root}", **model})
    return load_model(open_model(spec.uri, spec.digest), spec)


async def test_texts_are_classified(tmp_path: Path, serve: Any, args: Any) -> None:
    network, words = bert(), tokenizer()
    client = await serve(args(save(tmp_path, network, words), ""))
    texts = ["good film", "a bad bad film"]
    answer = await client.post("/", json={"inputs": texts})
    assert answer.status_code == 200
    outputs = answer.json()["outputs"]
    alone = [network(**words(text, return_tensors="pt")).logits[0] for text in texts]
    np.testing.assert_allclose(outputs["logits"], torch.stack(alone).detach().numpy(), atol=1e-5)
    probable = torch.softmax(torch.stack(alone), dim=-1).max(dim=-1)
    np.testing.assert_allclose(outputs["scores"], probable.values.detach().numpy(), atol=1e-5)
    assert outputs["labels"] == [("NEG", "POS")[index] for index in probable.indices]


async def test_texts_by_the_open_inference_protocol(tmp_path: Path, serve: Any, args: Any) -> None:
    client = await serve(args(save(tmp_path, bert(), tokenizer()), ""))
    metadata = (await client.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in metadata["outputs"]] == ["labels", "scores", "logits"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["good", "bad"]}
    answer = (await client.post("/v2/models/digits/infer", json={"inputs": [tensor]})).json()
    assert [(output["name"], output["datatype"], output["shape"]) for output in answer["outputs"]] == [
        ("labels", "BYTES", [2]),
        ("scores", "FP32", [2]),
        ("logits", "FP32", [2, 2]),
    ]


async def test_tokens_where_there_is_no_tokenizer(tmp_path: Path, serve: Any, args: Any) -> None:
    network = bert()
    client = await serve(args(save(tmp_path, network), ""))
    ids = [[2, 4, 6, 3]]
    answer = (await client.post("/", json={"inputs": ids})).json()["outputs"]
    np.testing.assert_allclose(answer["logits"], network(torch.tensor(ids)).logits.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([[2, 8]], "a value outside of 0 to 7"), ([[-1]], "a value outside of 0 to 7"), ([[2] * 13], "at most 12")],
)
async def test_tokens_outside_of_the_network_s_limits_are_refused(
    tmp_path: Path, serve: Any, args: Any, ids: list[list[int]], message: str
) -> None:
    client = await serve(args(save(tmp_path, bert()), ""))
    answer = await client.post("/", json={"inputs": ids})
    assert answer.status_code == 400
    assert message in answer.json()["detail"]


@pytest.mark.parametrize(("name", "limit"), [("token_type_ids", 2), ("position_ids", 12)])
def test_indexes_beyond_a_table_are_refused(tmp_path: Path, name: str, limit: int) -> None:
    save(tmp_path, bert(BertModel))
    (tmp_path / "model.yaml").write_text(
        "inputs:\n- {name: input_ids, dtype: int64, shape: [-1, -1]}\n"
        f"- {{name: {name}, dtype: int64, shape: [-1, -1]}}\n"
    )
    model, ids = load(tmp_path), np.array([[2, 4, 3]])
    model.predict({"input_ids": ids, name: np.full_like(ids, limit - 1)})
    with pytest.raises(Problem, match=f"{name}' holds a value outside of 0 to {limit - 1}") as caught:
        model.predict({"input_ids": ids, name: np.full_like(ids, limit)})
    assert (caught.value.status, caught.value.code) == (400, "OutOfRange")


def test_tokens_beyond_the_positions_that_are_counted_from_after_padding(tmp_path: Path) -> None:
    config = RobertaConfig(vocab_size=8, max_position_embeddings=12, pad_token_id=1, **SMALL)
    model = load(save(tmp_path, RobertaModel(config)))
    model.predict(np.full((1, 10), 5))
    with pytest.raises(Problem, match="has 11 tokens; expected at most 10"):
        model.predict(np.full((1, 11), 5))


def test_a_text_longer_than_the_network_accepts_is_cut(tmp_path: Path) -> None:
    model = load(save(tmp_path, bert(), tokenizer()))
    assert model.predict(["good " * 50])["logits"].shape == (1, 2)


def test_a_text_without_a_token_is_refused(tmp_path: Path) -> None:
    model = load(save(tmp_path, bert(), tokenizer(marks=False)))
    with pytest.raises(Problem, match="a text without a token"):
        model.predict(["good", ""])


def test_inputs_of_model_yaml_are_given_by_name(tmp_path: Path) -> None:
    network = bert()
    save(tmp_path, network, tokenizer())
    (tmp_path / "model.yaml").write_text(
        "inputs:\n- {name: input_ids, dtype: int64, shape: [-1, -1]}\n"
        "- {name: attention_mask, dtype: int64, shape: [-1, -1]}\n"
    )
    ids, mask = np.array([[2, 4, 0]]), np.array([[1, 1, 0]])
    answer = load(tmp_path).predict({"input_ids": ids, "attention_mask": mask})["logits"]
    wanted = network(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    torch.testing.assert_close(answer, wanted.detach())


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_embeddings_leave_padding_out(tmp_path: Path, pooling: str) -> None:
    model = load(save(tmp_path, bert(BertModel), tokenizer()), config={"pooling": pooling})
    assert model.signature.outputs[0].shape == (-1, 16)
    together = model.predict(["good", "a bad bad film"])["embeddings"]
    torch.testing.assert_close(together[:1], model.predict(["good"])["embeddings"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1]], "input 'attention_mask' has the shape [1, 2]; expected [1, 3]"),
        ([[0, 0, 0]], "input 'attention_mask' has a row without a token"),
    ],
)
def test_inputs_beside_tokens_fit_them(tmp_path: Path, mask: list[list[int]], message: str) -> None:
    save(tmp_path, bert(BertModel))
    (tmp_path / "model.yaml").write_text(
        "inputs:\n- {name: input_ids, dtype: int64, shape: [-1, -1]}\n"
        "- {name: attention_mask, dtype: int64, shape: [-1, -1]}\n"
    )
    with pytest.raises(Problem) as caught:
        load(tmp_path).predict({"input_ids": np.array([[2, 4, 3]]), "attention_mask": np.array(mask)})
    assert caught.value.status == 400
    assert message in caught.value.detail


def sentences(
    root: Path,
    pooling: dict[str, Any],
    steps: tuple[str, ...] = ("Transformer", "Pooling"),
    transformer: dict[str, Any] | None = None,
    main: dict[str, Any] | None = None,
) -> Path:
    """Return the files that turn a directory into one of sentence-transformers."""
    paths = ["", *(f"{index}_{step}" for index, step in enumerate(steps[1:], start=1))]
    types = (f"sentence_transformers.models.{step}" for step in steps)
    modules = [{"type": kind, "path": path} for kind, path in zip(types, paths, strict=True)]
    (root / "modules.json").write_text(json.dumps(modules))
    (root / "1_Pooling").mkdir()
    (root / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    (root / "sentence_bert_config.json").write_text(json.dumps(transformer or {}))
    (root / "config_sentence_transformers.json").write_text(json.dumps(main or {}))
    return root


TEXTS = ["good", "a Bad bad film"]


def vectors(network: Any, texts: list[str], pool: Callable[[torch.Tensor], torch.Tensor], limit: int = 12) -> Any:
    """Encode one text after the other, so that there is no padding."""
    words = tokenizer()
    given = [words(text, return_tensors="pt", truncation=True, max_length=limit) for text in texts]
    return torch.stack([pool(network(**one).last_hidden_state[0]) for one in given]).detach()


POOLING: list[tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda tokens: tokens[0]),
    ({"pooling_mode_max_tokens": True}, lambda tokens: tokens.max(dim=0).values),
    ({"pooling_mode_mean_tokens": True}, lambda tokens: tokens.mean(dim=0)),
    ({"pooling_mode_mean_sqrt_len_tokens": True}, lambda tokens: tokens.sum(dim=0) / len(tokens) ** 0.5),
    ({"pooling_mode_lasttoken": True}, lambda tokens: tokens[-1]),
    (
        {"pooling_mode_weightedmean_tokens": True},
        lambda tokens: sum(tokens[at] * (at + 1) for at in range(len(tokens))) / sum(range(1, len(tokens) + 1)),
    ),
    (
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        lambda tokens: torch.cat([tokens[0], tokens.mean(dim=0)]),
    ),
    ({"pooling_mode": "max"}, lambda tokens: tokens.max(dim=0).values),
    ({"pooling_mode": ["max", "cls"]}, lambda tokens: torch.cat([tokens.max(dim=0).values, tokens[0]])),
]


@pytest.mark.parametrize(("config", "pool"), POOLING, ids=[" ".join(config) for config, _ in POOLING])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_sentences_are_pooled_by_the_directory_s_settings(
    tmp_path: Path, config: dict[str, Any], pool: Callable[[torch.Tensor], torch.Tensor], normalize: bool, side: str
) -> None:
    network, words = bert(BertModel, position_embedding_type="none"), tokenizer()
    words.padding_side = side
    if side == "left":
        # Positions count from the left, also with padding: without weights for them the answers are equal.
        torch.nn.init.zeros_(network.embeddings.position_embeddings.weight)
    save(tmp_path, network, words)
    sentences(tmp_path, config, ("Transformer", "Pooling", *(["Normalize"] if normalize else [])))
    model = load(tmp_path)
    wanted = vectors(network, TEXTS, pool)
    wanted = torch.nn.functional.normalize(wanted, dim=1) if normalize else wanted
    assert model.signature.outputs[0].shape == (-1, wanted.shape[1])
    torch.testing.assert_close(model.predict(TEXTS)["embeddings"], wanted, atol=1e-5, rtol=1e-4)


def test_sentences_are_cut_lowered_and_prompted_by_the_directory_s_settings(tmp_path: Path) -> None:
    network = bert(BertModel)
    save(tmp_path, network, tokenizer())
    main = {"prompts": {"query": "A film ", "other": "x"}, "default_prompt_name": "query"}
    sentences(
        tmp_path,
        {"pooling_mode_mean_tokens": True},
        transformer={"max_seq_length": 5, "do_lower_case": True},
        main=main,
    )
    wanted = vectors(network, ["a film good", "a film a bad bad film"], lambda tokens: tokens.mean(dim=0), limit=5)
    torch.testing.assert_close(load(tmp_path).predict(TEXTS)["embeddings"], wanted, atol=1e-5, rtol=1e-4)


def test_sentences_of_a_network_that_was_saved_under_another_head(tmp_path: Path) -> None:
    network = bert(BertModel)
    save(tmp_path, network, tokenizer())
    edited(tmp_path, architectures=["BertForMaskedLM"])
    sentences(tmp_path, {"pooling_mode_cls_token": True})
    wanted = vectors(network, TEXTS, lambda tokens: tokens[0])
    torch.testing.assert_close(load(tmp_path).predict(TEXTS)["embeddings"], wanted, atol=1e-5, rtol=1e-4)


def test_the_manifest_s_pooling_and_task_override_the_directory_s(tmp_path: Path) -> None:
    network = bert(BertModel)
    sentences(save(tmp_path, network, tokenizer()), {"pooling_mode_mean_tokens": True})
    wanted = vectors(network, TEXTS, lambda tokens: tokens[0])
    answer = load(tmp_path, config={"pooling": "first"}).predict(TEXTS)["embeddings"]
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-4)
    assert "last_hidden_state" in load(tmp_path, config={"task": "tensors"}).predict(TEXTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": ("Transformer", "Pooling", "Dense")}, "the steps are Transformer, Pooling, Dense; expected"),
        ({"steps": ("CLIPModel",)}, "the steps are CLIPModel; expected"),
        (
            {"pooling": {"pooling_mode": "median"}},
            "1_Pooling/config.json: pooling_mode is 'median'; expected one of cls",
        ),
        ({"pooling": {}}, "1_Pooling/config.json: found no pooling mode"),
        (
            {
                "pooling": {"pooling_mode": "cls", "include_prompt": False},
                "main": {"prompts": {"q": "a"}, "default_prompt_name": "q"},
            },
            "include_prompt is false",
        ),
        ({"main": {"default_prompt_name": "q"}}, "default_prompt_name is 'q'; expected the name of one of its prompts"),
    ],
)
def test_sentences_that_would_not_be_their_authors_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save(tmp_path, bert(BertModel), tokenizer())
    sentences(tmp_path, **({"pooling": {"pooling_mode": "cls"}} | change))
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"problem_type": "multi_label_classification"}, ["scores", "logits"]),
        ({"problem_type": "regression"}, ["logits"]),
        ({"num_labels": 1, "id2label": {0: "x"}, "label2id": {"x": 0}}, ["logits"]),
    ],
)
def test_outputs_of_a_classifier(tmp_path: Path, config: dict[str, Any], names: list[str]) -> None:
    given = {key: value for key, value in config.items() if key != "num_labels"}
    model = load(save(tmp_path, bert(**given), tokenizer()))
    assert list(model.predict(["good"])) == names == [spec.name for spec in model.signature.outputs]


def test_images(tmp_path: Path) -> None:
    network = ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8, num_channels=1)).eval()
    model = load(save(tmp_path, network))
    assert model.signature.inputs[0].shape == (-1, 1, 16, 16)
    image = np.ones((2, 1, 16, 16), np.float32)
    torch.testing.assert_close(model.predict(image)["logits"], network(torch.from_numpy(image)).logits.detach())


def test_images_for_weights_of_half_precision(tmp_path: Path) -> None:
    network = ViTForImageClassification(ViTConfig(**SMALL, image_size=16, patch_size=8, num_channels=1)).bfloat16()
    answer = load(save(tmp_path, network)).predict(np.ones((2, 1, 16, 16), np.float32))
    assert answer["logits"].dtype is torch.float32


def test_any_other_class_gives_its_own_tensors(tmp_path: Path) -> None:
    answer = load(save(tmp_path, bert(BertForMaskedLM), tokenizer())).predict(["good film"])
    assert answer["logits"].shape == (1, 4, 8)


def test_text_is_generated_piece_by_piece(tmp_path: Path) -> None:
    network = gpt2()
    model = load(save(tmp_path, network, tokenizer(marks=False)), config={"maxNewTokens": 5})
    assert model.is_streaming
    assert not model.is_batchable
    ids = torch.tensor([[4, 6]])
    wanted = network.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, 2:].tolist()
    pieces = [item["text"][0] for item in model.predict(["good film"])]
    assert "".join(pieces).split() == [WORDS[token] for token in wanted if token > 3]


def test_tokens_are_generated_without_a_tokenizer_until_the_model_is_full(tmp_path: Path) -> None:
    network = gpt2()
    network.generation_config.eos_token_id = None
    model = load(save(tmp_path, network))
    tokens = [int(item["token"][0]) for item in model.predict(np.array([[4, 6]]))]
    assert len(tokens) == 14
    assert tokens[:5] == network.generate(torch.tensor([[4, 6]]), max_new_tokens=5, do_sample=False)[0, 2:].tolist()


def edited(root: Path, **fields: Any) -> None:
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mine", "auto_map": {"AutoModel": "mine.Model"}}, "code of its own, which is never run"),
        ({"model_type": "mine"}, "has no model_type 'mine'"),
        ({"architectures": ["BertForDreams"]}, "expected one class of transformers"),
        ({"architectures": None}, "architectures is None"),
        ({"architectures": ["logging"]}, "expected one class of transformers"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not a class of the model_type 'bert'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised weights are not supported"),
        ({"hidden_size": 32}, "loading "),
        ({"num_hidden_layers": 2}, "the weights lack 16 tensors of BertForSequenceClassification"),
        ({"hidden_size": "many"}, "loading "),
    ],
)
def test_directories_that_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    save(tmp_path, bert(), tokenizer())
    edited(tmp_path, **fields)
    with pytest.raises(StartError) as caught:
        load(tmp_path)
    assert message in caught.value.message


def test_code_beside_the_weights_does_not_run(tmp_path: Path) -> None:
    save(tmp_path, bert(), tokenizer())
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    edited(tmp_path, auto_map={"AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"})
    assert load(tmp_path, trustCode=True).predict(["good"])["logits"].shape == (1, 2)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    save(tmp_path, bert())
    weights = tmp_path / "model.safetensors"
    torch.save({}, tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(LoadFailed, match=r"no file named model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_files_are_start_errors(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, bert(), tokenizer()) / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises((LoadFailed, FormatNotRecognised)):
        load(tmp_path, format="transformers")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": "dance"}, "config.task"),
        ({"temperature": 1}, "config.temperature: extra inputs are not permitted"),
        ({"task": "generation"}, "BertForSequenceClassification cannot generate"),
        ({"maxLength": 0}, "config.maxLength"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        load(save(tmp_path, bert()), config=config)
    assert message in caught.value.message


def test_classification_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="BertModel has no classes"):
        load(save(tmp_path, bert(BertModel)), config={"task": "classification"})


def test_declared_inputs_that_the_network_does_not_accept(tmp_path: Path) -> None:
    save(tmp_path, bert())
    (tmp_path / "model.yaml").write_text("inputs:\n- {name: words, dtype: int64, shape: [-1, -1]}\n")
    with pytest.raises(LoadFailed, match="the declared input 'words' is none of BertForSequenceClassification"):
        load(tmp_path)


def test_no_such_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatNotRecognised, match=r"no config\.json with a model_type"):
        load(tmp_path, format="transformers")
