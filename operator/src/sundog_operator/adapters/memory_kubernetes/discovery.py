"""Discovery documents of the API server, which kubectl and client libraries read first."""

from collections.abc import Iterable

from sundog_operator.adapters.memory_kubernetes.store import KINDS_WITH_STATUS
from sundog_operator.ports import (
    CONFIG_MAP,
    DEPLOYMENT,
    EVENT,
    EXPERIMENT,
    KINDS,
    MODEL_DEPLOYMENT,
    POD,
    Kind,
    Object,
)

VERSION: Object = {"major": "1", "minor": "36", "gitVersion": "v1.36.0+sundog", "platform": "in-process"}

_SHORT_NAMES = {
    MODEL_DEPLOYMENT: "mdep",
    EXPERIMENT: "mexp",
    DEPLOYMENT: "deploy",
    CONFIG_MAP: "cm",
    POD: "po",
    EVENT: "ev",
}
_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def core_versions() -> Object:
    """Return the answer to `GET /api`."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def api_groups() -> Object:
    """Return the answer to `GET /apis`."""
    versions = dict.fromkeys(kind.api_version for kind in KINDS if kind.group)
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(version) for version in versions]}


def api_resources(api_version: str) -> Object:
    """Return the answer to `GET /api/v1` or `GET /apis/<group>/<version>`."""
    kinds = [kind for kind in KINDS if kind.api_version == api_version]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": list(_resources(kinds)),
    }


def openapi_index() -> Object:
    """Return the answer to `GET /openapi/v3`."""
    versions = dict.fromkeys(kind.api_version for kind in KINDS)
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in map(_path, versions)}}


def openapi(api_version: str) -> Object:
    """Return the answer to `GET /openapi/v3/<path>`.

    It only shows that a patch accepts `fieldValidation`, so that kubectl leaves the validation to the server.
    """
    kinds = [kind for kind in KINDS if kind.api_version == api_version]
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION["gitVersion"]},
        "paths": {
            f"/{_path(api_version)}/{'namespaces/{namespace}/' if kind.namespaced else ''}{kind.plural}/{{name}}": {
                "patch": {
                    "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                    "x-kubernetes-group-version-kind": _type(kind),
                }
            }
            for kind in kinds
        },
    }


def make_namespace(name: str) -> Object:
    """Return a namespace. Every namespace exists here."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "status": {"phase": "Active"}}


def _path(api_version: str) -> str:
    return f"apis/{api_version}" if "/" in api_version else f"api/{api_version}"


def _type(kind: Kind) -> Object:
    return {"group": kind.group, "version": kind.api_version.rpartition("/")[2], "kind": kind.kind}


def _group(api_version: str) -> Object:
    group, _, version = api_version.partition("/")
    entry = {"groupVersion": api_version, "version": version}
    return {"name": group, "versions": [entry], "preferredVersion": entry}


def _resources(kinds: Iterable[Kind]) -> Iterable[Object]:
    for kind in kinds:
        resource: Object = {
            "name": kind.plural,
            "singularName": kind.kind.lower(),
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": _VERBS,
        }
        if kind in _SHORT_NAMES:
            resource["shortNames"] = [_SHORT_NAMES[kind]]
        if kind in {MODEL_DEPLOYMENT, EXPERIMENT}:
            resource["categories"] = ["sundog"]
        yield resource
        if kind in KINDS_WITH_STATUS:
            yield {
                "name": f"{kind.plural}/status",
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": kind.kind,
                "verbs": ["get", "patch", "update"],
            }
