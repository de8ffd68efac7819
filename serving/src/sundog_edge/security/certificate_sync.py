"""Apply certificates: files for the next worker, commands for running workers."""

import datetime as dt
import logging
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sundog_edge.errors import EdgeError, HaproxyRefused
from sundog_edge.haproxy import program
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.security.certificates import Certificates, make_self_signed
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir, write_atomically, write_if_changed

LOG = logging.getLogger(__name__)
DEFAULT_CERTIFICATE = "_default"
"""Name of the default certificate. No Secret can have this name."""

_ALERT = re.compile(r"\[ALERT\].* parsing \[[^]]*:(\d+)\] : (?:.*': )?(.+?)\.?$")
"""HAProxy's message about one line of a configuration: the line's number and the reason, which follows a file in quotes."""
_FIRST_LINE = 4
"""The line of the first certificate in a configuration that checks them."""
_CHECK_S = 30.0


class CertificateSync:
    """The certificates of all workers."""

    def __init__(self, haproxy: HaproxyClient, workers: Workers, state: StateDir) -> None:
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._desired: Certificates | None = None
        self._checked: dict[bytes, str] = {}
        self._check_error = ""

    def check(self, found: Certificates) -> Certificates:
        """Return `found` with a problem in place of each certificate that HAProxy does not load. Each is checked once.

        While HAProxy cannot check any, they are used unchecked: traffic must move.
        """
        unknown = {secret: pem for secret, pem in found.pems.items() if pem not in self._checked}
        known = {pem: reason for pem, reason in self._checked.items() if pem in found.pems.values()}
        try:
            refused, error = find_refused(self._state, unknown), ""
            known |= {pem: refused.get(secret, "") for secret, pem in unknown.items()}
        except EdgeError as failed:
            error = str(failed)
            if error != self._check_error:
                LOG.warning("certificates are used unchecked: %s", error)
        self._checked, self._check_error = known, error
        problems = {
            secret: (
                f"cannot be loaded by HAProxy: {reason}; "
                "expected signatures by SHA-256 and RSA keys of 2048 bits, or stronger ones",
            )
            for secret, pem in found.pems.items()
            if (reason := known.get(pem))
        }
        pems = {secret: pem for secret, pem in found.pems.items() if secret not in problems}
        return replace(found, pems=pems, problems={**found.problems, **problems})

    def write(self, desired: Certificates) -> None:
        """Write the files with which the next worker starts. Certificates are written before the list that names them."""
        self._desired = desired
        for secret, pem in desired.pems.items():
            write_if_changed(self._state.certificate(secret), pem)
        write_certificate_list(self._state, desired)
        existing = {path.name for path in self._state.certificate(DEFAULT_CERTIFICATE).parent.glob("*.pem")}
        for name in existing - {
            self._state.certificate(secret).name for secret in (DEFAULT_CERTIFICATE, *desired.pems)
        }:
            self._state.certificate(name.removesuffix(".pem")).unlink(missing_ok=True)

    def read_stored(self) -> Certificates:
        """Return the certificates in the files of an earlier agent."""
        files = self._state.certificate(DEFAULT_CERTIFICATE).parent.glob("*.pem")
        return Certificates({path.stem: path.read_bytes() for path in files if path.stem != DEFAULT_CERTIFICATE})

    async def push(self) -> None:
        """Give every worker the desired certificates. A reload replaces the current worker if it refuses them."""
        if self._desired is None:
            return
        pending = [worker for worker in self._workers.all if worker.certificates != self._desired]
        settings = HaproxyProcessSettings.load(self._state) if pending else None
        for worker in pending:
            if settings is None or not settings.https_bind:
                worker.certificates = self._desired
                continue
            try:
                await self._push_to_worker(worker, self._desired)
            except HaproxyRefused as error:
                LOG.warning("%s", error)
                if not worker.old:
                    await self._haproxy.reload()
                    await self._workers.refresh()
            worker.certificates = self._desired

    async def _push_to_worker(self, worker: Worker, desired: Certificates) -> None:
        loaded = await self._haproxy.certificates(worker.pid)
        before = worker.certificates or Certificates()
        lines = render_list_entries(desired, self._state)
        for secret, pem in desired.pems.items():
            path = str(self._state.certificate(secret))
            if path in lines and (path not in loaded or before.pems.get(secret) != pem):
                await self._haproxy.set_certificate(worker.pid, path, pem, new=path not in loaded)
        listed = await self._haproxy.certificate_list(worker.pid, self._state.certificate_list)
        default = str(self._state.certificate(DEFAULT_CERTIFICATE))
        present = {(path, hosts) for path, _, hosts in listed}
        for path, hosts in lines.items():
            if (path, hosts) not in present:
                await self._haproxy.add_certificate_to_list(worker.pid, self._state.certificate_list, path, hosts)
        for path, number, hosts in listed:
            if path != default and lines.get(path) != hosts:
                await self._haproxy.remove_certificate_from_list(
                    worker.pid, self._state.certificate_list, f"{path}:{number}"
                )
        for path in loaded:
            if path != default and path not in lines:
                await self._haproxy.delete_certificate(worker.pid, path)


def render_list_entries(certificates: Certificates, state: StateDir) -> dict[str, str]:
    """Return the host names of each certificate by its file, without certificates that have no host."""
    named = (secret for secret in sorted(certificates.pems) if certificates.hosts.get(secret))
    return {str(state.certificate(secret)): " ".join(certificates.hosts[secret]) for secret in named}


def write_certificate_list(state: StateDir, desired: Certificates) -> None:
    """Write the list of certificates. HAProxy presents the first to clients that name no listed host."""
    lines = "".join(f"{path} {hosts}\n" for path, hosts in render_list_entries(desired, state).items())
    content = f"{state.certificate(DEFAULT_CERTIFICATE)}\n{lines}".encode()
    write_if_changed(state.certificate_list, content)


def find_refused(state: StateDir, pems: Mapping[str, bytes]) -> dict[str, str]:
    """Return why HAProxy refuses certificates, by name, without those that it loads. Its OpenSSL has limits that no other library has.

    Raises HaproxyRefused where it cannot check them, SettingsError where HAProxy is missing.
    """
    if not pems:
        return {}
    try:
        returncode, stderr = _run_check(state, pems)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HaproxyRefused(f"HAProxy cannot check certificates: {error}") from None
    if returncode == 0:
        return {}
    alerts = [match for line in stderr.splitlines() if (match := _ALERT.match(line))]
    names = dict(enumerate(pems, start=_FIRST_LINE))
    refused = {names[int(match[1])]: match[2] for match in alerts if int(match[1]) in names}
    if not refused:
        raise HaproxyRefused(f"HAProxy cannot check certificates: {' '.join(stderr.split())[:300]}")
    # Once more without them: so the others are known to load together.
    return refused | find_refused(state, {name: pem for name, pem in pems.items() if name not in refused})


def _run_check(state: StateDir, pems: Mapping[str, bytes]) -> tuple[int, str]:
    """Return the exit code and the messages of HAProxy's check of a configuration with one line for each certificate."""
    with tempfile.TemporaryDirectory(dir=state.root) as created:
        folder = Path(created)
        binds = ""
        # HAProxy reads every line although an earlier one is wrong. A check opens no socket.
        for number, pem in enumerate(pems.values(), start=_FIRST_LINE):
            (folder / f"{number}.pem").write_bytes(pem)
            binds += f"    bind 127.0.0.1:1 ssl crt {folder}/{number}.pem\n"
        config = folder / "check.cfg"
        config.write_text(f"frontend check\n    mode http\n    timeout client 1s\n{binds}")
        checked = subprocess.run(
            [program.find_haproxy(), "-c", "-f", str(config)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_CHECK_S,
        )
    return checked.returncode, checked.stderr


def ensure_files(state: StateDir) -> None:
    """Create a valid list of certificates: HAProxy does not start without one, or with one that names a file that it cannot load."""
    if not state.certificate(DEFAULT_CERTIFICATE).exists():
        write_atomically(state.certificate(DEFAULT_CERTIFICATE), make_self_signed(dt.datetime.now(dt.UTC)))
    lines = state.certificate_list.read_text().splitlines() if state.certificate_list.exists() else []
    present = {line: path for line in lines if (path := state.root / line.split(" ", 1)[0]).exists()}
    try:
        refused = find_refused(state, {line: path.read_bytes() for line, path in present.items()})
    except EdgeError as error:
        LOG.warning("certificates are used unchecked: %s", error)
        refused = {}
    for line, reason in refused.items():
        LOG.warning("certificate %s is left out: HAProxy cannot load it: %s", present[line].stem, reason)
    valid = [line for line in present if line not in refused]
    if valid != lines or not lines:
        write_atomically(
            state.certificate_list,
            "".join(f"{line}\n" for line in valid or [str(state.certificate(DEFAULT_CERTIFICATE))]).encode(),
        )
