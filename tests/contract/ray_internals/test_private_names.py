"""Which of Ray's private names the model server uses, and that Ray, as it is installed, has each of them.

A failure after an upgrade of Ray says what `serve_internals` has to be looked at for; one after a change of ours, that the list is not
whole.
"""

import ast
import importlib
import inspect
import re
import warnings
from pathlib import Path

import pytest

import sundog_runtime

SOURCE = Path(sundog_runtime.__file__).parent
INTERNALS = SOURCE / "serve_internals.py"

MODULES = {
    "ray._private": ("state", "worker"),
    "ray.serve._private.common": ("RequestMetadata", "RequestProtocol"),
    "ray.serve._private.http_util": ("RequestIdMiddleware",),
    "ray.serve._private.tracing_utils": ("is_tracing_enabled",),
}
"""What is imported."""

ATTRIBUTES = {
    "ray._private.worker:Worker": ("actors", "actor_id"),
    "ray._private.state:GlobalState": ("get_draining_nodes",),
    "ray.serve._private.replica:ReplicaActor": ("_replica_impl",),
    "ray.serve._private.replica:Replica": (
        *(
            "_maybe_start_direct_ingress_servers",
            "_direct_ingress_http_server",
            "_direct_ingress_asgi",
            "_route_prefix",
        ),
        *("_metrics_manager", "_deployment_id", "_semaphore", "_can_accept_request", "_user_callable_wrapper"),
    ),
    "ray.serve._private.replica:UserCallableWrapper": ("_run_user_code_in_separate_thread",),
    "ray.serve._private.replica:ReplicaMetricsManager": (
        *("inc_num_ongoing_requests", "dec_num_ongoing_requests"),
        *("record_request_metrics", "record_ingress_request_metrics"),
    ),
    "ray.serve._private.http_util:RequestIdMiddleware": ("_app",),
    "ray.serve._private.common:RequestMetadata": ("_request_protocol", "_http_method", "is_direct_ingress"),
}
"""What is read of objects of these classes, called, given to them or, of the first of a Replica, replaced."""


def test_nothing_else_imports_what_is_private() -> None:
    found: dict[str, tuple[str, ...]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if any("_private" in name.split(".") and name.startswith("ray") for name in (module, *names)):
                assert path == INTERNALS, f"{path.name} imports {module or names}"
                found[module] = tuple(names)
    assert found == MODULES


def test_the_list_has_all_private_names_that_are_used() -> None:
    tree = ast.parse(INTERNALS.read_text("utf-8"))
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node.value)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and not _is_self(node.value) and _is_private(node.attr)
    }
    used |= {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg is not None and _is_private(keyword.arg)
    }
    known = {name for names in ATTRIBUTES.values() for name in names}
    assert used - known - own == set()
    assert {name for name in known if name.startswith("_")} <= used


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


@pytest.mark.parametrize("where", ATTRIBUTES)
def test_ray_has_what_is_used(where: str) -> None:
    module, _, name = where.partition(":")
    with warnings.catch_warnings():
        # Serve's own, about its use of pydantic.
        warnings.simplefilter("ignore")
        found = getattr(importlib.import_module(module), name)
    source = "".join(inspect.getsource(each) for each in found.__mro__ if each.__module__.startswith("ray"))
    for attribute in ATTRIBUTES[where]:
        assert hasattr(found, attribute) or re.search(rf"\b(self\.)?{attribute}\b *[:=]", source), (where, attribute)
