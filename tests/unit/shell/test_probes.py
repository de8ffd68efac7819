"""Endpoints for the kubelet and Prometheus."""

from collections.abc import Callable
from types import SimpleNamespace

import aiohttp
import pytest

from sundog_operator.shell import probes


async def ask(port: int, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_each_check_is_named_with_what_is_wrong() -> None:
    wrong = {"a": "", "b": "has not run for 61 s"}

    def check(name: str) -> Callable[[], str]:
        return lambda: wrong[name]

    health, ready = {"a": check("a"), "b": check("b")}, {"a": check("a")}
    async with probes.serve_probes("127.0.0.1", 0, health=health, readiness=ready, metrics=lambda: b"up 1\n") as port:
        assert await ask(port, "/healthz") == (503, "a: ok\nb: has not run for 61 s\n")
        assert await ask(port, "/readyz") == (200, "a: ok\n")
        assert await ask(port, "/metrics") == (200, "up 1\n")
        wrong["b"] = ""
        assert await ask(port, "/healthz") == (200, "a: ok\nb: ok\n")
        assert (await ask(port, "/elsewhere"))[0] == 404


def test_a_loop_that_stands_still_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    assert probes.make_heartbeat_check(lambda: 1000.0, "the loop")() == ""
    assert probes.make_heartbeat_check(lambda: 900.0, "the loop")() == "the loop has not run for 100 s"
