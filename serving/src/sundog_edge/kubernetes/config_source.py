"""Follows the ConfigMap and the Secret of a namespace's edge into two files of the state directory.

The agent reads the files, so it goes on with the last of both however long the API server is away, also when the agent itself is started
anew meanwhile. What is deleted stays as it was: the operator writes it again, and no edge stops serving for it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import orjson

from sundog_edge.errors import ApiUnavailable
from sundog_edge.kubernetes.client import ApiServer
from sundog_edge.state_dir import StateDir, write_atomically

LOG = logging.getLogger(__name__)
SPLIT_KEY = "split.json"
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0

CONFIG_MAPS, SECRETS = "configmaps", "secrets"

Object = Mapping[str, Any]
Read = Callable[[ApiServer], Awaitable[str]]
"""Takes the object as it is now, and gives the version from which on to watch it."""

Take = Callable[[ApiServer, Object | None], Awaitable[None]]


class ClusterSource:
    """Until cancelled, keeps `state.split` and `state.secrets` what the API server has under a name."""

    def __init__(self, connect: Callable[[], ApiServer], state: StateDir, name: str) -> None:
        """`connect` gives each of the two its own connections: what breaks for one must not break the other's watch."""
        self._connect = connect
        self._state = state
        self._name = name
        self._writing = asyncio.Lock()
        self._newest = 0

    async def run(self) -> None:
        """Follow both. Never ends by itself: an API server that is away comes back."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(CONFIG_MAPS, self._read_document, self._take_document))
            tasks.create_task(self._follow(SECRETS, self._read_secrets, self._take_secrets))

    async def _follow(self, plural: str, read: Read, take: Take) -> None:
        """Read, then watch, and read again whenever the watch ends: nothing that happened in between is missed."""
        api, failures, told = self._connect(), 0, ""
        try:
            while True:
                try:
                    version = await read(api)
                    if failures:
                        LOG.info("%s %s is followed again", plural, self._name)
                    failures, told = 0, ""
                    async with aclosing(api.watch(plural, self._name, version)) as changes:
                        async for change in changes:
                            await take(api, change.object)
                except (ApiUnavailable, OSError) as error:
                    if str(error) != told:
                        LOG.warning("%s; going on with what is known", error)
                    failures, told = failures + 1, str(error)
                    await api.close()
                await asyncio.sleep(retry_delay_s(failures))
        finally:
            await api.close()

    async def _read_document(self, api: ApiServer) -> str:
        seen = await api.read(CONFIG_MAPS, self._name)
        await self._take_document(api, seen.object)
        return seen.version

    async def _take_document(self, api: ApiServer, config_map: Object | None) -> None:
        text = ((config_map or {}).get("data") or {}).get(SPLIT_KEY)
        if not isinstance(text, str):
            return
        # The operator writes Secrets before it names them. Two watches keep no order, so this one looks for itself.
        await self._take_secrets(api, (await api.read(SECRETS, self._name)).object)
        await asyncio.to_thread(_write_if_new, self._state.split, text.encode())

    async def _read_secrets(self, api: ApiServer) -> str:
        known = self._newest
        seen = await api.read(SECRETS, self._name)
        if self._newest == known:
            # Nothing was written since it was asked for, so nothing is later, whatever its version: a restored backup has lower ones.
            self._newest = 0
        await self._take_secrets(api, seen.object)
        return seen.version

    async def _take_secrets(self, _: ApiServer, secret: Object | None) -> None:
        if secret is None:
            return
        # Two tasks tell of the same Secret, and either may be behind: a key that was revoked must not come back.
        async with self._writing:
            if (version := _version_of(secret)) >= self._newest:
                await asyncio.to_thread(_write_if_new, self._state.secrets, orjson.dumps(secret.get("data") or {}))
                self._newest = version


def _version_of(secret: Object) -> int:
    """Its resourceVersion; of one kind they are numbers that grow over all objects, also over one that is made anew."""
    version = str((secret.get("metadata") or {}).get("resourceVersion", ""))
    return int(version) if version.isdecimal() else 0


def retry_delay_s(failures: int) -> float:
    """How long to wait before reading again, in seconds: more with every failure in a row, and never all edges at once."""
    longest = min(FIRST_PAUSE_S * 2.0 ** min(failures, 10), MAX_PAUSE_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret hangs on it


def _write_if_new(path: Path, content: bytes) -> None:
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)
