"""A real API server as the port `ports.Kubernetes`: generic paths and plain JSON, no models of the client library."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import orjson

from sundog_operator.adapters.kubernetes_connection import Connection, LibraryConnection, Login, PlainConnection
from sundog_operator.errors import AlreadyExists, Conflict, DependencyError, Forbidden, Invalid, NotFound, NotServed
from sundog_operator.ports import Kind, Object, Ref, Snapshot, WatchEvent, ref_of

T = TypeVar("T")

FIELD_MANAGER = "sundog"

_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
# Of the WebSocket by which a command is run.
_STDOUT, _ERROR = 1, 3
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30)
_PAGE = 500
"""Objects that `scan` asks for at once."""

_WATCH_S = 300
# The server ends a watch after _WATCH_S; silence beyond that is a dead connection.
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_WATCH_S + 30)
_SHORTEST_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Call:
    """One request: what it is about, for messages, and what goes over the wire."""

    subject: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content_type: str = "application/json"


class KubernetesClient:
    """The port over HTTP. Besides the port's errors, what the server finds wrong with an object (422) raises Invalid.

    A request takes at most 30 s. Nothing is tried twice here: the caller has the back-off.
    """

    def __init__(self, connection: Connection, *, manager: str = FIELD_MANAGER) -> None:
        self._connection = connection
        self._manager = manager
        self.on_answer: Callable[[str, str, int], None] = _nothing
        """Called with the method, the host and the HTTP status of each answer, 0 where none came."""

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, *, context: str | None = None, manager: str = FIELD_MANAGER
    ) -> Self:
        """A client for a kubeconfig file, or without one for the cluster that this pod runs in.

        Raises DependencyError when the configuration is missing or wrong. The server is not asked yet.
        """
        return cls(await LibraryConnection.of(kubeconfig, context), manager=manager)

    @classmethod
    def local(cls, kubeconfig: Path, *, manager: str = FIELD_MANAGER) -> Self:
        """A client for an instance of local mode, which takes less time to import. Raises DependencyError."""
        return cls(PlainConnection.of(kubeconfig), manager=manager)

    async def login(self) -> Login:
        """What this client logs in with now; a token that is renewed is read anew."""
        return await self._connection.login()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        try:
            return await self._object(ref.kind, _Call(str(ref), "GET", _path(ref)))
        except _Absent:
            return None

    async def labels(self, ref: Ref) -> Mapping[str, str] | None:
        """See the port."""
        obj = await self.get(ref)
        return None if obj is None else obj["metadata"].get("labels") or {}

    async def view(self, ref: Ref, of: Callable[[Object], T]) -> T | None:
        """See the port."""
        obj = await self.get(ref)
        return None if obj is None else of(obj)

    async def views(
        self, kind: Kind, namespace: str | None, of: Callable[[Object], T], labels: Mapping[str, str] | None = None
    ) -> Sequence[T]:
        """See the port."""
        return [of(obj) for obj in await self.list(kind, namespace, labels)]

    def version(self, namespace: str) -> int | None:  # noqa: ARG002 - nothing is kept
        """See the port."""
        return None

    async def scan(self, kind: Kind, of: Callable[[Object], T]) -> Sequence[T]:
        """See the port. What changes while pages are read is in them or not; raises DependencyError where the list expires meanwhile."""
        found: list[T] = []
        query: tuple[tuple[str, str], ...] = ()
        while True:
            page = (("limit", str(_PAGE)), *query)
            document = await self._json(_Call(kind.plural, "GET", _collection(kind, None), page))
            found += [of(_typed(kind, item)) for item in document["items"]]
            token = document["metadata"].get("continue")
            if not token:
                return found
            query = (("continue", token),)

    async def create(self, obj: Object) -> Object:
        """See the port."""
        ref = ref_of(obj)
        path = _collection(ref.kind, ref.namespace)
        return await self._object(ref.kind, _Call(str(ref), "POST", path, self._as_manager(), _own(obj)))

    async def apply(self, obj: Object, *, dry_run: bool = False) -> Object:
        """See the port. A resourceVersion or uid in the metadata is a precondition (Conflict). A `dry_run` stores nothing."""
        ref = ref_of(obj)
        query = (*self._as_manager(), ("force", "true"), *((("dryRun", "All"),) if dry_run else ()))
        return await self._object(ref.kind, _Call(str(ref), "PATCH", _path(ref), query, _own(obj), _APPLY))

    async def replace(self, obj: Object) -> Object:
        """See the port."""
        ref = ref_of(obj)
        if not obj["metadata"].get("resourceVersion"):
            raise ValueError(f"{ref}: metadata.resourceVersion is missing, and a replace needs it")
        return await self._object(ref.kind, _Call(str(ref), "PUT", _path(ref), self._as_manager(), _own(obj)))

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """See the port."""
        # A merge patch could not remove a field of the status; a PUT would need the whole object. To replace the
        # resourceVersion is how a JSON patch asks the server to compare it: a test that fails is a 422, not a 409.
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": dict(status)},
        ]
        call = _Call(str(ref), "PATCH", f"{_path(ref)}/status", self._as_manager(), patch, _JSON_PATCH)
        return await self._object(ref.kind, call)

    async def annotate(
        self, ref: Ref, annotations: Mapping[str, str | None], *, resource_version: str | None = None
    ) -> Object:
        """See the port. With a resourceVersion only an object of exactly that one. Raises Conflict when it moved on."""
        patch: Object = {"metadata": {"annotations": dict(annotations)}}
        if resource_version is not None:
            patch["metadata"]["resourceVersion"] = resource_version
        call = _Call(str(ref), "PATCH", _path(ref), self._as_manager(), patch, _MERGE_PATCH)
        return await self._object(ref.kind, call)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """See the port."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._json(_Call(str(ref), "DELETE", _path(ref), body=options))
        except _Absent:
            return

    async def post_to_service(
        self, service: Ref, port: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """POST JSON to a port of a Service through the API server, and take whatever it answers; for who is outside of the cluster.

        `port` is its name, http or https. How long to wait is the caller's to say. Raises DependencyError when the API server does not
        answer.
        """
        url = f"{_collection(service.kind, service.namespace)}/{port}:{quote(service.name, safe='')}:{port}/proxy{path}"
        call = _Call(str(service), "POST", url, body=body)
        return await self._answer(call, aiohttp.ClientTimeout(total=None), headers)

    async def get_from_pod(self, pod: Ref, port: int, path: str) -> aiohttp.ClientResponse:
        """GET a path of a pod through the API server, and take whatever it answers; for who is outside of the cluster.

        How long to wait is the caller's to say. Raises DependencyError when the API server does not answer.
        """
        url = f"{_collection(pod.kind, pod.namespace)}/{quote(pod.name, safe='')}:{port}/proxy{path}"
        return await self._answer(_Call(str(pod), "GET", url), aiohttp.ClientTimeout(total=None), {})

    async def output_of(self, pod: Ref, container: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        """What a command in a container writes to its standard output, as it comes, until it ends.

        Raises Forbidden, DependencyError: also where the command fails.
        """
        query = [*(("command", part) for part in command), ("container", container), ("stdout", "true")]
        subject = f"{pod}: container {container}"
        try:
            async with aclosing(self._connection.run(f"{_path(pod)}/exec", query)) as messages:
                async for message in messages:
                    channel, data = message.data[0], message.data[1:]
                    if channel == _STDOUT:
                        yield data
                    elif channel == _ERROR and (status := orjson.loads(data)).get("status") != "Success":
                        raise DependencyError(f"{subject}: {status.get('message') or 'the command failed'}")
        except aiohttp.WSServerHandshakeError as error:
            told = f"{subject}: the API server lets nothing be run in it ({error.status})"
            raise (Forbidden if error.status == 403 else DependencyError)(told) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise DependencyError(f"{subject}: the API server does not answer: {_told(error)}") from error

    async def table(self, kind: Kind, namespace: str | None, name: str = "") -> Object:
        """The Table that the API server prints of all objects of a kind, or of one. Raises NotFound."""
        path = _path(Ref(kind, namespace or "", name)) if name else _collection(kind, namespace)
        call = _Call(f"{kind.kind} {namespace}/{name}" if name else kind.plural, "GET", path)
        response = await self._answer(call, _REQUEST_TIMEOUT, {"Accept": _TABLE})
        if response.status >= 400:
            raise await _failure(call.subject, response)
        return await self._document(call, response)

    async def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port.

        Goes on over the server's own time limit and over a lost history (410): then it lists again and tells the
        difference, deletions included; of an object deleted meanwhile it knows the metadata only. Any other break
        raises DependencyError.
        """
        known: dict[tuple[str, str], Object] = {}
        snapshot = await self.snapshot(kind, namespace)
        for event in _difference(known, snapshot):
            yield event
        yield WatchEvent("SYNCED", {})
        version = snapshot.version
        while True:
            try:
                async with aclosing(self._stream(kind, namespace, version)) as stream:
                    async for line in stream:
                        change, version = _event(kind, line)
                        if change is not None:
                            _remember(known, change)
                            yield change
            except _Expired:
                snapshot = await self.snapshot(kind, namespace)
                for event in _difference(known, snapshot):
                    yield event
                version = snapshot.version

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        return (await self.snapshot(kind, namespace, labels)).objects

    async def snapshot(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Snapshot:
        """As `list`, with the resourceVersion of the list."""
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        query = (("labelSelector", selector),) if selector else ()
        document = await self._json(_Call(kind.plural, "GET", _collection(kind, namespace), query))
        objects = [_typed(kind, item) for item in document["items"]]
        # The server orders by its storage keys, where "a-b/x" comes before "a/x".
        return Snapshot(sorted(objects, key=_place), document["metadata"]["resourceVersion"])

    async def schemas(self, api_version: str) -> Mapping[str, Any]:
        """The schemas that the server publishes of the kinds of a group's version (OpenAPI v3), by any names; everybody may read them.

        Raises DependencyError.
        """
        document = await self._json(_Call(api_version, "GET", f"/openapi/v3/apis/{api_version}"))
        found: Mapping[str, Any] = (document.get("components") or {}).get("schemas") or {}
        return found

    async def _stream(self, kind: Kind, namespace: str | None, version: str) -> AsyncGenerator[bytes, None]:
        """The lines that tell of changes after a resourceVersion, until the server ends the stream."""
        query = (
            ("watch", "true"),
            ("resourceVersion", version),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(_WATCH_S)),
        )
        started = asyncio.get_running_loop().time()
        call = _Call(kind.plural, "GET", _collection(kind, namespace), query)
        response = await self._send(call, _WATCH_TIMEOUT)
        lines = 0
        try:
            async for line in response.content:
                lines += 1
                yield line
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DependencyError(f"watch of {kind.plural}: the stream broke: {error!r}") from error
        finally:
            response.close()
        if not lines and asyncio.get_running_loop().time() - started < _SHORTEST_WATCH_S:
            raise DependencyError(f"watch of {kind.plural}: the server ended the stream at once")

    async def _object(self, kind: Kind, call: _Call) -> Object:
        return _typed(kind, await self._json(call))

    async def _json(self, call: _Call) -> Object:
        return await self._document(call, await self._send(call, _REQUEST_TIMEOUT))

    async def _document(self, call: _Call, response: aiohttp.ClientResponse) -> Object:
        try:
            document: Object = orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DependencyError(f"{call.subject}: the API server's answer broke off: {error!r}") from error
        return document

    async def _send(self, call: _Call, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        response = await self._answer(call, timeout, {})
        if response.status >= 400:
            raise await _failure(call.subject, response)
        return response

    async def _answer(
        self, call: _Call, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        sent = {"Accept": "application/json", "Content-Type": call.content_type, **headers}
        try:
            response = await self._connection.request(call.method, call.path, call.query, sent, call.body, timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.on_answer(call.method, self._connection.host, 0)
            raise DependencyError(f"{call.subject}: the API server does not answer: {_told(error)}") from error
        self.on_answer(call.method, self._connection.host, response.status)
        return response

    def _as_manager(self) -> tuple[tuple[str, str]]:
        return (("fieldManager", self._manager),)


def _told(error: BaseException) -> str:
    """What went wrong with a connection, in words: not every exception has some."""
    return str(error) or type(error).__name__


def _nothing(_method: str, _host: str, _status: int) -> None:
    return None


class _Absent(NotFound):
    """The server knows the kind, and there is no such object."""


class _Expired(DependencyError):
    """The server no longer keeps the changes since that resourceVersion."""


async def _failure(subject: str, response: aiohttp.ClientResponse) -> Exception:
    try:
        text = await response.read()
        status = orjson.loads(text)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        status = {}
    if not isinstance(status, dict) or status.get("kind") != "Status":
        # A proxy, or a path that the server does not have: this says nothing about the object.
        message = f"{subject}: the API server answered {response.status} {response.reason}"
        return NotServed(message) if response.status == 404 else DependencyError(message)
    return _error(subject, response.status, status)


def _error(subject: str, code: int, status: Object) -> Exception:
    details = status.get("details") or {}
    message = f"{subject}: {status.get('message') or status.get('reason') or code}"
    if code == 404:
        return _Absent(message) if details.get("name") else NotServed(message)
    if code == 403:
        return Forbidden(f"{message} ({code})")
    if code == 409:
        return AlreadyExists(message) if status.get("reason") == "AlreadyExists" else Conflict(message)
    if code == 410:
        return _Expired(message)
    if code == 422:
        causes = [f"{cause.get('field', '')}: {cause.get('message', '')}" for cause in details.get("causes") or ()]
        return Invalid(subject, causes or [str(status.get("message"))])
    return DependencyError(f"{message} ({code})")


def _event(kind: Kind, line: bytes) -> tuple[WatchEvent | None, str]:
    document = orjson.loads(line)
    obj: Object = document["object"]
    if document["type"] == "ERROR":
        raise _error(f"watch of {kind.plural}", int(obj.get("code") or 0), obj)
    version: str = obj["metadata"]["resourceVersion"]
    if document["type"] == "BOOKMARK":
        return None, version
    return WatchEvent(document["type"], _typed(kind, obj)), version


def _difference(known: dict[tuple[str, str], Object], snapshot: Snapshot) -> Iterator[WatchEvent]:
    """What happened between what was known and what is there now, noted as known. A new uid is another object."""
    present = {_place(obj): obj for obj in snapshot.objects}
    for place, trace in list(known.items()):
        if place not in present or present[place]["metadata"]["uid"] != trace["metadata"]["uid"]:
            del known[place]
            yield WatchEvent("DELETED", trace)
    for place, obj in present.items():
        before = known.get(place)
        known[place] = _trace(obj)
        if before is None:
            yield WatchEvent("ADDED", obj)
        elif before["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
            yield WatchEvent("MODIFIED", obj)


def _remember(known: dict[tuple[str, str], Object], event: WatchEvent) -> None:
    if event.type == "DELETED":
        known.pop(_place(event.object), None)
    else:
        known[_place(event.object)] = _trace(event.object)


def _trace(obj: Object) -> Object:
    """As much of an object as tells whose it is."""
    return {"apiVersion": obj["apiVersion"], "kind": obj["kind"], "metadata": obj["metadata"]}


def _place(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _typed(kind: Kind, obj: Object) -> Object:
    # Items of a list of a built-in kind come without their type; managedFields are large and nobody here reads them.
    obj["metadata"].pop("managedFields", None)
    return {"apiVersion": kind.api_version, "kind": kind.kind} | obj


def _own(obj: Object) -> Object:
    """What of an object is ours to send: status has its own path, and the server keeps the managed fields."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {key: value for key, value in obj.items() if key != "status"} | {"metadata": metadata}


def _collection(kind: Kind, namespace: str | None) -> str:
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
    if namespace is None or not kind.namespaced:
        return f"{root}/{kind.plural}"
    return f"{root}/namespaces/{quote(namespace, safe='')}/{kind.plural}"


def _path(ref: Ref) -> str:
    return f"{_collection(ref.kind, ref.namespace)}/{quote(ref.name, safe='')}"
