"""Load by wrk: one thread, closed loop, interleaved rounds. It checks the status of every answer."""

import json
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

WARM_UP_S = 1
ROUND_S = 3
ROUNDS = 6
UNITS = 512
"""Requests differ in their unit's header only, so that a split by header has something to split."""

MISSING = "wrk is not installed: apt-get install wrk"

# Every request is made once and sent many times. Counting statuses in `response` costs wrk some microseconds for each
# answer, on every side alike.
_SCRIPT = """
local threads, requests, turn = {}, {}, 0
function setup(thread) table.insert(threads, thread) end
function init(args)
  bad, good = 0, 0
  local file = io.open("@BODY@", "rb")
  local body = file:read("*a")
  file:close()
  for unit = 1, @UNITS@ do
    local headers = {@HEADERS@}
    if @UNITS@ > 1 then headers["x-user-id"] = "user-" .. unit end
    requests[unit] = wrk.format("@METHOD@", nil, headers, body)
  end
end
function request()
  turn = turn % @UNITS@ + 1
  return requests[turn]
end
function response(status)
  if status == 200 then good = good + 1 else bad = bad + 1 end
end
function done(summary, latency)
  local bad, good = 0, 0
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("bad")
    good = good + thread:get("good")
  end
  local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('\\nSAMPLE {"seconds": %f, "answers": %d, "bad": %d, "errors": %d, "p50": %f, "p99": %f}\\n',
    summary.duration / 1e6, good, bad, errors, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Request:
    """A request that is sent repeatedly; with `units`, under so many values of `x-user-id`."""

    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    units: int = 1
    method: str = "POST"

    def is_answered(self, url: str) -> bool:
        """Return whether the server answers this body with 200."""
        try:
            with urllib.request.urlopen(urllib.request.Request(url, self.body), timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@dataclass(frozen=True)
class Sample:
    """The result of one round. Latencies in microseconds."""

    rps: float
    p50_us: float
    p99_us: float
    answers: int


@dataclass(frozen=True)
class Side:
    """One side of a comparison. `before` and `after` run around each of its rounds, outside of the measured time."""

    name: str
    url: str
    request: Request
    before: Callable[[], None] = lambda: None
    after: Callable[[Sample], None] = lambda _: None


class WrongAnswersError(Exception):
    """A round had an answer other than 200, or none, so its numbers mean nothing."""


def available() -> bool:
    """Return whether wrk is installed."""
    return shutil.which("wrk") is not None


def script(request: Request, body: Path) -> str:
    """wrk's script for a request whose body is in a file."""
    headers = {"content-type": request.content_type, **request.headers}
    filled = {
        "@BODY@": str(body),
        "@UNITS@": str(request.units),
        "@METHOD@": request.method,
        "@HEADERS@": ", ".join(f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()),
    }
    text = _SCRIPT
    for mark, value in filled.items():
        text = text.replace(mark, value)
    return text


def measure(url: str, request: Request, connections: int, seconds: int = ROUND_S) -> Sample:
    """Run wrk once. Raises WrongAnswersError."""
    with tempfile.TemporaryDirectory(prefix="sd-wrk-") as folder:
        body, lua = Path(folder) / "body", Path(folder) / "load.lua"
        body.write_bytes(request.body)
        lua.write_text(script(request, body))
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(lua), url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 90, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("SAMPLE ")]
    if not found:
        raise WrongAnswersError(f"{url}: wrk gave no result: {(done.stdout + done.stderr).strip()[-300:]}")
    sample = json.loads(found[0].removeprefix("SAMPLE "))
    if sample["bad"] or sample["errors"] or not sample["answers"]:
        raise WrongAnswersError(
            f"{url}: {sample['answers']} answers with 200, {sample['bad']} with another status, {sample['errors']} failed"
        )
    return Sample(sample["answers"] / sample["seconds"], sample["p50"], sample["p99"], int(sample["answers"]))


def in_turn(sides: Sequence[Side], rounds: int) -> Iterator[Side]:
    """Yield A B B A A B …: neither side always comes first, and a drift of the machine affects both."""
    for number in range(rounds):
        yield from sides if number % 2 == 0 else reversed(sides)


def compare(
    sides: Sequence[Side], connections: int, rounds: int = ROUNDS, seconds: int = ROUND_S
) -> dict[str, list[Sample]]:
    """Rounds of every side by its name, after a warm-up of each. Raises WrongAnswersError."""
    for side in sides:
        side.before()
        measure(side.url, side.request, connections, WARM_UP_S)
    samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
    for side in in_turn(sides, rounds):
        side.before()
        taken = measure(side.url, side.request, connections, seconds)
        side.after(taken)
        samples[side.name].append(taken)
    return samples


def median_rps(samples: Sequence[Sample]) -> float:
    """Answers per second."""
    return statistics.median(sample.rps for sample in samples)


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    """Return the median over rounds of our value divided by theirs. Each pair was measured within seconds."""
    return statistics.median(mine.rps / other.rps for mine, other in zip(ours, theirs, strict=True))


def host_of(url: str) -> str:
    """`host:port` of a URL."""
    return urlsplit(url).netloc
