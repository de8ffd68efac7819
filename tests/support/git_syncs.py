"""Apply manifests again and again, as Git's tools do with self-heal on, and look for drift each time."""

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from real_kubernetes.kubectl import Kubectl

APPLIES: Final = {
    "argocd": ("apply", "--server-side", "--field-manager=argocd-controller"),
    "flux": ("apply", "--server-side", "--field-manager=kustomize-controller"),
    "client-side": ("apply",),
}
SELF_HEAL: Final = (*APPLIES["argocd"], "--force-conflicts")
"""Takes over each field of the manifests that somebody else has changed."""

LOOKS: Final = 3

Json = dict[str, Any]


@dataclass
class Syncs:
    """What a tool met that applied its manifests again and again.

    Attributes:
        count: number of syncs.
        problems: what kubectl said of each refused apply, and of each drift.
        seen: by name of the object, what was stored after each sync.
    """

    count: int = 0
    problems: list[str] = field(default_factory=list)
    seen: dict[str, list[Json]] = field(default_factory=lambda: defaultdict(list))

    def generations(self, name: str) -> set[int]:
        """Return the generations in which an object was seen."""
        return {int(obj["metadata"]["generation"]) for obj in self.seen[name]}


@contextmanager
def syncing(kubectl: Kubectl, apply: tuple[str, ...], *manifests: Json, every_s: float = 2.0) -> Iterator[Syncs]:
    """Apply the manifests at once and then with a pause of `every_s`, and look for drift each time, until the context ends."""
    syncs, ended = Syncs(), threading.Event()
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})

    def run(*command: str) -> str:
        done = kubectl.run(*command, "-f", "-", stdin=text)
        return f"kubectl {' '.join(command)}: {done.stdout}{done.stderr}" if done.returncode else ""

    def sync() -> None:
        if refused := run(*apply):
            syncs.problems.append(refused)
        # kubectl reads the objects and then asks what an apply would make of them: a status that is written in between looks like a
        # difference. Drift is there at each look.
        for _ in range(LOOKS):
            if not (drift := run("diff", *apply[1:])):
                break
        else:
            syncs.problems.append(drift)
        found = json.loads(kubectl("get", "-f", "-", "-o", "json", stdin=text))
        for obj in found.get("items", [found]):
            syncs.seen[obj["metadata"]["name"]].append(obj)
        syncs.count += 1

    def work() -> None:
        while not ended.wait(every_s):
            sync()

    sync()
    thread = threading.Thread(target=work, name="sync")
    thread.start()
    try:
        yield syncs
    finally:
        ended.set()
        thread.join()
