"""The profiles of the labels of a cluster's nodes, as commands show them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sundog_operator.api.installation import UNKNOWN_INSTALLATION
from sundog_operator.core.kubernetes import node_profiles
from sundog_operator.shell.installation import find_installation
from sundog_operator.shell.server_connection import ServerConnection


@dataclass(frozen=True, slots=True)
class NodeProfiles:
    """Names of profiles, empty where they are unknown, and a text for people that says where they are from."""

    names: Sequence[str]
    text: str


async def find_profiles(server: ServerConnection, nodes: Iterable[Mapping[str, Any]]) -> NodeProfiles:
    """Return the profiles of a cluster with these nodes."""
    installation = await find_installation(server.kube, server.namespace) or UNKNOWN_INSTALLATION
    guessed = node_profiles.guess_profiles(map(node_profiles.find_node_profile, nodes))
    names = tuple(installation.gpu.profiles) or guessed
    return NodeProfiles(names, node_profiles.describe_profiles(installation, guessed))
