"""The agent and HAProxy each restart without the other, and the books stay right."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal

import aiohttp
import pytest

from sundog_edge.haproxy.client import HaproxyClient
from waiting import PATIENCE_S

pytestmark = pytest.mark.haproxy


def rows(evidence):
    return {(row["boot"], row["service"], row["epoch"], row["arm"], row["unit"]): row for row in evidence["counters"]}


async def test_the_agent_dies_under_load_and_the_next_one_accounts_for_every_request(edge, digits):
    pid = None
    async with edge.load() as load:
        await load.more(300)
        evidence = await edge.evidence()
        pid = next(boot["pid"] for boot in evidence["boots"] if not boot["draining"] and not boot["endedAt"])
        await edge.kill_agent()
        await load.more(300)
        await edge.start_agent()

        async def back() -> bool:
            return (await edge.evidence())["document"]["generation"] == edge.generation

        await edge.comes_true(back, "the next agent")
        await load.more(300)
    assert load.failed == {}
    evidence = await edge.settled(load.sent)
    lost = edge.lost(evidence)
    assert edge.ends(evidence)["ok"] + lost == load.sent
    # Only what was counted after the last snapshot, or was on its way, can be lost: the pipe kept what came while no agent was there.
    assert edge.ends(evidence)["ok"] >= 300
    alive = [boot for boot in evidence["boots"] if not boot["draining"] and not boot["endedAt"]]
    assert [boot["pid"] for boot in alive] == [pid]
    assert alive[0]["integrity"]["gaps"] == lost
    assert alive[0]["integrity"]["requests"] == load.sent


async def test_an_agent_that_is_asked_to_stop_loses_nothing_while_idle(edge, digits):
    async with edge.load() as load:
        await load.more(200)
    before = await edge.settled(load.sent)
    edge.agent.terminate()
    assert await edge.agent.wait() == 0
    async with edge.load() as more:
        await more.more(100)
    await edge.start_agent()
    after = await edge.settled(load.sent + more.sent)
    assert sum(row["lost"] for row in after["counters"]) == 0
    for key, row in rows(before).items():
        later = rows(after)[key]
        assert later["assigned"] >= row["assigned"]
        assert all(later["ends"][name] >= count for name, count in row["ends"].items())


async def test_the_next_agent_completes_what_one_left_half_way(edge, digits):
    """The files have the document, HAProxy's maps do not: as after a death between the two."""
    await edge.kill_agent()
    haproxy = HaproxyClient(edge.root / "s" / "master.sock")
    pid = (await haproxy.processes())[0].pid
    await haproxy.replace_map(pid, edge.root / "s" / "maps" / "splits.map", {})
    assert (await edge.get("/digits/")).status == 404
    await edge.start_agent()

    async def answers() -> bool:
        return (await edge.get("/digits/")).status == 200

    await edge.comes_true(answers, "the document in force again")


async def test_lines_that_the_pipe_could_not_hold_are_lost_by_name(edge, digits):
    """More requests than the pipe has room for while there is no agent."""
    await edge.kill_agent()
    pipe = os.open(edge.root / "s" / "log.pipe", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 14)
    os.close(pipe)
    async with edge.load() as load:
        await load.more(400)
    await edge.start_agent()
    evidence = await edge.settled(load.sent)
    lost = edge.lost(evidence)
    assert lost > 0
    assert max(boot["integrity"]["dropped"] for boot in evidence["boots"]) == lost
    assert edge.ends(evidence)["ok"] + lost == load.sent


async def test_a_bad_document_changes_nothing_and_says_why(edge, digits):
    good = edge.document(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])], hash="b2"))

    async def refused(words: str) -> bool:
        error = (await edge.evidence())["document"]["error"]
        return words in error and "\n" not in error

    gap = json.loads(json.dumps(good))
    gap["services"][0]["arms"][0]["ranges"] = [[0, 9999]]
    wrong_type = json.loads(json.dumps(good))
    wrong_type["services"][0]["arms"][0]["revision"] = "seven"
    for content, words in (
        ("{not json", "JSON"),
        (gap, "bucket 9999 is not covered"),
        (wrong_type, "services[0].arms[0].revision"),
        ({**good, "version": 2}, "version"),
        ({**good, "namespace": "other"}, "namespace 'other'"),
    ):
        edge.write(content)
        await edge.comes_true(lambda words=words: refused(words), words)
        assert (await edge.get("/digits/")).status == 200
        evidence = await edge.evidence()
        assert evidence["document"]["generation"] < good["generation"]
        assert evidence["services"]["digits"]["hash"] == ""
        assert await edge.status("/readyz") == 200
    edge.write(good)

    async def taken() -> bool:
        seen = (await edge.evidence())["document"]
        return seen["generation"] == good["generation"] and seen["error"] == ""

    await edge.comes_true(taken, "the good document")
    assert (await edge.evidence())["services"]["digits"]["hash"] == "b2"


async def test_a_document_behind_a_swapped_link_is_followed(edge, serve, digits):
    """As the kubelet writes a ConfigMap: `split.json` → `..data/split.json`, `..data` swapped."""
    edge.split.unlink()
    for number in (1, 2):
        folder = edge.root / f"..v{number}"
        folder.mkdir()
        document = edge.document(edge.service(f"svc{number}", []))
        (folder / "split.json").write_text(json.dumps(document))
        link = edge.root / "..new"
        link.symlink_to(folder.name)
        link.replace(edge.root / "..data")
        if number == 1:
            edge.split.symlink_to("..data/split.json")

        async def in_force(name: str = f"svc{number}") -> bool:
            return [*(await edge.evidence())["services"]] == [name]

        await edge.comes_true(in_force, f"document {number}")


async def test_a_reload_under_load_fails_nothing_and_loses_nothing(edge, serve, digits, replicas):
    """A new unit header, and more applications than there are slots, need a new worker."""
    both = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]
    fresh = await replicas("fresh-r1")
    serve.targets["fresh-r1"] = [fresh.address]
    async with edge.load() as load:
        await load.more(200)
        many = [edge.arm(f"a{n}", f"many-r{n}", []) for n in range(9)]
        await edge.apply(
            edge.service("digits", both),
            edge.service(
                "fresh",
                [edge.arm("stable", "fresh-r1", [[0, 10_000]]), *many],
                unit={"kind": "header", "name": "X-New"},
            ),
            edge.service("more", [edge.arm(f"b{n}", f"more-r{n}", []) for n in range(9)]),
        )
        await load.more(300)
        await edge.up("fresh", stable=1)
        assert (await edge.get("/fresh/", headers={"x-new": "u1"})).status == 200
        await load.more(100)
    assert load.failed == {}

    async def old_workers_gone() -> bool:
        return sum(not boot["endedAt"] for boot in (await edge.evidence())["boots"]) == 1

    await edge.comes_true(old_workers_gone, "old workers gone")
    evidence = await edge.settled(load.sent + 1)
    assert sum(row["lost"] for row in evidence["counters"]) == 0
    assert edge.ends(evidence) == {"ok": load.sent + 1}
    served = {row["boot"] for row in evidence["counters"] if row["service"] == "digits" and row["assigned"]}
    assert len(served) >= 2, "a new worker took over in the middle of the load"
    sticky = [row for row in evidence["counters"] if row["service"] == "fresh"]
    assert [row["unit"] for row in sticky] == ["sticky"]


async def test_haproxy_restarts_with_what_was_in_force_even_without_an_agent(edge, digits):
    await edge.apply(
        edge.service(
            "digits", [edge.arm("stable", "digits-r7", []), edge.arm("canary", "digits-r8", [[0, 10_000]], revision=8)]
        )
    )

    async def remembered() -> bool:
        return (edge.root / "s" / "layout.json").read_text().count('"address"') == 2

    await edge.comes_true(remembered, "the servers in the layout")
    for _ in range(20):
        assert (await edge.get("/digits/")).headers["x-sundog-arm"] == "canary"
    await edge.settled(20)
    await edge.kill_agent()
    await edge.stop_haproxy()
    await edge.start_haproxy()

    async def answers() -> bool:
        try:
            return (await edge.get("/digits/")).headers["x-sundog-arm"] == "canary"
        except OSError:
            return False

    await edge.comes_true(answers, "HAProxy back with canary")
    await edge.start_agent()
    evidence = await edge.comes_true(lambda: two_boots(edge), "two boots with requests")
    old, new = sorted(evidence["boots"], key=lambda boot: boot["endedAt"] is None)[-2:]
    assert old["endedAt"] is not None
    assert new["endedAt"] is None


async def two_boots(edge):
    evidence = await edge.evidence()
    served = {row["boot"] for row in evidence["counters"] if row["assigned"]}
    ended = [boot for boot in evidence["boots"] if boot["endedAt"] and boot["id"] in served]
    return evidence if len(served) == 2 and ended else None


async def test_requests_that_die_with_haproxy_are_lost_and_not_in_flight(edge, digits):
    hanging = asyncio.create_task(edge.get("/digits/?hold"))
    await digits["stable"].entered.wait()
    assert [row["inFlight"] for row in (await edge.evidence())["counters"]] == [1]
    edge.haproxy.kill()
    await edge.haproxy.wait()
    with pytest.raises(aiohttp.ClientError):
        await hanging
    assert await edge.status("/healthz") in {200, 503}

    async def unhealthy() -> bool:
        return await edge.status("/healthz") == 503

    await edge.comes_true(unhealthy, "the agent says that HAProxy is gone")
    await edge.start_haproxy()
    evidence = await edge.settled(1)
    assert [(row["assigned"], row["inFlight"], row["lost"]) for row in evidence["counters"] if row["assigned"]] == [
        (1, 0, 1)
    ]


async def test_what_haproxy_counted_while_no_agent_looked_dies_with_it_and_nothing_else(edge, digits):
    """Neither its table nor the lines in the pipe, which nobody else holds open, outlive both."""
    async with edge.load() as load:
        await load.more(200)
    told = await edge.settled(load.sent)
    await edge.kill_agent()
    async with edge.load() as unseen:
        await unseen.more(50)
    assert edge.haproxy is not None
    edge.haproxy.kill()
    await edge.haproxy.wait()
    await edge.start_haproxy()

    answered = []

    async def answers() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            answered.append((await edge.get("/digits/")).status)
        return answered[-1:] == [200]

    await edge.comes_true(answers, "HAProxy back")
    async with edge.load() as later:
        await later.more(100)
    await edge.start_agent()
    after = await edge.settled(load.sent + len(answered) + later.sent)
    assert sum(edge.ends(after).values()) + edge.lost(after) == load.sent + len(answered) + later.sent
    assert edge.lost(after) == edge.lost(told), "of the others nobody can know"


async def test_an_agent_that_cannot_write_goes_on_following(edge, serve, digits, replicas):
    """As with a full disk: a directory in a file's place refuses every write to it."""
    snapshots = [edge.root / "s" / name for name in ("counters.json", "details.json", "layout.json")]
    for path in snapshots:
        path.unlink(missing_ok=True)
        path.mkdir()
    assert edge.agent is not None
    assert (await edge.get("/digits/")).status == 200
    late = await replicas("digits-r7")
    serve.targets["digits-r7"] = [late.address]

    async def followed() -> bool:
        return (await edge.get("/digits/")).status == 200 and bool(late.seen)

    await edge.comes_true(followed, "a request at the new replica")
    assert edge.agent.returncode is None
    for path in snapshots:
        path.rmdir()
    await edge.up("digits", stable=1)
    assert edge.ends(await edge.evidence()).keys() == {"ok"}


async def test_an_address_that_is_no_name_harms_nobody_else(edge, serve, digits):
    document = edge.document(edge.service("digits", [edge.arm("stable", "digits-r7", [[0, 10_000]])]))
    document["clusters"] |= {
        name: {"dashboard": f"http://{host}:{port}", "fallback": f"{host}:{port}"}
        for name, host, port in (("dots", "a..b", 80), ("long", "a" * 64, 80), ("port", "a", 99_999))
    }
    edge.write(document)

    async def in_force() -> bool:
        return (await edge.evidence())["document"]["generation"] == document["generation"]

    await edge.comes_true(in_force, "the document")

    async def asked() -> bool:
        return bool(serve.tokens)

    for time in ("again", "and again"):
        serve.tokens.clear()
        await edge.comes_true(asked, f"the good cluster asked {time}")
    assert edge.agent is not None
    assert edge.agent.returncode is None
    assert (await edge.get("/digits/")).status == 200


async def test_a_connection_that_idles_across_a_reload_gets_what_is_newer_than_it(edge, serve, digits, replicas):
    """Its worker knows neither the new revision's replica nor the header that says which unit a request is of."""
    stable, canary = edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)
    newest = await replicas("digits-r9")
    idle = [await asyncio.open_connection("127.0.0.1", edge.http_port) for _ in range(4)]

    async def ask(number: int, *headers: str) -> bytes:
        reader, writer = idle[number]
        lines = ("POST /digits/ HTTP/1.1", "host: a", "content-length: 2", *headers, "", "{}")
        writer.write("\r\n".join(lines).encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        return head + await reader.readexactly(length)

    for number in range(4):
        assert b"x-sundog-arm: stable" in await ask(number)
    (old,) = {row["boot"] for row in (await edge.settled(4))["counters"]}
    unit = {"kind": "header", "name": "x-new"}
    serve.targets["digits-r9"] = [newest.address]
    await edge.apply(edge.service("digits", [stable, canary, edge.arm("next", "digits-r9", [], revision=9)], unit=unit))
    await edge.up("digits", next=1)
    await edge.apply(edge.service("digits", [edge.arm("stable", "digits-r9", [[0, 10_000]], revision=9)], unit=unit))
    await digits["stable"].stop()
    await digits["canary"].stop()
    for number in range(4):
        answer = await ask(number, f"x-new: u{number}", "x-sundog-tls: 1", "x-request-id: mine")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"x-sundog-revision: 9" in answer
        assert answer.count(b"x-request-id: mine") == 1
    for reader, writer in idle:
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b""
        writer.close()
    evidence = await edge.settled(8)
    ended = {(row["boot"] == old, row["unit"]): row["ends"]["ok"] for row in evidence["counters"]}
    assert ended == {(True, "anonymous"): 4, (False, "sticky"): 4}
    assert all(boot["integrity"]["gaps"] == 0 for boot in evidence["boots"])


async def test_a_worker_that_is_stopped_for_good_answers_what_comes_last(edge, digits):
    """Without a successor there is nobody to hand a request to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.http_port)
    request = b"GET /digits/ HTTP/1.1\r\nhost: a\r\n\r\n"
    writer.write(request)
    assert b" 200 " in await reader.readuntil(b"}")
    edge.haproxy.send_signal(signal.SIGUSR1)
    await edge.comes_true(edge.refuses_connections, "no new connections")
    writer.write(request)
    assert b" 200 " in await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
