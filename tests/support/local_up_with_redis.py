"""Local mode whose edges keep outcomes in a server of the protocol of Valkey and Redis, as in a cluster.

`python -m local_up_with_redis MANIFESTS --state-dir=DIR`, with the options of the agent's store in the variable `OPTIONS`.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feedback_stores import RedisServer
from sundog_operator.adapters.local.edge import LocalEdge
from sundog_operator.adapters.local.ray_cluster import LocalRay
from sundog_operator.ports import Clock, Kubernetes
from sundog_operator.shell.local.instance import STOP_SIGNALS, InstanceParts, StopRequest, run_instance
from sundog_operator.shell.local.views import LineView
from sundog_operator.shell.run_until_signal import handle_signals

OPTIONS = "SUNDOG_TESTS_STORE"
_EDGE = f"""
import json, os, sys
from sundog_edge.cli import main
if sys.argv[1] == "agent":
    # Of two options of the same name, the last one counts.
    sys.argv += json.loads(os.environ["{OPTIONS}"])
main()
"""


def environment_of(server: RedisServer) -> dict[str, str]:
    """Return the variables of an instance that uses a server."""
    store = f"--store=redis://127.0.0.1:{server.port}"
    return {OPTIONS: json.dumps([store, f"--store-password-file={server.password}"])}


def controllers(kube: Kubernetes, state: Path, clock: Clock) -> Sequence[Any]:
    return LocalRay(kube, state, clock), LocalEdge(kube, state, clock, cli=(sys.executable, "-P", "-c", _EDGE))


async def main(manifests: Path, state: Path) -> int:
    stop = StopRequest()
    with handle_signals(STOP_SIGNALS, stop.request):
        return await run_instance(state, manifests, stop, LineView(quiet=False), parts=InstanceParts(controllers))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2].removeprefix("--state-dir=")))))
