"""Destinations for exposure logs: they accept files, refuse them with a reason, or hang."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

from sundog_operator.core.observed import ExposureLogResult
from sundog_operator.ports import Object


class FakeLogs:
    """`ports.ExposureLogs`.

    Attributes:
        problem: why nothing can be written now; empty where it can.
        hangs: whether a write that begins now waits until it is `released`.
        tried: places of all that was begun, in order.
        forms: formats of the same.
        written: by place the phase of the Experiment that is in it.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.hangs = False
        self.released = asyncio.Event()
        self.tried: list[str] = []
        self.forms: list[str] = []
        self.written: dict[str, str] = {}

    async def write(
        self, experiment: Object, pods: Sequence[Object], folder_uri: str, form: str, at: datetime, *, final: bool
    ) -> ExposureLogResult:
        assert pods
        self.tried.append(folder_uri)
        self.forms.append(form)
        if self.hangs:
            await self.released.wait()
        if self.problem:
            return ExposureLogResult(at, problem=self.problem)
        self.written[folder_uri] = experiment["status"]["phase"]
        return ExposureLogResult(at, 3, 2, complete=True, final=final)
