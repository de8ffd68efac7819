"""Load a transformers directory.

`config.json` names the class, which must be one of the library's own. Code in the directory never runs, nothing is
requested from the network, and weights are only safetensors. The task follows from the class, or from `config.task`:

    classification   labels [n], scores [n] and logits [n, classes]; no labels if several may be true at once
    embeddings       embeddings [n, size]: the mean over the tokens of the last layer, or its first token; a directory of
                     sentence-transformers sets its own pooling
    generation       the most likely continuation of one text, sent piece by piece
    tensors          the tensors of the model's own output, such as logits

If the directory has a tokenizer, the input is `text`, strings; otherwise it is the model's main input, such as
`input_ids`. If `model.yaml` declares inputs, the model gets them by their names instead.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sundog_runtime.arguments import describe_validation_error
from sundog_runtime.errors import FormatNotRecognised, LoadFailed
from sundog_runtime.formats.detect import read_transformers_config
from sundog_runtime.formats.device import CPU, Device
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.formats.predict_functions import in_inference_mode
from sundog_runtime.formats.sentence_transformers import SentenceEncoding, read_sentence_encoding
from sundog_runtime.formats.torch_module import make_load_error
from sundog_runtime.formats.transformers.generation import make_generator
from sundog_runtime.formats.transformers.model import (
    MAX_TOKENS,
    TransformersModel,
    TransformersSettings,
    TransformersTask,
)
from sundog_runtime.formats.transformers.tasks import check_declared_inputs, complete_signature, make_predictor
from sundog_runtime.model_yaml import ModelDescription
from sundog_runtime.signature import Signature, is_batchable
from sundog_runtime.sources.open_model import ModelFiles

_TASKS: dict[str, TransformersTask] = {
    "ForSequenceClassification": "classification",
    "ForImageClassification": "classification",
    "ForCausalLM": "generation",
    "LMHeadModel": "generation",
    "Model": "embeddings",
}
"""The task of a class, by the end of its name. All others return tensors."""


def load_transformers(files: ModelFiles, description: ModelDescription, device: Device = CPU) -> LoadedModel:
    """Build the class that `config.json` names, load its weights and place it. Raises a StartError."""
    root = files.root
    document = None if files.file_name else read_transformers_config(root)
    if document is None:
        raise FormatNotRecognised(f"{files.path} has no config.json with a model_type, as save_pretrained writes it")
    settings = _parse_settings(description.config)
    sentences = read_sentence_encoding(root) if settings.task in (None, "embeddings") else None
    try:
        network = device.place_module(_load_network(root, document, embeds=sentences is not None))
        tokenizer = _load_tokenizer(root)
    except Exception as error:
        raise make_load_error(f"loading {root}", error) from error
    model = _assemble(network, device, tokenizer, settings, sentences)
    signature = complete_signature(model, description.signature)
    check_declared_inputs(model, signature)
    streaming = model.task == "generation"
    return LoadedModel(
        platform="transformers",
        found=f"a Hugging Face directory with {type(network).__name__}, used for {model.task}",
        predict=in_inference_mode(make_generator(model) if streaming else make_predictor(model, signature)),
        signature=signature,
        example=_example(signature),
        is_streaming=streaming,
        is_batchable=not streaming and is_batchable(description.batchable, signature),
        module=network,
        device=device.name,
    )


def _parse_settings(config: dict[str, Any]) -> TransformersSettings:
    try:
        return TransformersSettings.model_validate(config)
    except ValidationError as error:
        wrong = describe_validation_error(error, "config")
        raise LoadFailed(
            f"{wrong}; expected only task, maxLength, pooling and maxNewTokens in config of a transformers model"
        ) from None


def _load_network(root: Path, document: dict[str, Any], *, embeds: bool) -> Any:
    """Return the network in evaluation mode. Raises a StartError, or an error of the library.

    A network that `embeds` sentences is loaded without its head, as in sentence-transformers. Such directories often
    name the class that was trained before, and lack the weights of its head.
    """
    kind = _without_head(_find_class(document)) if embeds else _find_class(document)
    network, report = kind.from_pretrained(
        root,
        config=kind.config_class.from_dict(document),
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        # Set here: an implementation that config.json names may be a repository whose kernels would be downloaded.
        attn_implementation="sdpa" if kind._supports_sdpa else "eager",  # noqa: SLF001 (transformers itself asks like this)
    )
    # The library fills missing tensors with random numbers, and goes on.
    missing = sorted(key for key in report["missing_keys"] if not (embeds and key.startswith("pooler.")))
    if missing:
        raise LoadFailed(f"the weights lack {len(missing)} tensors of {kind.__name__}, such as {missing[0]}")
    return network.eval().requires_grad_(False)


def _without_head(kind: Any) -> Any:
    """Return the class of the same network that ends with its last hidden layer."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    if kind.__name__.endswith("Model"):
        return kind
    found = MODEL_MAPPING.get(kind.config_class, None)
    return found if inspect.isclass(found) else kind


def _find_class(document: dict[str, Any]) -> Any:
    """Return the class of the library that `config.json` names. Raises FormatNotRecognised."""
    try:
        import transformers
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"format transformers needs the package {error.name}, which this image lacks. Run pip install 'sundog[transformers]'."
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
        raise FormatNotRecognised(f"config.json: {name} is not a class of the model_type {model_type!r}")
    return kind


def _load_tokenizer(root: Path) -> Any:
    """Return the tokenizer of `tokenizer.json`, which is data that one parser reads for all models; None without it."""
    if not (root / "tokenizer.json").is_file():
        return None
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(root, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def _assemble(
    network: Any, device: Device, tokenizer: Any, settings: TransformersSettings, sentences: SentenceEncoding | None
) -> TransformersModel:
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
    found = getattr(text, "max_position_embeddings", None)
    positions = found if isinstance(found, int) else 0
    limits = [positions - _first_position(network), settings.max_length, sentences.max_length]
    if tokenizer is not None:
        limits.append(tokenizer.model_max_length)
        if network.config.pad_token_id is None:
            network.config.pad_token_id = tokenizer.pad_token_id
    known = [limit for limit in limits if isinstance(limit, int) and 0 < limit <= MAX_TOKENS]
    vocabulary = getattr(text, "vocab_size", None) or 0
    # A network without a table of token types finds them in that of the tokens.
    sizes = {
        "input_ids": vocabulary,
        "token_type_ids": getattr(text, "type_vocab_size", vocabulary),
        "position_ids": positions,
    }
    index_limits = {name: size for name, size in sizes.items() if isinstance(size, int) and size > 0}
    return TransformersModel(network, device, tokenizer, task, settings, sentences, index_limits, min(known, default=0))


def _first_position(network: Any) -> int:
    """Return the position of the first token. Networks like RoBERTa count from after the position of padding."""
    padding = (getattr(part, "padding_idx", None) for part in network.modules() if hasattr(part, "position_embeddings"))
    return max((index + 1 for index in padding if isinstance(index, int)), default=0)


def _example(signature: Signature) -> Callable[[], Any] | None:
    """Return a text if the input is text, because an empty text has no tokens; None otherwise, because zeros work."""
    return (lambda: ["hello"]) if [spec.name for spec in signature.inputs] == ["text"] else None
