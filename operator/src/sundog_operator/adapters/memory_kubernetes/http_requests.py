"""Reads the requests that kubectl and client libraries send to the API server. Errors are BadRequest and UnsupportedMediaType."""

from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import BasicAuth, web

from sundog_operator.adapters.memory_kubernetes import patches
from sundog_operator.adapters.memory_kubernetes.failures import BadRequest, UnsupportedMediaType
from sundog_operator.adapters.memory_kubernetes.object_metadata import Subresource
from sundog_operator.api.schema import strict_yaml
from sundog_operator.ports import Kind, Object, Ref


def read_token(request: web.Request) -> bytes:
    """Return the bearer token, or the password of the credentials in a kubeconfig's server URL; empty without either."""
    header = request.headers.get("Authorization", "")
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.encode()
    try:
        password: str = BasicAuth.decode(header).password
    except ValueError:
        return b""
    return password.encode()


def make_change(content_type: str, patch: Any) -> Callable[[Object], Object]:
    """Return a function that applies a patch to an object."""
    if content_type == "application/json-patch+json" and isinstance(patch, list):
        return lambda obj: patches.apply_json_patch(obj, patch)
    merge = content_type == "application/merge-patch+json"
    strategic = content_type == "application/strategic-merge-patch+json" and patches.is_plain_merge(patch)
    if (merge or strategic) and isinstance(patch, dict):
        return lambda obj: patches.apply_merge_patch(obj, patch)
    raise UnsupportedMediaType(
        f"patch of type {content_type}: not supported; expected a JSON patch, a merge patch or an apply patch"
    )


def complete_object(body: Any, kind: Kind, namespace: str, name: str | None) -> None:
    """Fill in, in place, the type and name of the object that the path names. Raises BadRequest where the body differs."""
    if not isinstance(body, dict) or not isinstance(body.setdefault("metadata", {}), dict):
        raise BadRequest("body: not an object with metadata")
    wanted = [("apiVersion", body, kind.api_version), ("kind", body, kind.kind)]
    if kind.namespaced:
        wanted += [("namespace", body["metadata"], namespace)]
    if name is not None:
        wanted += [("name", body["metadata"], name)]
    for field, parent, value in wanted:
        if parent.setdefault(field, value) != value:
            raise BadRequest(f"{field}: {parent[field]!r}; expected {value!r} as in the path")


async def read_object(request: web.Request) -> Object:
    """Return the body as a JSON object."""
    body = await read_body(request)
    if not isinstance(body, dict):
        raise BadRequest("body: not an object")
    return body


async def read_body(request: web.Request) -> Any:
    """Return the body, parsed as YAML or JSON."""
    text = await request.read()
    try:
        if request.content_type.endswith("yaml"):
            return orjson.loads(orjson.dumps(strict_yaml.load(text)))
        return orjson.loads(text)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"body: not readable ({error})") from None


def object_ref(kind: Kind, request: web.Request) -> Ref:
    """Return the object that the path names."""
    return Ref(kind, request.match_info.get("namespace", ""), request.match_info["name"])


def field_manager(request: web.Request) -> str:
    """Return the field manager, by default the name of the client."""
    agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
    return request.query.get("fieldManager") or agent


def is_apply(request: web.Request) -> bool:
    """Return whether a request is a server-side apply."""
    return request.content_type == "application/apply-patch+yaml" and not subresource(request)


def is_strict(request: web.Request) -> bool:
    """Return whether a field that the schema lacks is an error."""
    return request.query.get("fieldValidation") == "Strict"


def subresource(request: web.Request) -> Subresource:
    """Return the subresource that the path names; empty without one."""
    return "status" if "subresource" in request.match_info else ""


def parse_revision(version: str) -> int:
    """Parse a resourceVersion."""
    if not version.isdecimal():
        raise BadRequest(f"resourceVersion: {version!r}; expected a number")
    return int(version)


def wants_table(request: web.Request) -> bool:
    """Return whether the client asks for a Table."""
    return "as=Table" in request.headers.get("Accept", "")
