"""Model stores for tests: HTTPS servers with configurable faults, and real stores as processes."""

import asyncio
import contextlib
import datetime as dt
import io
import ipaddress
import os
import select
import socket
import ssl
import tarfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fake_ray_head import end
from waiting import PATIENCE_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_certificate(directory: Path) -> Path:
    """Write a PEM file with a key, its certificate for localhost and 127.0.0.1, and the certificate of its authority.

    Two, for not every client takes one that is its own authority.
    """
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    root = _certificate("an authority", authority.public_key())
    root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    leaf = _certificate("localhost", key.public_key()).add_extension(names, critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signed = (builder.sign(authority, hashes.SHA256()) for builder in (leaf, root))
    path = directory / "certificate.pem"
    path.write_bytes(private + b"".join(each.public_bytes(serialization.Encoding.PEM) for each in signed))
    return path


def _certificate(name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    """A certificate to sign."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


class Server:
    """An HTTP server in a thread, with TLS if a certificate is given. Use as a context manager."""

    def __init__(self, handler: Handler, certificate: Path | None = None) -> None:
        self._handler = handler
        self._certificate = certificate
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.port = 0
        self.requests: list[web.Request] = []

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "the server does not end"

    @property
    def authority(self) -> str:
        return f"localhost:{self.port}"

    def ranges(self) -> list[str]:
        """Return the Range headers of requests, without the probes for the first byte."""
        found = [request.headers.get("Range", "") for request in self.requests]
        return [header for header in found if header != "bytes=0-0"]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0, handler_cancellation=True)
        self._loop.run_until_complete(self._start(runner))
        # Not earlier: an immediate end would hit its start, and the server would run for ever.
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._end(runner))
        self._loop.close()

    async def _end(self, runner: web.AppRunner) -> None:
        # What is still open when the loop ends is closed by the garbage collector, with a warning in some other test:
        # connections that would wait for their client's farewell, and those that are still shaking hands.
        assert runner.server is not None
        for connection in runner.server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        await end(runner)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)

    def _app(self) -> web.Application:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests.append(request)
            return await self._handler(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        return app

    async def _start(self, runner: web.AppRunner) -> None:
        context = None
        if self._certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(self._certificate)
        await runner.setup()
        site = web.TCPSite(runner, "localhost", 0, ssl_context=context)
        await site.start()
        addresses = runner.addresses
        self.port = addresses[0][1]


class StubbornStore:
    """Takes TLS connections, answers a request with what it is to say, and never says farewell. Use as a context manager."""

    def __init__(self, certificate: Path, says: bytes = b"") -> None:
        self._says = says
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._open: list[ssl.SSLSocket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Without this, a thread that waits in accept keeps the socket after its end.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        self._listener.close()
        for connection in self._open:
            connection.close()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def ends(self, timeout_s: float) -> list[bool]:
        """Return for each connection, in order, whether its client closed it within that time."""
        return [_ended(connection, timeout_s) for connection in self._open]

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._listener.accept()
                self._open.append(self._context.wrap_socket(taken, server_side=True))
                if self._says:
                    self._open[-1].recv(65536)
                    self._open[-1].sendall(self._says)


def _ended(connection: ssl.SSLSocket, timeout_s: float) -> bool:
    """Return whether the TCP connection ends; a TLS close message alone is not enough."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    try:
        while poll.poll(timeout_s * 1000):
            if not os.read(connection.fileno(), 65536):
                return True
    except ConnectionResetError:
        return True
    return False


def well_behaved(files: dict[str, bytes], etag: str = '"v1"') -> Handler:
    """Serves those files by their paths, with ranges."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return answer(request, files.get(request.path.removeprefix("/")), etag)

    return handle


def answer(request: web.Request, body: bytes | None, etag: str = '"v1"') -> web.Response:
    """Return a good server's answer, or 404 for None."""
    if body is None:
        return web.Response(status=404)
    headers = {"ETag": etag} if etag else {}
    asked = request.headers.get("Range", "").removeprefix("bytes=")
    if not asked or request.headers.get("If-Range", etag) != etag:
        return web.Response(body=body, headers=headers)
    first, _, last = asked.partition("-")
    start, end = int(first), min(int(last) + 1 if last else len(body), len(body))
    if start >= len(body):
        return web.Response(status=416, headers={**headers, "Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
    return web.Response(status=206, body=body[start:end], headers=headers)


def tar_of(files: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """Return an archive of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()
