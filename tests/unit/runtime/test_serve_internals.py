"""The fast path inside Serve: where it is installed, that other versions of Serve stay unchanged, and that Serve still counts."""

import asyncio
import gc
import logging
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import uvicorn

with warnings.catch_warnings():
    # Warnings of Serve about its use of pydantic.
    warnings.simplefilter("ignore")
    from ray.serve._private.http_util import RequestIdMiddleware

    from sundog_runtime.fast_path import TrailerDroppingProtocol
    from sundog_runtime.serve import FAST_PATH_VARIABLE, _install_fast_path, _Model
    from sundog_runtime.serve_internals import _ServeAdmissionCounter, _set_protocol, install_fast_path


class Counts:
    """Stands in for Serve's class, and records its calls."""

    def __init__(self) -> None:
        self.ongoing = 0
        self.recorded: list[tuple[str, bool]] = []

    def inc_num_ongoing_requests(self, request: Any) -> None:
        assert request.is_direct_ingress
        self.ongoing += 1

    def dec_num_ongoing_requests(self, request: Any) -> None:
        self.ongoing -= 1

    def record_request_metrics(self, *, route: str, latency_ms: float, is_error: bool) -> None:
        assert (route, is_error) == ("/m", False)

    def record_ingress_request_metrics(self, *, status_code: str, is_error: bool, **_: Any) -> None:
        self.recorded.append((status_code, is_error))


def standin(**change: Any) -> SimpleNamespace:
    """The part of a Serve replica that is used."""

    async def ingress(scope: Any, receive: Any, send: Any) -> None: ...

    config = uvicorn.Config(lambda: RequestIdMiddleware(ingress), factory=True, log_config=None, log_level=None)
    made = SimpleNamespace(
        _direct_ingress_http_server=SimpleNamespace(config=config),
        _direct_ingress_asgi=ingress,
        _route_prefix="/m",
        _deployment_id=SimpleNamespace(app_name="m-r1", name="Model"),
        _metrics_manager=Counts(),
        _semaphore=SimpleNamespace(locked=lambda: False),
        _can_accept_request=lambda _: True,
        _user_callable_wrapper=SimpleNamespace(_run_user_code_in_separate_thread=False),
    )
    vars(made).update(change)
    return made


@pytest.fixture
def quiet_serve() -> Any:
    """Serve's logger in the state that a replica leaves it in."""
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield logger
    logger.setLevel(before)


async def test_the_protocol_is_set_on_serves_server(quiet_serve: logging.Logger) -> None:
    replica = standin()
    assert _set_protocol(replica, lambda *_: None, ("/", "/v2/models/m/infer")) == ""
    config = replica._direct_ingress_http_server.config
    assert set(config.http.fast_path.paths) == {b"/m", b"/m/", b"/m/v2/models/m/infer"}
    config.load()
    assert config.http_protocol_class is config.http


def _middleware(replica: SimpleNamespace) -> None:
    config = replica._direct_ingress_http_server.config
    inner = config.app()
    config.app = lambda: RequestIdMiddleware(inner)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda replica: setattr(replica, "_direct_ingress_http_server", None), "no HTTP server"),
        (lambda replica: setattr(replica._direct_ingress_http_server.config, "http", "h11"), "httptools"),
        (lambda replica: setattr(replica._direct_ingress_http_server.config, "root_path", "/x"), "root path"),
        (lambda replica: setattr(replica._direct_ingress_http_server.config, "limit_concurrency", 9), "limits"),
        (_middleware, "middlewares"),
        (
            lambda replica: setattr(replica._user_callable_wrapper, "_run_user_code_in_separate_thread", True),
            "event loop",
        ),
        (lambda _: logging.getLogger("ray.serve").setLevel(logging.INFO), "logged"),
    ],
)
async def test_another_serve_stays_unchanged(
    quiet_serve: logging.Logger, change: Callable[[SimpleNamespace], None], reason: str
) -> None:
    replica = standin()
    change(replica)
    assert reason in _set_protocol(replica, lambda *_: None, ("/",))
    server = replica._direct_ingress_http_server
    assert server is None or server.config.http == ("h11" if reason == "httptools" else TrailerDroppingProtocol)


def be_the_actor(replica: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> AsyncMock:
    """Make a stand-in the replica of this process. Return its start of servers."""
    from ray._private import worker

    replica._maybe_start_direct_ingress_servers = start = AsyncMock()
    actors = {worker.global_worker.actor_id: SimpleNamespace(_replica_impl=replica)}
    monkeypatch.setattr(worker.global_worker, "actors", actors)
    return start


@pytest.mark.parametrize("missing", sorted(set(vars(standin())) - {"_semaphore", "_can_accept_request"}))
async def test_a_serve_with_other_internals_is_logged_once_and_serves(
    quiet_serve: logging.Logger, missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replica = standin()
    delattr(replica, missing)
    start = be_the_actor(replica, monkeypatch)
    install_fast_path(lambda *_: None, ("/",))
    await replica._maybe_start_direct_ingress_servers()
    start.assert_awaited_once()
    [record] = [each for each in caplog.records if each.name == "ray.serve.sundog"]
    assert f"fast path disabled: AttributeError: {''}" in record.getMessage()
    assert missing in record.getMessage()


@pytest.mark.parametrize(
    ("version", "value", "reason"),
    [
        ("2.61.0", "", "Ray is 2.61.0; expected 2.60"),
        ("2.600.0", "", "Ray is 2.600.0; expected 2.60"),
        ("3.0.0.dev0", "", "Ray is 3.0.0.dev0; expected 2.60"),
        ("2.60.1", "off", "it is turned off"),
        ("2.60.1", "OFF", "it is turned off"),
        ("2.60.0", "", ""),
        ("2.60.0", "on", ""),
    ],
)
async def test_it_is_disabled_by_its_variable_and_with_any_other_ray(
    quiet_serve: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: str,
    value: str,
    reason: str,
) -> None:
    import ray

    replica = standin()
    be_the_actor(replica, monkeypatch)
    monkeypatch.setattr(ray, "__version__", version)
    monkeypatch.setenv(FAST_PATH_VARIABLE, value)
    _install_fast_path(SimpleNamespace(try_answer=lambda *_: None, paths=("/",)))
    await replica._maybe_start_direct_ingress_servers()
    messages = [record.getMessage() for record in caplog.records if record.name == "ray.serve.sundog"]
    assert messages == ([f"fast path disabled: {reason}"] if reason else [])
    # With the fast path turned off, trailers are still dropped. With another Ray nothing is changed.
    config = replica._direct_ingress_http_server.config
    assert (config.http == "auto") == ("Ray is" in reason)
    assert hasattr(config.http, "fast_path") == (not reason)


async def test_requests_count_until_the_next_turn_of_the_event_loop() -> None:
    replica = standin()
    counts = replica._metrics_manager
    metered = _ServeAdmissionCounter(replica, asyncio.get_running_loop())
    for status in (200, 200, 500):
        assert metered.try_admit()
        metered.record_response(status, 0.001)
    assert metered.try_admit()
    metered.cancel_admission()
    assert counts.ongoing == 3
    await asyncio.sleep(0)
    assert counts.ongoing == 0
    assert counts.recorded == [("200", False), ("200", False), ("500", True)]


@pytest.mark.parametrize(
    "change", [{"_semaphore": SimpleNamespace(locked=lambda: True)}, {"_can_accept_request": lambda _: False}]
)
async def test_serves_limits_hold(change: dict[str, Any]) -> None:
    replica = standin(**change)
    assert not _ServeAdmissionCounter(replica, asyncio.get_running_loop()).try_admit()
    assert replica._metrics_manager.ongoing == 0


async def test_after_its_start_a_replica_freezes_garbage_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("freeze"))

    async def start(_: Any = None) -> None:
        assert not calls

    model: Any = _Model.__new__(_Model)
    model._replica = SimpleNamespace(reconfigure=start, check_health=lambda: asyncio.sleep(0))
    model._watching, model._group = None, None
    await model.reconfigure({})
    # Garbage is collected before the freeze; otherwise it would stay for good.
    assert calls == ["collect", "freeze"]
    await model.check_health()
    assert calls == ["collect", "freeze"]
    assert model._watching is not None
    model._watching.cancel()
