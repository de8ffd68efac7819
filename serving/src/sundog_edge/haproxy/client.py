"""Client for HAProxy's command line at the master's socket: one connection per command, and any worker by its pid."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sundog_edge.counting.rows import TableEntry
from sundog_edge.errors import HaproxyRefused, HaproxySilent, HaproxyUnavailable
from sundog_edge.haproxy.names import BLOCKS_TABLE, BOOT_VARIABLE, MIRRORED_TABLE, ROWS_TABLE
from sundog_edge.haproxy.rules.handover import SUCCESSOR_KEY
from sundog_edge.split.layout import FALL, RISE

TIMEOUT_S = 5.0
RELOAD_S = 60.0
"""The master answers after the new worker has read its configuration. A retry before that would start one more worker."""

# HAProxy opens its socket before it forks into master and worker. A connection from in between never gets an answer: connect again.
_FIRST_TIMEOUT_S = 0.5
# A command line and a payload must each fit one 16 kB buffer.
_PAYLOAD_BYTES = 12_000
_BATCH = 40
_MAX_CHANGES = 400
# Characters that end a command, escape its end, or begin a payload. A path may contain all others.
_SEPARATOR = re.compile(r"[;\\\x00-\x1f\x7f]|<<")
# Printable ASCII, except characters that HAProxy's command line reads as an end, an escape or the mark of a payload.
_PLAIN = re.compile(r"[!$-&(-:=-\[\]-~]*")
_ROW = re.compile(r"key=(\S+) .*gpc0=(\d+) conn_cur=(\d+)")
_RUNNING = re.compile(r"key=(\S+)/(\d+) .*conn_cur=(\d+)")
_SAMPLED = re.compile(r"key=(\S+) .*gpc0=(\d+) .*conn_cur=(\d+) .*gpc1=(\d+)")
_EXPECTED = re.compile(r"^(New server registered\.|Server deleted\.|)$")
_DRAIN_FLAGS = 0x08 | 0x10
_TIMED_OUT = "12"
"""HAProxy's number for a check that connected and got no answer in time (L7TOUT)."""

_FULL_HEALTH = RISE + FALL - 1
_MAINTENANCE_FLAGS = 0x01 | 0x02 | 0x04 | 0x20


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """One worker in the master's list. `old`: it was replaced, and only finishes its requests."""

    pid: int
    old: bool


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server of a slot in one worker.

    Attributes:
        since_s: seconds since it last went up or down.
        check_port: port of the health check; 0 for its own port.
        slow: its last check connected and got no answer in time.
        failing: its last check failed.
    """

    slot: str
    name: str
    address: str
    running: bool
    draining: bool
    maintenance: bool
    since_s: int
    check_port: int = 0
    slow: bool = False
    failing: bool = False

    @property
    def up(self) -> bool:
        """Whether the server gets new requests."""
        return self.running and not self.draining and not self.maintenance


@dataclass(frozen=True, slots=True)
class MirrorSampling:
    """Requests of a service that were sampled for mirroring; `taken`: those copied; `running`: the copied ones that still run."""

    all: int = 0
    taken: int = 0
    running: int = 0

    def as_json(self) -> dict[str, int]:
        """Return the counts as plain JSON, without running requests."""
        return {"sampled": self.all, "taken": self.taken}


@dataclass(frozen=True, slots=True)
class RequestLoad:
    """Running requests by backend, and by (backend, server)."""

    backends: Mapping[str, int]
    servers: Mapping[tuple[str, str], int]


class HaproxyClient:
    """Client of the HAProxy whose master listens on `socket`.

    Every method raises HaproxyUnavailable if HAProxy does not answer in time, and HaproxyRefused if the answer is an error.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def command(self, text: str, pid: int | None = None, *, timeout_s: float = TIMEOUT_S) -> str:
        """Run a command of the master, or of the worker `pid`; return the answer. A payload follows a first line that ends in ` <<`."""
        return await self._send(_check_command(text), pid, timeout_s)

    async def _send(self, text: str, pid: int | None, timeout_s: float = TIMEOUT_S) -> str:
        line = text if pid is None else f"@!{pid} {text}"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(line)
        except TimeoutError:
            raise HaproxySilent(f"HAProxy does not answer on {self._socket} within {timeout_s:g} s") from None
        except OSError as error:
            raise HaproxyUnavailable(f"HAProxy does not answer on {self._socket}: {error}") from None

    async def _exchange(self, line: str) -> str:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            writer.write(line.encode() + b"\n")
            writer.write_eof()
            return (await reader.read(-1)).decode(errors="replace")
        finally:
            writer.close()

    async def batch(self, commands: Sequence[str], pid: int) -> None:
        """Run commands in order in one worker. Raises HaproxyRefused with the first answer that is not a success."""
        for chunk in _chunks(commands, pid):
            answer = await self._send(_join_commands(chunk, pid), pid)
            for line in answer.splitlines():
                if not _EXPECTED.match(line.strip()):
                    raise HaproxyRefused(f"HAProxy worker {pid}: {line.strip()} ({_excerpt(chunk[0])} …)")

    async def processes(self) -> list[WorkerProcess]:
        """Return the workers, current first."""
        try:
            answer = await self.command("show proc", timeout_s=_FIRST_TIMEOUT_S)
        except HaproxySilent:
            answer = await self.command("show proc")
        found: list[WorkerProcess] = []
        old = False
        for line in answer.splitlines():
            if line.startswith("# old workers"):
                old = True
            fields = line.split()
            if len(fields) > 2 and fields[1] == "worker":
                found.append(WorkerProcess(int(fields[0]), old))
        return found

    async def boot_id(self, pid: int) -> str:
        """Return the boot id of a worker, as in its log lines."""
        answer = await self.command(f"show env {BOOT_VARIABLE}", pid)
        _, found, value = answer.strip().partition("=")
        if not found:
            raise HaproxyRefused(f"HAProxy worker {pid} was not started by sundog-edge: it has no {BOOT_VARIABLE}")
        return f"{value.strip()}-{pid}"

    async def info(self, pid: int) -> dict[str, str]:
        """Return the answer of `show info` of a worker."""
        answer = await self.command("show info", pid)
        return {key: value.strip() for key, _, value in (line.partition(":") for line in answer.splitlines())}

    async def dropped_lines(self, pid: int) -> int:
        """Return the number of lines that a worker dropped because the pipe was full."""
        return int((await self.info(pid)).get("DroppedLogs", "0"))

    async def table(self, pid: int) -> dict[str, TableEntry]:
        """Return assigned and running requests by row."""
        answer = await self.command(f"show table {ROWS_TABLE}", pid)
        return {match[1]: TableEntry(int(match[2]), int(match[3])) for match in _ROW.finditer(answer)}

    async def in_flight_by_block(self, pid: int) -> dict[str, dict[int, int]]:
        """Return running requests by row and block of arrival. The cost depends on running requests only."""
        answer = await self.command(f"show table {BLOCKS_TABLE} data.conn_cur gt 0", pid)
        found: dict[str, dict[int, int]] = {}
        for match in _RUNNING.finditer(answer):
            found.setdefault(match[1], {})[int(match[2])] = int(match[3])
        return found

    async def mirrored(self, pid: int) -> dict[str, MirrorSampling]:
        """Return sampled requests by `service/attempt/epoch`; nothing if the worker has no rules for mirroring."""
        answer = await self.command(f"show table {MIRRORED_TABLE}", pid)
        return {
            match[1]: MirrorSampling(int(match[2]), int(match[4]), int(match[3])) for match in _SAMPLED.finditer(answer)
        }

    async def forget_rows(self, pid: int, rows: Sequence[str]) -> None:
        """Remove rows from the table of counts."""
        await self.batch([f"clear table {ROWS_TABLE} key {row}" for row in rows], pid)

    async def map_entries(self, pid: int, path: Path) -> dict[str, str]:
        """Return the content of a map."""
        answer = await self.command(f"show map {path}", pid)
        rows = (line.split(" ", 2) for line in answer.splitlines() if line.startswith("0x"))
        return {row[1]: row[2] if len(row) > 2 else "" for row in rows}

    async def change_map(self, pid: int, path: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """Change a map from `before` to `after`: add new entries, then change values one by one, then remove entries.

        After many changes, or if a changed value cannot be a word of a command, the map is replaced in one step instead. Lines of a payload
        may contain any word.
        """
        changed = [key for key, value in after.items() if before.get(key, value) != value]
        gone = [key for key in before if key not in after]
        if len(changed) + len(gone) > _MAX_CHANGES or not all(_PLAIN.fullmatch(after[key]) for key in changed):
            await self.replace_map(pid, path, after)
            return
        for payload in _payloads({key: value for key, value in after.items() if key not in before}):
            await self._run_silent(f"add map {path} <<\n{payload}", pid, path)
        await self.batch([f"set map {path} {key} {after[key]}" for key in changed], pid)
        await self.batch([f"del map {path} {key}" for key in gone], pid)

    async def replace_map(self, pid: int, path: Path, entries: Mapping[str, str]) -> None:
        """Replace a map in one step: every request sees either the old or the new content."""
        answer = await self.command(f"prepare map {path}", pid)
        match = re.search(r"New version created: (\d+)", answer)
        if match is None:
            raise HaproxyRefused(f"HAProxy worker {pid} refused to prepare map {path.name}: {answer.strip()}")
        version = match[1]
        for payload in _payloads(entries):
            await self._run_silent(f"add map @{version} {path} <<\n{payload}", pid, path)
        await self._run_silent(f"commit map @{version} {path}", pid, path)

    async def _run_silent(self, command: str, pid: int, path: Path) -> None:
        answer = await self.command(command, pid)
        if answer.strip():
            raise HaproxyRefused(f"HAProxy worker {pid} refused entries of map {path.name}: {answer.strip()}")

    async def certificates(self, pid: int) -> list[str]:
        """Return the files of the certificates that a worker has loaded."""
        answer = await self.command("show ssl cert", pid)
        return [line for line in answer.splitlines() if line.startswith("/")]

    async def certificate_list(self, pid: int, path: Path) -> list[tuple[str, str, str]]:
        """Return (file, line number, sorted host names) of each line of a list of certificates."""
        answer = await self.command(f"show ssl crt-list -n {path}", pid)
        rows = (line.split() for line in answer.splitlines() if line.startswith("/"))
        return [
            (*row[0].rsplit(":", 1), " ".join(sorted(word for word in row[1:] if word[0] not in "[#")))  # type: ignore[misc]
            for row in rows
        ]

    async def set_certificate(self, pid: int, path: str, pem: bytes, *, new: bool) -> None:
        """Load a certificate, or replace it for all new connections."""
        if new:
            await self._run_expecting(f"new ssl cert {path}", pid, "New empty certificate store")
        await self._run_expecting(f"set ssl cert {path} <<\n{pem.decode()}", pid, "Transaction")
        await self._run_expecting(f"commit ssl cert {path}", pid, "Success!")

    async def add_certificate_to_list(self, pid: int, path: Path, file: str, hosts: str) -> None:
        """Add a certificate to a list for some host names."""
        await self._run_expecting(f"add ssl crt-list {path} <<\n{file} {hosts}\n", pid, "Success!")

    async def remove_certificate_from_list(self, pid: int, path: Path, line: str) -> None:
        """Remove one `file:number` from a list."""
        await self._run_expecting(f"del ssl crt-list {path} {line}", pid, "deleted")

    async def delete_certificate(self, pid: int, path: str) -> None:
        """Remove a certificate that no list names."""
        await self._run_expecting(f"del ssl cert {path}", pid, "deleted")

    async def _run_expecting(self, command: str, pid: int, expected: str) -> None:
        answer = await self.command(command, pid)
        if expected not in answer:
            # The command may contain a key: the message shows only its first line.
            raise HaproxyRefused(f"HAProxy worker {pid}: {' '.join(answer.split())[:200]} ({command.splitlines()[0]})")

    async def servers(self, pid: int, slots: Iterable[str] | None = None) -> list[ServerState]:
        """Return the servers of some slots, or of all."""
        if slots is None:
            answer = await self.command("show servers state", pid)
        else:
            answer = await self._run_many([f"show servers state {slot}" for slot in slots], pid)
        rows = (line.split() for line in answer.splitlines() if not line.startswith("#"))
        return [_server_state(row) for row in rows if len(row) > 21]

    async def load(self, pid: int, slots: Iterable[str] | None = None) -> RequestLoad:
        """Return running requests of all backends, or of some slots and their servers."""
        if slots is None:
            answer = await self.command("show stat -1 2 -1", pid)
        else:
            answer = await self._run_many([f"show stat {slot} 6 -1" for slot in slots], pid)
        # The first two fields of a line are proxy and server; the fifth is the number of sessions.
        rows = (line.split(",", 5) for line in answer.splitlines() if line and not line.startswith("#"))
        current = {(row[0], row[1]): int(row[4]) for row in rows if len(row) > 5}
        return RequestLoad({proxy: count for (proxy, name), count in current.items() if name == "BACKEND"}, current)

    async def _run_many(self, commands: Sequence[str], pid: int) -> str:
        answers = [await self._send(_join_commands(chunk, pid), pid) for chunk in _chunks(commands, pid)]
        return "\n".join(answers)

    async def start_relay(self, pid: int, path: Path) -> None:
        """Have a replaced worker hand every further request to its successor. `path` is the map that enables this."""
        await self._run_silent(f"add map {path} {SUCCESSOR_KEY} 1", pid, path)

    async def stop_relay(self, pid: int, path: Path) -> None:
        """Have a replaced worker answer requests itself again: its successor is about to close its socket."""
        await self._run_silent(f"clear map {path}", pid, path)

    async def reload(self) -> None:
        """Start a new worker with the configuration file; the old one finishes its requests."""
        answer = await self.command("reload", timeout_s=RELOAD_S)
        if not answer.startswith("Success=1"):
            raise HaproxyRefused(f"HAProxy refused to reload: {' '.join(answer.split())[:300]}")


def _excerpt(command: str) -> str:
    """Return what a message may show of a command. Further words may be a secret, such as the value of a map's entry."""
    return " ".join(command.split()[:3])[:100]


def _check_command(command: str) -> str:
    """Return the command if it is a single one. Raises HaproxyRefused: no value in a command may begin another command."""
    line, mark, payload = command.partition(" <<\n")
    found = _SEPARATOR.search(line)
    if found or "\x00" in payload or (mark and (payload.startswith("\n") or "\n\n" in payload)):
        unsafe = repr(found[0]) if found else "an empty line in its payload"
        raise HaproxyRefused(
            f"command {_excerpt(line)!r} was not sent: it contains {unsafe}, which would begin another command"
        )
    return command


def _join_commands(commands: Sequence[str], pid: int) -> str:
    """Join commands for one worker to one line. Raises HaproxyRefused unless each is a single command without a payload."""
    for command in commands:
        if "\n" in _check_command(command):
            raise HaproxyRefused(
                f"command {_excerpt(command)!r} was not sent: expected no payload among several commands"
            )
    return "; ".join([commands[0], *(f"@!{pid} {command}" for command in commands[1:])])


def _chunks(commands: Sequence[str], pid: int) -> list[list[str]]:
    """Split commands into groups that each fit one command line."""
    chunks: list[list[str]] = []
    size = 0
    for command in commands:
        added = len(command) + len(str(pid)) + 5
        if not chunks or size + added > _PAYLOAD_BYTES or len(chunks[-1]) >= _BATCH:
            chunks.append([])
            size = 0
        chunks[-1].append(command)
        size += added
    return chunks


def _payloads(entries: Mapping[str, str]) -> list[str]:
    chunks: list[str] = []
    current = ""
    for key, value in entries.items():
        if "\n" in key or "\n" in value:
            raise HaproxyRefused(
                f"entry {key[:100]!r} of a map was not sent: it contains a line feed, which would begin another entry"
            )
        line = f"{key} {value}\n"
        if current and len(current) + len(line) > _PAYLOAD_BYTES:
            chunks.append(current)
            current = ""
        current += line
    return [*chunks, current] if current else chunks


def _server_state(row: Sequence[str]) -> ServerState:
    admin = int(row[6])
    return ServerState(
        slot=row[1],
        name=row[3],
        address=f"{row[4]}:{row[18]}",
        running=row[5] == "2",
        draining=bool(admin & _DRAIN_FLAGS),
        maintenance=bool(admin & _MAINTENANCE_FLAGS),
        since_s=int(row[9]),
        check_port=int(row[21]),
        slow=row[10] == _TIMED_OUT,
        failing=int(row[12]) < _FULL_HEALTH,
    )
