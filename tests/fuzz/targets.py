"""What reads bytes of strangers, each as one function that may raise what it documents and nothing else.

Run as a program, this module is the fuzzer of one target: `python targets.py NAME [options of libFuzzer]`.
"""

import io
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

# Beside our own what unpacks for us: it is the file's author who decides what is read where.
with atheris.instrument_imports(include=["sundog_runtime", "sundog_edge", "tarfile", "zipfile"]):
    from sundog_edge.counting.ledger import Ledger
    from sundog_edge.errors import DocumentError, SecretError
    from sundog_edge.feedback.events import (
        BodyRefused,
        ItemRefusal,
        OutcomeEvent,
        ParseContext,
        parse_item,
        parse_items,
    )
    from sundog_edge.feedback.exposure import verify_exposure
    from sundog_edge.security.certificates import CERTIFICATE_FILE, KEY_FILE, MAX_PEM_BYTES, build_pem
    from sundog_edge.security.credentials import JWKS_FILE, parse_jwks
    from sundog_edge.split import document
    from sundog_runtime.errors import Problem, StartError
    from sundog_runtime.formats.detect import Content, detect_content, read_transformers_config
    from sundog_runtime.formats.loaded_model import LoadedModel
    from sundog_runtime.model_yaml import parse_description
    from sundog_runtime.protocol.grpc_messages import decode_infer
    from sundog_runtime.protocol.oip import decode_oip
    from sundog_runtime.protocol.plain_json import decode_plain
    from sundog_runtime.signature import Signature
    from sundog_runtime.sources.archive import ARCHIVE_SUFFIXES, unpack
    from sundog_runtime.sources.uri import parse_uri
    from sundog_runtime.tensors import TensorSpec

DECLARED = Signature(
    inputs=(TensorSpec("x", "float32", (-1, 4)), TensorSpec("text", "string", (-1,))),
    outputs=(TensorSpec("scores", "float32", (-1, 3)),),
)


def _model(signature: Signature) -> LoadedModel:
    return LoadedModel(platform="python", found="a fuzz target", predict=lambda batch: batch, signature=signature)


MODELS = (
    _model(Signature()),
    _model(DECLARED),
    _model(Signature(inputs=DECLARED.inputs[:1])),
    _model(Signature(inputs=(TensorSpec("x", "bytes", (-1,)),))),
)
MOST_UNPACKED = 1024 * 1024


def plain(data: bytes) -> None:
    """Plain JSON, for models that declare nothing, two inputs, one, and one of bytes."""
    for model in MODELS:
        try:
            decode_plain(model, data)
        except Problem as problem:
            _hold(problem.status == 400, problem)


def protocol(data: bytes) -> None:
    """The Open Inference Protocol: the first two bytes say how long the JSON part claims to be, zero for all."""
    claimed, body = int.from_bytes(data[:2], "little"), data[2:]
    headers = {b"inference-header-content-length": str(claimed).encode()} if claimed else {}
    for model in MODELS:
        try:
            decode_oip("digits", model, headers, body)
        except Problem as problem:
            _hold(problem.status == 400, problem)


def grpc_message(data: bytes) -> None:
    """The same over gRPC."""
    for model in MODELS:
        try:
            decode_infer("digits", model, data)
        except Problem as problem:
            _hold(problem.status in (400, 404), problem)


def archive(data: bytes) -> None:
    """What a store sends to be unpacked: the first byte says by which suffix."""
    with TemporaryDirectory() as folder:
        place = Path(folder)
        packed = place / f"model{ARCHIVE_SUFFIXES[data[0] % len(ARCHIVE_SUFFIXES) if data else 0]}"
        packed.write_bytes(data[1:])
        into = place / "into"
        into.mkdir()
        whole = _unpacked(packed, into)
        # A compressed one has its plain form beside it for a while.
        beside = {path.name for path in place.iterdir()} - {packed.name, f"{packed.name}.plain", "into"}
        _hold(not beside, beside)
    if whole and packed.suffix != ".zip" and not data[1:].startswith(b"\x1f\x8b"):
        for broken in _without_a_member(data[1:]):
            _hold(not _unpacks(broken), broken)


def _without_a_member(body: bytes) -> Iterator[bytes]:
    """A tar that has all of its members, cut before each of them, and with each one's header damaged."""
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:") as tar:
        starts = [member.offset for member in tar]
    for start in starts:
        yield body[:start]
        yield body[:start] + bytes([body[start] ^ 0xFF]) + body[start + 1 :]


def _unpacks(body: bytes) -> bool:
    with TemporaryDirectory() as folder:
        packed, into = Path(folder) / "model.tar", Path(folder) / "into"
        packed.write_bytes(body)
        into.mkdir()
        return _unpacked(packed, into)


def _unpacked(packed: Path, into: Path) -> bool:
    """Whether it could be unpacked."""
    written = None
    try:
        written = unpack(packed, into, MOST_UNPACKED)
    except StartError as error:
        _hold("\n" not in error.message, error)
    except OSError:
        # What the disk says, such as that a name is too long for it.
        pass
    found = [path for path in into.rglob("*") if path.is_symlink() or not path.is_dir()]
    _hold(all(path.is_file() and not path.is_symlink() for path in found), found)
    size = sum(path.stat().st_size for path in found)
    _hold(size <= MOST_UNPACKED and written in (None, size), (written, size))
    return written is not None


def content(data: bytes) -> None:
    """A file in a model's directory, whose kind is detected by its content."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_bytes(data)
        _hold(isinstance(detect_content(path), Content), data)
        config = read_transformers_config(path.parent)
        _hold(config is None or isinstance(config["model_type"], str), config)


def key_set(data: bytes) -> None:
    """A JSON Web Key Set in a Secret: every key is accepted, or reported as wrong."""
    found, wrong = parse_jwks({JWKS_FILE: data})
    _hold(all("\n" not in line for line in wrong), wrong)
    _hold(all(algorithm[:2] in ("HS", "RS", "ES") and key for algorithm, key in found.values()), found)


def certificate(data: bytes) -> None:
    """A certificate and its key in a Secret, with a zero between them."""
    chain, _, key = data.partition(b"\0")
    try:
        pem = build_pem({CERTIFICATE_FILE: chain, KEY_FILE: key})
    except SecretError as error:
        _hold("\n" not in str(error), error)
    else:
        _hold(0 < len(pem) <= MAX_PEM_BYTES, len(pem))


def model_yaml(data: bytes) -> None:
    """A model's own description."""
    _start_error(lambda: parse_description(data))


def uri(data: bytes) -> None:
    """`spec.model.uri`."""
    text = data.decode(errors="replace")
    _start_error(lambda: parse_uri(text))


def split_document(data: bytes) -> None:
    """What the operator hands to the edge."""
    try:
        document.parse_document(data, "vision")
    except DocumentError as error:
        _hold("\n" not in str(error), error)


def log_lines(data: bytes) -> None:
    """What HAProxy writes into the pipe: whatever it is, each line is counted somewhere."""
    ledger = Ledger()
    lines = data.split(b"\n")
    ledger.consume(lines, 1e6)
    counted = sum(boot.lines + boot.unparsable for boot in ledger.boots.values()) + ledger.strays
    _hold(counted == len(lines), counted)


def feedback(data: bytes) -> None:
    """What is reported to the edge: a list of items, each an event or a refusal."""
    reading = ParseContext(
        1.7e9,
        ("converted",),
        True,
        lambda text: verify_exposure([b"k" * 32], "digits", text, ["stable"]),
        "digits-attempt",
    )
    try:
        items = parse_items(data)
    except BodyRefused as refused:
        _hold("\n" not in str(refused), refused)
        return
    for item in items:
        found = parse_item(item, reading)
        _hold(isinstance(found, OutcomeEvent | ItemRefusal), found)


def _start_error(call: Callable[[], object]) -> None:
    try:
        call()
    except StartError as error:
        _hold("\n" not in error.message, error)


def _hold(truth: bool, found: object) -> None:
    if not truth:
        raise AssertionError(found)


TARGETS = {
    function.__name__: function
    for function in (
        plain,
        protocol,
        grpc_message,
        archive,
        content,
        model_yaml,
        uri,
        split_document,
        log_lines,
        feedback,
        key_set,
        certificate,
    )
}

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
