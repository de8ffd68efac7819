"""Read and print responses of an endpoint: JSON, text, streams of lines, or bytes."""

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
_MODEL_ERRORS: Final = ("ModelError", "OutOfMemory")
"""Codes of the problem details of a model that raised. Its exception is only in the replica's log."""
_MAX_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class EndpointResponse:
    """A complete response."""

    status: int
    content_type: str
    raw: bytes
    arm: str
    revision: str

    @property
    def body(self) -> Any:
        """Content for a document: JSON parsed, lines and events as a list, text as a string, anything else as base64."""
        text = _text(self.raw)
        if self.content_type in JSON_LINES_TYPES or self.content_type == EVENT_STREAM_TYPE:
            return [_json(item) for item in _items(self.content_type, text or "")]
        return (
            {"contentType": self.content_type, "base64": base64.b64encode(self.raw).decode()}
            if text is None
            else _json(text)
        )


def is_streamed(response: ClientResponse) -> bool:
    """Report whether a response is a stream of lines or events."""
    return response.status == 200 and response.content_type in (*JSON_LINES_TYPES, EVENT_STREAM_TYPE)


async def read_response(response: ClientResponse) -> EndpointResponse:
    """Read the complete response. Raises CommandFailed if it is too large, ClientError if it is incomplete."""
    raw = b""
    async for chunk in response.content.iter_any():
        raw += chunk
        if len(raw) > _MAX_BYTES:
            raise CommandFailed(f"{response.url}: the response is larger than {_MAX_BYTES} bytes")
    return _endpoint_response(response, raw)


async def print_streamed_response(response: ClientResponse) -> EndpointResponse:
    """Print each chunk as it arrives and return the response without its body. Raises ClientError if it is incomplete."""
    last = b""
    async for chunk in response.content.iter_any():
        click.echo(chunk, nl=False)
        last = chunk
    if last and not last.endswith(b"\n"):
        click.echo()
    return _endpoint_response(response, b"")


def _endpoint_response(response: ClientResponse, raw: bytes) -> EndpointResponse:
    headers = response.headers
    return EndpointResponse(
        response.status, response.content_type, raw, headers.get(_ARM, ""), headers.get(_REVISION, "")
    )


def print_response(response: EndpointResponse) -> None:
    """Print a complete response. Raises CommandFailed instead of writing bytes to a terminal."""
    if response.content_type in _JSON or _text(response.raw) is not None:
        body = response.body
        click.echo(body if isinstance(body, str) else orjson.dumps(body).decode())
    elif sys.stdout.isatty():
        size = len(response.raw)
        raise CommandFailed(
            f"the response is {size} bytes of {response.content_type}. Redirect standard output to a file, or use -o json"
        )
    else:
        click.echo(response.raw, nl=False)


def print_response_document(response: EndpointResponse, milliseconds: float, output: str) -> None:
    """Print a response with its arm, revision and latency as JSON or YAML."""
    document = {
        "prediction": response.body,
        "arm": response.arm,
        "revision": response.revision,
        "milliseconds": round(milliseconds, 3),
    }
    print_document(document, "json" if output == "json" else "yaml")


def print_response_source(response: EndpointResponse, milliseconds: float) -> None:
    """Print the arm, revision and latency of a response on standard error."""
    click.echo(f"arm {response.arm or '?'}, revision {response.revision or '?'}, {milliseconds:.1f} ms", err=True)


def error_reason(response: EndpointResponse, name: str) -> str:
    """Return the text of problem details or of a Status of the API server, else the start of the body.

    For an exception of the model `name`, add the request's id and the command that shows the exception.
    """
    body = response.body
    if not isinstance(body, dict):
        return str(body).strip()[:300] or "no reason given"
    texts = [str(body[key]) for key in ("title", "detail", "message") if body.get(key)]
    reason = ": ".join(dict.fromkeys(texts)) or orjson.dumps(body).decode()[:300]
    if body.get("code") not in _MODEL_ERRORS:
        return reason
    command = f"sundog logs {name}" + (f" --revision {response.revision}" if response.revision else "")
    return f"{reason}. Request {body.get('requestId')}: `{command}` shows the exception"


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
