"""Eight clients ask all the time, two of them what takes a second, and hold each answer to the network of the revision that it names.

Nothing that is done to the service meanwhile, by its author, by its operator or by a killed process, loses a request of theirs.
"""

import contextlib
import json
import signal
from typing import Any

import psutil
import pytest

from real_local import GROUP, is_ready, weight
from waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.haproxy]

CANARY = {"steps": [{"weight": 25, "gate": "time", "minDuration": "2s"}, {"weight": 50, "gate": "manual"}]}
IN_PLACE = {"steps": [{"weight": 60, "gate": "manual"}], "capacity": "inPlace"}
RECREATE = {"strategy": "recreate"}
ERRORS = ("server5xx", "edge5xx", "timeout", "truncated", "invalid", "abortBefore", "abortDuring")


def test_a_canary_by_time_and_by_hand_with_the_reconciler_killed_in_its_middle(service: Any) -> None:
    before, up = service.stable(), service.up
    number = service.release(CANARY)
    eventually(lambda: weight(service.read()) == 25, "the canary at 25 %")
    eventually(lambda: service.load.revisions[str(number)], "an answer of the canary")
    eventually(lambda: weight(service.read()) == 50, "50 %, after the time of the first step")

    kept = {name: up.pid(name) for name in ("ray-0", "edge-0-haproxy", "edge-0-agent")}
    up.end(signal.SIGKILL)
    assert set(service.more(200)) == {str(before), str(number)}
    up.start()
    eventually(lambda: weight(service.read()) == 50, "the same canary after the restart")
    assert {name: up.pid(name) for name in kept} == kept

    service.steer("promote")
    service.becomes_stable(number)


def test_an_aborted_canary_takes_its_share_back_and_stable_gets_it(service: Any) -> None:
    before = service.stable()
    number = service.release(CANARY)
    eventually(lambda: weight(service.read()) > 0, "the canary with traffic")
    eventually(lambda: service.load.revisions[str(number)], "an answer of the canary")
    service.steer("abort")
    eventually(lambda: "candidate" not in service.status(), "the end of the rollout")
    service.only_answered_by(before)
    assert service.status()["lastRollout"]["outcome"] == "Aborted"


def test_a_rollback_to_the_revision_before(service: Any) -> None:
    if (before := service.stable()) == 1:
        before = service.release(RECREATE)
        service.becomes_stable(before)
    service.steer("rollback")
    eventually(lambda: service.stable() != before, "another revision as stable")
    assert service.stable() < before
    service.becomes_stable(service.stable())


def test_recreate_switches_at_once(service: Any) -> None:
    service.becomes_stable(service.release(RECREATE))


def test_more_and_fewer_replicas_with_one_killed_between(service: Any) -> None:
    service.save(replicas=2)
    eventually(lambda: service.status().get("readyReplicas") == 2, "two replicas")
    eventually(lambda: servers(service) == 2, "both behind the edge")
    before = rescued(service)
    victim = eventually(lambda: stopped_in_a_slow_pass(service), "a replica with a slow request")
    victim.kill()
    service.more(200)
    eventually(lambda: rescued(service) > before, "its request, made good by the other replica")
    eventually(lambda: len(replica_processes(service)) == 2 and servers(service) == 2, "a new one in its place")
    service.save(replicas=1)
    eventually(lambda: len(replica_processes(service)) == 1, "one replica")
    eventually(lambda: service.status()["readyReplicas"] == 1, "its being told")


def test_canaries_in_place_one_aborted_in_its_middle_and_one_promoted(service: Any) -> None:
    service.save(replicas=3)
    eventually(lambda: servers(service) == 3, "three replicas behind the edge")
    before = service.stable()
    service.release(IN_PLACE)
    eventually(lambda: weight(service.read()) == 60, "the canary at 60 %, by way of 33 %")
    status = service.status()
    assert status["capacity"]["mode"] == "inPlace"
    assert (status["stable"]["replicas"], status["candidate"]["replicas"]) == (1, 2)
    service.more(200)
    service.steer("abort")
    eventually(lambda: "candidate" not in service.status(), "the end of the rollout")
    service.only_answered_by(before)
    eventually(lambda: servers(service) == 3, "all replicas of stable")

    number = service.release(IN_PLACE)
    eventually(lambda: weight(service.read()) == 60, "the next canary at 60 %")
    service.steer("promote")
    service.becomes_stable(number)
    eventually(lambda: servers(service) == 3, "all replicas of what was promoted")
    service.save(replicas=1, rollout=RECREATE)
    eventually(lambda: len(replica_processes(service)) == 1, "one replica")


def stopped_in_a_slow_pass(service: Any) -> psutil.Process | None:
    """A replica that is stopped, so that it still has its slow request when it is killed."""
    for process in replica_processes(service):
        if service.is_busy(process.pid):
            process.suspend()
            if service.is_busy(process.pid):
                return process
            process.resume()
    return None


def rescued(service: Any) -> int:
    """Requests that a further attempt of the edge made good."""
    rows = [row for row in service.up.evidence()["counters"] if row["service"] == service.name]
    return sum(row["retries"]["rescued"] for row in rows)


def servers(service: Any) -> int:
    """Replicas that pass the edge's health check."""
    arms = service.up.evidence()["services"][service.name]["arms"]
    return int(arms["stable"]["servers"]["up"])


def replica_processes(service: Any, number: int | None = None) -> list[psutil.Process]:
    """The processes of a revision, by default of stable."""
    return ray_processes(service, f"ray::ServeReplica:{service.name}-r{number or service.stable()}:")


def ray_processes(service: Any, title: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(service.up.pid("ray-0")).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if title in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_user_config_is_applied_in_place(service: Any) -> None:
    number = service.stable()
    plain = service.answers[number]
    moved = [[[value + 100 for value in row] for row in rows] for rows in plain]
    service.load.expect(number, plain, moved)
    service.save(runtime={"userConfig": {"offset": 100}})
    eventually(lambda: service.load.once()[0][0] > 50, "the new configuration in force")
    service.load.expect(number, moved)
    service.more(200)
    service.load.expect(number, plain, moved)
    service.save(runtime={})
    eventually(lambda: service.load.once()[0][0] < 50, "the old configuration in force")
    service.load.expect(number, plain)
    assert service.stable() == number


def test_a_killed_agent(service: Any) -> None:
    pid = service.up.pid("edge-0-agent")
    psutil.Process(pid).kill()
    service.more(200)
    eventually(lambda: service.up.is_replaced("edge-0-agent", pid), "the next agent")
    eventually(lambda: service.up.evidence().get("counters"), "its report")


def test_a_killed_serve_controller(service: Any) -> None:
    (controller,) = ray_processes(service, "ray::ServeController")
    controller.kill()
    service.more(200)
    eventually(lambda: ray_processes(service, "ray::ServeController"), "the next controller")
    # It is in charge again: it starts what is wanted from now on.
    service.becomes_stable(service.release(RECREATE))


def test_a_reload_of_the_edge(service: Any) -> None:
    def workers() -> int:
        return sum(boot["endedAt"] is None and not boot["draining"] for boot in service.up.evidence()["boots"])

    before = len(service.up.evidence()["boots"])
    # HAProxy reads a header only where its configuration names it.
    service.save(rollout={**RECREATE, "unit": {"header": "x-never-seen-before"}})
    eventually(lambda: len(service.up.evidence()["boots"]) > before, "a new worker")
    service.more(200)
    assert workers() == 1
    service.save(rollout=RECREATE)


def test_a_neighbour_that_comes_and_goes(service: Any) -> None:
    manifest = service.manifest("neighbour")
    spec = {"model": service.spec["model"], "rollout": RECREATE}
    manifest.write_text(json.dumps(service.document("neighbour", spec)))
    eventually(lambda: is_ready(service.up.read("neighbour")), "the neighbour serving")
    service.more(200)
    manifest.unlink()
    eventually(lambda: service.up.read("neighbour") == {}, "its deletion")
    eventually(lambda: "neighbour" not in service.up.evidence()["services"], "its end at the edge")


def test_a_backup_of_an_earlier_stable_revision_is_written_back(service: Any) -> None:
    backup, before = service.read(), service.stable()
    service.becomes_stable(service.release(RECREATE))
    eventually(lambda: len(replica_processes(service, before)) == 0, "the end of the earlier replicas")
    write_back(service, backup)
    service.becomes_stable(before)


def test_a_backup_from_the_middle_of_a_rollout_is_written_back(service: Any) -> None:
    number = service.release(CANARY)
    eventually(lambda: weight(service.read()) == 50, "the canary at 50 %")
    backup, before = service.read(), service.stable()
    service.steer("promote")
    service.becomes_stable(number)
    eventually(lambda: len(replica_processes(service, before)) == 0, "the end of the earlier replicas")
    write_back(service, backup)
    service.more(200)
    eventually(
        lambda: service.stable() == number and "candidate" not in service.status(), "the same revision as stable"
    )
    service.only_answered_by(number)


def test_a_backup_without_a_status_is_written_back(service: Any) -> None:
    before = service.stable()
    write_back(service, {**service.read(), "status": {}})
    eventually(lambda: service.stable() == before and is_ready(service.read()), "the same revision as stable")
    service.only_answered_by(before)


def write_back(service: Any, backup: dict[str, Any]) -> None:
    """Write an earlier spec and status over the stored ones, as a restore does, and the spec into the manifest."""
    service.save(**backup["spec"])
    path = f"{GROUP}/namespaces/default/modeldeployments/{service.name}"

    def write(part: str, url: str) -> bool:
        status, _ = service.up.api("PUT", url, {**service.read(), part: backup[part]})
        return bool(status == 200)

    for part, url in (("spec", path), ("status", f"{path}/status")):
        eventually(lambda part=part, url=url: write(part, url), f"the {part} of the backup written")


def test_every_request_is_accounted_for(service: Any) -> None:
    """Ends whose lines died with the killed agent are `lost`: known to have been, and not what became of them."""
    service.load.stop()
    evidence = eventually(lambda: settled(service), "no request in flight")
    rows = [row for row in evidence["counters"] if row["service"] == service.name]
    for row in rows:
        assert row["assigned"] == sum(row["ends"].values()) + row["inFlight"] + row["lost"], row
        assert {end: count for end, count in row["ends"].items() if count and end in ERRORS} == {}, row
    assert sum(row["assigned"] for row in rows) == service.load.sent
    assert {boot["integrity"]["unparsable"] for boot in evidence["boots"]} == {0}
    ok = sum(row["ends"]["ok"] for row in rows)
    assert ok + sum(row["lost"] for row in rows) == service.load.sent
    assert ok > 0.9 * service.load.sent


def settled(service: Any) -> dict[str, Any] | None:
    evidence: dict[str, Any] = service.up.evidence()
    return evidence if all(row["inFlight"] == 0 for row in evidence["counters"]) else None
