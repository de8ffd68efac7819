"""How much memory this process may use."""

import os
from pathlib import Path

_OF_GROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit_bytes(files: tuple[Path, ...] = _OF_GROUP) -> int:
    """Bytes: the limit of the container (of control groups, version 2 or 1), or what the machine has if that is less or there is none."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    told = (file.read_text().strip() for file in files if file.exists())
    return min([machine, *(int(text) for text in told if text.isdigit())])
