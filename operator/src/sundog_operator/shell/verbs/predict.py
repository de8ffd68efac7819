"""`sundog predict`."""

import asyncio
import ipaddress
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import click
import orjson

from sundog_operator.core.edge import objects
from sundog_operator.core.kubernetes import names
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, SERVICE, Object, Ref
from sundog_operator.shell import responses
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode, one_line
from sundog_operator.shell.responses import EndpointResponse
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.url_options import validate_http_url
from sundog_operator.shell.verbs.get import find
from sundog_operator.shell.verbs.url import endpoint_url

_INPUTS: Final = "inputs"
_API_KEY: Final = "x-api-key"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class PredictEndpoint:
    """Where to ask.

    Attributes:
        host: the name that its certificate is for; empty where the URL says it.
        service: what is asked through the API server, for its name says nothing outside of the cluster; else None.
    """

    url: str
    host: str = ""
    service: Ref | None = None


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One request, and whom to trust for it. `verify` False trusts any certificate."""

    body: bytes
    headers: dict[str, str]
    timeout_s: float
    verify: bool
    authorities: Path | None


@click.command()
@NAME_ARGUMENT
@click.option(
    "-d",
    "--data",
    help='The inputs as JSON, such as [[1, 2]]; or the whole body, {"inputs": …}. @FILE reads a file, @- standard input.',
)
@click.option(
    "-f",
    "--filename",
    "file",
    type=click.Path(exists=True, path_type=Path, allow_dash=True, dir_okay=False),
    help="A file with them; - for standard input.",
)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the request.")
@click.option(
    "--api-key",
    envvar="SUNDOG_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="For an endpoint that asks for one. Others on the machine see arguments, but not the environment.",
)
@click.option(
    "--url", callback=validate_http_url, help="The endpoint, where that of the status cannot be reached from here."
)
@click.option(
    "--cacert",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="Certificates to trust, beside those of the system.",
)
@click.option("-k", "--insecure", is_flag=True, help="Trust any certificate.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
@click.option("-o", "--output", type=click.Choice(("text", "json", "yaml")), default="text", show_default=True)
@with_server
async def predict(
    server: ServerConnection,
    name: str,
    data: str | None,
    file: Path | None,
    headers: tuple[str, ...],
    api_key: str | None,
    url: str | None,
    cacert: Path | None,
    insecure: bool,
    timeout: float,
    output: str,
) -> None:
    """Send a request to a model's endpoint and print the prediction.

    From outside of the cluster it goes through the API server, which takes the right to create `services/proxy`.

    What answered, and how fast, goes to standard error. An answer in pieces is printed as it comes. `-o json` prints all of it.
    """
    call = PredictRequest(_body(data, file), _headers(headers, api_key), timeout, not insecure, cacert)
    endpoint = PredictEndpoint(url) if url else await _endpoint(server, name)
    started = time.perf_counter()
    answer = await _post(server, endpoint, call, as_it_comes=output == "text")
    elapsed_ms = (time.perf_counter() - started) * 1000
    if output == "text":
        responses.print_response_source(answer, elapsed_ms)
    else:
        responses.print_response_document(answer, elapsed_ms, output)


def _body(data: str | None, file: Path | None) -> bytes:
    """The request: an object with `inputs` as it is, anything else as the inputs. Raises UsageError, CommandFailed."""
    if (data is None) == (file is None):
        raise click.UsageError("give either --data or -f")
    if data is not None and data.startswith("@"):
        file = Path(data[1:])
    try:
        if file is not None:
            data = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        parsed = orjson.loads(data or "")
    except OSError as err:
        raise CommandFailed(f"{file}: {err.strerror}") from None
    except ValueError as err:
        raise CommandFailed(f"the data is not JSON: {err}") from None
    return orjson.dumps(parsed if isinstance(parsed, dict) and _INPUTS in parsed else {_INPUTS: parsed})


def _headers(given: tuple[str, ...], api_key: str | None) -> dict[str, str]:
    """Those of the request. Raises UsageError for what cannot be sent as one."""
    if api_key and not _is_sendable(api_key):
        raise click.UsageError("the API key holds a character that no header can, such as the end of a line")
    found = {"Content-Type": "application/json"} | ({_API_KEY: api_key} if api_key else {})
    for text in given:
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise click.UsageError(f"--header {text!r} is not NAME:VALUE")
        if not _is_sendable(value):
            raise click.UsageError(f"--header {text!r} holds a character that no header can")
        found[name] = value
    return found


def _is_sendable(value: str) -> bool:
    """Whether a text can be the value of a header: without control characters, and in UTF-8."""
    return not any((ord(each) < 0x20 and each != "\t") or ord(each) == 0x7F or _is_surrogate(each) for each in value)


def _is_surrogate(each: str) -> bool:
    """Whether a character stands for a byte of the command line that is no UTF-8."""
    return 0xD800 <= ord(each) <= 0xDFFF


async def _endpoint(server: ServerConnection, name: str) -> PredictEndpoint:
    obj = await find(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    address = endpoint_url(obj)
    if server.local:
        await _refuse_a_stranger(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    service = Ref(SERVICE, server.namespace, name)
    inside = urlsplit(address).hostname in names.hosts(name, server.namespace)
    if inside and not await _is_known(str(urlsplit(address).hostname)):
        return PredictEndpoint(address, service=service)
    return PredictEndpoint(address, _certified(obj, address))


async def _refuse_a_stranger(server: ServerConnection, ref: Ref) -> None:
    """Raises CommandFailed while HAProxy of the local instance does not run: whoever answers at its port then is somebody else."""
    for pod in await server.kube.list(POD, ref.namespace, objects.EDGE_SELECTOR):
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            waiting = container["state"].get("waiting")
            if container["name"] == objects.HAPROXY and waiting is not None:
                raise CommandFailed(f"{ref}: its edge does not run: {waiting['message']}", ExitCode.UNREACHABLE)


async def _is_known(host: str) -> bool:
    """Whether a name has an address here."""
    try:
        return bool(await asyncio.get_running_loop().getaddrinfo(host, None))
    except OSError:
        return False


def _certified(obj: Object, address: str) -> str:
    """The name that a certificate is for, of an endpoint that is reached at a bare address."""
    try:
        ipaddress.ip_address(urlsplit(address).hostname or "")
    except ValueError:
        return ""
    meta = obj["metadata"]
    host = ((obj.get("spec") or {}).get("endpoint") or {}).get("host")
    return str(host or names.hosts(meta["name"], meta["namespace"])[0])


def _trust(call: PredictRequest) -> ssl.SSLContext | bool:
    """What aiohttp is to do about certificates. Raises CommandFailed."""
    if not call.verify:
        return False
    if call.authorities is None:
        return True
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(call.authorities)
    except ssl.SSLError:
        raise CommandFailed(f"--cacert {call.authorities}: holds no certificates") from None
    except OSError as err:
        raise CommandFailed(f"--cacert {call.authorities}: {err.strerror}") from None
    return context


async def _post(
    server: ServerConnection, endpoint: PredictEndpoint, call: PredictRequest, *, as_it_comes: bool
) -> EndpointResponse:
    """The answer, printed already with `as_it_comes`. Raises CommandFailed, also for an answer that is no prediction."""
    url, begun = endpoint.url, False
    try:
        async with _asked(server, endpoint, call) as response:
            begun = True
            return await _taken(url, response, as_it_comes)
    except aiohttp.InvalidURL:
        raise click.UsageError(f"--url {url!r} is not an address") from None
    except TimeoutError:
        raise CommandFailed(f"{url}: no answer within {call.timeout_s:g} s", ExitCode.TIMEOUT) from None
    except aiohttp.ClientConnectorCertificateError as err:
        told = one_line(getattr(err.certificate_error, "verify_message", "") or err.certificate_error)
        raise CommandFailed(
            f"{url}: its certificate is not trusted ({told}): give --cacert FILE, or --insecure", ExitCode.UNREACHABLE
        ) from None
    except (aiohttp.ClientError, OSError) as err:
        if begun:
            raise CommandFailed(f"{url}: the answer was cut off: {one_line(err)}") from None
        raise CommandFailed(f"{url}: cannot be reached: {one_line(err)}", ExitCode.UNREACHABLE) from None
    except ValueError as err:
        if begun:
            raise
        # Found out by the client as it composes the request: a Content-Length that is no number, or two ways to log in.
        raise click.UsageError(f"the request cannot be sent: {one_line(err)}") from None


async def _taken(url: str, response: aiohttp.ClientResponse, as_it_comes: bool) -> EndpointResponse:
    if as_it_comes and responses.is_streamed(response):
        return await responses.print_streamed_response(response)
    answer = await responses.read_response(response)
    if answer.status != 200:
        raise CommandFailed(f"{url}: status {answer.status}: {responses.error_reason(answer)}")
    if as_it_comes:
        responses.print_response(answer)
    return answer


@asynccontextmanager
async def _asked(
    server: ServerConnection, endpoint: PredictEndpoint, call: PredictRequest
) -> AsyncIterator[aiohttp.ClientResponse]:
    scheme = urlsplit(endpoint.url).scheme
    if endpoint.service is not None:
        # By the path, for the API server sends a host of its own.
        path, body = f"/{endpoint.service.name}/", orjson.loads(call.body)
        async with asyncio.timeout(call.timeout_s):
            response = await server.kube.post_to_service(endpoint.service, scheme, path, body, call.headers)
            try:
                yield response
            finally:
                response.close()
        return
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=call.timeout_s)) as session,
        session.post(
            endpoint.url,
            data=call.body,
            headers=call.headers,
            allow_redirects=False,
            ssl=_trust(call),
            server_hostname=(endpoint.host if scheme == "https" else "") or None,
        ) as response,
    ):
        yield response
