"""Where a network computes: on the first accelerator that its replica was given, else on the CPU.

Ray shows a replica its own devices only, so the first one of the process is its own. A predictor class places itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from sundog_runtime.errors import LoadFailed, one_line

CUDA_VENDORS = frozenset({"nvidia", "amd"})
"""Vendors whose devices are CUDA's to torch. With the others a model has to place itself."""

_logger = logging.getLogger("ray.serve.sundog")


@dataclass(frozen=True, slots=True)
class Device:
    """One of torch's devices. `pin` copies a tensor into memory from which the device reads by itself; `name` is for people."""

    where: torch.device
    name: str
    pin: Callable[[torch.Tensor], torch.Tensor]

    @property
    def is_cpu(self) -> bool:
        """Whether requests are there already."""
        return bool(self.where.type == "cpu")

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module with its weights and buffers on the device; the same object. Raises what torch raises."""
        return module if self.is_cpu else module.to(self.where)

    def give(self, value: Any) -> Any:
        """A batch with its tensors on the device; anything else in it as it is.

        The copy goes by pinned memory, so that it does not hold up this thread, and the next work there waits for it.
        """
        if isinstance(value, dict):
            return {name: self.give(item) for name, item in value.items()}
        if not isinstance(value, torch.Tensor) or value.device == self.where:
            return value
        return self.pin(value).to(self.where, non_blocking=True)


def _pinned(value: torch.Tensor) -> torch.Tensor:
    return value.pin_memory() if value.device.type == "cpu" else value


CPU = Device(torch.device("cpu"), "cpu", lambda value: value)


def select_device(count: int, vendor: str, cuda: Any = torch.cuda) -> Device:
    """The device of a replica that was given so many of a vendor. Raises LoadFailed where torch sees none of them.

    A network that was promised an accelerator must not be served on the CPU, a hundred times slower, without a word.
    """
    if not count or vendor not in CUDA_VENDORS:
        return CPU
    if not cuda.is_available():
        raise LoadFailed(
            f"resources.gpu.count is {count} ({vendor}) and torch {torch.__version__} sees no device: the image needs a torch "
            "for it, the node its driver, and often scheduling.runtimeClassName"
        )
    return Device(torch.device("cuda", 0), f"cuda:0, {cuda.get_device_name(0)}", _pinned)


@dataclass(slots=True)
class DeviceWatch:
    """Notices when a device is lost: after some errors, such as an index out of range, CUDA refuses a process everything.

    `synchronize` raises then. Attributes: `lost` says why, and is empty until then.
    """

    synchronize: Callable[[], Any]
    lost: str = field(default="", init=False)

    def over(self, predict: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`predict`, watched. What it raises goes on to the request."""

        def watched(batch: Any) -> Any:
            try:
                return predict(batch)
            except torch.AcceleratorError as error:
                self._look(error)
                raise

        return watched

    def _look(self, error: Exception) -> None:
        try:
            self.synchronize()
        except torch.AcceleratorError:
            self.lost = one_line(error, 200)
            _logger.error("the device is lost, the replica has to be replaced: %s", self.lost)  # noqa: TRY400 (the request has the traceback)


def make_device_watch(count: int, vendor: str) -> DeviceWatch | None:
    """What watches the devices of a replica; None where there is nothing to be lost."""
    return DeviceWatch(torch.cuda.synchronize) if count and vendor in CUDA_VENDORS else None
