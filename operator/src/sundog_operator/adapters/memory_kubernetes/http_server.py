"""Serve the in-memory API server over HTTP, for kubectl and client libraries."""

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from aiohttp import web

from sundog_operator.adapters.memory_kubernetes import discovery, http_requests, selectors, tables
from sundog_operator.adapters.memory_kubernetes.failures import BadRequest, make_failure_status
from sundog_operator.adapters.memory_kubernetes.history import Expired, Subscription
from sundog_operator.adapters.memory_kubernetes.memory import MemoryKubernetes
from sundog_operator.adapters.memory_kubernetes.object_metadata import check_preconditions
from sundog_operator.adapters.memory_kubernetes.selectors import ObjectSelection
from sundog_operator.adapters.memory_kubernetes.store import KINDS_WITH_STATUS
from sundog_operator.errors import DependencyError, NotFound, SundogError
from sundog_operator.ports import KINDS, NAMESPACE, Clock, Kind, Object, Ref

logger = logging.getLogger(__name__)

_MAX_BODY_BYTES = 3 * 1024 * 1024
_BOOKMARK_S = 60.0
_MAX_WATCH_S = 3600.0
_DISCONNECT_POLL_S = 5.0

Handler = Callable[[Kind, web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve_http(
    kube: MemoryKubernetes,
    clock: Clock,
    *,
    token: str,
    port: int = 0,
    columns: Mapping[str, Sequence[tables.Column]] | None = None,
) -> AsyncIterator[str]:
    """Serve `kube` while the context lasts, and yield the base URL. Port 0 stands for any free port.

    Every request needs the token. `columns` maps a kind to the printer columns of its CRD.
    """
    runner = web.AppRunner(
        make_application(kube, clock, token=token, columns=columns), access_log=None, shutdown_timeout=30.0
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        bound = runner.addresses[0]
        yield f"http://{bound[0]}:{bound[1]}"
    finally:
        await runner.cleanup()


def make_application(
    kube: MemoryKubernetes, clock: Clock, *, token: str, columns: Mapping[str, Sequence[tables.Column]] | None = None
) -> web.Application:
    """Return the routes of the API server as an aiohttp application."""
    handlers = _RequestHandlers(kube, clock, columns or {})
    app = web.Application(client_max_size=_MAX_BODY_BYTES, middlewares=[_authentication(token)])
    _add_discovery(app.router)
    for kind in KINDS:
        _add_kind(app.router, handlers, kind)
    app.on_shutdown.append(handlers.end_watches)
    return app


def _add_discovery(router: web.UrlDispatcher) -> None:
    documents = {"/version": discovery.VERSION, "/api": discovery.core_versions(), "/apis": discovery.api_groups()}
    documents |= {_api_path(kind): discovery.api_resources(kind.api_version) for kind in KINDS}
    documents["/openapi/v3"] = discovery.openapi_index()
    documents |= {f"/openapi/v3{_api_path(kind)}": discovery.openapi(kind.api_version) for kind in KINDS}
    for path, document in documents.items():
        router.add_get(path, partial(_serve_document, document))
    for path in ("/healthz", "/livez", "/readyz"):
        router.add_get(path, _answer_health_check)


def _add_kind(router: web.UrlDispatcher, handlers: "_RequestHandlers", kind: Kind) -> None:
    all_namespaces = f"{_api_path(kind)}/{kind.plural}"
    collection = f"{_api_path(kind)}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else all_namespaces
    item = f"{collection}/{{name}}"
    routes: list[tuple[str, str, Handler]] = [
        *((("GET", all_namespaces, handlers.list),) if kind.namespaced else ()),
        ("GET", collection, handlers.list),
        ("POST", collection, handlers.create),
        ("GET", item, handlers.get),
        ("PUT", item, handlers.replace),
        ("PATCH", item, handlers.patch),
        ("DELETE", item, handlers.delete),
    ]
    if kind in KINDS_WITH_STATUS:
        status = f"{item}/{{subresource:status}}"
        routes += [("GET", status, handlers.get), ("PUT", status, handlers.replace), ("PATCH", status, handlers.patch)]
    for method, path, handler in routes:
        router.add_route(method, path, partial(_answer, kind, handler))


@dataclass(frozen=True, slots=True)
class _Watch:
    """One watch request.

    Attributes:
        response: the stream of events.
        selection: the objects to watch.
        convert: converts an object to the requested format.
        bookmarks: whether the client accepts bookmarks.
    """

    response: web.StreamResponse
    selection: ObjectSelection
    convert: Callable[[Object], Object]
    bookmarks: bool

    async def send(self, event_type: str, obj: Object) -> None:
        await self.response.write(orjson.dumps({"type": event_type, "object": obj}) + b"\n")

    async def bookmark(self, revision: int, annotations: Mapping[str, str] | None = None) -> None:
        metadata = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations  # type: ignore[assignment]
        kind = self.selection.kind
        await self.send("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": metadata})


class _RequestHandlers:
    """Handlers of the requests for objects, by verb."""

    def __init__(self, kube: MemoryKubernetes, clock: Clock, columns: Mapping[str, Sequence[tables.Column]]) -> None:
        self._kube = kube
        self._clock = clock
        self._columns = columns
        self._watch_tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def end_watches(self, _app: web.Application) -> None:
        """End the watches, which would delay a shutdown. Watches that begin later on open connections end at once."""
        self._closing = True
        for task in self._watch_tasks:
            task.cancel()

    async def get(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        ref = http_requests.object_ref(kind, request)
        obj = await self._kube.get(ref)
        if obj is None and kind == NAMESPACE:
            obj = discovery.make_namespace(ref.name)
        if obj is None:
            raise NotFound(f"{ref} does not exist")
        return _json_response(self._formatter(kind, request)(obj))

    async def create(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        body = await http_requests.read_object(request)
        http_requests.complete_object(body, kind, request.match_info.get("namespace", ""), None)
        return _json_response(
            await self._kube.create(
                body, manager=http_requests.field_manager(request), strict=http_requests.is_strict(request)
            ),
            status=201,
        )

    async def replace(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        ref, body = http_requests.object_ref(kind, request), await http_requests.read_object(request)
        http_requests.complete_object(body, kind, ref.namespace, ref.name)
        return await self._update(ref, lambda _: body, request)

    async def patch(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        ref, body = http_requests.object_ref(kind, request), await http_requests.read_body(request)
        if http_requests.is_apply(request):
            return await self._apply(ref, body, request)
        return await self._update(ref, http_requests.make_change(request.content_type, body), request)

    async def delete(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        ref = http_requests.object_ref(kind, request)
        options = await http_requests.read_object(request) if request.can_read_body else {}
        if (options.get("propagationPolicy") or request.query.get("propagationPolicy")) == "Orphan":
            raise BadRequest(
                "propagationPolicy: Orphan; expected Background or Foreground, because dependents are deleted with their last owner"
            )
        obj = await self._kube.get(ref)
        if obj is None:
            raise NotFound(f"{ref} does not exist")
        preconditions = options.get("preconditions") or {}
        uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
        # kubectl sends dryRun in the body, other clients in the query.
        if options.get("dryRun") or "dryRun" in request.query:
            check_preconditions(ref, obj, uid=uid, revision=version)
        else:
            await self._kube.delete(ref, uid=uid, resource_version=version)
        details = {"name": ref.name, "group": kind.group, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
        return _json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    async def list(self, kind: Kind, request: web.Request) -> web.StreamResponse:
        query = request.query
        selection = selectors.parse_selection(
            kind, request.match_info.get("namespace"), query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        if query.get("watch") in {"true", "1"}:
            return await self._watch(selection, request)
        objects, revision = await self._select(selection)
        if http_requests.wants_table(request):
            return _json_response(self._table(kind, objects, revision))
        return _json_response(
            {
                "kind": f"{kind.kind}List",
                "apiVersion": kind.api_version,
                "metadata": {"resourceVersion": str(revision)},
                "items": objects,
            }
        )

    async def _update(self, ref: Ref, change: Callable[[Object], Object], request: web.Request) -> web.StreamResponse:
        updated = await self._kube.update(
            ref,
            change,
            manager=http_requests.field_manager(request),
            subresource=http_requests.subresource(request),
            strict=http_requests.is_strict(request),
        )
        return _json_response(updated)

    async def _apply(self, ref: Ref, body: Any, request: web.Request) -> web.StreamResponse:
        http_requests.complete_object(body, ref.kind, ref.namespace, ref.name)
        if "fieldManager" not in request.query:
            raise BadRequest(
                "fieldManager: missing; expected the name of the manager, because apply records the owners of fields"
            )
        force = request.query.get("force") in {"true", "1"}
        applied = await self._kube.apply(
            body,
            manager=http_requests.field_manager(request),
            force=force,
            strict=http_requests.is_strict(request),
            dry_run="dryRun" in request.query,
        )
        return _json_response(applied)

    async def _select(self, selection: ObjectSelection) -> tuple[Sequence[Object], int]:
        objects = await self._kube.list(selection.kind, selection.namespace, selection.labels)
        # No other task has run since the list, so the store's revision is still the list's resourceVersion.
        return [obj for obj in objects if selection.has(obj)], self._kube.store.revision

    async def _watch(self, selection: ObjectSelection, request: web.Request) -> web.StreamResponse:
        await self._kube.enter("watch", Ref(selection.kind, selection.namespace or "", ""))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        bookmarks = request.query.get("allowWatchBookmarks") in {"true", "1"}
        watch = _Watch(response, selection, self._formatter(selection.kind, request), bookmarks)
        task = asyncio.current_task()
        assert task is not None
        self._watch_tasks.add(task)
        try:
            await self._follow(watch, request)
        except Expired as error:
            await watch.send("ERROR", make_failure_status(error, selection.kind, "")[1])
        except DependencyError:
            # The response has begun, so only a broken connection can show the failure.
            if request.transport is not None:
                request.transport.abort()
        except ConnectionResetError:
            pass
        finally:
            self._watch_tasks.discard(task)
        return response

    async def _follow(self, watch: _Watch, request: web.Request) -> None:
        changes = await self._subscribe(watch, request)
        loop = asyncio.get_running_loop()
        end = loop.time() + min(_MAX_WATCH_S, float(request.query.get("timeoutSeconds", _MAX_WATCH_S)))
        bookmark = loop.time() + _BOOKMARK_S
        ended = False
        while not ended:
            # Wake up regularly to notice a client that has disconnected.
            for change in await changes.next(max(0.0, min(end - loop.time(), _DISCONNECT_POLL_S))):
                if event_type := watch.selection.event_type(change):
                    await watch.send(event_type, watch.convert(change.load()))
            if watch.bookmarks and loop.time() >= bookmark:
                await watch.bookmark(changes.revision)
                bookmark = loop.time() + _BOOKMARK_S
            ended = self._closing or changes.closed or loop.time() >= end or request.transport is None
        if watch.bookmarks:
            await watch.bookmark(changes.revision)

    async def _subscribe(self, watch: _Watch, request: web.Request) -> Subscription:
        query = request.query
        version, initial = query.get("resourceVersion", ""), query.get("sendInitialEvents") == "true"
        if version not in {"", "0"} and not initial:
            return self._kube.subscribe(http_requests.parse_revision(version))
        objects, revision = await self._select(watch.selection)
        changes = self._kube.subscribe(revision)
        for obj in objects:
            await watch.send("ADDED", watch.convert(obj))
        if initial and watch.bookmarks:
            await watch.bookmark(revision, {"k8s.io/initial-events-end": "true"})
        return changes

    def _formatter(self, kind: Kind, request: web.Request) -> Callable[[Object], Object]:
        if not http_requests.wants_table(request):
            return lambda obj: obj
        return lambda obj: self._table(kind, [obj], int(obj["metadata"]["resourceVersion"]))

    def _table(self, kind: Kind, objects: Sequence[Object], revision: int) -> Object:
        return tables.make_table(objects, self._columns.get(kind.kind, ()), str(revision), self._clock.now())


async def _answer(kind: Kind, handler: Handler, request: web.Request) -> web.StreamResponse:
    try:
        _check_dry_run(request)
        return await handler(kind, request)
    except web.HTTPException:
        raise
    except Exception as error:
        if not isinstance(error, SundogError | ValueError):
            if "watch" in request.query:
                # aiohttp breaks the connection of a stream that has begun.
                raise
            logger.exception("%s %s failed", request.method, request.path)
        code, status = make_failure_status(error, kind, request.match_info.get("name", ""))
        return _json_response(status, status=code)


def _check_dry_run(request: web.Request) -> None:
    if "dryRun" in request.query and not (http_requests.is_apply(request) or request.method == "DELETE"):
        raise BadRequest("dryRun: supported only for apply and delete; expected none. Remove it")


def _authentication(token: str) -> Any:
    @web.middleware
    async def authenticate(request: web.Request, handler: Any) -> web.StreamResponse:
        if not hmac.compare_digest(http_requests.read_token(request), token.encode()):
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 401}
            return _json_response(status | {"reason": "Unauthorized", "message": "Unauthorized"}, status=401)
        response: web.StreamResponse = await handler(request)
        return response

    return authenticate


def _api_path(kind: Kind) -> str:
    return f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"


def _json_response(document: Object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


async def _serve_document(document: Object, _request: web.Request) -> web.Response:
    return _json_response(document)


async def _answer_health_check(_request: web.Request) -> web.Response:
    return web.Response(text="ok")
