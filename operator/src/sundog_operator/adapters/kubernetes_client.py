"""The port `ports.Kubernetes` over a real API server, with generic paths and plain JSON instead of the client library's models."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import orjson

from sundog_operator.adapters.kubernetes_connection import Connection, LibraryConnection, Login, PlainConnection
from sundog_operator.adapters.kubernetes_errors import HistoryExpired, ObjectNotFound, read_error
from sundog_operator.adapters.watched_objects import WatchedObjects, add_type, object_key, parse_event
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import Kind, Object, Ref, Snapshot, WatchEvent, ref_of

T = TypeVar("T")

FIELD_MANAGER = "sundog"

_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json"
_AUTHORIZATION = "authorization.k8s.io/v1"
# Channels of the WebSocket that runs a command.
_STDOUT, _ERROR = 1, 3
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30)
_PAGE = 500
"""Objects in one page of `scan`."""
_LIST_PAGE = 25
"""Objects in one page of `snapshot`: one object may have a megabyte, and takes three while it is decoded."""

_WATCH_S = 300
# The server ends a watch after _WATCH_S. A connection that is silent for longer is dead.
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_WATCH_S + 30)
_SHORTEST_WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Call:
    """One request. `subject` names its object in messages."""

    subject: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: Any = None
    content_type: str = "application/json"


class KubernetesClient:
    """The port over HTTP. Besides the port's errors, an object that the server rejects (422) raises Invalid.

    A request takes at most 30 s. There are no retries: the caller backs off.

    Attributes:
        on_answer: is called with the method, the host and the HTTP status of each answer, 0 without an answer.
    """

    def __init__(self, connection: Connection, *, manager: str = FIELD_MANAGER) -> None:
        self._connection = connection
        self._manager = manager
        self.on_answer: Callable[[str, str, int], None] = _ignore_answer

    @classmethod
    async def connect(
        cls, kubeconfig: Path | None = None, *, context: str | None = None, manager: str = FIELD_MANAGER
    ) -> Self:
        """Return a client for a kubeconfig file, or without one for the cluster of this pod.

        Sends no request yet. Raises DependencyError when the configuration is missing or wrong.
        """
        return cls(await LibraryConnection.of(kubeconfig, context), manager=manager)

    @classmethod
    def local(cls, kubeconfig: Path, *, manager: str = FIELD_MANAGER) -> Self:
        """Return a client for an instance of local mode, which imports faster. Raises DependencyError."""
        return cls(PlainConnection.of(kubeconfig), manager=manager)

    async def login(self) -> Login:
        """Return the current login; a renewed token is read again."""
        return await self._connection.login()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def get(self, ref: Ref) -> Object | None:
        """See the port."""
        try:
            return await self._request_object(ref.kind, _Call(str(ref), "GET", _path(ref)))
        except ObjectNotFound:
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
        """See the port. The result may contain changes that occur between pages. Raises DependencyError when the list expires meanwhile."""
        found: list[T] = []
        query: tuple[tuple[str, str], ...] = ()
        while True:
            page = (("limit", str(_PAGE)), *query)
            document = await self._request_json(_Call(kind.plural, "GET", _collection(kind, None), page))
            found += [of(add_type(kind, item)) for item in document["items"]]
            token = document["metadata"].get("continue")
            if not token:
                return found
            query = (("continue", token),)

    async def create(self, obj: Object) -> Object:
        """See the port."""
        ref = ref_of(obj)
        path = _collection(ref.kind, ref.namespace)
        return await self._request_object(
            ref.kind, _Call(str(ref), "POST", path, self._manager_query(), _writable_part(obj))
        )

    async def apply(self, obj: Object, *, dry_run: bool = False) -> Object:
        """See the port. A resourceVersion or uid in the metadata is a precondition (Conflict). A `dry_run` stores nothing."""
        ref = ref_of(obj)
        query = (*self._manager_query(), ("force", "true"), *((("dryRun", "All"),) if dry_run else ()))
        return await self._request_object(
            ref.kind, _Call(str(ref), "PATCH", _path(ref), query, _writable_part(obj), _APPLY)
        )

    async def replace(self, obj: Object) -> Object:
        """See the port."""
        ref = ref_of(obj)
        if not obj["metadata"].get("resourceVersion"):
            raise ValueError(f"{ref}: metadata.resourceVersion is missing, and a replace needs it")
        return await self._request_object(
            ref.kind, _Call(str(ref), "PUT", _path(ref), self._manager_query(), _writable_part(obj))
        )

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, resource_version: str) -> Object:
        """See the port."""
        # A merge patch cannot remove a field of the status, and a PUT needs the whole object.
        # Replacing the resourceVersion makes the server compare it and answer 409; a failed test operation gives 422.
        patch = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "add", "path": "/status", "value": dict(status)},
        ]
        call = _Call(str(ref), "PATCH", f"{_path(ref)}/status", self._manager_query(), patch, _JSON_PATCH)
        return await self._request_object(ref.kind, call)

    async def annotate(
        self, ref: Ref, annotations: Mapping[str, str | None], *, resource_version: str | None = None
    ) -> Object:
        """See the port. A resourceVersion is a precondition: raises Conflict when the object has another one."""
        patch: Object = {"metadata": {"annotations": dict(annotations)}}
        if resource_version is not None:
            patch["metadata"]["resourceVersion"] = resource_version
        call = _Call(str(ref), "PATCH", _path(ref), self._manager_query(), patch, _MERGE_PATCH)
        return await self._request_object(ref.kind, call)

    async def delete(self, ref: Ref, *, uid: str | None = None) -> None:
        """See the port."""
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._request_json(_Call(str(ref), "DELETE", _path(ref), body=options))
        except ObjectNotFound:
            return

    async def post_to_service(
        self, service: Ref, port: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """POST JSON to a port of a Service through the API server, from outside of the cluster. Return any answer.

        `port` is its name, http or https. The caller sets the timeout. Raises DependencyError when the API server does not answer.
        """
        url = f"{_collection(service.kind, service.namespace)}/{port}:{quote(service.name, safe='')}:{port}/proxy{path}"
        call = _Call(str(service), "POST", url, body=body)
        return await self._request(call, aiohttp.ClientTimeout(total=None), headers)

    async def get_from_pod(self, pod: Ref, port: int, path: str) -> aiohttp.ClientResponse:
        """GET a path of a pod through the API server, from outside of the cluster. Return any answer.

        The caller sets the timeout. Raises DependencyError when the API server does not answer.
        """
        url = f"{_collection(pod.kind, pod.namespace)}/{quote(pod.name, safe='')}:{port}/proxy{path}"
        return await self._request(_Call(str(pod), "GET", url), aiohttp.ClientTimeout(total=None), {})

    async def output_of(self, pod: Ref, container: str, command: Sequence[str]) -> AsyncIterator[bytes]:
        """Run a command in a container; yield its standard output as it arrives.

        Raises Forbidden, and DependencyError, also when the command fails.
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
            reason = f"{subject}: the API server refuses to run a command ({error.status})"
            raise (Forbidden if error.status == 403 else DependencyError)(reason) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise DependencyError(f"{subject}: the API server does not answer: {_error_text(error)}") from error

    async def table(self, kind: Kind, namespace: str | None, name: str = "") -> Object:
        """Return the Table that the API server prints of one object or of all objects of a kind. Raises NotFound."""
        path = _path(Ref(kind, namespace or "", name)) if name else _collection(kind, namespace)
        call = _Call(f"{kind.kind} {namespace}/{name}" if name else kind.plural, "GET", path)
        response = await self._request(call, _REQUEST_TIMEOUT, {"Accept": _TABLE})
        if response.status >= 400:
            raise await read_error(call.subject, response)
        return await self._parse_json(call, response)

    async def watch(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[WatchEvent]:
        """See the port.

        Continues after the server's own time limit. When the server lost the history (410), it lists again and yields the
        difference with deletions; a deleted object then has only its metadata. Any other break raises DependencyError.
        """
        known = WatchedObjects()
        snapshot = await self.snapshot(kind, namespace)
        for event in known.replace(snapshot):
            yield event
        yield WatchEvent("SYNCED", {})
        version = snapshot.version
        while True:
            try:
                async with aclosing(self._stream(kind, namespace, version)) as stream:
                    async for line in stream:
                        change, version = parse_event(kind, line)
                        if change is not None:
                            known.note(change)
                            yield change
            except HistoryExpired:
                snapshot = await self.snapshot(kind, namespace)
                for event in known.replace(snapshot):
                    yield event
                version = snapshot.version

    # Last in the class, because its name hides the builtin from here on.
    async def list(
        self, kind: Kind, namespace: str | None = None, labels: Mapping[str, str] | None = None
    ) -> list[Object]:
        """See the port."""
        return (await self.snapshot(kind, namespace, labels)).objects

    async def snapshot(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Mapping[str, str] | None = None,
        name: str = "",
        keep: Callable[[Kind, Object], Object | None] = lambda _, obj: obj,
    ) -> Snapshot:
        """List objects with the resourceVersion of the list, with a name if one is given, reduced by `keep`.

        Pages are small, because one object may have a megabyte. Raises DependencyError when the list expires between two pages.
        """
        selector = ",".join(f"{key}={value}" for key, value in (labels or {}).items())
        query = (
            *((("labelSelector", selector),) if selector else ()),
            *((("fieldSelector", f"metadata.name={name}"),) if name else ()),
            ("limit", str(_LIST_PAGE)),
        )
        objects: list[Object] = []
        token = ""
        while True:
            page = (*query, ("continue", token)) if token else query
            document = await self._request_json(_Call(kind.plural, "GET", _collection(kind, namespace), page))
            kept = (keep(kind, add_type(kind, item)) for item in document["items"])
            objects += [obj for obj in kept if obj is not None]
            token = document["metadata"].get("continue") or ""
            if not token:
                # The server orders by storage key, where "a-b/x" comes before "a/x".
                return Snapshot(sorted(objects, key=object_key), document["metadata"]["resourceVersion"])

    async def document(self, path: str) -> Object:
        """Return a document that is no object, such as `/version` or `/apis`. Raises DependencyError."""
        return await self._request_json(_Call(path, "GET", path))

    async def is_permitted(self, verb: str, resource: str, namespace: str) -> bool:
        """Return whether the client's user may do that in a namespace, or without one in the whole cluster. Raises DependencyError.

        `resource` has its group, as in `deployments.apps`.
        """
        plural, _, group = resource.partition(".")
        asked = {"verb": verb, "group": group, "resource": plural, "namespace": namespace}
        review = {
            "apiVersion": _AUTHORIZATION,
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = f"/apis/{_AUTHORIZATION}/selfsubjectaccessreviews"
        answer = await self._request_json(_Call(f"review of {verb} {resource}", "POST", path, body=review))
        return bool(answer["status"]["allowed"])

    async def schemas(self, api_version: str) -> Mapping[str, Any]:
        """Return the OpenAPI v3 schemas of an API version, by their names. Every user may read them. Raises DependencyError."""
        document = await self._request_json(_Call(api_version, "GET", f"/openapi/v3/apis/{api_version}"))
        found: Mapping[str, Any] = (document.get("components") or {}).get("schemas") or {}
        return found

    async def _stream(self, kind: Kind, namespace: str | None, version: str) -> AsyncGenerator[bytes, None]:
        """Yield one line per change after a resourceVersion, until the server ends the stream."""
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

    async def _request_object(self, kind: Kind, call: _Call) -> Object:
        return add_type(kind, await self._request_json(call))

    async def _request_json(self, call: _Call) -> Object:
        return await self._parse_json(call, await self._send(call, _REQUEST_TIMEOUT))

    async def _parse_json(self, call: _Call, response: aiohttp.ClientResponse) -> Object:
        try:
            document: Object = orjson.loads(await response.read())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise DependencyError(f"{call.subject}: the API server's answer broke off: {error!r}") from error
        return document

    async def _send(self, call: _Call, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        response = await self._request(call, timeout, {})
        if response.status >= 400:
            raise await read_error(call.subject, response)
        return response

    async def _request(
        self, call: _Call, timeout: aiohttp.ClientTimeout, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        sent = {"Accept": "application/json", "Content-Type": call.content_type, **headers}
        try:
            response = await self._connection.request(call.method, call.path, call.query, sent, call.body, timeout)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.on_answer(call.method, self._connection.host, 0)
            raise DependencyError(f"{call.subject}: the API server does not answer: {_error_text(error)}") from error
        self.on_answer(call.method, self._connection.host, response.status)
        return response

    def _manager_query(self) -> tuple[tuple[str, str]]:
        return (("fieldManager", self._manager),)


def _error_text(error: BaseException) -> str:
    """Return the text of an exception, or its type where it has no text."""
    return str(error) or type(error).__name__


def _ignore_answer(_method: str, _host: str, _status: int) -> None:
    return None


def _writable_part(obj: Object) -> Object:
    """Return an object without the parts that the server keeps: its status, which has its own path, and managedFields."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {key: value for key, value in obj.items() if key != "status"} | {"metadata": metadata}


def _collection(kind: Kind, namespace: str | None) -> str:
    root = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
    if namespace is None or not kind.namespaced:
        return f"{root}/{kind.plural}"
    return f"{root}/namespaces/{quote(namespace, safe='')}/{kind.plural}"


def _path(ref: Ref) -> str:
    return f"{_collection(ref.kind, ref.namespace)}/{quote(ref.name, safe='')}"
