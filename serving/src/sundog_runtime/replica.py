"""One replica: load, configure, warm up, serve, reconfigure. Independent of Serve."""

import asyncio
import gc
import importlib
import logging
import os
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from sundog_runtime.arguments import Arguments, ReplicaSettings, parse_arguments, parse_settings
from sundog_runtime.context import RequestContext
from sundog_runtime.errors import LoadFailed, LoadTimeout, StartError, WarmupTimeout
from sundog_runtime.formats.load_deadline import load_deadline_s, total_file_bytes
from sundog_runtime.formats.loaded_model import LoadedModel
from sundog_runtime.inference import Inference
from sundog_runtime.protocol.grpc_app import PEERS_VARIABLE, GrpcApp
from sundog_runtime.protocol.http_app import HttpApp
from sundog_runtime.protocol.messages import DecodedRequest, EncodedResponse
from sundog_runtime.protocol.plain_json import encode_json
from sundog_runtime.protocol.routes import Route, Routes
from sundog_runtime.scheduling.batch_assembly import find_unbatchable_reason
from sundog_runtime.scheduling.cpu_affinity import limit_library_threads
from sundog_runtime.scheduling.model_thread import ModelThread
from sundog_runtime.scheduling.scheduler import Scheduler
from sundog_runtime.signature import infer_inputs
from sundog_runtime.sources.cache import cache_root
from sundog_runtime.sources.open_model import ModelFiles, open_model
from sundog_runtime.start_timeout import StartAttempts
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.telemetry.replica_metrics import ReplicaMetrics
from sundog_runtime.telemetry.startup import StartupPhases
from sundog_runtime.warmup import warm_up

STARTUP_PATH = "/-/startup"
"""Below the prefix: the duration of each phase of the start."""

_logger = logging.getLogger(LOGGER_NAME)


class Replica:
    """A loaded model that answers. Created by `start`; ready after the first `reconfigure` or `check_health`."""

    def __init__(
        self,
        arguments: Arguments,
        model: LoadedModel,
        thread: ModelThread,
        startup: StartupPhases,
        attempts: StartAttempts,
    ) -> None:
        self.startup = startup
        self.metrics = ReplicaMetrics()
        self._arguments = arguments
        self._attempts = attempts
        self._model = model
        self._thread = thread
        self._codec = ModelThread(name="sundog-codec")
        self._settings: ReplicaSettings | None = None
        batching = arguments.batching
        self._scheduler = Scheduler(model, thread, self.metrics, batching.max_size, batching.max_delay_seconds)
        self._inference = Inference(model, self._scheduler, thread, self._codec, self.metrics)
        routes = Routes(arguments.service, version("sundog"), model)
        routes.add(STARTUP_PATH, Route(answer=lambda: EncodedResponse(encode_json(startup.document()))))
        self.app = HttpApp(routes, self._inference, self.metrics, ReplicaSettings().max_request_bytes)
        self.grpc = GrpcApp(
            arguments.service,
            version("sundog"),
            model,
            self._inference,
            self.metrics,
            ReplicaSettings().max_request_bytes,
            os.environ.get(PEERS_VARIABLE, ""),
        )
        if batching.max_size > 1 and (reason := find_unbatchable_reason(model)):
            _logger.warning("requests are not batched: %s", reason)

    @classmethod
    async def start(cls, args: Any, build: str = "") -> "Replica":
        """Load without blocking the event loop. Raises a StartError.

        `build` names the application that Serve starts. A timeout of an earlier attempt counts only for the same application.
        """
        arguments = parse_arguments(args)
        attempts = _attempts(arguments, build)
        attempts.raise_last_timeout()
        limit_library_threads(arguments.cpu)
        thread, startup = ModelThread(), StartupPhases()
        try:
            with startup.phase("download"):
                files = await thread.run(
                    lambda: open_model(arguments.model.uri, arguments.model.digest, arguments.namespace)
                )
            startup.detail("download", files.seconds)
            with startup.phase("load"):
                seconds = load_deadline_s(total_file_bytes(files))
                timeout_error = LoadTimeout(f"loading did not end within {seconds:.0f} s")
                model = await attempts.run_with_timeout(
                    thread.run(lambda: _load(files, arguments)), seconds, timeout_error
                )
            _limit_torch_threads(arguments.cpu)
        except StartError:
            thread.close()
            raise
        except Exception as error:
            thread.close()
            raise LoadFailed(f"loading the model raised {type(error).__name__}: {error}") from error
        replica = cls(arguments, model, thread, startup, attempts)
        # Imported late: torch is loaded by now.
        from sundog_runtime.formats.device import make_device_reader

        replica.metrics.read_device = make_device_reader(arguments.gpu.count, arguments.gpu.vendor)
        return replica

    async def reconfigure(self, user_config: Any) -> None:
        """Apply `user_config` between two requests; the first time also warm up, after the configuration.

        The first call belongs to the start: an error in its `user_config` raises a StartError. If a later one cannot be
        applied, the error is logged and the previous one stays in force: raising would make Serve stop a working replica.
        """
        first = self._settings is None
        try:
            settings = parse_settings(user_config)
            if self._settings is None:
                seconds = load_deadline_s(0)
                timeout_error = LoadTimeout(f"configure did not end within {seconds:.0f} s")
                await self._attempts.run_with_timeout(self._configure(settings.user_config), seconds, timeout_error)
            elif settings.user_config != self._settings.user_config:
                await self._configure(settings.user_config)
        except StartError as error:
            if first:
                raise
            _logger.error("user_config rejected, the previous one stays in force: %s", error.message)  # noqa: TRY400 (no traceback: it is the user's)
            return
        if first:
            await self._warm_up()
        self._settings = settings
        self.app.max_request_bytes = self.grpc.max_request_bytes = settings.max_request_bytes

    async def check_health(self) -> None:
        """Raise RuntimeError if a call blocks the queue for too long, or the device is lost.

        Serve checks before the replica is ready too. If Serve had no `user_config` to pass, the start ends here and can
        raise a StartError.
        """
        if self._settings is None:
            await self.reconfigure(None)
        if lost := self._model.lost_reason():
            raise RuntimeError(f"the device is lost: {lost}")
        if self._scheduler.is_stuck:
            raise RuntimeError(f"the model has been busy with one call for {self._thread.busy_seconds:.0f} s")

    async def infer(self, query: DecodedRequest, context: RequestContext | None = None) -> EncodedResponse:
        """Return the answer to a query of any protocol, through the queue and the batches that all protocols share.

        Raises Problem, and what the model raises on this request. When cancelled, the request leaves the queue.
        """
        return await self._inference.answer(query, context or RequestContext())

    def close(self) -> None:
        """End the threads after their pending work."""
        self._thread.close()
        self._codec.close()

    async def _configure(self, user_config: dict[str, Any]) -> None:
        configure = self._model.configure
        if configure is None:
            return
        try:
            # A copy: changes that the model makes must not change the value that the next user_config is compared with.
            await self._thread.run(lambda: configure(deepcopy(user_config)))
        except Exception as error:
            raise LoadFailed(f"configure raised {type(error).__name__}: {error}") from error

    async def _warm_up(self) -> None:
        requests, timeout_s = self._arguments.warmup.requests, self._arguments.warmup.timeout_seconds
        rows = self._arguments.batching.max_size if self._scheduler.is_batching else 1
        loop, stop_batching = asyncio.get_running_loop(), self._scheduler.stop_batching
        timeout_error = WarmupTimeout(f"{requests} warm-up requests did not end within {timeout_s:g} s")
        with self.startup.phase("warmup"):
            made = await self._attempts.run_with_timeout(
                self._thread.run(lambda: warm_up(self._model, requests, loop, rows, stop_batching)),
                timeout_s,
                timeout_error,
            )
        if made:
            _logger.info("warm-up: %d requests in %.3f s", made, self.startup.phases["warmup"])
        self.metrics.startup = self.startup.phases
        _logger.info("started: %s", self.startup.line())


def _attempts(arguments: Arguments, build: str) -> StartAttempts:
    revision = f"{arguments.namespace}/{arguments.service}/{arguments.revision}/{arguments.revision_hash}/{build}"
    return StartAttempts(cache_root() / "starts", revision)


def _load(files: ModelFiles, arguments: Arguments) -> LoadedModel:
    """Load the model; take its inputs from its example if it declares none."""
    import_torch()
    from sundog_runtime.formats.device import limit_memory, make_device_watch, select_device
    from sundog_runtime.formats.load import load_model

    _limit_torch_threads(arguments.cpu)
    gpu = arguments.gpu
    limit_memory(gpu.memory_fraction)
    model = load_model(files, arguments.model, arguments.namespace, lambda: select_device(gpu.count, gpu.vendor))
    if (watch := make_device_watch(gpu.count, gpu.vendor)) is not None:
        model = replace(model, predict=watch.wrap(model.predict), lost_reason=lambda: watch.lost_reason)
    if model.example is None or model.signature.inputs:
        return model
    try:
        inputs = infer_inputs(model.example())
    except Exception as error:
        raise LoadFailed(f"example() raised {type(error).__name__}: {error}") from error
    return replace(model, signature=replace(model.signature, inputs=inputs))


def import_torch() -> None:
    """Import torch, which takes seconds: a missing model or a wrong digest is reported without it.

    Garbage collection pauses, because the imports make 400 000 objects that stay. They are excluded from it afterwards. So the collection
    at the end of the start, before the first request, has only the objects of the model to visit.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        importlib.import_module("sundog_runtime.formats.load")
    finally:
        gc.freeze()
        gc.enable()


def _limit_torch_threads(cpu: float) -> None:
    """Limit torch's threads for the calling thread: OpenMP keeps the limit per thread, so each thread that runs the model needs it."""
    from sundog_runtime.formats.torch_state import set_torch_threads

    set_torch_threads(cpu)
