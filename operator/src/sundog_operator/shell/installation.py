"""Settings of a cluster's administrator, for users with permission to read them."""

from typing import Final

from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.errors import DependencyError, InstallationError
from sundog_operator.ports import CONFIG_MAP, Kubernetes, Object

_OF_THE_CHART: Final = {"app.kubernetes.io/name": "sundog-operator", "app.kubernetes.io/component": "operator"}
INSTALLATION_FILE: Final = "installation.yaml"
"""Key of the settings in the chart's ConfigMap."""


async def find_installation(kube: Kubernetes, namespace: str) -> Installation | None:
    """Return the installation that watches a namespace, or None if that is unknown.

    It is unknown without permission to read it, and if no or several installations watch the namespace.
    It is also unknown if a newer version wrote settings that this one cannot parse.
    """
    try:
        stored = await kube.list(CONFIG_MAP, labels=_OF_THE_CHART)
        installations = [parse_installation(text, INSTALLATION_FILE) for text in map(_text, stored) if text]
    except (DependencyError, InstallationError):
        return None
    watching = [each for each in installations if not each.watch_namespaces or namespace in each.watch_namespaces]
    return watching[0] if len(watching) == 1 else None


def _text(config_map: Object) -> str:
    return str((config_map.get("data") or {}).get(INSTALLATION_FILE, ""))
