"""The device of a network: the first accelerator of its replica, otherwise the CPU.

Ray shows a replica only its own devices, so the first one of the process belongs to it. A predictor class places itself.
"""

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from inspect import isasyncgen, isgenerator
from typing import Any

import torch

from sundog_runtime.errors import LoadFailed, one_line
from sundog_runtime.telemetry.logs import LOGGER_NAME
from sundog_runtime.telemetry.replica_metrics import DeviceUse

CUDA_VENDORS = frozenset({"nvidia", "amd"})
"""Vendors whose devices torch uses as CUDA. With the others a model must place itself."""

_logger = logging.getLogger(LOGGER_NAME)


@dataclass(frozen=True, slots=True)
class Device:
    """One of torch's devices. `pin` copies a tensor into memory that the device can read directly; `name` is for people."""

    where: torch.device
    name: str
    pin: Callable[[torch.Tensor], torch.Tensor]

    @property
    def is_cpu(self) -> bool:
        """Whether the device is the CPU, so that requests need no copy."""
        return bool(self.where.type == "cpu")

    def place_module(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move the module's weights and buffers to the device; return the same object. Raises what torch raises."""
        return module if self.is_cpu else module.to(self.where)

    def to_device(self, value: Any) -> Any:
        """Move the tensors of a batch to the device; return anything else unchanged.

        The copy uses pinned memory, so it does not block this thread. Later work on the device waits for it.
        """
        if isinstance(value, dict):
            return {name: self.to_device(item) for name, item in value.items()}
        if not isinstance(value, torch.Tensor) or value.device == self.where:
            return value
        return self.pin(value).to(self.where, non_blocking=True)


def _pinned(value: torch.Tensor) -> torch.Tensor:
    return value.pin_memory() if value.device.type == "cpu" else value


CPU = Device(torch.device("cpu"), "cpu", lambda value: value)


def select_device(count: int, vendor: str, cuda: Any = torch.cuda) -> Device:
    """Return the device of a replica with `count` devices of a vendor. Raises LoadFailed if torch sees none of them.

    Without the error, the network would run on the CPU, a hundred times slower, and no one would notice.
    """
    if not count or vendor not in CUDA_VENDORS:
        return CPU
    if not cuda.is_available():
        raise LoadFailed(
            f"resources.gpu.count is {count} ({vendor}), and torch {torch.__version__} sees no device. Use an image with a "
            "torch for it, install the driver on the node, and often set scheduling.runtimeClassName."
        )
    return Device(torch.device("cuda", 0), f"cuda:0, {cuda.get_device_name(0)}", _pinned)


def limit_memory(fraction: float | None, cuda: Any = torch.cuda) -> None:
    """Limit the memory that torch allocates in this process to a fraction of the device's; None means no limit.

    Beyond it, torch raises OutOfMemoryError. The memory of CUDA's context and libraries is not counted.
    """
    if fraction is not None and cuda.is_available():
        cuda.set_per_process_memory_fraction(fraction, 0)


def read_device_use(cuda: Any = torch.cuda) -> DeviceUse | None:
    """Return the use of the replica's devices; None before the model uses one, or once a device is lost.

    Reading a device that the process does not use would create a context there, which takes hundreds of MiB.
    """
    if not cuda.is_initialized():
        return None
    devices = range(cuda.device_count())
    try:
        memory = [cuda.mem_get_info(each) for each in devices]
        allocated, reserved = map(cuda.memory_allocated, devices), map(cuda.memory_reserved, devices)
        free, total = (sum(part) for part in zip(*memory, strict=True))
        return DeviceUse(sum(allocated), sum(reserved), total - free, total, _read_busy(devices, cuda))
    except RuntimeError:
        return None


def _read_busy(devices: Sequence[int], cuda: Any) -> float | None:
    """Return the share of the time in which devices are busy; None if the vendor's library for Python is absent or does not know it."""
    try:
        return float(sum(map(cuda.utilization, devices)) / (100 * len(devices)))
    except Exception:  # noqa: BLE001 torch passes on that library's own errors, such as for a MIG slice
        return None


def make_device_reader(count: int, vendor: str) -> Callable[[], DeviceUse | None]:
    """Return a function that reads the use of a replica's devices; it returns None if torch does not know their vendor."""
    return read_device_use if count and vendor in CUDA_VENDORS else lambda: None


@dataclass(slots=True)
class DeviceWatch:
    """A check for a lost device: after some errors, such as an index out of range, CUDA refuses a process all work.

    `synchronize` raises then. Attributes: `lost_reason` is the reason, and is empty before.
    """

    synchronize: Callable[[], Any]
    lost_reason: str = field(default="", init=False)

    def wrap(self, predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `predict` with the check, also at each step of a generator that it returns. Its errors are raised to the request."""

        def watched(batch: Any) -> Any:
            with self._checked():
                result = predict(batch)
            if isgenerator(result):
                return self._watch_steps(result)
            return self._watch_items(result) if isasyncgen(result) else result

        return watched

    def _watch_steps(self, generator: Any) -> Generator[Any, None, None]:
        with self._checked():
            yield from generator

    async def _watch_items(self, generator: Any) -> AsyncGenerator[Any, None]:
        # Closed explicitly, as `yield from` does: if the client goes away, the model's own `finally` must run then.
        with self._checked():
            async with aclosing(generator):
                async for item in generator:
                    yield item

    @contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except torch.AcceleratorError as error:
            self._check(error)
            raise

    def _check(self, error: Exception) -> None:
        try:
            self.synchronize()
        except torch.AcceleratorError:
            self.lost_reason = one_line(error, 200)
            _logger.error("the device is lost, the replica must be replaced: %s", self.lost_reason)  # noqa: TRY400 (the request has the traceback)


def make_device_watch(count: int, vendor: str) -> DeviceWatch | None:
    """Return a watch of a replica's devices; None if it has none that can be lost."""
    return DeviceWatch(torch.cuda.synchronize) if count and vendor in CUDA_VENDORS else None
