"""An Experiment while operator, agent, HAProxy and the server of outcomes are killed at random times, and a calm run of its plan.

Real Ray Serve, a real HAProxy, and the server that a cluster's edges keep outcomes in. `SUNDOG_CHAOS_SEED` repeats the kills of a run.
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import analysis_script
from campaigning.clients import UNANSWERED
from campaigning.fleet import Kills
from campaigning.reported_users import NOBODY, PREDICTOR, QUESTIONS, RIGHT, SALT, USERS, Audience
from campaigning.request_accounting import AFTER_A_KILL_S, unanswered, unexplained
from feedback_stores import RestartedServer
from measuring.record import Record
from sundog_operator.core.analysis.counters import Counters
from waiting import comes_true, patience

pytestmark = [pytest.mark.ray, pytest.mark.haproxy, pytest.mark.campaign]

SPEC: dict[str, Any] = {
    "unit": {"header": "x-user-id", "salt": SALT},
    "metrics": {
        "success": [{"name": "accuracy", "feedback": "correct", "type": "mean", "minimumEffect": "10%"}],
    },
}
CALM_RPS, KILLED_RPS = 10.0, 4.0
LEAST_KILLS, EVERY_S = 12, (4.0, 16.0)
SEED = int(os.environ.get("SUNDOG_CHAOS_SEED") or random.randrange(2**32))
LAST_S = 3.0
"""What HAProxy answered so shortly before it is killed may be counted nowhere."""

GOOD_DATA = {"Consistent", "NotEvaluated"}
TOLD_OF_KILLS = {"no operator", "EdgeSilent", "FeedbackUnavailable", "RequestsLost"}
"""What a status says while something is away; all else would be a false alarm."""

Json = dict[str, Any]


@dataclass
class Watch:
    """What the status of an experiment says, second by second."""

    site: Any
    verdicts: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    dropped: set[str] = field(default_factory=set)
    quality: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    winners: set[str] = field(default_factory=set)
    won_at: float = 0.0
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        while not self._over.is_set():
            try:
                self.take((await asyncio.to_thread(self.site.read)).get("status") or {})
            except (OSError, ValueError, HTTPException):
                self.quality["no operator"] += 1
            try:
                await asyncio.wait_for(self._over.wait(), 1.0)
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._over.set()

    def take(self, status: Json) -> None:
        for each in status.get("metrics", ()):
            self.verdicts[each["arm"]].add(each["verdict"])
        self.dropped |= {arm["name"] for arm in status.get("arms", ()) if "dropped" in arm}
        for each in status.get("conditions", ()):
            if each["type"] == "DataQuality":
                self.quality[each["reason"]] += 1
                self.messages[each["reason"]] = each.get("message", "")
        if winner := (status.get("verdict") or {}).get("winner"):
            self.won_at = self.won_at or time.monotonic()
            self.winners.add(winner)
        self.paused |= {status["paused"]["reason"]} if status.get("paused") else set()


@dataclass(frozen=True)
class Ended:
    """A run whose outcomes are judged. `counted` has the edge's counts of requests by arm."""

    audience: Audience
    watch: Watch
    obj: Json
    told: Json
    counted: dict[str, Counter[str]]
    began: float

    def verdict(self) -> Json:
        own = self.obj["status"]["verdict"]
        metrics = {(each["arm"], each["name"]): each["verdict"] for each in self.obj["status"]["metrics"]}
        return {"decision": own["decision"], "winner": own["winner"], **metrics}

    def quality(self) -> str:
        return str(next(each["reason"] for each in self.obj["status"]["conditions"] if each["type"] == "DataQuality"))

    def judged(self) -> dict[str, tuple[int, int]]:
        """By arm, what the operator counts: users with an outcome, and right answers."""
        known = Counters.unpack(self.obj["status"]["tallies"], self.obj["metadata"]["uid"]).feedback
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for (_, _, arm), own in known.outcomes.items():
            found[arm].update(units=own.units, total=own.total // 1_000_000)
        return {arm: (own["units"], own["total"]) for arm, own in found.items()}


async def play(site: Any, name: str, rps: float, kills: Kills | None = None) -> Ended:
    """All users ask and are reported, while kills go on, and an arm wins."""
    await site.begin(name, {arm: {"right": RIGHT[arm]} for arm in RIGHT if arm != "control"}, **SPEC)
    audience, watch, began = Audience(site, site.url, rps), Watch(site), time.monotonic()
    await audience.takes_feedback()
    watching = asyncio.create_task(watch.run())
    try:
        with kills.going_on() if kills else contextlib.nullcontext():
            await audience.run(lambda: kills is None or len(kills.done) >= LEAST_KILLS)
        await site.wins()
        obj, told = await site.judged(lambda told: told["accepted"] >= USERS * QUESTIONS, patience(60))
        counted = await site.until(lambda: count(site, obj["metadata"]["uid"]), "no request under way")
    finally:
        watch.stop()
        await watching
    return Ended(audience, watch, obj, told, counted, began)


def count(site: Any, uid: str) -> dict[str, Counter[str]] | None:
    """By arm, what the edge's processes have counted of an experiment, those that were killed as well."""
    counters = site.up.evidence().get("counters", ())
    rows = [row for row in counters if row["attempt"] == uid and row["arm"] in RIGHT]
    if not rows or any(row["inFlight"] for row in rows):
        return None
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        assert row["assigned"] == sum(row["ends"].values()) + row["lost"], row
        found[row["arm"]].update({name: row[name] for name in ("assigned", "lost")} | row["ends"])
    return found


async def is_over(site: Any, url: str) -> bool:
    """Whether users meet no arm of an experiment any more."""
    _, headers, _ = await site.ask(url, [[0]], NOBODY)
    return bool(headers["x-sundog-arm"] == "stable")


def is_whole(site: Any, url: str) -> bool:
    """Whether the agent reads the server of outcomes, and HAProxy answers."""
    told = ((site.up.evidence().get("services") or {}).get(site.service) or {}).get("feedback") or {}
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), 1.0).close()
    except OSError:
        return False
    return "outcomes" in told


async def test_the_verdict_and_every_acknowledged_outcome_outlive_kills_at_random(
    killed_site: Any, outcomes: RestartedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = killed_site
    await site.serve("numbers", PREDICTOR, {"right": RIGHT["control"]})
    calm = await play(site, "calm", CALM_RPS)
    holds(calm)
    assert calm.counted.keys() == RIGHT.keys()
    assert {arm: own["ok"] for arm, own in calm.counted.items()} == Counter(arm for arm, _ in calm.audience.answered)
    assert calm.quality() == "Consistent"
    await site.ends_experiment()
    url = site.url
    await comes_true(lambda: is_over(site, url), "stable alone answers")

    kills = Kills(site.up, SEED, EVERY_S, {"outcomes": outcomes.kill}, lambda: is_whole(site, url))
    killed = await play(site, "killed", KILLED_RPS, kills)
    with capsys.disabled():
        report(calm, killed, kills)
    assert kills.problems == []
    assert Counter(which for _, which in kills.done).keys() == {"operator", "agent", "edge", "outcomes"}
    holds(killed)
    assert killed.verdict() == calm.verdict()
    assert killed.audience.met == calm.audience.met
    assert killed.audience.sums() == calm.audience.sums()
    await is_in_the_log(site, killed, tmp_path / "out")
    requests_are_counted(killed, kills)


def holds(ended: Ended) -> None:
    """The verdict is the truth, each acknowledged outcome is counted once, all users met one arm, and bad data is no false alarm."""
    audience, watch = ended.audience, ended.watch
    assert (ended.verdict()["decision"], ended.verdict()["winner"]) == ("Winner", "better")
    assert (watch.winners, watch.dropped, watch.paused) == ({"better"}, set(), {"Won"})
    assert watch.verdicts["same"] & {"Better", "Worse", "Harm"} == set()

    assert len(audience.acknowledged) == ended.told["accepted"] == USERS * QUESTIONS
    assert audience.sums() == ended.judged()
    assert {arm for own in audience.met.values() for arm in own} == RIGHT.keys()
    assert {user: arms for user, arms in audience.met.items() if len(arms) > 1} == {}
    assert sum(units for _, _, units in ended.told["exposed"]) == USERS + 1
    assert [ended.told[result] for result in ("late", "unknown", "future", "invalid", "overflow")] == [0] * 5

    assert watch.quality.keys() <= GOOD_DATA | TOLD_OF_KILLS, watch.messages
    assert ended.quality() in {"Consistent", "RequestsLost"}


async def is_in_the_log(site: Any, ended: Ended, out: Path) -> None:
    """Each acknowledged outcome is exported once, and who has the log comes to the same verdict."""
    done = await asyncio.to_thread(site.up.sundog, "experiment", "export", site.name, "--to", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "plan.json").read_text())["complete"]
    script = analysis_script.load()
    _, _, rows = script.read(out)
    logged = Counter(zip(rows["unit"], rows["value"].astype(int), strict=True))
    assert logged == Counter((each.unit, int(each.right)) for each in ended.audience.acknowledged.values())
    _, decision, winner = script.analyse(out)
    assert (decision, winner) == ("Winner", "better")


def requests_are_counted(ended: Ended, kills: Kills) -> None:
    """Answered requests are in the edge's counts, but for those of its last second before a kill of it. Nothing else loses a request."""
    audience = ended.audience
    assert unexplained(audience.samples, kills, 0.0) == []
    edges = [at for at, which in kills.done if which == "edge"]
    failed = sum(status != 200 for status in audience.samples.statuses)
    for arm, counted in ended.counted.items():
        times = [at for own, at in audience.answered if own == arm]
        far = sum(not any(kill - LAST_S <= at <= kill + AFTER_A_KILL_S for kill in edges) for at in times)
        assert far <= counted["ok"] + counted["lost"], (arm, counted)
        assert counted["ok"] <= len(times) + failed, (arm, counted)


def report(calm: Ended, killed: Ended, kills: Kills) -> None:
    """Print what was killed, what became of requests and outcomes, and the verdicts."""
    columns = ("what", "calm", "with kills")
    record = Record(
        "random_kills", f"An Experiment whose parts are killed at random (SUNDOG_CHAOS_SEED={SEED})", columns
    )
    died = Counter(which for _, which in kills.done)
    record.add("kill -9", "0", ", ".join(f"{died[which]} × {which}" for which in sorted(died)))
    for what, show in ROWS.items():
        record.add(what, *(show(each) for each in (calm, killed)))
    by_death = unanswered([killed.audience.samples], kills, 0.0)
    record.notes.append(
        f"Of {by_death.sent} requests with kills, {by_death.after_edge} had no answer within {AFTER_A_KILL_S:.0f} s of a kill of HAProxy, "
        f"{by_death.after_others} of another, {by_death.elsewhere} later."
    )
    record.raw["kills"] = kills.done
    record.finish()


def by_arm(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{arm} {found[arm]}" for arm in RIGHT if arm in found)


def accuracy(ended: Ended, arm: str) -> str:
    [each] = [each for each in ended.obj["status"]["metrics"] if (each["arm"], each["name"]) == (arm, "accuracy")]
    return f"{each['verdict']}, {each['ratio']:.3f} ({each['interval'][0]:.3f} to {each['interval'][1]:.3f})"


ROWS: dict[str, Callable[[Ended], str]] = {
    "seconds of traffic": lambda each: f"{each.audience.lasted_s:.0f}",
    "seconds until the win": lambda each: f"{each.watch.won_at - each.began:.0f}",
    "requests answered": lambda each: by_arm(Counter(arm for arm, _ in each.audience.answered)),
    "of these counted by the edge": lambda each: by_arm({arm: own["ok"] for arm, own in each.counted.items()}),
    "counted as lost": lambda each: by_arm({arm: own["lost"] for arm, own in each.counted.items()}),
    "requests without an answer": lambda each: str([*each.audience.samples.statuses].count(UNANSWERED)),
    "requests with another answer than 200": lambda each: str(
        sum(status not in (200, UNANSWERED) for status in each.audience.samples.statuses)
    ),
    "outcomes acknowledged": lambda each: str(len(each.audience.acknowledged)),
    "of these stored without an answer, and sent again": lambda each: str(each.audience.first_results["duplicate"]),
    "reports not taken at first, by status": lambda each: str(dict(sorted(each.audience.not_taken.items()))),
    "users with an outcome, right answers": lambda each: by_arm(each.judged()),
    "winner": lambda each: str(each.verdict()["winner"]),
    "better than control": lambda each: accuracy(each, "better"),
    "equal to control": lambda each: accuracy(each, "same"),
    "looks by what DataQuality said": lambda each: ", ".join(
        f"{n} {why}" for why, n in each.watch.quality.most_common()
    ),
}
