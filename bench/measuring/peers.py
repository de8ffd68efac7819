"""Other model servers, each in its own virtual environment below `.venv-peers`, created from PyPI on first use.

Torch and its dependencies are linked from this environment instead of being installed six times (a gigabyte each). A `.pth` file appends
a folder of links, so a peer's own packages come first and it sees no other package of this environment.
"""

import contextlib
import json
import os
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from measuring.load import Request
from measuring.networks import body_of, features
from measuring.processes import running
from measuring.record import IMPORT_PATH, ROOT
from ports import free_ports
from waiting import eventually

FOLDER = ROOT / ".venv-peers"
_APPS = ROOT / "bench" / "peers"


@dataclass(frozen=True)
class Peer:
    """Another model server. `command` gets the environment's `bin`, a folder for its files and free ports, the first for HTTP."""

    name: str
    title: str
    requirements: tuple[str, ...]
    command: Callable[[Path, Path, Sequence[int]], list[str]]
    path: str
    request: Request
    configured: str


class NotInstalledError(Exception):
    """pip's first complaint."""


def environment_of(peer: Peer) -> Path:
    """Return the peer's environment; create it if it is missing or has other versions. Raises NotInstalledError."""
    folder = FOLDER / peer.name
    stamp = folder / "made-for"
    wanted = "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *peer.requirements], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalledError(
            next((line for line in complaints if "ERROR" in line), (complaints or ["pip failed"])[0])
        )
    packages = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "zz-torch.pth").write_text(f"{torch_links()}\n")
    stamp.write_text(wanted)
    return folder


def torch_links() -> Path:
    """Make a folder of links to torch and its dependencies only."""
    folder = FOLDER / "torch"
    folder.mkdir(parents=True, exist_ok=True)
    for each in _with_needs("torch"):
        root = Path(str(each.locate_file("")))
        for name in {Path(file).parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            with contextlib.suppress(FileExistsError):
                (folder / name).symlink_to(root / name)
    return folder


def _with_needs(name: str) -> list[Distribution]:
    found: dict[str, Distribution] = {}
    wanted = [name]
    while wanted:
        each = wanted.pop()
        if each in found:
            continue
        with contextlib.suppress(PackageNotFoundError):
            found[each] = distribution(each)
            needs = [Requirement(line) for line in found[each].requires or ()]
            wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return list(found.values())


@contextlib.contextmanager
def serving(peer: Peer, folder: Path) -> Iterator[str]:
    """Start a peer and yield its URL. Raises NotInstalledError, TimeoutError."""
    environment = environment_of(peer)
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(3)
    variables = {
        **{name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}},
        "PYTHONPATH": os.pathsep.join((IMPORT_PATH, str(_APPS))),
        "OMP_NUM_THREADS": "1",
        # Two of them would report how they are used.
        "BENTOML_DO_NOT_TRACK": "True",
        "LIT_USAGE_OFF": "1",
        "BENTOML_HOME": str(folder / "home"),
    }
    command = peer.command(environment / "bin", folder, ports)
    url = f"http://127.0.0.1:{ports[0]}{peer.path}"
    log = folder / "log"
    with running(command, log, variables, folder) as process:

        def answers() -> bool:
            if process.poll() is not None:
                raise TimeoutError(f"{peer.title} ended: {log.read_text().strip().splitlines()[-1:]}")
            request = urllib.request.Request(url, peer.request.body, {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code in {400, 422, 500}:
                        raise TimeoutError(f"{peer.title} answers {error.code}: {error.read()[:200]!r}") from None
                return False
            except OSError:
                return False

        eventually(answers, f"{peer.title} answers")
        yield url


def _uvicorn(bin_: Path, app: str, port: int) -> list[str]:
    return [str(bin_ / "python"), "-m", "uvicorn", app, f"--port={port}", "--no-access-log", "--log-level=warning"]


def _kserve(bin_: Path, _: Path, ports: Sequence[int]) -> list[str]:
    options = [f"--http_port={ports[0]}", f"--grpc_port={ports[1]}", "--workers=1", "--enable_latency_logging=false"]
    return [str(bin_ / "python"), str(_APPS / "kserve_app.py"), "--enable_grpc=false", *options]


def _mlserver(bin_: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    http, grpc, metrics = ports
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = {"name": "mlp", "implementation": "mlserver_app.Mlp"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(bin_ / "mlserver"), "start", str(folder)]


def _bentoml(bin_: Path, _: Path, ports: Sequence[int]) -> list[str]:
    service = ["serve", "bentoml_app:Mlp", "--host=127.0.0.1", f"--port={ports[0]}"]
    return [str(bin_ / "python"), "-m", "bentoml", *service, f"--working-dir={_APPS}"]


_X = Request(body_of("x", features()))
_V1 = Request(body_of("instances", [features()]))
_V2 = Request(body_of("inputs", [{"name": "x", "shape": [1, 256], "datatype": "FP32", "data": features()}]))

PEERS = (
    Peer(
        "uvicorn",
        "uvicorn 0.54.0, raw ASGI",
        ("uvicorn[standard]==0.54.0", "orjson==3.13.0"),
        lambda bin_, _, ports: _uvicorn(bin_, "measuring.raw_asgi:app", ports[0]),
        "/",
        _X,
        "uvloop, httptools, one worker, no access log; an application of thirty lines that checks nothing, with orjson",
    ),
    Peer(
        "fastapi",
        "FastAPI 0.165.0 + uvicorn",
        ("fastapi[standard]==0.165.0",),
        lambda bin_, _, ports: _uvicorn(bin_, "fastapi_app:app", ports[0]),
        "/predict",
        _X,
        "pydantic models in and out, `async def`, uvicorn as above",
    ),
    Peer(
        "kserve",
        "KServe 0.21.0",
        ("kserve==0.21.0",),
        _kserve,
        "/v1/models/mlp:predict",
        _V1,
        "custom `kserve.Model`, `ModelServer` with one worker, V1 protocol, no gRPC, no latency log",
    ),
    Peer(
        "mlserver",
        "MLServer 1.7.1",
        ("mlserver==1.7.1",),
        _mlserver,
        "/v2/models/mlp/infer",
        _V2,
        "custom runtime with `decode_args` (numpy codec), `parallel_workers: 0`, which saves the way to another process",
    ),
    Peer(
        "litserve",
        "LitServe 0.2.19",
        ("litserve==0.2.19",),
        lambda bin_, _, ports: [str(bin_ / "python"), str(_APPS / "litserve_app.py"), str(ports[0])],
        "/predict",
        _X,
        "`LitAPI`, one worker, `fast_queue=True`, no access log",
    ),
    Peer(
        "bentoml",
        "BentoML 1.4.40",
        ("bentoml==1.4.40",),
        _bentoml,
        "/predict",
        _X,
        "`@bentoml.service(workers=1)`, numpy API, no access log",
    ),
)
