"""Ask a database of advisories about the locked packages, by pip-audit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from releasing.locks import LOCKS
from releasing.programs import CheckError, NotRunError


def audit(root: Path) -> str:
    """Return how many packages have no known advisory. Raises CheckError with the advisories, or NotRunError."""
    audited: set[str] = set()
    skipped: set[str] = set()
    found = []
    for lock in sorted((root / LOCKS).glob("*.txt")):
        for package in _ask(lock):
            name = f"{package['name']} {package.get('version', '')}".strip()
            if "skip_reason" in package:
                skipped.add(name)
                continue
            audited.add(name)
            for advisory in package["vulns"]:
                fixed = " or ".join(advisory["fix_versions"]) or "no version"
                found.append(f"{lock.name}: {name} has {advisory['id']}, which {fixed} fixes")
    if found:
        raise CheckError("; ".join(sorted(set(found))))
    if skipped:
        # pip-audit ends with 0 even if the service knows none of the packages.
        raise NotRunError(
            f"the service of advisories did not answer for {len(skipped)} packages, such as {min(skipped)}"
        )
    return f"no advisory for {len(audited)} packages"


def _ask(lock: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--requirement", str(lock)]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotRunError(f"pip-audit reports nothing about {lock.name}: {last[:300]}") from None
    return dependencies
