"""An edge's report about copies of requests that a canary got."""

from typing import Any

from doubles.cluster import NAME, Cluster

EDGE = "sundog-edge-0"


def service(cluster: Cluster) -> dict[str, Any]:
    """Return the service that the edge has in force."""
    (document,) = cluster.edges.in_force()
    found: dict[str, Any] = next(each for each in document["services"] if each["name"] == NAME)
    return found


def row(boot: str = "b1", attempt: str = "", epoch: int = 0, method: str = "argmax", **counts: Any) -> dict[str, Any]:
    """Return a row of an edge: `agree`, `disagree` and `strange` pairs by method, and the rest by name."""
    agree, disagree, strange = (counts.pop(name, 0) for name in ("agree", "disagree", "strange"))
    paired = agree + disagree + strange
    ended = paired + sum(counts.get(name, 0) for name in ("errors", "timeouts", "lost"))
    made = {
        "boot": boot,
        "service": NAME,
        "attempt": attempt,
        "epoch": epoch,
        "sampled": ended,
        "sent": ended,
        "dropped": 0,
        "paired": paired,
        "errors": 0,
        "timeouts": 0,
        "lost": 0,
        "waiting": 0,
        "inFlight": 0,
        "skipped": {},
        "slower": [0, paired],
        "faster": [],
        "verdicts": {method: [agree, disagree, strange], "exact": [0, paired, 0]},
    }
    return {**made, **counts}


async def tell(cluster: Cluster, agree: int, disagree: int = 0, **counts: Any) -> None:
    """Set the counts of the edge."""
    entry, rows = service(cluster), {"slower": [agree + disagree], **counts}
    at = {"attempt": entry["attempt"], "epoch": entry["epoch"], "method": "tolerance"}
    cluster.edges.mirrored[EDGE] = [row(**at, agree=agree, disagree=disagree, **rows)]
