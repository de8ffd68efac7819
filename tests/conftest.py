"""What all tests share."""

import os

from hypothesis import settings

# What gates a change looks at the same examples every time, so that it fails for the change and not by luck.
# Elsewhere each run tries others.
# How long an example takes is the machine's affair and fails nothing.
settings.register_profile("any", deadline=None)
settings.register_profile("gate", derandomize=True, deadline=None)
settings.load_profile("gate" if os.environ.get("CI") else "any")

pytest_plugins = ["requiring", "real_kubernetes.fixtures"]
