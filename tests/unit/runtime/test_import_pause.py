"""The import of torch at the start of a replica."""

import subprocess
import sys

PROGRAM = """
import gc
import sundog_runtime.replica as replica
found = []
gc.callbacks.append(lambda phase, info: found.append(phase))
before = gc.get_freeze_count()
replica.import_torch()
assert found == [], found
assert gc.isenabled()
frozen = gc.get_freeze_count()
assert frozen - before > 50_000, frozen
garbage = [[]]
garbage[0].append(garbage)
del garbage
replica.import_torch()
assert gc.get_freeze_count() <= frozen
assert gc.collect() >= 2
import torch
"""


def test_no_garbage_is_collected_while_torch_is_imported_and_its_objects_are_excluded_later() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM], check=True, timeout=300)
