"""Argo CD's health scripts: run them as Argo CD does, and render its ConfigMap."""

from pathlib import Path
from typing import Any

import yaml
from lupa.lua51 import LuaRuntime

from charting import ROOT

ARGOCD = ROOT / "examples" / "gitops" / "argocd"
SCRIPTS = ARGOCD / "resource_customizations" / "serving.sundog.dev"
CONFIG = ARGOCD / "argocd-cm.yaml"
# Argo CD's Lua has only these functions.
ALLOWED = ("ipairs", "pairs", "tostring", "tonumber", "type", "next", "string", "table", "math")


def health(kind: str, obj: dict[str, Any]) -> tuple[str, str]:
    """Return the status and message that a kind's script gives for an object."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    script = (SCRIPTS / kind / "health.lua").read_text(encoding="utf-8")
    sandbox = lua.table_from({name: lua.globals()[name] for name in ALLOWED})
    sandbox["obj"] = lua.table_from(obj, recursive=True)
    run = lua.eval("function(text, sandbox) return setfenv(assert(loadstring(text)), sandbox)() end")
    answer = run(script, sandbox)
    return answer["status"], answer["message"]


def config() -> str:
    """Render the patch of Argo CD's ConfigMap."""
    data = {
        f"resource.customizations.health.serving.sundog.dev_{path.parent.name}": path.read_text(encoding="utf-8")
        for path in _scripts()
    }
    return "# `make generate` writes this file from the scripts below resource_customizations.\n" + yaml.dump(
        {"data": data}, Dumper=_Readable, sort_keys=True, width=200
    )


def _scripts() -> list[Path]:
    return sorted(SCRIPTS.glob("*/health.lua"))


class _Readable(yaml.SafeDumper):
    """A YAML dumper that writes texts of several lines as blocks."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)
