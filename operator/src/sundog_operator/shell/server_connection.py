"""Choose the API server of a command and connect to it: the local instance, or the cluster of a kubeconfig."""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from sundog_operator.shell import kinds
from sundog_operator.shell.cli import PLUGIN_NAME
from sundog_operator.shell.exit_codes import CommandFailed, ExitCode

if TYPE_CHECKING:
    from sundog_operator.adapters.kubernetes_client import KubernetesClient
    from sundog_operator.shell.manifests import ManifestProblem

T = TypeVar("T")

FIELD_MANAGER: Final = "sundog-cli"
"""Field manager of objects that users apply, by command or by file: the newest apply wins."""
_KUBECONFIG: Final = "KUBECONFIG"


@dataclass(frozen=True, slots=True)
class ServerSelection:
    """Options that choose the API server.

    `plugin`: the command runs as `kubectl sundog`, which uses kubectl's cluster unless an instance is named.
    `is_cluster`: no local instance is meant.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    state_dir: Path | None = None
    instance: str | None = None
    namespace: str | None = None
    verbose: bool = False
    plugin: bool = False
    is_cluster: bool = False


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """An API server.

    Attributes:
        kubeconfig: one file, or several as in KUBECONFIG.
        note: a line for the user if several servers were possible.
        local: it belongs to an instance of local mode, which has no pods.
    """

    kubeconfig: Path
    namespace: str
    description: str
    context: str | None = None
    note: str = ""
    local: bool = False


def resolve_target(selection: ServerSelection, environment: Mapping[str, str]) -> ServerTarget:
    """Choose the API server. Raises CommandFailed when there is none."""
    if selection.kubeconfig is not None:
        if not selection.kubeconfig.is_file():
            raise CommandFailed(f"--kubeconfig {selection.kubeconfig}: the file does not exist", ExitCode.UNREACHABLE)
        return _target(selection, selection.kubeconfig, f"kubeconfig {selection.kubeconfig}")
    from sundog_operator.shell.local import state_dir_paths

    named = selection.state_dir is not None or selection.instance is not None
    # A user who names an instance by the variable must not reach a cluster when that instance has ended.
    elsewhere = selection.is_cluster or selection.context is not None
    named = named or (not elsewhere and bool(environment.get(state_dir_paths.STATE_DIR_VARIABLE)))
    cluster = None if named else _cluster_kubeconfig(environment)
    elsewhere = elsewhere or (selection.plugin and cluster is not None)
    local = None if elsewhere and not named else _local_kubeconfig(selection, environment)
    if local is not None:
        path, where = local
        note = f"using the local instance in {where}; use --kubeconfig for a cluster" if cluster else ""
        return replace(_target(selection, path, f"local instance in {where}", note), local=True)
    if named:
        where = _state_dir(selection, environment)
        raise CommandFailed(
            f"no local instance runs in {where}. Start one with `sundog local up PATH`", ExitCode.UNREACHABLE
        )
    if cluster is None:
        raise CommandFailed(
            "no API server: no local instance runs, and no kubeconfig exists. Run `sundog local up PATH`, or give --kubeconfig",
            ExitCode.UNREACHABLE,
        )
    return _target(selection, cluster, f"kubeconfig {cluster}")


def _state_dir(selection: ServerSelection, environment: Mapping[str, str]) -> Path:
    from sundog_operator.shell.local import state_dir_paths

    return state_dir_paths.choose_state_dir(selection.state_dir, selection.instance, environment)


def _local_kubeconfig(selection: ServerSelection, environment: Mapping[str, str]) -> tuple[Path, Path] | None:
    """Return (kubeconfig, state directory) of the instance, or None if it does not run."""
    from sundog_operator.shell.local import state_dir_paths

    where = _state_dir(selection, environment)
    state = state_dir_paths.find_state_dir(where)
    kubeconfig = state.path / state_dir_paths.KUBECONFIG_FILE
    return (kubeconfig, where) if state.is_held() and kubeconfig.is_file() else None


def _cluster_kubeconfig(environment: Mapping[str, str]) -> Path | None:
    if named := environment.get(_KUBECONFIG):
        return Path(named) if any(Path(part).is_file() for part in named.split(os.pathsep) if part) else None
    default = Path.home() / ".kube" / "config"
    return default if default.is_file() else None


def _target(selection: ServerSelection, kubeconfig: Path, description: str, note: str = "") -> ServerTarget:
    namespace = selection.namespace or _namespace(kubeconfig, selection.context) or "default"
    return ServerTarget(kubeconfig, namespace, description, selection.context, note)


def _namespace(kubeconfig: Path, context: str | None) -> str:
    """Return the namespace of a kubeconfig's context; empty if it names none."""
    import yaml

    contexts: dict[str, Any] = {}
    current = context or ""
    for part in str(kubeconfig).split(os.pathsep):
        try:
            document = yaml.safe_load(Path(part).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(document, dict):
            current = current or str(document.get("current-context") or "")
            entries = document.get("contexts")
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, dict) and isinstance(entry.get("context"), dict):
                    contexts.setdefault(str(entry.get("name")), entry["context"])
    return str(contexts.get(current, {}).get("namespace") or "")


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """A connection to an API server, and the namespace of objects without one."""

    kube: "KubernetesClient"
    namespace: str
    state: Path | None = None
    """The state directory of a local instance; None for a cluster."""

    @property
    def local(self) -> bool:
        """Report whether the server belongs to an instance of local mode, which has no pods."""
        return self.state is not None

    def print_problems(self) -> None:
        """Print the problems of a local instance's manifests, which no object shows."""
        from sundog_operator.shell.local import state_dir_paths

        for line in state_dir_paths.read_problems(self.state) if self.state is not None else ():
            click.echo(f"not applied: {line}", err=True)


def with_server(
    command: Callable[..., Awaitable[T]],
    *,
    find_offline_problems: "Callable[..., Sequence[ManifestProblem]]" = lambda **_: (),
) -> Callable[..., T]:
    """Give a command the options that choose its API server, and run it as a coroutine with a connection.

    Without an API server, `find_offline_problems` gets the namespace and the options of the command, for `fail_offline`.
    """

    @functools.wraps(command)
    def wrapped(**options: Any) -> T:
        names = ("kubeconfig", "context", "state_dir", "instance", "namespace", "verbose")
        plugin = click.get_current_context().find_root().info_name == PLUGIN_NAME
        selection = ServerSelection(**{name: options.pop(name) for name in names}, plugin=plugin)

        def fail(message: str, namespace: str = selection.namespace or "default") -> CommandFailed:
            return fail_offline(find_offline_problems(namespace=namespace, **options), message)

        try:
            target = resolve_target(selection, os.environ)
        except CommandFailed as err:
            raise fail(str(err)) from None
        if selection.verbose or target.note:
            click.echo(target.note or f"using {target.description}, namespace {target.namespace}", err=True)
        return asyncio.run(
            with_connection(
                target, lambda server: command(server, **options), lambda message: fail(message, target.namespace)
            )
        )

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def fail_offline(problems: "Sequence[ManifestProblem]", message: str) -> CommandFailed:
    """Print problems that were found without an API server, and return the failure of the command.

    If one of them is a mistake, the exit code is that of a refused manifest.
    """
    for problem in problems:
        problem.print()
    has_mistake = not all(problem.skipped for problem in problems)
    return CommandFailed(message, ExitCode.REFUSED if has_mistake else ExitCode.UNREACHABLE)


async def with_connection(
    target: ServerTarget, use: Callable[[ServerConnection], Awaitable[T]], fail: Callable[[str], CommandFailed]
) -> T:
    """Return the result of `use`. Raises the result of `fail` if the kubeconfig is unusable."""
    from sundog_operator.adapters.kubernetes_client import KubernetesClient
    from sundog_operator.errors import DependencyError

    try:
        if target.local:
            kube = KubernetesClient.local(target.kubeconfig, manager=FIELD_MANAGER)
        else:
            kube = await KubernetesClient.connect(target.kubeconfig, context=target.context, manager=FIELD_MANAGER)
    except DependencyError as err:
        raise fail(str(err)) from None
    try:
        state = target.kubeconfig.parent if target.local else None
        return await use(ServerConnection(kube, target.namespace, state))
    finally:
        await kube.close()


def complete_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return names of ModelDeployments for shell completion; none if the server does not answer within a second."""
    from sundog_operator.ports import MODEL_DEPLOYMENT

    async def names(server: ServerConnection) -> list[str]:
        async with asyncio.timeout(1.0):
            objects = await server.kube.list(MODEL_DEPLOYMENT, server.namespace)
        return [obj["metadata"]["name"] for obj in objects if obj["metadata"]["name"].startswith(incomplete)]

    option_names = ("kubeconfig", "context", "state_dir", "instance", "namespace")
    options: dict[str, Any] = {name: ctx.params.get(name) for name in option_names}
    selection = ServerSelection(**options)
    try:
        return asyncio.run(with_connection(resolve_target(selection, os.environ), names, CommandFailed))
    except Exception:  # noqa: BLE001 a completion that fails must not disturb the prompt
        return []


_OPTIONS: Final = (
    click.option("-n", "--namespace", metavar="NAME", help="The namespace. Default: the kubeconfig's namespace."),
    click.option("--kubeconfig", type=click.Path(path_type=Path), help="The cluster; overrides any local instance."),
    click.option("--context", metavar="NAME", help="A context of the kubeconfig."),
    click.option("--instance", metavar="NAME", help="A local instance by name."),
    click.option("--state-dir", type=click.Path(path_type=Path), help="A local instance by its state directory."),
    click.option("-v", "--verbose", is_flag=True, help="Show which API server is used."),
)

NAME_ARGUMENT: Final = click.argument("name", callback=kinds.parse_deployment_name, shell_complete=complete_names)
