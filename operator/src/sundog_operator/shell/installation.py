"""What the administrator of a cluster has set, for command lines whose user may read it."""

from typing import Final

from sundog_operator.api.installation import Installation, parse_installation
from sundog_operator.errors import DependencyError, InstallationError
from sundog_operator.ports import CONFIG_MAP, Kubernetes, Object

_OF_THE_CHART: Final = {"app.kubernetes.io/name": "sundog-operator", "app.kubernetes.io/component": "operator"}
_FILE: Final = "installation.yaml"


async def find_installation(kube: Kubernetes, namespace: str) -> Installation | None:
    """The installation that looks after a namespace; None where that is not known.

    So it is where one may not read it, where none or several look after it, and where one is of a version that has what is not known here.
    """
    try:
        stored = await kube.list(CONFIG_MAP, labels=_OF_THE_CHART)
        every = [parse_installation(text, _FILE) for text in map(_text, stored) if text]
    except (DependencyError, InstallationError):
        return None
    mine = [each for each in every if not each.watch_namespaces or namespace in each.watch_namespaces]
    return mine[0] if len(mine) == 1 else None


def _text(config_map: Object) -> str:
    return str((config_map.get("data") or {}).get(_FILE, ""))
