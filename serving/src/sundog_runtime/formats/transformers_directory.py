"""Format `transformers`: a directory as `save_pretrained` of Hugging Face transformers writes it.

`config.json` names the class, which must be one of the library's own: code in the directory is never run, nothing is
looked up on the network, and weights are safetensors only. What the model does follows from its class, or from
`config.task`:

    classification   labels [n], scores [n] and logits [n, classes]; without labels where several may be true at once
    embeddings       embeddings [n, size]: the mean over the tokens of the last layer, or its first token; what a directory of
                     sentence-transformers says of its own is done instead
    generation       the most likely continuation of one text, sent piece by piece
    tensors          the tensors of the model's own output, such as logits

Where the directory has a tokenizer the input is `text`, strings; else the model's main input, such as `input_ids`. Inputs
declared in `model.yaml` are given to the model by their names instead.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sundog_runtime.errors import FormatNotRecognised, LoadFailed, bad_input
from sundog_runtime.formats.detect import read_transformers_config
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.predict_functions import in_inference_mode
from sundog_runtime.formats.sentence_transformers import SentenceEncoding, read_sentence_encoding
from sundog_runtime.formats.to_tensors import to_tensors
from sundog_runtime.formats.torch_module import make_load_error
from sundog_runtime.model_yaml import ModelDescription
from sundog_runtime.signature import Signature, forbid_empty_inputs, is_batchable
from sundog_runtime.sources.open_model import ModelFiles
from sundog_runtime.tensors import TensorSpec

TransformersTask = Literal["classification", "embeddings", "generation", "tensors"]

_TASKS: dict[str, TransformersTask] = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "Model": "embeddings",
}
"""What a class does, by the end of its name. All others give tensors."""

_MAX_TOKENS = 32_768


class TransformersSettings(BaseModel):
    """`config` of a transformers model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    task: TransformersTask | None = None
    max_length: Annotated[int | None, Field(alias="maxLength", ge=1, le=_MAX_TOKENS)] = None
    pooling: Literal["mean", "first"] | None = None
    max_new_tokens: Annotated[int, Field(alias="maxNewTokens", ge=1, le=4096)] = 64


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of the library with what is needed to call it. `max_length` is in tokens, 0 where nothing limits it."""

    network: Any
    device: Device
    tokenizer: Any
    task: TransformersTask
    settings: TransformersSettings
    sentences: SentenceEncoding
    vocabulary: int
    max_length: int


def load_transformers(files: ModelFiles, description: ModelDescription, device: Device = CPU) -> LoadedModel:
    """Build the class that `config.json` names, give it its weights and place it. Raises a StartError."""
    root = files.root
    document = None if files.only else read_transformers_config(root)
    if document is None:
        raise FormatNotRecognised(f"{files.path} has no config.json with a model_type, as save_pretrained writes it")
    settings = _settings(description.config)
    sentences = read_sentence_encoding(root) if settings.task in (None, "embeddings") else None
    try:
        network = device.place(_network(root, document, embeds=sentences is not None))
        tokenizer = _tokenizer(root)
    except Exception as error:
        raise make_load_error(f"loading {root}", error) from error
    model = _assemble(network, device, tokenizer, settings, sentences)
    signature = _signature(model, description.signature)
    _check_inputs(model, signature)
    streams = model.task == "generation"
    return LoadedModel(
        platform="transformers",
        found=f"a Hugging Face directory with {type(network).__name__}, used for {model.task}",
        predict=in_inference_mode(_generator(model) if streams else _predictor(model, signature)),
        signature=signature,
        example=_example(signature),
        streams=streams,
        batches=not streams and is_batchable(description.batchable, signature),
        module=network,
        device=device.name,
    )


def _settings(config: dict[str, Any]) -> TransformersSettings:
    try:
        return TransformersSettings.model_validate(config)
    except ValidationError as error:
        wrong = "; ".join(
            f"config.{'.'.join(map(str, found['loc']))}: {found['msg']}"
            for found in error.errors(include_url=False, include_input=False)
        )
        raise LoadFailed(f"a transformers model takes task, maxLength, pooling and maxNewTokens: {wrong}") from None


def _network(root: Path, document: dict[str, Any], *, embeds: bool) -> Any:
    """The network in evaluation mode. Raises a StartError, or what the library raises.

    One that `embeds` sentences is taken without its head, as by sentence-transformers: they are often saved under the class that was
    trained before, whose head is not there.
    """
    kind = _without_head(_class(document)) if embeds else _class(document)
    network, report = kind.from_pretrained(
        root,
        config=kind.config_class.from_dict(document),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # Named here: an implementation that config.json asks for may be a repository whose kernels would be fetched.
        attn_implementation="sdpa" if kind._supports_sdpa else "eager",  # noqa: SLF001 (how transformers itself asks)
    )
    # The library fills what is missing with random numbers, and goes on.
    missing = sorted(key for key in report["missing_keys"] if not (embeds and key.startswith("pooler.")))
    if missing:
        raise LoadFailed(f"the weights lack {len(missing)} tensors of {kind.__name__}, such as {missing[0]}")
    return network.eval().requires_grad_(False)


def _without_head(kind: Any) -> Any:
    """The class of the same network that ends with its last hidden layer."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if kind.__name__.endswith("Model"):
        return kind
    found = MODEL_MAPPING.get(kind.config_class, None)
    return found if inspect.isclass(found) else kind


def _class(document: dict[str, Any]) -> Any:
    """The class of the library that `config.json` names. Raises FormatNotRecognised."""
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"format transformers needs the package {error.name}, which this image lacks: pip install 'sundog[transformers]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    model_type, architectures = document["model_type"], document.get("architectures")
    if model_type not in CONFIG_MAPPING:
        own = " (its auto_map names code of its own, which is never run)" if "auto_map" in document else ""
        raise FormatNotRecognised(
            f"config.json: transformers {transformers.__version__} has no model_type {model_type!r}{own}; "
            "bring such a model as a predictor class (format python)"
        )
    if "quantization_config" in document:
        raise FormatNotRecognised("config.json has a quantization_config; quantised weights are not supported")
    name = architectures[0] if isinstance(architectures, list) and len(architectures) == 1 else None
    kind: Any = getattr(transformers, name, None) if isinstance(name, str) else None
    if not inspect.isclass(kind) or not issubclass(kind, transformers.PreTrainedModel):
        raise FormatNotRecognised(
            f"config.json: architectures is {architectures!r}; expected one class of transformers {transformers.__version__}"
        )
    if getattr(kind, "config_class", None) is not CONFIG_MAPPING[model_type]:
        raise FormatNotRecognised(f"config.json: {name} is no class of the model_type {model_type!r}")
    return kind


def _tokenizer(root: Path) -> Any:
    """The tokenizer, where `tokenizer.json` is there: it is data, read by one parser for all models. Else None."""
    if not (root / "tokenizer.json").is_file():
        return None
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(root, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _assemble(
    network: Any, device: Device, tokenizer: Any, settings: TransformersSettings, sentences: SentenceEncoding | None
) -> _Model:
    name = type(network).__name__
    natural: TransformersTask = next((task for end, task in _TASKS.items() if name.endswith(end)), "tensors")
    task = settings.task or ("embeddings" if sentences else natural)
    sentences = sentences or SentenceEncoding()
    if settings.pooling is not None:
        sentences = replace(sentences, pooling=("cls" if settings.pooling == "first" else settings.pooling,))
    if task == "classification" and natural != "classification":
        raise LoadFailed(f"config.task is classification; {name} has no classes")
    if task == "generation" and not network.can_generate():
        raise LoadFailed(f"config.task is generation; {name} cannot generate")
    text = network.config.get_text_config()
    limits = [getattr(text, "max_position_embeddings", None), settings.max_length, sentences.max_length]
    if tokenizer is not None:
        limits.append(tokenizer.model_max_length)
        if network.config.pad_token_id is None:
            network.config.pad_token_id = tokenizer.pad_token_id
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit <= _MAX_TOKENS]
    vocabulary = getattr(text, "vocab_size", None) or 0
    return _Model(network, device, tokenizer, task, settings, sentences, vocabulary, min(known, default=0))


def _signature(model: _Model, declared: Signature) -> Signature:
    known = Signature(declared.inputs or _inputs(model), declared.outputs or _outputs(model), declared.axes)
    return forbid_empty_inputs(known)


def _inputs(model: _Model) -> tuple[TensorSpec, ...]:
    if model.tokenizer is not None:
        return (TensorSpec("text", "string", (1 if model.task == "generation" else -1,)),)
    config, main = model.network.config, model.network.main_input_name
    match main:
        case "input_ids":
            return (TensorSpec(main, "int64", (1 if model.task == "generation" else -1, -1)),)
        case "pixel_values":
            size, channels = getattr(config, "image_size", -1), getattr(config, "num_channels", -1)
            height, width = size if isinstance(size, list | tuple) else (size, size)
            return (TensorSpec(main, "float32", (-1, channels, height, width)),)
        case _:
            return ()


def _outputs(model: _Model) -> tuple[TensorSpec, ...]:
    config = model.network.config
    match model.task:
        case "embeddings" if isinstance(size := getattr(config, "hidden_size", None), int):
            return (TensorSpec("embeddings", "float32", (-1, size * len(model.sentences.pooling))),)
        case "classification":
            logits = TensorSpec("logits", "float32", (-1, config.num_labels))
            if _regression(config):
                return (logits,)
            if _several(config):
                return (TensorSpec("scores", "float32", (-1, config.num_labels)), logits)
            return (TensorSpec("labels", "string", (-1,)), TensorSpec("scores", "float32", (-1,)), logits)
        case "generation" if model.tokenizer is not None:
            return (TensorSpec("text", "string", (1,)),)
        case "generation":
            return (TensorSpec("token", "int64", (1,)),)
        case _:
            return ()


def _regression(config: Any) -> bool:
    return bool(config.problem_type == "regression" or config.num_labels == 1)


def _several(config: Any) -> bool:
    return bool(config.problem_type == "multi_label_classification")


def _check_inputs(model: _Model, signature: Signature) -> None:
    """Raises LoadFailed where a declared input is none of the model's."""
    takes = inspect.signature(model.network.forward).parameters
    names = [spec.name for spec in signature.inputs]
    if names == ["text"] and model.tokenizer is not None:
        return
    if model.task == "generation" and names != ["input_ids"]:
        raise LoadFailed(
            f"generation takes the input {'text or ' if model.tokenizer else ''}input_ids; declared is {names}"
        )
    if unknown := [name for name in names if name not in takes]:
        raise LoadFailed(
            f"the declared input {unknown[0]!r} is none of {type(model.network).__name__}; it takes "
            + ", ".join(name for name in takes if name not in ("kwargs", "args"))
        )


def _example(signature: Signature) -> Callable[[], Any] | None:
    """A text, where texts are taken: an empty one has no tokens. Zeros do for all others."""
    return (lambda: ["hello"]) if [spec.name for spec in signature.inputs] == ["text"] else None


def _predictor(model: _Model, signature: Signature) -> Callable[[Any], Any]:
    names = [spec.name for spec in signature.inputs] or [model.network.main_input_name]

    def predict(batch: Any) -> Any:
        given = _given(model, batch, names)
        hidden = model.task == "embeddings"
        output = model.network(**given, **({"output_hidden_states": True} if hidden else {}))
        return _answer(model, given, output)

    return predict


def _given(model: _Model, batch: Any, names: list[str]) -> dict[str, Any]:
    """The network's keyword arguments, looked at before they go where it is. Raises Problem 400."""
    if names == ["text"] and model.tokenizer is not None:
        return dict(model.device.give(_tokens(model, batch)))
    given = to_tensors(batch if isinstance(batch, dict) else {names[0]: batch})
    ids = given.get("input_ids")
    if isinstance(ids, torch.Tensor):
        if model.vocabulary and (int(ids.min()) < 0 or int(ids.max()) >= model.vocabulary):
            raise bad_input("OutOfRange", f"input 'input_ids' holds a token outside of 0 to {model.vocabulary - 1}")
        if model.max_length and ids.shape[-1] > model.max_length:
            found = f"input 'input_ids' has {ids.shape[-1]} tokens"
            raise bad_input("WrongShape", f"{found}; the model takes at most {model.max_length}")
        _check_beside(given, ids)
    return {name: _of_weights(model, value) for name, value in model.device.give(given).items()}


def _check_beside(given: Mapping[str, Any], ids: torch.Tensor) -> None:
    """What comes beside tokens fits to them. Raises Problem 400."""
    for name in ("attention_mask", "token_type_ids", "position_ids"):
        value = given.get(name)
        if isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape != ids.shape:
            found = f"input {name!r} has the shape {list(value.shape)}"
            raise bad_input("WrongShape", f"{found}; expected {list(ids.shape)}, as 'input_ids' has")
    mask = given.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.ndim == 2 and not bool(mask.any(dim=1).all()):
        raise bad_input("EmptyInput", "input 'attention_mask' has a row without a token")


def _of_weights(model: _Model, value: Any) -> Any:
    """Numbers with a fraction in the type of the weights; anything else as it is."""
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(model.network.dtype) if is_float else value


def _tokens(model: _Model, texts: Any) -> dict[str, Any]:
    """Texts as tokens, padded to the longest; what is longer than the model takes is cut off at its end."""
    limit = {"truncation": True, "max_length": model.max_length} if model.max_length else {}
    if model.task == "embeddings":
        texts = model.sentences.prepared(texts)
    encoded = model.tokenizer(texts, padding=len(texts) > 1, return_tensors="pt", return_attention_mask=True, **limit)
    if encoded["input_ids"].shape[-1] == 0 or not bool(encoded["attention_mask"].any(dim=1).all()):
        raise bad_input("EmptyInput", "input 'text' holds a text without a token")
    takes = inspect.signature(model.network.forward).parameters
    # Some tokenizers add what their own network takes and others do not, such as token types.
    return {name: value for name, value in encoded.items() if name in takes}


def _answer(model: _Model, given: dict[str, Any], output: Any) -> Any:
    match model.task:
        case "classification":
            return _classes(model.network.config, output.logits.float())
        case "embeddings":
            return {"embeddings": _pooled(model, given, output)}
        case _:
            return {name: value for name, value in output.items() if isinstance(value, torch.Tensor)}


def _classes(config: Any, logits: torch.Tensor) -> dict[str, Any]:
    if _regression(config):
        return {"logits": logits}
    if _several(config):
        return {"scores": torch.sigmoid(logits), "logits": logits}
    scores, best = torch.softmax(logits, dim=-1).max(dim=-1)
    labels = [str(config.id2label.get(index, index)) for index in best.tolist()]
    return {"labels": np.array(labels, dtype=object), "scores": scores, "logits": logits}


def _pooled(model: _Model, given: dict[str, Any], output: Any) -> torch.Tensor:
    """One vector for each row: from its tokens, or for an image without tokens the mean over its places."""
    last = output.hidden_states[-1] if "last_hidden_state" not in output else output.last_hidden_state
    last = last.float()
    if last.ndim != 3:
        return last.flatten(2).mean(dim=2)
    return model.sentences.pooled(last, given.get("attention_mask"))


def _generator(model: _Model) -> Callable[[Any], Iterator[Any]]:
    """Greedy search: at each step the most likely token, until the end token or `maxNewTokens`."""
    ends = model.network.generation_config.eos_token_id
    stop = set(ends if isinstance(ends, list) else [] if ends is None else [ends])

    def generate(batch: Any) -> Iterator[Any]:
        given = _given(model, batch, ["text" if model.tokenizer is not None else "input_ids"])
        pieces = _Pieces(model.tokenizer) if model.tokenizer is not None else None
        for token in _continuation(model, given["input_ids"], stop):
            if pieces is None:
                yield {"token": np.array([token])}
            elif piece := pieces.add(token):
                yield {"text": [piece]}

    return generate


def _continuation(model: _Model, ids: torch.Tensor, stop: set[int]) -> Iterator[int]:
    # The library renames it: `past_key_values` is deprecated where `cache` is there.
    cache = "cache" if "cache" in inspect.signature(model.network.forward).parameters else "past_key_values"
    past = None
    room = model.max_length - ids.shape[-1] if model.max_length else model.settings.max_new_tokens
    for _ in range(min(model.settings.max_new_tokens, max(room, 1))):
        output = model.network(input_ids=ids, use_cache=True, **{cache: past})
        token = int(output.logits[0, -1].argmax())
        if token in stop:
            return
        yield token
        past, ids = output[cache], torch.tensor([[token]], device=ids.device)


class _Pieces:
    """Turns tokens into text as they come: a token may be half a character, and its text depends on those before."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._sent = 0

    def add(self, token: int) -> str:
        """The text that is certain now and was not before; may be empty."""
        self._tokens.append(token)
        text: str = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece, self._sent = text[self._sent :], len(text)
        return piece
