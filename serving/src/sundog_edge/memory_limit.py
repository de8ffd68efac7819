"""The memory limit of this process."""

import os
from pathlib import Path

_CGROUP_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_limit_bytes(files: tuple[Path, ...] = _CGROUP_FILES) -> int:
    """Return the bytes that the process may use: the container's limit (cgroup version 2 or 1), at most the machine's memory."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (file.read_text().strip() for file in files if file.exists())
    return min([machine, *(int(text) for text in limits if text.isdigit())])
