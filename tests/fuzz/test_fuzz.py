"""The parsers under a coverage-guided fuzzer: a little at every change, much more by `make test-all`."""

import datetime as dt
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sundog_edge.counting.ledger import Ledger
from sundog_runtime.protocol.inference_pb2 import ModelInferRequest
from waiting import patience

pytest.importorskip("atheris", reason="atheris has no wheel for this platform")

FOLDER = Path(__file__).parent
RUNS = int(os.environ.get("SUNDOG_FUZZ_RUNS", "1000"))
"""Inputs per target. The fuzzer's seed is fixed: what gates a change does not depend on luck."""


def messages() -> list[bytes]:
    """Requests with their values in both of their places."""
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
    text = {"name": "text", "datatype": "BYTES", "shape": [1]}
    raw = ModelInferRequest(model_name="digits", id="a", inputs=[x, text], raw_input_contents=[bytes(16), b"\1\0\0\0a"])
    typed = ModelInferRequest(
        model_name="digits",
        parameters={"a": {"int64_param": 1}},
        inputs=[x | {"contents": {"fp32_contents": [1, 2, 3, 4]}}, text | {"contents": {"bytes_contents": [b"a"]}}],
        outputs=[{"name": "scores"}],
    )
    return [raw.SerializeToString(deterministic=True), typed.SerializeToString(deterministic=True)]


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for name, body in (("net.py", b"class Net: ..."), ("n" * 120, b"a long name")):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            packed.addfile(member, io.BytesIO(body))
    return buffer.getvalue()[:4000]


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in names:
            packed.writestr(zipfile.ZipInfo(name), b"class Net: ...")
    return buffer.getvalue()


def keys() -> bytes:
    curve = jwt.algorithms.ECAlgorithm.to_jwk(ec.derive_private_key(7, ec.SECP256R1()).public_key(), as_dict=True)
    shared = {"kty": "oct", "k": "a" * 43, "alg": "HS256", "kid": "h"}
    return json.dumps(
        {"keys": [{**curve, "kid": "e", "use": "sig"}, shared, {"kty": "RSA", "n": "w" * 342, "e": "AQAB"}]}
    ).encode()


def signed() -> bytes:
    """A certificate and its key, by an algorithm that signs alike every time."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "digits.vision.svc")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    day = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    built = builder.serial_number(1).not_valid_before(day).not_valid_after(day + dt.timedelta(days=1)).sign(key, None)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return built.public_bytes(Encoding.PEM) + b"\0" + private


SEEDS = {
    "plain": [b'{"inputs": [[1, 2, 3, 4.5]]}', b'{"inputs": {"x": [[0, 0, 0, 0]], "text": ["a"]}}', b"[[1, 2], [3]]"],
    "protocol": [
        b'\0\0{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}],"id":"a","outputs":[{"name":"s"}]}',
        b"\x5d\0"
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}' + bytes(16),
    ],
    "grpc_message": messages(),
    "archive": [
        b"\0" + tar(),
        b"\1" + gzip.compress(tar(), mtime=0),
        b"\3" + zipped("net.py", "code/", "code/other.py"),
    ],
    "content": [
        b"\2\0\0\0\0\0\0\0{}",
        b"\x80\2}q\0.",
        b"\x08\3\x12\5torch",
        b'{"model_type": "bert"}',
        zipped("m/data.pkl", "m/code/a.py", "m/archive_format"),
    ],
    "key_set": [keys()],
    "certificate": [signed()],
    "model_yaml": [b"inputs:\n- {name: x, dtype: float32, shape: [-1, 4]}\n", b"a: &a [*a]\n"],
    "uri": [b"s3://bucket/models/v1", b"hf://org/name@" + b"0" * 40, b"oci://host:5000/a/b@sha256:" + b"0" * 64],
    "split_document": [b'{"version":1,"namespace":"vision","generation":1,"clusters":{},"services":[]}'],
    "feedback": [
        b'{"unit":"ada","metric":"converted","value":1.5,"id":"x","time":"2026-01-31T12:00:00Z"}',
        b'[{"exposure":"1~a~0~stable~0123456789abcdef~1769000000~kV0zM5mPp0l2nS7Jr9c1Xw","metric":"converted","value":true}]',
    ],
    "log_lines": [
        b"a-1 digits/a/0/stable/assigned/sticky digits - 200 -- 0 s1 ok 500,90 179500000 1 20 50 7 5 7 1795000000000000",
        b"a-1 digits/a/0/canary/assigned/anonymous digits - 502 SH +1 s1 - - 179500000 1 - 50 7 - - 1795000000000000",
        b"a-1 - digits - 413 LR 0 <NOSRV> - - 179500000 - - - - - - 1795000000000000",
        b"a-1 - digits feedback 207 -- 0 agent - - 179500000 - - - - - - 1795000000000000",
        b"\xff\xfe\n",
    ],
}
TARGETS = tuple(SEEDS)


def test_the_seeds_of_lines_are_lines() -> None:
    """Else the fuzzer begins, and stays, with what is refused at the first look."""
    ledger = Ledger()
    ledger.consume(SEEDS["log_lines"], 1.8e9)
    (boot,) = ledger.boots.values()
    assert (boot.lines, boot.unparsable, ledger.strays) == (4, 0, 1)
    assert sum(row.ended for row in boot.rows.values()) == 2


@pytest.mark.timeout(patience(900))
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_get_anything_but_a_documented_answer(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / str(number)).write_bytes(seed)
    options = (f"-runs={RUNS}", "-seed=1", "-max_len=4096", f"-timeout={patience(10):.0f}", "-rss_limit_mb=4096")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "targets.py"), target, *options, str(corpus)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr, done.stderr[-2000:]
