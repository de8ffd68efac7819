"""Weights that follow outcomes: a real operator, a real edge and its store, outcomes that come late and twice, and what dies meanwhile."""

import asyncio
import json
import random
import signal
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from scipy.stats import chisquare

import analysis_script
from sundog_operator.core.analysis.counters import Counters
from waiting import comes_true

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.haproxy

NAME, SERVICE = "three", "digits"
SALT = "37"
"""By which weights go to the better arm step by step; by others they go there at once, or astray first."""

BUYS = {"stable": 0.2, "control": 0.2, "deep": 0.24, "wide": 0.34}
"""Of an arm's users, the share who do."""

EXPOSED, FLOOR = 9000, 1350
"""Buckets of the experiment, and the least of an arm: 15 % of them."""

NEW, AGAIN, FEW = 200, 40, 50
DIES_IN = 3
"""The epoch in which the operator is killed."""

OPERATOR = "operator"
PARTS = (OPERATOR, "edge-0-agent", "edge-0-haproxy")
"""All that runs: the agent has the store of outcomes."""

CLIENTS = 8

Json = dict[str, Any]


class Buyers:
    """Users who come, come back, and of whom it is told a round later whether they bought."""

    def __init__(self, site: Any) -> None:
        self._site = site
        self._came = 0
        self.untold: list[str] = []
        self.told: list[str] = []

    def first(self, user: str) -> Any:
        return next(visit for visit in self._site.visits[SERVICE, user] if visit.exposure)

    def bought(self, user: str) -> bool:
        return bool(self._site.luck(user) < BUYS[self.first(user).arm])

    @property
    def seen(self) -> int:
        """Users who came, and nobody."""
        return self._came + 1

    async def come(self, new: int = NEW) -> None:
        """New ones, and some of whom it has been told already."""
        fresh = [f"user-{number}" for number in range(self._came, self._came + new)]
        self._came += new
        await self._site.visit(SERVICE, [*fresh, *self.told[-NEW :: NEW // AGAIN]])
        self.untold += fresh

    def late_ones(self, newest: int) -> list[str]:
        """Of whom something is to be told by now: all but the newest."""
        due, self.untold = self.untold[: len(self.untold) - newest], self.untold[len(self.untold) - newest :]
        self.told += due
        return due

    def item(self, user: str, **more: Any) -> Json:
        told = {"metric": "bought", "value": self.bought(user), "id": user}
        return {**told, "exposure": self.first(user).exposure, **more}

    def counts(self) -> dict[tuple[int, str], tuple[int, int]]:
        """By epoch and arm of first exposures, of how many users it was told, and how many of them bought."""
        found: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
        for user in self.told:
            row = found[self.first(user).epoch, self.first(user).arm]
            row[0] += 1
            row[1] += self.bought(user)
        return {place: (units, positive) for place, (units, positive) in found.items()}


async def tell(site: Any, buyers: Buyers, newest: int) -> None:
    """Twice at the same time, once more by the unit, and what was before its exposure or is nobody's."""
    due = buyers.late_ones(newest)
    if not due:
        return
    items = [buyers.item(user) for user in due]
    before = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    nonsense = [
        buyers.item(due[0], id="before", time=before),
        buyers.item(due[0], id="ahead", time=(datetime.now(UTC) + timedelta(days=31)).isoformat()),
        buyers.item(due[0], id="forged", exposure=items[0]["exposure"][:-1] + "!"),
        {"unit": "a stranger", "metric": "bought"},
    ]
    again = [{"unit": user, "metric": "bought", "value": True, "id": user} for user in due]
    answers = await asyncio.gather(site.report(SERVICE, items), site.report(SERVICE, items))
    counted = sum((Counter({k: n for k, n in answer.items() if k != "problems"}) for _, answer in answers), Counter())
    assert counted == {"accepted": len(items), "duplicate": len(items)}
    status, answer = await site.report(SERVICE, [*nonsense, *again])
    assert status == 207
    assert {k: n for k, n in answer.items() if n and k != "problems"} == {
        "late": 1,
        "future": 1,
        "unknown": 2,
        "duplicate": len(again),
    }


def told_units(section: Json) -> int:
    return sum(units for _, _, _, units, *_ in section["outcomes"])


async def begin(site: Any) -> None:
    """Outcomes are taken."""
    await site.deploy(SERVICE)
    spec = {
        "exposure": "90%",
        "unit": {"header": "x-user-id", "salt": SALT},
        "allocation": {"mode": "thompson", "floor": "15%", "delta": 0.2},
        "stop": {"maxDuration": "1d"},
        "onWin": "pause",
    }
    status, told = await site.api("POST", "", site.experiment(NAME, SERVICE, "deep", "wide", **spec))
    assert status == 201, told
    await comes_true(lambda: site.takes_feedback(SERVICE), "exposures are told")


def committed_first(site: Any) -> None:
    """Of each epoch the buckets are in a status before they are in what edges read, and are the same there."""
    statuses: dict[int, Any] = {}
    for written in site.beside.journal():
        if written.where == "experiment":
            statuses[written.epoch] = written.ranges
        elif written.epoch in statuses or written.epoch > 1:
            assert written.ranges == statuses[written.epoch]


async def settled(site: Any, buyers: Buyers) -> Json:
    """The Experiment, once all that was told is judged."""

    def all_of_it(told: Json) -> bool:
        exposed = sum(units for _, _, units in told["exposed"])
        return exposed == buyers.seen and told_units(told) == len(buyers.told)

    return dict(await site.judged(NAME, SERVICE, all_of_it))


async def move(site: Any, epoch: int) -> None:
    """An hour later the weights are those of the next epoch."""
    site.beside.advance(timedelta(hours=1))
    await comes_true(lambda: site.is_in_force(NAME, epoch + 1), f"epoch {epoch + 1}")


async def die_between_commit_and_traffic(site: Any, buyers: Buyers, epoch: int) -> None:
    """The weights of the next epoch are committed, and the operator is killed before any edge knows of them; then the agent is."""
    site.beside.kill_at(NAME, epoch + 1)
    site.beside.advance(timedelta(hours=1))
    assert await asyncio.to_thread(site.up.process.wait, 120) == -signal.SIGKILL
    assert site.beside.journal()[-1].key == ("experiment", NAME, epoch + 1)
    await buyers.come(FEW)
    site.kill("edge-0-agent")
    # Nobody is there who would start another agent: who comes is assigned and answered as ever, and is told what can be brought later.
    await buyers.come(FEW)
    assert {site.visits[SERVICE, user][-1].epoch for user in buyers.untold[-2 * FEW :]} == {epoch}
    status, _ = await site.report(SERVICE, [{"unit": "nobody", "metric": "bought"}])
    assert status == 503
    site.up.start()
    await comes_true(lambda: site.is_in_force(NAME, epoch + 1), f"epoch {epoch + 1} in force after all")
    # An agent that never saw these users is told of them, in an epoch that is not theirs.
    assert {buyers.first(user).epoch for user in buyers.untold} == {epoch}
    await tell(site, buyers, 0)
    counted_once(site, buyers, await settled(site, buyers))


async def test_weights_follow_the_better_arm_and_it_wins_whatever_dies_meanwhile(site: Any, tmp_path: Path) -> None:
    await begin(site)
    buyers = Buyers(site)
    await buyers.come()
    obj: Json = {}
    while True:
        await buyers.come()
        await tell(site, buyers, NEW)
        obj = await settled(site, buyers)
        epoch = obj["status"]["epoch"]["number"]
        assert epoch < 12, obj["status"]["metrics"]
        if (obj["status"].get("paused") or {}).get("reason") == "Won":
            break
        if epoch == DIES_IN:
            await die_between_commit_and_traffic(site, buyers, epoch)
        else:
            await move(site, epoch)
    # What is sure at every evaluation is not the same at every evaluation: a win by a little is one by more later.
    await buyers.come()
    await tell_while_all_die(site, buyers)
    obj = await settled(site, buyers)
    assert obj["status"]["verdict"]["winner"] == "wide"

    agrees_with_the_split(site, buyers, obj)
    counted_once(site, buyers, obj)
    await dies_and_says_the_same(site, buyers, obj)
    await redone_from_its_log(site, obj, tmp_path / "out")
    await ends(site, buyers, obj)


async def tell_while_all_die(site: Any, buyers: Buyers) -> None:
    """Each part is killed twice, at random, in the middle of reports. Each outcome is sent until it is acknowledged."""
    dice, parts = random.Random(SALT), [*PARTS, *PARTS]
    dice.shuffle(parts)
    for part in parts:
        await buyers.come(FEW)
        due = buyers.late_ones(0)
        waiting, dies_at = iter(enumerate(due)), dice.randrange(FEW // 2)
        pid = None if part == OPERATOR else site.up.pid(part)

        async def report(waiting: Any = waiting, dies_at: int = dies_at, part: str = part) -> None:
            for place, user in waiting:
                if place == dies_at:
                    await die(site, part)
                await comes_true(lambda user=user: is_acknowledged(site, buyers.item(user)), f"{user} is told: {part}")

        await asyncio.gather(*(report() for _ in range(CLIENTS)))
        if pid is not None:
            await comes_true(lambda part=part, pid=pid: is_replaced(site, part, pid), f"the next {part}")


async def die(site: Any, part: str) -> None:
    if part != OPERATOR:
        site.kill(part)
        return
    await kill_operator(site)
    site.up.start()


async def kill_operator(site: Any) -> None:
    site.up.process.kill()
    await asyncio.to_thread(site.up.process.wait, 60)


async def is_replaced(site: Any, part: str, pid: int) -> bool:
    return bool(site.up.is_replaced(part, pid))


async def is_acknowledged(site: Any, item: Json) -> bool:
    """Whether the outcome is stored. If an answer was lost, the one before may have been written: then this one is a duplicate."""
    try:
        status, answer = await site.report(SERVICE, [item])
    except aiohttp.ClientError:
        return False
    if status != 200:
        assert status in (429, 502, 503, 504), answer
        return False
    assert answer["accepted"] + answer["duplicate"] == 1, answer
    return True


def agrees_with_the_split(site: Any, buyers: Buyers, obj: Json) -> None:
    """Who came fell to arms as the committed buckets say, each epoch's are towards the better arm, and nobody moves who need not."""
    revisions = {arm["name"]: f"{SERVICE}-r{arm['revision']}" for arm in obj["status"]["arms"]}
    answered = Counter((visit.arm, visit.application, visit.epoch) for own in site.visits.values() for visit in own)
    assert [each for each in answered if each[1] != revisions[each[0]]] == [], answered
    committed_first(site)
    split = site.ranges(NAME)
    size = {epoch: {arm: sum(b - a for a, b in own) for arm, own in arms.items()} for epoch, arms in split.items()}
    evidence = [each["number"] for each in obj["status"]["evidenceEpochs"]]
    assert len(evidence) >= 5, obj["status"]["metrics"]
    for epoch in evidence:
        assert size[epoch]["stable"] == 10_000 - EXPOSED
        assert min(size[epoch].values()) >= min(FLOOR, 10_000 - EXPOSED)
        assert all(size[epoch][arm] >= FLOOR for arm in ("control", "deep", "wide"))
    own = [size[epoch]["wide"] for epoch in evidence]
    assert own == sorted(own)
    assert own[-1] > own[0] + 2000

    fell: dict[int, Counter[str]] = defaultdict(Counter)
    for (_, user), visits in site.visits.items():
        for visit in visits:
            if visit.exposure:
                assert visit.arm == site.owner(split[visit.epoch], SALT, user)
        for before, after in pairwise(visits):
            # Who changes was with an arm that has fewer since; whose arm grew or stayed is where he was.
            if before.exposure and before.arm != after.arm:
                assert size[after.epoch][before.arm] < size[before.epoch][before.arm]
        if any(visit.exposure for visit in visits):
            fell[buyers.first(user).epoch][buyers.first(user).arm] += 1
    for epoch, arms in fell.items():
        meant = {arm: share / 10_000 * arms.total() for arm, share in size[epoch].items()}
        assert chisquare([arms[arm] for arm in meant], list(meant.values())).pvalue > 1e-4, (epoch, arms, meant)
    for earlier, later in pairwise(evidence):
        grown = sum(max(0, size[later][arm] - share) for arm, share in size[earlier].items())
        assert moved_buckets(split[earlier], split[later]) == grown


def moved_buckets(before: Any, after: Any) -> int:
    """Of how many buckets the arm is another one."""
    owners: list[dict[int, str]] = [
        {place: arm for arm, own in ranges.items() for start, end in own for place in range(start, end)}
        for ranges in (before, after)
    ]
    return sum(owners[0][place] != owners[1][place] for place in range(10_000))


def counted_once(site: Any, buyers: Buyers, obj: Json) -> None:
    """What the operator knows is what happened, whoever was killed and however often it was told."""
    known = Counters.unpack(obj["status"]["tallies"], obj["metadata"]["uid"]).feedback
    counts = buyers.counts()
    assert {(e, a): (own.units, own.positive) for (_, e, a), own in known.outcomes.items()} == counts
    exposed = {place: units for place, (units, _) in counts.items()}
    nobody = buyers.first("nobody")
    exposed[nobody.epoch, nobody.arm] = exposed.get((nobody.epoch, nobody.arm), 0) + 1
    assert dict(known.exposed) == exposed


async def dies_and_says_the_same(site: Any, buyers: Buyers, obj: Json) -> None:
    """A new operator and a new agent come to what the old ones knew."""
    await kill_operator(site)
    site.kill("edge-0-agent")
    site.up.start()
    again = await settled(site, buyers)
    assert again["status"]["verdict"] == obj["status"]["verdict"]
    assert again["status"]["metrics"] == obj["status"]["metrics"]
    counted_once(site, buyers, again)


async def redone_from_its_log(site: Any, obj: Json, out: Path) -> None:
    done = await asyncio.to_thread(site.up.sundog, "experiment", "export", NAME, "--to", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "plan.json").read_text())["complete"]
    found, decision, winner = analysis_script.load().analyse(out)
    assert (decision, winner) == ("Winner", "wide")
    for arm in ("deep", "wide"):
        here = found["conversion"][arm]
        (theirs,) = [each for each in obj["status"]["metrics"] if (each["name"], each["arm"]) == ("conversion", arm)]
        assert here["verdict"] == theirs["verdict"]
        assert [1 + here["uplift"], 1 + here["lower"], 1 + here["upper"]] == [theirs["ratio"], *theirs["interval"]]
        lower, upper = theirs["interval"]
        assert lower < BUYS[arm] / BUYS["control"] < upper, (arm, lower, upper)


async def ends(site: Any, buyers: Buyers, obj: Json) -> None:
    """It has run its course, everybody is with stable, and what is told since changes nothing."""
    assert (await site.api("PATCH", NAME, {"spec": {"stopped": True}}))[0] == 200

    async def over() -> bool:
        return bool((await site.status(NAME))["phase"] == "Concluded")

    await comes_true(over, "it is over")

    async def refused() -> bool:
        status, answer = await site.report(SERVICE, [buyers.item(buyers.told[0], id="after the end")])
        return bool(status == 404 and answer["code"] == "NoFeedback")

    await comes_true(refused, "outcomes are refused")
    await site.visit(SERVICE, buyers.told[:100])
    assert {site.visits[SERVICE, user][-1].arm for user in buyers.told[:100]} == {"stable"}
    after = await site.read(NAME)
    assert after["status"]["verdict"]["winner"] == "wide"
    counted_once(site, buyers, after)
