"""What an endpoint answered, and how it is shown: JSON, text, lines as they come, or bytes."""

import base64
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import click
import orjson
from aiohttp import ClientResponse

from sundog_operator.shell.exit_codes import CommandFailed
from sundog_operator.shell.output import print_document

JSON_LINES_TYPES: Final = ("application/x-ndjson", "application/jsonl")
EVENT_STREAM_TYPE: Final = "text/event-stream"
_JSON: Final = ("application/json", "application/problem+json")
_ARM: Final = "x-sundog-arm"
_REVISION: Final = "x-sundog-revision"
_MAX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class EndpointResponse:
    """A whole answer."""

    status: int
    content_type: str
    raw: bytes
    arm: str
    revision: str

    @property
    def body(self) -> Any:
        """JSON as it is, lines and events as a list of their items, text as text, anything else as base64."""
        text = _text(self.raw)
        if self.content_type in JSON_LINES_TYPES or self.content_type == EVENT_STREAM_TYPE:
            return [_json(item) for item in _items(self.content_type, text or "")]
        return (
            {"contentType": self.content_type, "base64": base64.b64encode(self.raw).decode()}
            if text is None
            else _json(text)
        )


def is_streamed(response: ClientResponse) -> bool:
    """Whether an answer comes piece by piece."""
    return response.status == 200 and response.content_type in (*JSON_LINES_TYPES, EVENT_STREAM_TYPE)


async def read_response(response: ClientResponse) -> EndpointResponse:
    """The whole answer. Raises CommandFailed for one that is too large, ClientError for one that is cut off."""
    raw = b""
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_BYTES:
            raise CommandFailed(f"{response.url}: the answer is larger than {_MAX_BYTES} bytes")
    told = response.headers
    return EndpointResponse(response.status, response.content_type, raw, told.get(_ARM, ""), told.get(_REVISION, ""))


async def print_streamed_response(response: ClientResponse) -> EndpointResponse:
    """Print every piece at once; the answer without its body. Raises ClientError for one that is cut off."""
    last = b""
    async for chunk in response.content.iter_any():
        click.echo(chunk, nl=False)
        last = chunk
    if last and not last.endswith(b"\n"):
        click.echo()
    told = response.headers
    return EndpointResponse(response.status, response.content_type, b"", told.get(_ARM, ""), told.get(_REVISION, ""))


def print_response(answer: EndpointResponse) -> None:
    """Print a whole answer for people and pipes. Raises CommandFailed rather than to write bytes to a terminal."""
    if answer.content_type in _JSON or _text(answer.raw) is not None:
        body = answer.body
        click.echo(body if isinstance(body, str) else orjson.dumps(body).decode())
    elif sys.stdout.isatty():
        size = len(answer.raw)
        raise CommandFailed(
            f"the answer is {size} bytes of {answer.content_type}: send standard output to a file, or use -o json"
        )
    else:
        click.echo(answer.raw, nl=False)


def print_response_document(answer: EndpointResponse, milliseconds: float, output: str) -> None:
    """Print an answer with who gave it, as JSON or YAML."""
    whole = {
        "prediction": answer.body,
        "arm": answer.arm,
        "revision": answer.revision,
        "milliseconds": round(milliseconds, 3),
    }
    print_document(whole, "json" if output == "json" else "yaml")


def print_response_source(answer: EndpointResponse, milliseconds: float) -> None:
    """Tell on standard error who answered, and how fast."""
    click.echo(f"arm {answer.arm or '?'}, revision {answer.revision or '?'}, {milliseconds:.1f} ms", err=True)


def error_reason(answer: EndpointResponse) -> str:
    """What problem details or a Status of the API server say, or the start of the text."""
    body = answer.body
    if isinstance(body, dict):
        told = [str(body[key]) for key in ("title", "detail", "message") if body.get(key)]
        return ": ".join(dict.fromkeys(told)) or orjson.dumps(body).decode()[:300]
    return str(body).strip()[:300] or "no reason given"


def _items(content_type: str, text: str) -> Iterator[str]:
    for line in text.splitlines():
        if content_type == EVENT_STREAM_TYPE:
            field, _, value = line.partition(":")
            if field == "data":
                yield value.removeprefix(" ")
        elif line:
            yield line


def _text(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
