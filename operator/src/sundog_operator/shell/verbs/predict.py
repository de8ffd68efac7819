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
from sundog_operator.shell.output import TEXT_OUTPUT_OPTION
from sundog_operator.shell.responses import EndpointResponse
from sundog_operator.shell.server_connection import NAME_ARGUMENT, ServerConnection, with_server
from sundog_operator.shell.url_options import validate_http_url
from sundog_operator.shell.verbs.get import get_object
from sundog_operator.shell.verbs.url import endpoint_url

_INPUTS: Final = "inputs"
_API_KEY: Final = "x-api-key"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True, slots=True)
class PredictEndpoint:
    """The endpoint of a request.

    Attributes:
        host: the name in its certificate; empty if the URL has it.
        service: the Service to reach through the API server; None to connect directly.
    """

    url: str
    host: str = ""
    service: Ref | None = None


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """One request to the model `name`, with its certificate authorities. `verify` False trusts any certificate."""

    name: str
    body: bytes
    headers: dict[str, str]
    timeout_s: float
    verify: bool
    authorities: Path | None


@click.command(epilog='Example: sundog predict digits -d "[[1, 2]]"')
@NAME_ARGUMENT
@click.option(
    "-d",
    "--data",
    help='The inputs as JSON, such as [[1, 2]], or the whole body, {"inputs": …}. @FILE reads a file, @- standard input.',
)
@click.option(
    "-f",
    "--filename",
    "file",
    type=click.Path(exists=True, path_type=Path, allow_dash=True, dir_okay=False),
    help="A file with the inputs or the body; - for standard input.",
)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the request.")
@click.option(
    "--api-key",
    envvar="SUNDOG_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="The API key of an endpoint that needs one. Prefer the variable: other users of the machine can see arguments.",
)
@click.option(
    "--url",
    callback=validate_http_url,
    help="Address of the endpoint, if the one in the status is unreachable from here.",
)
@click.option(
    "--cacert",
    type=click.Path(exists=True, path_type=Path, dir_okay=False),
    help="Certificates to trust, in addition to those of the system.",
)
@click.option("-k", "--insecure", is_flag=True, help="Trust any certificate.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds to wait for the response.",
)
@TEXT_OUTPUT_OPTION
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

    From outside of the cluster the request goes through the API server, which needs permission to create `services/proxy`.

    Standard error gets the arm, the revision and the latency. Streamed responses are printed as they arrive.
    `-o json` prints everything in one document.
    """
    request = PredictRequest(
        name, _make_body(data, file), _make_headers(headers, api_key), timeout, not insecure, cacert
    )
    endpoint = PredictEndpoint(url) if url else await _find_endpoint(server, name)
    started = time.perf_counter()
    response = await _post(server, endpoint, request, print_body=output == "text")
    elapsed_ms = (time.perf_counter() - started) * 1000
    if output == "text":
        responses.print_response_source(response, elapsed_ms)
    else:
        responses.print_response_document(response, elapsed_ms, output)


def _make_body(data: str | None, file: Path | None) -> bytes:
    """Return the body: an object with `inputs` unchanged, other JSON as the inputs. Raises UsageError, CommandFailed."""
    if (data is None) == (file is None):
        raise click.UsageError("give either --data or -f")
    if data is not None and data.startswith("@"):
        file = Path(data[1:])
    try:
        if file is not None:
            data = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        parsed = orjson.loads(data or "")
    except OSError as err:
        raise click.UsageError(f"--data @{file}: {err.strerror}") from None
    except ValueError as err:
        raise CommandFailed(f"the data is not JSON: {err}") from None
    return orjson.dumps(parsed if isinstance(parsed, dict) and _INPUTS in parsed else {_INPUTS: parsed})


def _make_headers(headers: tuple[str, ...], api_key: str | None) -> dict[str, str]:
    """Return the headers of the request. Raises UsageError for a header that HTTP does not allow."""
    if api_key and not _is_header_value(api_key):
        raise click.UsageError("the API key has a character that no header may have, such as a line end")
    result = {"Content-Type": "application/json"} | ({_API_KEY: api_key} if api_key else {})
    for text in headers:
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise click.UsageError(f"--header {text!r} is not NAME:VALUE")
        if not _is_header_value(value):
            raise click.UsageError(f"--header {text!r} has a character that no header may have")
        result[name] = value
    return result


def _is_header_value(value: str) -> bool:
    """Report whether a text can be the value of a header: UTF-8 without control characters."""
    return not any((ord(each) < 0x20 and each != "\t") or ord(each) == 0x7F or _is_surrogate(each) for each in value)


def _is_surrogate(each: str) -> bool:
    """Report whether a character represents a byte of the command line that is not UTF-8."""
    return 0xD800 <= ord(each) <= 0xDFFF


async def _find_endpoint(server: ServerConnection, name: str) -> PredictEndpoint:
    obj = await get_object(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    address = endpoint_url(obj)
    if server.local:
        await _require_running_edge(server, Ref(MODEL_DEPLOYMENT, server.namespace, name))
    service = Ref(SERVICE, server.namespace, name)
    is_cluster_name = urlsplit(address).hostname in names.hosts(name, server.namespace)
    if is_cluster_name and not await _can_resolve(str(urlsplit(address).hostname)):
        return PredictEndpoint(address, service=service)
    return PredictEndpoint(address, _certificate_host(obj, address))


async def _require_running_edge(server: ServerConnection, ref: Ref) -> None:
    """Raise CommandFailed while HAProxy of the local instance does not run: another program may then answer at its port."""
    for pod in await server.kube.list(POD, ref.namespace, objects.EDGE_SELECTOR):
        for container in (pod.get("status") or {}).get("containerStatuses") or ():
            waiting = container["state"].get("waiting")
            if container["name"] == objects.HAPROXY and waiting is not None:
                raise CommandFailed(f"{ref}: its edge does not run: {waiting['message']}", ExitCode.UNREACHABLE)


async def _can_resolve(host: str) -> bool:
    """Report whether a name has an address here."""
    try:
        return bool(await asyncio.get_running_loop().getaddrinfo(host, None))
    except OSError:
        return False


def _certificate_host(obj: Object, address: str) -> str:
    """Return the name in the certificate of an endpoint with an IP address; empty for other endpoints."""
    try:
        ipaddress.ip_address(urlsplit(address).hostname or "")
    except ValueError:
        return ""
    meta = obj["metadata"]
    host = ((obj.get("spec") or {}).get("endpoint") or {}).get("host")
    return str(host or names.hosts(meta["name"], meta["namespace"])[0])


def _ssl_option(request: PredictRequest) -> ssl.SSLContext | bool:
    """Return the `ssl` argument of aiohttp. Raises CommandFailed."""
    if not request.verify:
        return False
    if request.authorities is None:
        return True
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(request.authorities)
    except ssl.SSLError:
        raise CommandFailed(f"--cacert {request.authorities}: the file holds no certificates") from None
    except OSError as err:
        raise CommandFailed(f"--cacert {request.authorities}: {err.strerror}") from None
    return context


async def _post(
    server: ServerConnection, endpoint: PredictEndpoint, request: PredictRequest, *, print_body: bool
) -> EndpointResponse:
    """Send the request and return the response; print it with `print_body`. Raises CommandFailed, also for other statuses than 200."""
    url, has_response = endpoint.url, False
    try:
        async with _send(server, endpoint, request) as response:
            has_response = True
            return await _receive(endpoint, request, response, print_body)
    except aiohttp.InvalidURL:
        raise click.UsageError(f"--url {url!r} is not an address") from None
    except TimeoutError:
        raise CommandFailed(f"{url}: no response within {request.timeout_s:g} s", ExitCode.TIMEOUT) from None
    except aiohttp.ClientConnectorCertificateError as err:
        reason = one_line(getattr(err.certificate_error, "verify_message", "") or err.certificate_error)
        raise CommandFailed(
            f"{url}: its certificate is not trusted ({reason}). Give --cacert FILE, or --insecure", ExitCode.UNREACHABLE
        ) from None
    except (aiohttp.ClientError, OSError) as err:
        if has_response:
            raise CommandFailed(f"{url}: the response is incomplete: {one_line(err)}") from None
        raise CommandFailed(f"{url}: cannot be reached: {one_line(err)}", ExitCode.UNREACHABLE) from None
    except ValueError as err:
        if has_response:
            raise
        # aiohttp rejects the request itself: a Content-Length that is no number, or two ways to log in.
        raise click.UsageError(f"the request cannot be sent: {one_line(err)}") from None


async def _receive(
    endpoint: PredictEndpoint, request: PredictRequest, response: aiohttp.ClientResponse, print_body: bool
) -> EndpointResponse:
    if print_body and responses.is_streamed(response):
        return await responses.print_streamed_response(response)
    complete = await responses.read_response(response)
    if complete.status != 200:
        reason = responses.error_reason(complete, request.name)
        raise CommandFailed(f"{endpoint.url}: status {complete.status}: {reason}")
    if print_body:
        responses.print_response(complete)
    return complete


@asynccontextmanager
async def _send(
    server: ServerConnection, endpoint: PredictEndpoint, request: PredictRequest
) -> AsyncIterator[aiohttp.ClientResponse]:
    scheme = urlsplit(endpoint.url).scheme
    if endpoint.service is not None:
        # The path selects the service, because the API server sends its own Host header.
        path, body = f"/{endpoint.service.name}/", orjson.loads(request.body)
        async with asyncio.timeout(request.timeout_s):
            response = await server.kube.post_to_service(endpoint.service, scheme, path, body, request.headers)
            try:
                yield response
            finally:
                response.close()
        return
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=request.timeout_s)) as session,
        session.post(
            endpoint.url,
            data=request.body,
            headers=request.headers,
            allow_redirects=False,
            ssl=_ssl_option(request),
            server_hostname=(endpoint.host if scheme == "https" else "") or None,
        ) as response,
    ):
        yield response
