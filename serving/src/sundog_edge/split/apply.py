"""Apply a split document: layout, configuration file, map files, and the maps of every worker."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from sundog_edge.counting.evidence import AppliedDocument
from sundog_edge.errors import HaproxyRefused, HaproxyUnavailable
from sundog_edge.feedback.signing_keys import NO_KEYS, SigningKeyFile
from sundog_edge.haproxy import program
from sundog_edge.haproxy.client import HaproxyClient
from sundog_edge.haproxy.config import render_config
from sundog_edge.haproxy.maps import MAP_NAMES, TABLE_MAPS, Maps, build_maps, render_map
from sundog_edge.haproxy.names import BOOT_VARIABLE, FALLBACK_PREFIX, LOG_VARIABLE
from sundog_edge.haproxy.rules.handover import MAP as RELAY_MAP
from sundog_edge.haproxy.workers import Worker, Workers
from sundog_edge.security.certificate_sync import CertificateSync
from sundog_edge.security.certificates import Certificates, keep_last_good, load_certificates
from sundog_edge.security.credentials import NO_CREDENTIALS, CallerCredentials, load_credentials
from sundog_edge.security.secrets import Secrets
from sundog_edge.split.document import Service, SplitDocument
from sundog_edge.split.layout import Layout, SlotServer, fit_layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir, read_json, write_atomically

LOG = logging.getLogger(__name__)
TABLE_LINGERS_S = 3.0
_WRITE_EVERY_S = 0.2
_WRITE_COST_FACTOR = 50


class SplitApplier:
    """The document in force, and the operations that apply another.

    Each change is in the state directory before HAProxy gets it. So a new worker, a restarted HAProxy and a restarted agent all start
    with the document in force.
    """

    def __init__(
        self,
        haproxy: HaproxyClient,
        workers: Workers,
        state: StateDir,
        secrets: Secrets,
        signing: SigningKeyFile | None = None,
    ) -> None:
        stored = read_json(state.applied)
        self.layout = Layout.from_json(read_json(state.layout) or {})
        self.in_force = None if stored is None else _parse_in_force(stored)
        self._written: Maps = {}
        self._leaving: dict[tuple[str, str], tuple[str, float]] = {}
        self._stale = False
        self._write_again_at = 0.0
        self._haproxy = haproxy
        self._workers = workers
        self._state = state
        self._secrets = secrets
        self._signing = signing or SigningKeyFile(None)
        self.signing_keys = NO_KEYS
        self._grpc = False
        self._tls = CertificateSync(haproxy, workers, state)
        self._credentials, self._certificates = NO_CREDENTIALS, self._tls.check(self._tls.read_stored())
        if self.in_force is not None:
            self._credentials, self._certificates = self._read_secrets(self.in_force.document)
            self._tls.write(self._certificates)
        self._maps: Maps | None = (
            None if self.in_force is None else build_maps(self.in_force.document, self.layout, self._credentials)
        )

    @property
    def problems(self) -> dict[str, list[str]]:
        """Problems of each service with its Secrets and TLS, one line each."""
        document = self.in_force.document if self.in_force else None
        settings = HaproxyProcessSettings.load(self._state)
        without_tls = settings is None or not settings.https_bind
        return {
            service.name: [
                *(
                    f"Secret {secret} {problem}"
                    for secret in dict.fromkeys(service.secrets)
                    for problem in self._secret_problems(secret)
                ),
                *(["TLS is off: the edge was started without --https-bind"] if service.tls and without_tls else []),
            ]
            for service in (document.services if document else ())
        }

    @property
    def admitting(self) -> Mapping[str, bool]:
        """Whether a caller can have a credential of each service with `auth`."""
        return self._credentials.admitting

    def _secret_problems(self, secret: str) -> tuple[str, ...]:
        return (*self._certificates.problems.get(secret, ()), *self._credentials.problems.get(secret, ()))

    async def apply(self, document: SplitDocument, now: float) -> None:
        """Apply `document` as a whole to every new request.

        Raises DocumentError, HaproxyRefused, HaproxyUnavailable, or OSError for a file that cannot be written or a process that cannot
        start. Then the previous document stays in force; after a failure half way, the next attempt completes this one.
        """
        await self._put(document, *await asyncio.to_thread(self._read_secrets, document), now)
        in_force = AppliedDocument(document, now, _service_change_times(self.in_force, document, now))
        # A restarted agent must find the same document in force.
        write_atomically(self._state.applied, orjson.dumps(_render_in_force(in_force)))
        self.in_force = in_force

    async def enable_grpc(self, now: float) -> None:
        """Give every slot its twin for gRPC. The first Serve with a gRPC port needs this. Raises as `apply` does."""
        if self.in_force is not None and not self.layout.grpc:
            self._grpc = True
            await self._put(self.in_force.document, self._credentials, self._certificates, now)

    async def renew(self, now: float) -> None:
        """Apply changes in the Secrets of the document in force. Raises as `apply` does."""
        if self.in_force is None:
            return
        secrets = await asyncio.to_thread(self._read_secrets, self.in_force.document)
        if secrets != (self._credentials, self._certificates):
            await self._put(self.in_force.document, *secrets, now)
            credentials, certificates = secrets
            LOG.info(
                "applied changed Secrets: %d API keys, %d token keys, %d certificates",
                len(credentials.keys),
                len(credentials.tokens),
                len(certificates.pems),
            )

    async def set_cold(self, slots: tuple[str, ...], now: float) -> None:
        """Set the slots whose requests are held.

        Raises OSError; then the next call tries again. Raises HaproxyRefused or HaproxyUnavailable; then `check` completes the change.
        """
        if self.in_force is None or slots == self.layout.cold:
            return
        layout = replace(self.layout, cold=slots)
        wanted = build_maps(self.in_force.document, layout, self._credentials)
        maps = self._with_leaving(wanted, now)
        self._write_maps(maps)
        # This comes after the maps: a layout with these slots means that nothing is left to do but the workers.
        self.keep(layout)
        self._maps = wanted
        for worker in self._workers.all:
            await self._push(worker, maps)

    async def check(self, now: float) -> None:
        """Bring the maps of every worker to the document in force, without tables that no request can use any more."""
        await self._start_relays()
        if self._maps is None:
            return
        expired = any(until <= now for _, until in self._leaving.values())
        fresh = [worker for worker in self._workers.all if worker.maps is None]
        if expired or fresh:
            maps = self._with_leaving(self._maps, now)
            for worker in self._workers.all if expired else fresh:
                await self._push(worker, maps)
        await self._tls.push()

    def _with_leaving(self, wanted: Maps, now: float) -> Maps:
        """Return `wanted` with the entries of recently replaced tables: a request that has found its table must find its range."""
        for name in TABLE_MAPS:
            for key, value in (self._maps or {}).get(name, {}).items():
                if key not in wanted[name]:
                    self._leaving.setdefault((name, key), (value, now + TABLE_LINGERS_S))
        self._leaving = {
            (name, key): (value, until)
            for (name, key), (value, until) in self._leaving.items()
            if until > now and key not in wanted[name]
        }
        maps = {name: dict(entries) for name, entries in wanted.items()}
        for (name, key), (value, _) in self._leaving.items():
            maps[name][key] = value
        return maps

    def keep(self, layout: Layout) -> None:
        """Write the layout with which the next worker starts."""
        if layout == self.layout and not self._stale and self._state.layout.exists():
            return
        started = time.monotonic()
        settings = HaproxyProcessSettings.load(self._state)
        if settings is not None:
            write_atomically(self._state.config, render_config(settings, layout, self._state).encode())
        write_atomically(self._state.layout, orjson.dumps(layout.as_json()))
        self.layout = layout
        self._stale = False
        now = time.monotonic()
        self._write_again_at = now + max(_WRITE_EVERY_S, _WRITE_COST_FACTOR * (now - started))

    def record_servers(self, servers: tuple[SlotServer, ...], leaving: frozenset[str]) -> None:
        """Store the servers that are up, and the slots that are still leaving.

        The file is written only from time to time: a new worker soon corrects a missing or surplus server.
        """
        still_leaving = tuple(holding for holding in self.layout.leaving if holding.slot in leaving)
        layout = replace(self.layout, servers=servers, leaving=still_leaving)
        if layout != self.layout:
            self.layout, self._stale = layout, True
        if self._stale and time.monotonic() >= self._write_again_at:
            self.keep(self.layout)

    def _read_secrets(self, document: SplitDocument) -> tuple[CallerCredentials, Certificates]:
        secrets = self._secrets.read(secret for service in document.services for secret in service.secrets)
        credentials = load_credentials(document, secrets, lambda file: str(self._state.public_key(file)))
        self.signing_keys = self._signing.read()
        credentials = replace(credentials, signing_key=self.signing_keys.signing)
        present = [secret for secret, files in secrets.items() if files]
        found = self._tls.check(load_certificates(document, secrets))
        return credentials, keep_last_good(found, self._certificates, present)

    async def _put(
        self, document: SplitDocument, credentials: CallerCredentials, certificates: Certificates, now: float
    ) -> None:
        layout = replace(
            fit_layout(self.layout, document),
            public_keys=tuple(sorted(credentials.public_keys)),
            grpc=self.layout.grpc or self._grpc,
        )
        wanted = build_maps(document, layout, credentials)
        if self._workers.current is None:
            raise HaproxyUnavailable("HAProxy is not running")
        for file, pem in credentials.public_keys.items():
            if not self._state.public_key(file).exists():
                write_atomically(self._state.public_key(file), pem)
        self._tls.write(certificates)
        if self.layout.needs_reload(layout):
            await self._reload(layout)
        self.keep(layout)
        maps = self._with_leaving(wanted, now)
        self._write_maps(maps)
        self._maps = wanted
        for worker in self._workers.all:
            await self._push(worker, maps)
        await self._tls.push()
        self._credentials, self._certificates = credentials, certificates

    def _write_maps(self, maps: Maps) -> None:
        for name in MAP_NAMES:
            if self._written.get(name) != maps[name]:
                write_atomically(self._state.map(name), render_map(maps[name]).encode())
                self._written[name] = maps[name]

    async def _push(self, worker: Worker, maps: Maps) -> None:
        try:
            if worker.maps is None:
                worker.maps = {
                    name: await self._haproxy.map_entries(worker.pid, self._state.map(name)) for name in MAP_NAMES
                }
            before, worker.maps = worker.maps, None
            # MAP_NAMES is ordered: a map comes before the maps that refer to it. So entries are added in order and removed in reverse.
            between = {name: {**before[name], **maps[name]} for name in MAP_NAMES}
            for name in MAP_NAMES:
                await self._haproxy.change_map(worker.pid, self._state.map(name), before[name], between[name])
            for name in reversed(MAP_NAMES):
                await self._haproxy.change_map(worker.pid, self._state.map(name), between[name], maps[name])
            worker.maps = maps
        except HaproxyRefused:
            if not worker.old:
                raise
            # An old worker may end between two commands.
            LOG.info("worker %d ended during the update of its maps", worker.pid)

    async def _start_relays(self) -> None:
        """Have replaced workers hand over requests that still reach them."""
        for worker in self._workers.all if self._workers.current else ():
            if worker.old and not worker.relays:
                worker.relays = True
                try:
                    await self._haproxy.start_relay(worker.pid, self._state.map(RELAY_MAP))
                except HaproxyRefused as error:
                    # The worker has ended, or a version without handover started it.
                    LOG.info("%s", error)

    async def _release_held(self) -> None:
        """Have Serve's own proxy take as many held requests at a time as a replica.

        A replaced worker gets no replica, and HAProxy changes no limit in it. So it would pass its held requests one after another.
        """
        current, document = self._workers.current, self.in_force.document if self.in_force else None
        if current is None or document is None or not self.layout.cold:
            return
        limits = {
            self.layout.slot_of[arm.application] + twin: arm.maxOngoingRequests or service.maxOngoingRequests
            for service in document.services
            for arm in service.arms
            if arm.application in self.layout.cold_applications
            for twin in self.layout.twins
        }
        try:
            servers = await self._haproxy.servers(current.pid, limits)
            proxies = [server for server in servers if server.name.startswith(FALLBACK_PREFIX)]
            await self._haproxy.batch(
                [f"set maxconn server {each.slot}/{each.name} {limits[each.slot]}" for each in proxies], current.pid
            )
        except HaproxyRefused as error:
            LOG.info("%s", error)

    async def _reload(self, layout: Layout) -> None:
        settings = HaproxyProcessSettings.load(self._state)
        if settings is None:
            raise HaproxyUnavailable(f"HAProxy has not been started with state directory {self._state.root} yet")
        before = self._state.config.read_bytes()
        await check_config(render_config(settings, layout, self._state), self._state)
        write_atomically(self._state.config, render_config(settings, layout, self._state).encode())
        try:
            await self._release_held()
            await self._haproxy.reload()
        except (HaproxyRefused, HaproxyUnavailable):
            write_atomically(self._state.config, before)
            raise
        # If something fails from here on, the next attempt needs no other worker.
        self.keep(layout)
        await self._workers.refresh()
        # This comes before the new document: only the new worker may know the names that the document needs.
        await self._start_relays()
        LOG.info(
            "reloaded HAProxy for %d slots, units %s and %d public keys",
            layout.slots,
            ", ".join(layout.units) or "none",
            len(layout.public_keys),
        )


async def check_config(text: str, state: StateDir) -> None:
    """Have HAProxy check a configuration. Raises HaproxyRefused with the first alert, SettingsError where HAProxy is missing."""
    write_atomically(state.candidate, text.encode())
    process = await asyncio.create_subprocess_exec(
        program.find_haproxy(),
        *("-c", "-f", str(state.candidate)),
        # HAProxy never writes to this stand-in for the log pipe during a check.
        env={**os.environ, BOOT_VARIABLE: "check", LOG_VARIABLE: "2"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    if process.returncode != 0:
        alerts = [line for line in stderr.decode(errors="replace").splitlines() if "[ALERT]" in line]
        raise HaproxyRefused(f"HAProxy rejects the configuration: {(alerts or ['no reason given'])[0]}")


def ensure_map_files(state: StateDir) -> None:
    """Create missing map files: HAProxy does not start without them."""
    for name in (*MAP_NAMES, RELAY_MAP):
        path: Path = state.map(name)
        if not path.exists():
            write_atomically(path, b"")


def _service_change_times(before: AppliedDocument | None, document: SplitDocument, now: float) -> dict[str, float]:
    """Return the time at which each service last changed."""
    known: dict[str, Service] = {service.name: service for service in before.document.services} if before else {}
    return {
        service.name: before.since.get(service.name, now) if before and known.get(service.name) == service else now
        for service in document.services
    }


def _render_in_force(in_force: AppliedDocument) -> dict[str, Any]:
    return {
        "document": in_force.document.model_dump(mode="json"),
        "appliedAt": in_force.applied_at,
        "since": dict(in_force.since),
    }


def _parse_in_force(stored: Mapping[str, Any]) -> AppliedDocument:
    document = SplitDocument.model_validate_json(orjson.dumps(stored["document"]))
    return AppliedDocument(document, stored["appliedAt"], stored["since"])
