"""Archives and Hugging Face directories in real Ray Serve."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from waiting import PATIENCE_S, eventually

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("empty_serve")]


def test_formats_beside_each_other(ray_serve: Any, tmp_path: Path, application: Any) -> None:
    network = torch.nn.Linear(4, 3).eval()
    program = torch.export.export(network, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    (tmp_path / "program").mkdir()
    torch.export.save(program, tmp_path / "program" / "net.pt2")
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=2, eos_token_id=None)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "words")
    ray_serve.put(
        {
            "applications": [
                application("trusted-r1", tmp_path / "program", entrypoint="", trustCode=True),
                application("doubted-r1", tmp_path / "program", entrypoint=""),
                application("words-r1", tmp_path / "words", entrypoint="", config={"maxNewTokens": 3}),
            ]
        }
    )
    ray_serve.wait_running("trusted-r1")
    ray_serve.wait_running("words-r1")
    [address] = ray_serve.replicas("trusted-r1")
    row = [0.5, -1.0, 2.0, 0.25]
    answer = httpx.post(f"http://{address}/trusted-r1.app", json={"inputs": [row]}, timeout=PATIENCE_S).json()
    assert answer["outputs"][0] == pytest.approx(network(torch.tensor([row]))[0].tolist(), rel=1e-4)
    [address] = ray_serve.replicas("words-r1")
    streamed = httpx.post(f"http://{address}/words-r1.app", json={"inputs": [[4, 6]]}, timeout=PATIENCE_S)
    assert streamed.status_code == 200
    assert streamed.text.count("token") == 3
    eventually(lambda: ray_serve.application("doubted-r1").get("status") == "DEPLOY_FAILED", "refused")
    text = str(ray_serve.application("doubted-r1")["deployments"])
    assert "sundog: CodeNotTrusted: net.pt2 is a torch.export archive" in text
