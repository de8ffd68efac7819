"""TLS: certificates of Secrets by host name, replaced while connections are open."""

import asyncio
import datetime as dt
import hashlib
import ssl
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tritonclient.grpc import service_pb2 as protocol
from tritonclient.grpc import service_pb2_grpc as service

from sundog_runtime.protocol.grpc_service import METHODS, add_to_server
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy

WEAK = "cannot be loaded by HAProxy: ca md too weak"


def certificate(host: str) -> dict[str, bytes]:
    """The files of a Secret of type kubernetes.io/tls."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return {
        "tls__crt": b"\n# a remark\n\n" + made.public_bytes(serialization.Encoding.PEM),
        "tls__key": key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        ),
    }


def weak_certificate(host: str) -> dict[str, bytes]:
    """The same, but a CA that signs by SHA-1 has issued it: well-formed, and OpenSSL refuses it. Nobody checks the signature itself."""
    files = certificate(host)
    subject, issuer = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (host, "old CA"))
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(serialization.load_pem_private_key(files["tls__key"], None).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(rsa.generate_private_key(65537, 1024), hashes.SHA256())
    )
    by_sha_256, by_sha_1 = (bytes.fromhex(f"06092a864886f70d0101{last}") for last in ("0b", "05"))
    der = made.public_bytes(serialization.Encoding.DER).replace(by_sha_256, by_sha_1)
    return files | {"tls__crt": x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)}


def print_of(files: dict[str, bytes]) -> str:
    made = x509.load_pem_x509_certificate(files["tls__crt"])
    return hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


def blind(protocols: tuple[str, ...] = ()) -> ssl.SSLContext:
    """A client that looks at certificates itself."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def shown(edge, host: str) -> str:
    """The certificate that a client which asks for `host` gets."""
    _, writer = await asyncio.open_connection("127.0.0.1", edge.https_port, ssl=blind(), server_hostname=host)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return hashlib.sha256(found).hexdigest()


async def is_shown(edge, host: str, wanted: str) -> None:
    async def same() -> bool:
        return await shown(edge, host) == wanted

    await edge.comes_true(same, f"the certificate of {host}")


def services(edge, **letters):
    return (
        edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])], tls="digits-tls"),
        edge.service("letters", [], tls="letters-tls", **letters),
    )


async def current(edge) -> int:
    return next(
        boot["pid"] for boot in (await edge.evidence())["boots"] if not boot["draining"] and not boot["endedAt"]
    )


async def test_each_host_has_its_certificate_and_the_client_can_check_it(edge, digits):
    files = certificate("digits.vision.svc")
    edge.secret("digits-tls", **files)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(files))
    trusting = ssl.create_default_context(cadata=files["tls__crt"].decode())
    for host, prefix in (("digits.vision.svc", ""), ("digits.vision.svc", "/other")):
        url = f"https://{host}:{edge.https_port}{prefix}/x"
        async with edge.session.get(
            url.replace(host, "127.0.0.1"), ssl=trusting, server_hostname=host, headers={"host": host}
        ) as response:
            assert response.status == 200
    assert digits["stable"].seen[-1]["path"] == "/digits-r7.app/other/x"


async def test_a_request_by_http_2_over_tls_is_served(edge, digits, tmp_path):
    files = certificate("digits.vision.svc")
    edge.secret("digits-tls", **files)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(files))
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(files["tls__crt"])
    process = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "--http2", "--cacert", str(trusted), "-w", "%{http_version} %{http_code}", "-d", "{}"),
        *("--resolve", f"digits.vision.svc:{edge.https_port}:127.0.0.1"),
        f"https://digits.vision.svc:{edge.https_port}/x",
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out.endswith(b"}2 200")
    assert [seen["path"] for seen in digits["stable"].seen] == ["/digits-r7.app/x"]


@pytest.fixture
async def called(serve, digits):
    """The stable replica of `digits` has a gRPC port."""

    async def infer(body, context):
        given = protocol.ModelInferRequest.FromString(body)
        return protocol.ModelInferResponse(model_name="digits-r7", id=given.id).SerializeToString()

    server = grpc.aio.server()
    add_to_server(SimpleNamespace(**dict.fromkeys(METHODS, infer)), server)
    serve.grpc["digits-r7"] = {digits["stable"].address: server.add_insecure_port("127.0.0.1:0")}
    await server.start()
    yield
    await server.stop(None)


async def test_a_call_over_tls_is_served(edge, digits, called):
    files = certificate("digits.vision.svc")
    edge.secret("digits-tls", **files)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(files))
    credentials = grpc.ssl_channel_credentials(files["tls__crt"])
    options = [("grpc.ssl_target_name_override", "digits.vision.svc")]
    async with grpc.aio.secure_channel(f"127.0.0.1:{edge.https_port}", credentials, options) as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        asked = protocol.ModelInferRequest(model_name="digits", id="a")

        async def answered():
            try:
                return await stub.ModelInfer(asked, timeout=PATIENCE_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return None

        answer = await edge.comes_true(answered, "an answer, once the replica's port is known")
    assert (answer.model_name, answer.id) == ("digits-r7", "a")
    assert digits["stable"].seen == []


async def test_a_broken_secret_is_reported_and_harms_nobody_else(edge, digits):
    files, other = certificate("digits.vision.svc"), certificate("letters.vision.svc")
    edge.secret("digits-tls", **files)
    edge.secret("letters-tls", tls__crt=other["tls__crt"], tls__key=files["tls__key"])
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(files))
    nobodys = await shown(edge, "nobody.vision.svc")
    assert await shown(edge, "letters.vision.svc") == nobodys

    async def problems(*wanted: str) -> bool:
        seen = (await edge.evidence())["services"]
        return seen["letters"]["problems"] == [*wanted] and seen["digits"]["problems"] == []

    for files_now, told in (
        (None, "tls.key does not belong to tls.crt"),
        ({"tls__crt": other["tls__crt"]}, "has no file tls.key"),
        ({"tls__crt": b"x", "tls__key": b"y"}, "tls.crt is not a PEM certificate"),
        ({"tls__crt": other["tls__crt"], "tls__key": b"y"}, "tls.key is not a PEM private key without a password"),
        ({}, "is missing or empty"),
    ):
        if files_now is not None:
            edge.secret("letters-tls", **files_now)
        await edge.comes_true(lambda told=told: problems(f"Secret letters-tls {told}"), told)
    assert await shown(edge, "letters.vision.svc") == nobodys
    edge.secret("letters-tls", **other)
    await is_shown(edge, "letters.vision.svc", print_of(other))
    await edge.comes_true(problems, "no problem is left")


async def test_a_certificate_that_openssl_refuses_is_reported_and_harms_nobody_else(edge, digits):
    good, weak = certificate("digits.vision.svc"), weak_certificate("letters.vision.svc")
    edge.secret("digits-tls", **good)
    edge.secret("letters-tls", **weak)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(good))

    async def told(*names: str) -> bool:
        seen = (await edge.evidence())["services"]
        found = {name: [*seen[name]["problems"]] for name in seen}
        return [name for name in sorted(found) if any(WEAK in problem for problem in found[name])] == [*names]

    await edge.comes_true(lambda: told("letters"), "the weak certificate is a problem of its service alone")
    edge.secret("digits-tls", **weak_certificate("digits.vision.svc"))
    await edge.comes_true(lambda: told("digits", "letters"), "the weak certificate in place of a good one")
    await edge.apply(*services(edge, epoch=1))
    assert await shown(edge, "digits.vision.svc") == print_of(good)
    await edge.kill_agent()
    await edge.stop_haproxy()
    # As an edge without this check left it behind.
    stored = edge.root / "s" / "certificates"
    (stored / "old-tls.pem").write_bytes(weak["tls__crt"] + weak["tls__key"])
    with (stored / "list.txt").open("a") as file:
        file.write(f"{stored}/old-tls.pem old.vision.svc\n")
    await edge.start()
    assert await shown(edge, "digits.vision.svc") == print_of(good)
    await edge.comes_true(lambda: told("digits", "letters"), "the same problems")


async def test_what_a_certificate_was_is_served_while_its_secret_is_broken_and_ends_with_it(edge, digits):
    good = certificate("digits.vision.svc")
    edge.secret("digits-tls", **good)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(good))
    nobodys = await shown(edge, "nobody.vision.svc")
    edge.secret("digits-tls", **good | {"tls__crt": certificate("digits.vision.svc")["tls__crt"]})

    async def told(*wanted: str) -> bool:
        return (await edge.evidence())["services"].get("digits", {}).get("problems") == [*wanted]

    broken = "Secret digits-tls tls.key does not belong to tls.crt"
    await edge.comes_true(lambda: told(broken), broken)
    assert await shown(edge, "digits.vision.svc") == print_of(good)
    await edge.kill_agent()
    await edge.start_agent()
    await edge.comes_true(lambda: told(broken), broken)
    assert await shown(edge, "digits.vision.svc") == print_of(good)
    edge.secret("digits-tls")
    await is_shown(edge, "digits.vision.svc", nobodys)


async def test_a_certificate_is_rotated_without_a_reload_and_open_connections_go_on(edge, digits):
    old, new = certificate("digits.vision.svc"), certificate("digits.vision.svc")
    edge.secret("digits-tls", **old)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(old))
    pid = await current(edge)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.https_port, ssl=blind(), server_hostname="digits.vision.svc"
    )
    edge.secret("digits-tls", **new)
    await is_shown(edge, "digits.vision.svc", print_of(new))
    writer.write(b"GET / HTTP/1.1\r\nhost: digits.vision.svc\r\nconnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    # Another host for the same certificate, and then none.
    document = services(edge)[0] | {"hosts": ["digits.example.com"]}
    await edge.apply(document)
    await is_shown(edge, "digits.example.com", print_of(new))
    nobodys = await shown(edge, "nobody.vision.svc")
    await is_shown(edge, "digits.vision.svc", nobodys)
    await edge.apply({**document, "tls": ""})
    await is_shown(edge, "digits.example.com", nobodys)
    assert await current(edge) == pid
    assert not (edge.root / "s" / "certificates" / "digits-tls.pem").exists()


async def test_a_restart_begins_with_the_certificates_that_were_in_force(edge, digits):
    files = certificate("digits.vision.svc")
    edge.secret("digits-tls", **files)
    await edge.apply(*services(edge))
    await is_shown(edge, "digits.vision.svc", print_of(files))
    await edge.kill_agent()
    await edge.stop_haproxy()
    await edge.start_haproxy()

    async def back() -> bool:
        try:
            return await shown(edge, "digits.vision.svc") == print_of(files)
        except OSError:
            return False

    await edge.comes_true(back, "HAProxy with the certificate")
    assert (edge.root / "s" / "certificates" / "digits-tls.pem").stat().st_mode & 0o077 == 0


async def test_old_protocols_are_refused_and_http_2_is_offered(edge, digits):
    async def negotiated(context: ssl.SSLContext) -> tuple[str, str]:
        _, writer = await asyncio.open_connection("127.0.0.1", edge.https_port, ssl=context, server_hostname="x")
        found = writer.get_extra_info("ssl_object")
        writer.close()
        return found.version(), found.selected_alpn_protocol() or ""

    assert await negotiated(blind(("h2", "http/1.1"))) == ("TLSv1.3", "h2")
    assert await negotiated(blind(("http/1.1",))) == ("TLSv1.3", "http/1.1")
    twelve = blind(("h2",))
    twelve.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await negotiated(twelve) == ("TLSv1.2", "h2")
    weak = blind()
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("AES128-SHA")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await negotiated(weak)


async def test_a_cookie_given_after_a_reload_is_for_tls_where_the_connection_is(edge, digits):
    """The connection idled across the reload, so its request goes by another worker, to which it comes without TLS."""
    edge.secret("digits-tls", **certificate("digits.vision.svc"))
    service = edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])], tls="digits-tls")
    await edge.apply(service)

    async def opened():
        return await asyncio.open_connection(
            "127.0.0.1", edge.https_port, ssl=blind(), server_hostname="digits.vision.svc"
        )

    connections = [await opened(), await asyncio.open_connection("127.0.0.1", edge.http_port)]
    request = b"GET / HTTP/1.1\r\nhost: digits.vision.svc\r\nx-sundog-tls: 1\r\n\r\n"
    for reader, writer in connections:
        writer.write(request)
        assert b" 200 " in await reader.readuntil(b"}")
    await edge.apply({**service, "unit": {"kind": "cookie", "name": "sid"}})
    cookies = []
    for reader, writer in connections:
        writer.write(request)
        answer = await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE_S)
        cookies.append(next(line for line in answer.splitlines() if line.startswith(b"set-cookie: sid=")))
        writer.close()
    assert [b"; Secure" in cookie for cookie in cookies] == [True, False]
