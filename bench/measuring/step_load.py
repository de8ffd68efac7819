"""A closed loop of clients, and what a step of their number did: latency by time, and replicas with their CPU."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from measuring.load import WrongAnswersError

WINDOW_S = 5.0
CALM_WINDOWS = 3
"""A p99 is back once so many windows in a row are below the limit."""
HPA_TOLERANCE = 0.1
"""That of the controller manager, by default."""


@dataclass(frozen=True)
class Answer:
    """When a request was answered, in seconds after the start, and how long that took."""

    at_s: float
    took_s: float


@dataclass(frozen=True)
class Sample:
    """Running replicas at a time, in seconds after the start, and the CPU seconds of each by its pid."""

    at_s: float
    cpu_s: dict[int, float]


async def drive(url: str, body: bytes, clients: int, seconds: float) -> list[Answer]:
    """Send requests, each client its next one after an answer. Raises WrongAnswersError for an answer other than 200."""
    began, answers = time.perf_counter(), list[Answer]()
    headers = {"content-type": "application/json"}

    async def client(session: aiohttp.ClientSession) -> None:
        while (sent := time.perf_counter()) - began < seconds:
            async with session.post(url, data=body, headers=headers) as answer:
                text = await answer.read()
            if answer.status != 200:
                raise WrongAnswersError(f"{url}: {answer.status} {text[:200]!r}")
            now = time.perf_counter()
            answers.append(Answer(now - began, now - sent))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(session))
    return answers


async def watch(look: Callable[[], dict[int, float]], every_s: float = 1.0) -> list[Sample]:
    """Look at the replicas until the task is cancelled, and return what was seen."""
    began, samples = time.perf_counter(), list[Sample]()
    try:
        while True:
            at_s = time.perf_counter() - began
            samples.append(Sample(at_s, await asyncio.to_thread(look)))
            await asyncio.sleep(every_s)
    except asyncio.CancelledError:
        return samples


def p99_s(answers: Sequence[Answer], start_s: float = 0.0, end_s: float = math.inf) -> float:
    """Return the 99th percentile of answers given in a time; infinite without any."""
    found = [each.took_s for each in answers if start_s <= each.at_s < end_s]
    return float(np.percentile(found, 99)) if found else math.inf


def find_recovery_s(answers: Sequence[Answer], limit_s: float, seconds: float) -> float:
    """Return when the p99 of windows came back under a limit and stayed there for some; infinite if it did not."""
    windows = defaultdict[int, list[Answer]](list)
    for each in answers:
        windows[int(each.at_s / WINDOW_S)].append(each)
    calm = 0
    for index in range(int(seconds / WINDOW_S)):
        calm = calm + 1 if p99_s(windows[index]) < limit_s else 0
        if calm == CALM_WINDOWS:
            return (index + 1 - CALM_WINDOWS) * WINDOW_S
    return math.inf


def replica_seconds(samples: Sequence[Sample], seconds: float) -> float:
    """Return the running replicas, summed over the time."""
    ends = [*(each.at_s for each in samples[1:]), seconds]
    return sum(len(each.cpu_s) * (end - each.at_s) for each, end in zip(samples, ends, strict=True))


def busiest_cores(samples: Sequence[Sample]) -> float:
    """Return the most cores that one replica used between its first and its last sample."""
    seen = defaultdict[int, list[tuple[float, float]]](list)
    for each in samples:
        for pid, cpu_s in each.cpu_s.items():
            seen[pid].append((each.at_s, cpu_s))
    spans = [(found[-1][0] - found[0][0], found[-1][1] - found[0][1]) for found in seen.values() if len(found) > 5]
    return max((cpu_s / span_s for span_s, cpu_s in spans), default=0.0)


def hpa_replicas(replicas: int, utilization: float, target: float) -> int:
    """Return the replicas that a HorizontalPodAutoscaler asks for, from their mean utilization (1 is all of the request).

    Source: https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#algorithm-details
    """
    ratio = utilization / target
    return replicas if abs(ratio - 1) <= HPA_TOLERANCE else max(1, math.ceil(replicas * ratio))
