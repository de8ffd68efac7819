"""A real HAProxy and a real agent, each a process of its own, in front of replicas and a Serve that are made up."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
from aiohttp import web

from fake_ray_head import end
from ports import free_port
from waiting import PATIENCE_S, comes_true, patience

EDGE = (sys.executable, "-c", "from sundog_edge.cli import main; main()")


class Replica:
    """A replica of one application. A request's query says how it behaves, unless `always` does."""

    def __init__(self, prefix: str, port: int = 0) -> None:
        self.prefix = prefix
        self.port = port
        self.seen: list[dict[str, Any]] = []
        self.entered = asyncio.Event()
        self.go_on = asyncio.Semaphore(0)
        self.checked = 0
        self.late_checks = 0
        self.always: dict[str, str] = {}
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> "Replica":
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/-/routes", self._routes)
        app.router.add_get("/{application}/-/startup", self._startup)
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        if self._runner is not None:
            await end(self._runner)
            self._runner = None

    async def _routes(self, _: web.Request) -> web.Response:
        if self.late_checks:
            self.late_checks -= 1
            # Longer than a check is waited for.
            await asyncio.sleep(10)
        self.checked += 1
        return web.json_response({self.prefix: self.prefix[1:]})

    async def _startup(self, _: web.Request) -> web.Response:
        """Answer the agent, or a client, without any phase. It is not in `seen`."""
        return web.json_response({})

    async def _linger(self, query: Mapping[str, str]) -> None:
        await asyncio.sleep(float(query.get("sleep", 0)))
        if "hold" in query:
            # The answer only once the test has seen what it wants to see meanwhile.
            await asyncio.wait_for(self.go_on.acquire(), PATIENCE_S)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(
            {"path": request.path_qs, "headers": dict(request.headers), "size": len(body), "method": request.method}
        )
        self.entered.set()
        query = self.always or request.query
        await self._linger(query)
        if "die" in query:
            assert request.transport is not None
            if query["die"] == "after":
                response = web.StreamResponse(headers={"content-length": "100000"})
                await response.prepare(request)
                await response.write(b"x" * 1000)
                await asyncio.sleep(0.05)
            request.transport.abort()
            await asyncio.sleep(1)
        if "drip" in query:
            response = web.StreamResponse(
                status=int(query.get("status", 200)),
                headers={"content-length": "100000", "x-sundog-outcome": query.get("outcome", "fine")},
            )
            await response.prepare(request)
            await response.write(b"x" * 1000)
            await asyncio.sleep(float(query["drip"]))
            return response
        if "events" in query:
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for number in range(int(query["events"])):
                await response.write(f"data: {number}\n\n".encode())
                # The next event only once the test has had this one.
                await asyncio.wait_for(self.go_on.acquire(), PATIENCE_S)
            return response
        if "plain" in query:
            return web.Response(
                status=int(query["plain"]), text="Path not found. Ping http://.../-/routes for available routes."
            )
        if "echo" in query:
            return web.Response(body=body, content_type="application/json")
        if "large" in query:
            return web.Response(body=bytes(int(query["large"])))
        headers = {"x-sundog-arm": "forged", "x-sundog-other": "1"}
        if "outcome" in query:
            headers["x-sundog-outcome"] = query["outcome"]
        status = int(query.get("status", 200))
        return web.json_response({"prefix": self.prefix, "port": self.port}, status=status, headers=headers)


REPLICA_PROCESS = """
import os
import sys
from aiohttp import web

prefix = sys.argv[1]

async def routes(_):
    return web.json_response({prefix: prefix[1:]})

async def answer(request):
    await request.read()
    if "die" in request.query:
        os._exit(1)
    return web.json_response({"prefix": prefix})

app = web.Application()
app.router.add_get("/-/routes", routes)
app.router.add_route("*", "/{tail:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
"""


class FakeServe:
    """Serve's REST API, as far as the edge reads it, and Serve's own proxy port."""

    def __init__(self) -> None:
        self.targets: dict[str, list[str]] = {}
        self.grpc: dict[str, dict[str, int]] = {}
        self.grpc_port = 0
        self.prefixes: dict[str, str] = {}
        self.fallback_for: set[str] = set()
        self.at_zero: set[str] = set()
        self.up = True
        self.fallback = f"127.0.0.1:{free_port()}"
        self.tokens: set[str] = set()
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> "FakeServe":
        app = web.Application()
        app.router.add_get("/api/serve/applications/", self._applications)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def stop(self) -> None:
        assert self._runner is not None
        await end(self._runner)

    async def _applications(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("authorization", ""))
        if not self.up:
            return web.Response(status=503, text="GCS may be down")
        groups = [self._group(name, addresses) for name, addresses in self.targets.items()]
        groups += [self._calls(name, ports) for name, ports in self.grpc.items()]
        applications = {name: {"deployments": {"model": {"target_num_replicas": 0}}} for name in self.at_zero}
        options = {"port": self.grpc_port, "grpc_servicer_functions": ["add_to_server"]} if self.grpc_port else {}
        return web.json_response({"target_groups": groups, "applications": applications, "grpc_options": options})

    def _calls(self, name: str, ports: dict[str, int]) -> dict[str, Any]:
        """The gRPC ports of replicas, by their HTTP addresses; as Serve has it, Serve's own proxy is named where there are none."""
        targets = [{"ip": "10.255.255.1", "port": port, "name": f"r-{address}"} for address, port in ports.items()]
        proxy = {"ip": "10.255.255.1", "port": 9, "name": ""}
        return {
            "app_name": name,
            "route_prefix": f"/{name}.app",
            "protocol": "gRPC",
            "targets": targets or [proxy],
        }

    def _group(self, name: str, addresses: list[str]) -> dict[str, Any]:
        if name in self.fallback_for:
            addresses = [self.fallback]
        # The node's address, although replicas listen on loopback: as Serve does it.
        targets = [{"ip": "10.255.255.1", "port": int(a.rpartition(":")[2]), "name": f"r-{a}"} for a in addresses]
        return {"app_name": name, "route_prefix": f"/{name}.app", "protocol": "HTTP", "targets": targets}


def arm(name: str, application: str, ranges: list[list[int]], revision: int = 7) -> dict[str, Any]:
    weight = sum(end - start for start, end in ranges) / 100
    return {
        "name": name,
        "application": application,
        "routePrefix": f"/{application}.app",
        "revision": revision,
        "weight": weight,
        "ranges": ranges,
    }


def service(name: str, arms: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "hosts": [f"{name}.vision.svc"],
        "cluster": "sundog",
        "attempt": f"{name}-attempt",
        "salt": f"{name}-salt",
        "unit": {"kind": "header", "name": "x-user-id"},
        "epoch": 0,
        "arms": arms,
        "requestTimeoutSeconds": PATIENCE_S,
        "maxRequestBytes": 100_000,
        "maxOngoingRequests": 64,
        **changes,
    }


@dataclass
class Edge:
    """One edge: its processes, its clients and its evidence."""

    root: Path
    serve: FakeServe
    session: aiohttp.ClientSession
    http_port: int = field(default_factory=free_port)
    https_port: int = field(default_factory=free_port)
    agent_port: int = field(default_factory=free_port)
    haproxy: asyncio.subprocess.Process | None = None
    agent: asyncio.subprocess.Process | None = None
    generation: int = 0
    agent_options: tuple[str, ...] = ()
    haproxy_options: tuple[str, ...] = ()

    # Test modules cannot import from here, so what they share comes with the fixture.
    comes_true = staticmethod(comes_true)
    arm = staticmethod(arm)
    service = staticmethod(service)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def load(self, path: str = "/digits/", clients: int = 8, *, units: bool = False) -> "Load":
        return Load(self, path, clients, units=units)

    @staticmethod
    def ends(evidence: dict[str, Any]) -> Counter[str]:
        """Ends over all rows, those that happened."""
        total: Counter[str] = Counter()
        for row in evidence["counters"]:
            total.update({name: count for name, count in row["ends"].items() if count})
        return total

    @staticmethod
    def lost(evidence: dict[str, Any]) -> int:
        """Requests whose lines found no room, as on a machine whose cores others have: how they ended is not known, and that is told."""
        return sum(row["lost"] for row in evidence["counters"])

    @property
    def split(self) -> Path:
        return self.root / "split.json"

    async def start(self) -> None:
        """Both processes, until the agent says that they are healthy. Fails with what they logged."""
        await self.start_haproxy()
        await self.start_agent()

        async def healthy() -> bool:
            for process in (self.haproxy, self.agent):
                assert process is not None
                assert process.returncode is None, f"ended with {process.returncode}"
            return await self.status("/healthz") == 200

        try:
            await comes_true(healthy, "agent healthy")
        except (TimeoutError, AssertionError) as error:
            for log in ("haproxy.log", "agent.log"):
                error.add_note(f"{log}:\n{(self.root / log).read_text()[-2000:]}")
            raise

    async def start_haproxy(self) -> None:
        self.haproxy = await self._spawn(
            "haproxy.log",
            "haproxy",
            *("--state-dir", str(self.root / "s"), "--http-bind", f"127.0.0.1:{self.http_port}"),
            *("--https-bind", f"127.0.0.1:{self.https_port}", "--drain-seconds", "10", *self.haproxy_options),
        )

    async def start_agent(self) -> None:
        self.agent = await self._spawn(
            "agent.log",
            "agent",
            *("--state-dir", str(self.root / "s"), "--split", str(self.split), "--edge-name", "edge-0"),
            *("--namespace", "vision", "--listen", f"127.0.0.1:{self.agent_port}"),
            *("--secrets-dir", str(self.root / "secrets"), *self.agent_options),
        )

    async def _spawn(self, log: str, *arguments: str) -> asyncio.subprocess.Process:
        with (self.root / log).open("ab") as file:
            return await asyncio.create_subprocess_exec(*EDGE, *arguments, stdout=file, stderr=file)

    async def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.kill()
        await self.agent.wait()

    async def stop_haproxy(self) -> None:
        assert self.haproxy is not None
        self.haproxy.send_signal(signal.SIGTERM)
        await self.haproxy.wait()

    async def close(self) -> None:
        for process in (self.agent, self.haproxy):
            if process is not None and process.returncode is None:
                process.terminate()
                try:
                    await asyncio.wait_for(process.wait(), patience(8))
                except TimeoutError:
                    process.kill()
                    await process.wait()

    def document(self, *services: dict[str, Any]) -> dict[str, Any]:
        self.generation += 1
        clusters = {"sundog": {"dashboard": self.serve.url, "fallback": self.serve.fallback}}
        return {
            "version": 1,
            "namespace": "vision",
            "generation": self.generation,
            "clusters": clusters,
            "services": list(services),
        }

    def write(self, content: Any) -> None:
        temporary = self.split.with_suffix(".new")
        temporary.write_text(content if isinstance(content, str) else json.dumps(content))
        temporary.replace(self.split)

    def secret(self, name: str, **files: str | bytes) -> None:
        """Write a Secret as a directory, replacing what it was; without files it is gone."""
        folder = self.root / "secrets" / name
        fresh = self.root / "secrets" / f".{name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for file, content in files.items():
            (fresh / file.replace("__", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
        shutil.rmtree(folder, ignore_errors=True)
        if files:
            fresh.rename(folder)

    async def refused(self, service_name: str) -> dict[str, int]:
        """What a service has refused, over all boots, by kind."""
        total: Counter[str] = Counter()
        for boot in (await self.evidence())["services"].get(service_name, {}).get("refused", []):
            total.update({kind: count for kind, count in boot.items() if kind != "boot" and count})
        return dict(total)

    async def refuses_connections(self) -> bool:
        """Whether nobody listens on the HTTP port any more."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        except OSError:
            return True
        writer.close()
        return False

    async def raw(self, request: bytes, *, half_close: bool = False) -> bytes:
        """Everything that is answered on one connection to `request`, until it is closed or the time is over."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.http_port)
        writer.write(request)
        if half_close:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.close()

    async def apply(self, *services: dict[str, Any]) -> None:
        """Write a document and wait until it is in force."""
        document = self.document(*services)
        self.write(document)

        async def in_force() -> bool:
            seen = (await self.evidence())["document"]
            return seen["generation"] == document["generation"] and not seen["error"]

        await comes_true(in_force, f"generation {document['generation']} in force")

    async def evidence(self, query: str = "") -> dict[str, Any]:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.get(f"http://127.0.0.1:{self.agent_port}/evidence?{query}") as response:
                found = await response.json()
                for row in found["counters"]:
                    assert row["assigned"] == sum(row["ends"].values()) + row["inFlight"] + row["lost"], row
                    assert min(row["assigned"], row["inFlight"], row["lost"]) >= 0, row
                return found
        return {"document": {"generation": -1, "error": "agent away"}, "counters": [], "services": {}, "boots": []}

    async def status(self, path: str) -> int:
        with contextlib.suppress(aiohttp.ClientError):
            async with self.session.get(f"http://127.0.0.1:{self.agent_port}{path}") as response:
                return response.status
        return 0

    async def up(self, service_name: str, **counts: int) -> None:
        """Wait until the arms have so many healthy replicas."""

        async def enough() -> bool:
            arms = (await self.evidence())["services"].get(service_name, {}).get("arms", {})
            return all(arms.get(name, {}).get("servers", {}).get("up") == count for name, count in counts.items())

        await comes_true(enough, f"replicas up: {counts}")

    async def settled(self, requests: int) -> dict[str, Any]:
        """The evidence once every one of `requests` has ended or is known to be lost."""

        async def quiet() -> dict[str, Any] | None:
            seen = await self.evidence()
            rows = seen["counters"]
            done = sum(row["assigned"] for row in rows) == requests and not any(row["inFlight"] for row in rows)
            return seen if done else None

        return await comes_true(quiet, f"{requests} requests accounted for")

    async def get(self, path: str, **options: Any) -> aiohttp.ClientResponse:
        async with self.session.get(self.url + path, **options) as response:
            await response.read()
            return response


class Load:
    """Closed-loop clients that record every answer. With `units` each is a unit of its own, whose arms are recorded."""

    def __init__(self, edge: Edge, path: str = "/digits/", clients: int = 8, *, units: bool = False) -> None:
        self.answers: Counter[Any] = Counter()
        self.arms_of: dict[str, set[str]] = {f"client-{number}": set() for number in range(clients if units else 0)}
        self.arms: Counter[str] = Counter()
        self._edge = edge
        self._path = path
        self._clients = clients
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        units = [*self.arms_of] or [""] * self._clients
        self._tasks = [asyncio.create_task(self._client(unit)) for unit in units]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    @property
    def sent(self) -> int:
        return sum(self.answers.values())

    @property
    def failed(self) -> dict[Any, int]:
        return {answer: count for answer, count in self.answers.items() if answer != 200}

    async def more(self, requests: int) -> None:
        """Wait until so many more requests have been answered."""
        target = self.sent + requests

        async def reached() -> bool:
            return self.sent >= target

        await comes_true(reached, f"{requests} more requests")

    async def _client(self, unit: str) -> None:
        headers = {"x-user-id": unit} if unit else {}
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector) as session:
            while not self._stop:
                try:
                    async with session.post(self._edge.url + self._path, data=b"{}", headers=headers) as response:
                        await response.read()
                        self.answers[response.status] += 1
                        arm_name = response.headers.get("x-sundog-arm", "")
                        self.arms[arm_name] += 1
                        if unit:
                            self.arms_of[unit].add(arm_name)
                except aiohttp.ClientError as error:
                    self.answers[type(error).__name__] += 1


@pytest.fixture
async def serve() -> AsyncIterator[FakeServe]:
    fake = await FakeServe().start()
    yield fake
    await fake.stop()


@pytest.fixture
async def edge(serve: FakeServe) -> AsyncIterator[Edge]:
    """An edge whose HAProxy and agent run, with no document yet."""
    # Unix socket paths are short, pytest's own temporary paths are not.
    root = Path(tempfile.mkdtemp(prefix="sde-"))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
        made = Edge(root, serve, session)
        try:
            await made.start()
            yield made
        finally:
            await made.close()
            if os.environ.get("SUNDOG_EDGE_KEEP"):
                sys.stderr.write(f"kept {root}\n")
            else:
                shutil.rmtree(root)


@pytest.fixture
async def replicas() -> AsyncIterator[Callable[..., Awaitable[Replica]]]:
    """Starts replicas, and stops them at the end."""
    started: list[Replica] = []

    async def start(application: str, port: int = 0) -> Replica:
        replica = await Replica(f"/{application}.app", port).start()
        started.append(replica)
        return replica

    yield start
    for replica in started:
        await replica.stop()


@pytest.fixture
async def python_process() -> AsyncIterator[Callable[..., Awaitable[asyncio.subprocess.Process]]]:
    """Runs code as a process of its own, which ends with the test at the latest."""
    started: list[asyncio.subprocess.Process] = []

    async def start(code: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *arguments, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def replica_process(
    python_process: Callable[..., Awaitable[asyncio.subprocess.Process]],
) -> Callable[[str], Awaitable[tuple[asyncio.subprocess.Process, str]]]:
    """Starts a replica as a process of its own, to be killed; gives it and its address."""

    async def start(application: str) -> tuple[asyncio.subprocess.Process, str]:
        port = free_port()
        process = await python_process(REPLICA_PROCESS, f"/{application}.app", str(port))
        return process, f"127.0.0.1:{port}"

    return start


@pytest.fixture
async def digits(edge: Edge, serve: FakeServe, replicas: Callable[..., Awaitable[Replica]]) -> dict[str, Replica]:
    """Service `digits`: stable (r7) has all traffic, canary (r8) is up without any."""
    stable, canary = await replicas("digits-r7"), await replicas("digits-r8")
    serve.targets = {"digits-r7": [stable.address], "digits-r8": [canary.address]}
    await edge.apply(
        service("digits", [arm("stable", "digits-r7", [[0, 10000]]), arm("canary", "digits-r8", [], revision=8)])
    )
    await edge.up("digits", stable=1, canary=1)
    return {"stable": stable, "canary": canary}
