"""A real Prometheus that scrapes the metrics of tests."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.error import URLError
from urllib.request import urlopen

import yaml

from ports import free_port
from waiting import eventually

MISSING: Final = "" if shutil.which("prometheus") else "prometheus is not installed"


@contextmanager
def prometheus(folder: Path, targets: Sequence[str], **labels: str) -> Iterator[str]:
    """The URL of one that scrapes these `host:port` every second, and adds labels, until it is left."""
    binary = shutil.which("prometheus")
    assert binary is not None, MISSING
    config, address = folder / "prometheus.yml", f"127.0.0.1:{free_port()}"
    scraped = [{"job_name": "tests", "static_configs": [{"targets": list(targets), "labels": labels}]}]
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scraped})
    )
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(lambda: _is_ready(f"http://{address}"), f"a Prometheus at {address}")
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/-/ready") as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
