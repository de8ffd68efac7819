"""The parsers under a coverage-guided fuzzer: a little at every change, much more by `make prove`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("atheris", reason="atheris has no wheel for this platform")

FOLDER = Path(__file__).parent
RUNS = int(os.environ.get("SUNDOG_FUZZ_RUNS", "4000"))
"""Inputs per target. The fuzzer's seed is fixed: what gates a change does not depend on luck."""

SEEDS = {
    "plain": [b'{"inputs": [[1, 2, 3, 4.5]]}', b'{"inputs": {"x": [[0, 0, 0, 0]], "text": ["a"]}}', b"[[1, 2], [3]]"],
    "protocol": [
        b'\0\0{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}],"id":"a","outputs":[{"name":"s"}]}',
        b"\x5d\0"
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":{"binary_data_size":16}}]}' + bytes(16),
    ],
    "model_yaml": [b"inputs:\n- {name: x, dtype: float32, shape: [-1, 4]}\n", b"a: &a [*a]\n"],
    "uri": [b"s3://bucket/models/v1", b"hf://org/name@" + b"0" * 40, b"oci://host:5000/a/b@sha256:" + b"0" * 64],
    "split_document": [b'{"version":1,"namespace":"vision","generation":1,"clusters":{},"services":[]}'],
    "log_lines": [b"a-1 digits/a/0/stable/assigned/sticky digits - 200 -- 0 s1 - - 5 1 2 3\n\xff\xfe\n"],
}
TARGETS = tuple(SEEDS)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", TARGETS)
def test_no_bytes_get_anything_but_a_documented_answer(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS[target]):
        (corpus / str(number)).write_bytes(seed)
    options = (f"-runs={RUNS}", "-seed=1", "-max_len=4096", "-timeout=10", "-rss_limit_mb=4096")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "targets.py"), target, *options, str(corpus)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS} runs" in done.stderr, done.stderr[-2000:]
