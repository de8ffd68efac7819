"""Follow the ConfigMap and the Secret of a namespace's edge, and write both to files of the state directory.

The agent reads the files. So it continues with the last of both however long the API server is away, also after its own restart. A deleted
object changes nothing: the operator writes it again, and no edge stops serving meanwhile.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from sundog_edge.errors import ApiUnavailable
from sundog_edge.kubernetes.client import ApiServer
from sundog_edge.state_dir import StateDir, write_if_changed

LOG = logging.getLogger(__name__)
SPLIT_KEY = "split.json"
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0

CONFIG_MAPS, SECRETS = "configmaps", "secrets"

Object = Mapping[str, Any]
Read = Callable[[ApiServer], Awaitable[str]]
"""Reads the present object, and returns the version from which to watch."""

Take = Callable[[ApiServer, Object | None], Awaitable[None]]


class ClusterSource:
    """Keeps `state.split` and `state.secrets` equal to the objects of a name at the API server, until it is cancelled."""

    def __init__(self, connect: Callable[[], ApiServer], state: StateDir, name: str) -> None:
        """`connect` opens separate connections for each object: an error of one must not break the other's watch."""
        self._connect = connect
        self._state = state
        self._name = name
        self._writing = asyncio.Lock()
        self._newest = 0

    async def run(self) -> None:
        """Follow both objects until cancelled. An API server that is away comes back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(CONFIG_MAPS, self._read_document, self._store_document))
            tasks.create_task(self._follow(SECRETS, self._read_secrets, self._store_secrets))

    async def _follow(self, plural: str, read: Read, take: Take) -> None:
        """Read, then watch, and read again when the watch ends, so that no change is missed."""
        api, failures, logged = self._connect(), 0, ""
        try:
            while True:
                try:
                    version = await read(api)
                    if failures:
                        LOG.info("following %s %s again", plural, self._name)
                    failures, logged = 0, ""
                    async with aclosing(api.watch(plural, self._name, version)) as changes:
                        async for change in changes:
                            await take(api, change.object)
                except (ApiUnavailable, OSError) as error:
                    if str(error) != logged:
                        LOG.warning("%s; continuing with the last known state", error)
                    failures, logged = failures + 1, str(error)
                    await api.close()
                await asyncio.sleep(retry_delay_s(failures))
        finally:
            await api.close()

    async def _read_document(self, api: ApiServer) -> str:
        observed = await api.read(CONFIG_MAPS, self._name)
        await self._store_document(api, observed.object)
        return observed.version

    async def _store_document(self, api: ApiServer, config_map: Object | None) -> None:
        text = ((config_map or {}).get("data") or {}).get(SPLIT_KEY)
        if not isinstance(text, str):
            return
        # The operator writes Secrets before the document names them. Two watches have no common order, so this one reads the Secret.
        await self._store_secrets(api, (await api.read(SECRETS, self._name)).object)
        await asyncio.to_thread(write_if_changed, self._state.split, text.encode())

    async def _read_secrets(self, api: ApiServer) -> str:
        newest_before = self._newest
        observed = await api.read(SECRETS, self._name)
        if self._newest == newest_before:
            # Nothing was written during the read, so this is the latest, whatever its version: a restored backup has lower versions.
            self._newest = 0
        await self._store_secrets(api, observed.object)
        return observed.version

    async def _store_secrets(self, _: ApiServer, secret: Object | None) -> None:
        if secret is None:
            return
        # Two tasks deliver the same Secret, and either may be late: a revoked key must not come back.
        async with self._writing:
            if (version := _version_of(secret)) >= self._newest:
                await asyncio.to_thread(write_if_changed, self._state.secrets, orjson.dumps(secret.get("data") or {}))
                self._newest = version


def _version_of(secret: Object) -> int:
    """Return the resourceVersion as a number. Within a kind, versions grow over all objects, including recreated ones."""
    version = str((secret.get("metadata") or {}).get("resourceVersion", ""))
    return int(version) if version.isdecimal() else 0


def retry_delay_s(failures: int) -> float:
    """Return the seconds until the next read: more with every failure in a row, and random, so that edges do not read all at once."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(failures, 10), MAX_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it
