"""One replica: load, warm up, serve, reconfigure. Knows nothing of Serve."""

import asyncio
import logging
import time
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from sundog_runtime.arguments import Arguments, Settings, parse_arguments, parse_settings
from sundog_runtime.errors import LoadFailed, StartError, WarmupTimeout
from sundog_runtime.formats.model import LoadedModel
from sundog_runtime.model_thread import STUCK_AFTER_SECONDS, ModelThread
from sundog_runtime.protocol.app import App
from sundog_runtime.signature import inputs_of_example
from sundog_runtime.sources.files import ModelFiles, open_model
from sundog_runtime.warmup import warm_up

_logger = logging.getLogger("ray.serve.sundog")


class Replica:
    """A model in memory that answers. Made by `start`."""

    def __init__(self, arguments: Arguments, model: LoadedModel, thread: ModelThread) -> None:
        self._model = model
        self._thread = thread
        self._settings: Settings | None = None
        self.app = App(arguments.service, version("sundog"), model, thread, Settings().max_request_bytes)

    @classmethod
    async def start(cls, args: Any) -> "Replica":
        """Load and warm up, without blocking the event loop. Raises a StartError."""
        arguments = parse_arguments(args)
        thread = ModelThread()
        try:
            files = await thread.run(
                lambda: open_model(arguments.model.uri, arguments.model.digest, arguments.namespace)
            )
            model = await thread.run(lambda: _load(files, arguments))
            _use_cores(arguments.cpu)
            await _warm_up(model, arguments, thread)
        except StartError:
            thread.close()
            raise
        except Exception as error:
            thread.close()
            raise LoadFailed(f"loading the model raised {type(error).__name__}: {error}") from error
        return cls(arguments, model, thread)

    async def reconfigure(self, user_config: Any) -> None:
        """Apply `user_config` between two requests.

        The first one belongs to the start: what is wrong with it raises a StartError. A later one that cannot be
        applied is logged and the one before stays in force: raising would make Serve stop a replica that serves.
        """
        try:
            settings = parse_settings(user_config)
            if self._settings is None or settings.user_config != self._settings.user_config:
                await self._configure(settings.user_config)
        except StartError as error:
            if self._settings is None:
                raise
            _logger.error("the new user_config is not applied, the one before stays in force: %s", error.message)  # noqa: TRY400 (no traceback: it is the user's)
            return
        self._settings = settings
        self.app.max_request_bytes = settings.max_request_bytes

    def check_health(self) -> None:
        """Raises RuntimeError when a call has been running for so long that nothing behind it will be answered."""
        if self._thread.busy_seconds > STUCK_AFTER_SECONDS:
            raise RuntimeError(f"the model has been busy with one call for more than {STUCK_AFTER_SECONDS:.0f} s")

    async def _configure(self, user_config: dict[str, Any]) -> None:
        configure = self._model.configure
        if configure is None:
            return
        try:
            # A copy: what the model does with it must not change what the next user_config is compared with.
            await self._thread.run(lambda: configure(deepcopy(user_config)))
        except Exception as error:
            raise LoadFailed(f"configure raised {type(error).__name__}: {error}") from error


def _load(files: ModelFiles, arguments: Arguments) -> LoadedModel:
    """The model, with the inputs of its example where it declares none."""
    # torch takes seconds to import: a model that is not there, or is not what was promised, is told without it.
    from sundog_runtime.formats.load import load_model

    _use_cores(arguments.cpu)
    model = load_model(files, arguments.model)
    if model.example is None or model.signature.inputs:
        return model
    try:
        inputs = inputs_of_example(model.example())
    except Exception as error:
        raise LoadFailed(f"example() raised {type(error).__name__}: {error}") from error
    return replace(model, signature=replace(model.signature, inputs=inputs))


def _use_cores(cpu: float) -> None:
    """OpenMP keeps the number of threads per thread: every thread that runs the model must be told."""
    from sundog_runtime.formats.torch_state import use_cores

    use_cores(cpu)


async def _warm_up(model: LoadedModel, arguments: Arguments, thread: ModelThread) -> None:
    wanted, timeout = arguments.warmup.requests, arguments.warmup.timeout_seconds
    begun = time.monotonic()
    try:
        made = await asyncio.wait_for(thread.run(lambda: warm_up(model, wanted)), timeout)
    except TimeoutError:
        raise WarmupTimeout(f"{wanted} warm-up requests did not end within {timeout:g} s") from None
    if made:
        _logger.info("warm-up: %d requests in %.3f s", made, time.monotonic() - begun)
