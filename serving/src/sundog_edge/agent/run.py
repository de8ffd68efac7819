"""Run the agent as a process: its loops and its HTTP servers."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from sundog_edge.agent.agent import Agent, AgentOptions
from sundog_edge.agent.http_server import make_agent_app
from sundog_edge.feedback import receiver
from sundog_edge.feedback.open_store import open_store
from sundog_edge.kubernetes.client import ApiServer, ServiceAccount
from sundog_edge.kubernetes.config_source import ClusterSource
from sundog_edge.ofrep import receiver as ofrep_receiver
from sundog_edge.replicas.cold_calls import start_cold_calls
from sundog_edge.security.secrets import ComposedSecrets, SecretsDir
from sundog_edge.state_dir import StateDir

_THREADS = 32


def run(
    state: StateDir,
    split: Path | None,
    config_map: str,
    edge_name: str,
    namespace: str,
    *,
    address: tuple[str, int],
    ray_token_file: Path | None,
    secrets_dir: Path | None,
    settle_seconds: float,
    linger_seconds: float | None,
    signing_key: Path | None,
    store: str,
    store_password_file: Path | None,
    store_username_file: Path | None,
) -> None:
    """Run until SIGTERM or SIGINT. The split document comes from the file `split`, or without a file from `config_map`.

    Raises EdgeError, and OSError if the address is not available.
    """
    secrets = SecretsDir(secrets_dir) if split is not None else ComposedSecrets(state.secrets)
    options = AgentOptions(
        *(state, split or state.split, edge_name, namespace, ray_token_file, secrets, settle_seconds, signing_key),
        store=open_store(store, namespace, store_password_file, store_username_file) if store else None,
    )
    account = ServiceAccount.of_pod() if config_map else None
    source = ClusterSource(lambda: ApiServer(account, namespace), state, config_map) if account else None
    asyncio.run(_run(options, source, *address, linger_seconds))


async def _run(
    options: AgentOptions, source: ClusterSource | None, host: str, port: int, linger_seconds: float | None
) -> None:
    # Names are resolved in threads. A hanging name server must not take all threads, because file access needs threads too.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    async with (
        aiohttp.ClientSession() as session,
        _serve(options, session, host, port) as agent,
        asyncio.TaskGroup() as tasks,
    ):
        work = [tasks.create_task(agent.run())]
        if source is not None:
            work.append(tasks.create_task(source.run()))
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await stopping.wait()
        if linger_seconds is not None:
            await agent.wait_for_haproxy_exit(linger_seconds)
        for task in work:
            task.cancel()
    logging.getLogger(__name__).info("stopped")


@asynccontextmanager
async def _serve(options: AgentOptions, session: aiohttp.ClientSession, host: str, port: int) -> AsyncIterator[Agent]:
    agent = Agent(options, session)
    runner = web.AppRunner(make_agent_app(agent), access_log=None)
    requests_app = receiver.make_feedback_app(agent.intake)
    ofrep_receiver.add_routes(requests_app, lambda: agent.document)
    feedback_runner = web.AppRunner(requests_app, access_log=None)
    await runner.setup()
    await feedback_runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        await web.UnixSite(feedback_runner, options.state.feedback_socket).start()
        options.state.feedback_socket.chmod(0o600)
        async with await start_cold_calls(options.state.cold_calls_socket):
            options.state.cold_calls_socket.chmod(0o600)
            yield agent
    finally:
        await feedback_runner.cleanup()
        await runner.cleanup()
        await agent.intake.finish()
