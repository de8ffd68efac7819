"""Builds the commands that start HAProxy and the agent of an edge."""

import os
import sys
from pathlib import Path
from typing import Final

from sundog_operator.adapters.local.edge_directory import AGENT, HAPROXY, HTTPS, EdgeDirectory
from sundog_operator.adapters.local.ports_allocation import LOOPBACK
from sundog_operator.adapters.local.process_table import ProcessCommand
from sundog_operator.adapters.local.state_directory import StateDirectory

# The command `sundog-edge`, without a search for it on PATH. `-P` excludes the working directory from the import path.
EDGE_CLI: Final = (sys.executable, "-P", "-c", "from sundog_edge.cli import main; main()")


def make_edge_command(
    edge: EdgeDirectory, part: str, state: StateDirectory, *, edge_name: str, log: Path, cli: tuple[str, ...] = EDGE_CLI
) -> ProcessCommand:
    """Return the command that starts one process of an edge. `edge_name` is the name of its pod."""
    if part == HAPROXY:
        options = [f"--http-bind={LOOPBACK}:{edge.port(HAPROXY)}", f"--https-bind={LOOPBACK}:{edge.port(HTTPS)}"]
    else:
        options = [
            f"--split={edge.split}",
            f"--secrets-dir={edge.secrets}",
            f"--listen={LOOPBACK}:{edge.port(AGENT)}",
            f"--edge-name={edge_name}",
            f"--namespace={edge.entry.ref.namespace}",
            f"--ray-token-file={state.ray_token}",
            f"--signing-key={state.signing_key}",
            f"--store=sqlite://{edge.outcomes}",
        ]
    return ProcessCommand(
        name=edge.process_name(part),
        argv=(*cli, part, f"--state-dir={edge.state}", *options),
        env=os.environ,
        directory=edge.entry.directory,
        log=log,
    )
