"""`sundog predict`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
import orjson

from sundog_operator.ports import MODEL_DEPLOYMENT, Ref
from sundog_operator.shell.exits import CommandFailed, Exit
from sundog_operator.shell.output import print_document
from sundog_operator.shell.target import NAME, Server, talks_to_server
from sundog_operator.shell.verbs.get import find

_INPUTS: Final = "inputs"
_ARM: Final = "x-sundog-arm"
_REVISION: Final = "x-sundog-revision"
_MAX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint said. `body` is its JSON, or its text where it is none."""

    status: int
    body: Any
    arm: str
    revision: str
    milliseconds: float


@click.command()
@NAME
@click.option("-d", "--data", help='The inputs as JSON, such as [[1, 2]]; or the whole body, {"inputs": …}.')
@click.option(
    "-f",
    "--filename",
    "file",
    type=click.Path(exists=True, path_type=Path, allow_dash=True, dir_okay=False),
    help="A file with them; - for standard input.",
)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the request.")
@click.option("--url", help="The endpoint, where that of the status cannot be reached from here.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
@talks_to_server
async def predict(
    server: Server,
    name: str,
    data: str | None,
    file: Path | None,
    headers: tuple[str, ...],
    url: str | None,
    timeout: float,
    output: str,
) -> None:
    """Send a request to a model's endpoint and print the prediction.

    What answered, and how fast, goes to standard error. `-o json` prints all of it.
    """
    body = _body(data, file)
    sent = _headers(headers)
    address = url or await _endpoint(server, name)
    answer = await _post(address, body, sent, timeout)
    if answer.status != 200:
        raise CommandFailed(f"{address}: status {answer.status}: {_reason(answer.body)}")
    _print(answer, output)


def _body(data: str | None, file: Path | None) -> bytes:
    """The request: an object with `inputs` as it is, anything else as the inputs. Raises UsageError, CommandFailed."""
    if (data is None) == (file is None):
        raise click.UsageError("give either --data or -f")
    try:
        if file is not None:
            data = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        parsed = orjson.loads(data or "")
    except OSError as err:
        raise CommandFailed(f"{file}: {err.strerror}") from None
    except ValueError as err:
        raise CommandFailed(f"the data is not JSON: {err}") from None
    return orjson.dumps(parsed if isinstance(parsed, dict) and _INPUTS in parsed else {_INPUTS: parsed})


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {"Content-Type": "application/json"}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise click.UsageError(f"--header {text!r} is not NAME:VALUE")
        found[name.strip()] = value.strip()
    return found


async def _endpoint(server: Server, name: str) -> str:
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    address = (obj.get("status") or {}).get("url")
    if not address:
        raise CommandFailed(
            f"ModelDeployment {server.namespace}/{name} has no endpoint yet: `sundog describe {name}` tells why"
        )
    return str(address)


async def _post(url: str, body: bytes, headers: dict[str, str], timeout: float) -> Answer:
    limit = aiohttp.ClientTimeout(total=timeout)
    started = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as response,
        ):
            raw = await response.content.read(_MAX_BYTES)
            elapsed = time.perf_counter() - started
            told = response.headers
            return Answer(response.status, _parsed(raw), told.get(_ARM, ""), told.get(_REVISION, ""), elapsed * 1000)
    except aiohttp.InvalidURL:
        raise click.UsageError(f"--url {url!r} is not an address") from None
    except TimeoutError:
        raise CommandFailed(f"{url}: no answer within {timeout:g} s", Exit.TIMEOUT) from None
    except (aiohttp.ClientError, OSError) as err:
        raise CommandFailed(f"{url}: cannot be reached: {err}", Exit.UNREACHABLE) from None


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode("utf-8", "replace")


def _reason(body: Any) -> str:
    """What problem details say, or the start of the text."""
    if isinstance(body, dict):
        told = [str(body[key]) for key in ("title", "detail") if body.get(key)]
        return ": ".join(dict.fromkeys(told)) or orjson.dumps(body).decode()[:300]
    return str(body).strip()[:300] or "no reason given"


def _print(answer: Answer, output: str) -> None:
    if output == "json" or output == "yaml":
        whole = {
            "prediction": answer.body,
            "arm": answer.arm,
            "revision": answer.revision,
            "milliseconds": round(answer.milliseconds, 3),
        }
        print_document(whole, "json" if output == "json" else "yaml")
        return
    click.echo(answer.body if isinstance(answer.body, str) else orjson.dumps(answer.body).decode())
    click.echo(f"arm {answer.arm or '?'}, revision {answer.revision or '?'}, {answer.milliseconds:.1f} ms", err=True)
