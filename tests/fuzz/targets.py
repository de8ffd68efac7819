"""What reads bytes of strangers, each as one function that may raise what it documents and nothing else.

Run as a program, this module is the fuzzer of one target: `python targets.py NAME [options of libFuzzer]`.
"""

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["sundog_runtime", "sundog_edge"]):
    from sundog_edge import document
    from sundog_edge.counters import Ledger
    from sundog_edge.errors import DocumentError
    from sundog_runtime.description import parse_description
    from sundog_runtime.errors import Problem, StartError
    from sundog_runtime.formats.model import LoadedModel
    from sundog_runtime.protocol.oip import decode_oip
    from sundog_runtime.protocol.plain import decode_plain
    from sundog_runtime.signature import Signature
    from sundog_runtime.sources.uri import parse_uri
    from sundog_runtime.tensors import TensorSpec

DECLARED = Signature(
    inputs=(TensorSpec("x", "float32", (-1, 4)), TensorSpec("text", "string", (-1,))),
    outputs=(TensorSpec("scores", "float32", (-1, 3)),),
)


def _model(signature: Signature) -> LoadedModel:
    return LoadedModel(platform="python", found="a fuzz target", predict=lambda batch: batch, signature=signature)


MODELS = (_model(Signature()), _model(DECLARED), _model(Signature(inputs=DECLARED.inputs[:1])))


def plain(data: bytes) -> None:
    """Plain JSON, for models that declare nothing, two inputs, and one."""
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
        document.parse(data, "vision")
    except DocumentError as error:
        _hold("\n" not in str(error), error)


def log_lines(data: bytes) -> None:
    """What HAProxy writes into the pipe: whatever it is, each line is counted somewhere."""
    ledger = Ledger()
    lines = data.split(b"\n")
    ledger.consume(lines, 0.0)
    counted = sum(boot.lines + boot.unparsable for boot in ledger.boots.values()) + ledger.strays
    _hold(counted == len(lines), counted)


def _start_error(call: Callable[[], object]) -> None:
    try:
        call()
    except StartError as error:
        _hold("\n" not in error.message, error)


def _hold(truth: bool, found: object) -> None:
    if not truth:
        raise AssertionError(found)


TARGETS = {function.__name__: function for function in (plain, protocol, model_yaml, uri, split_document, log_lines)}

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
