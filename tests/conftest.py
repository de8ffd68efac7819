"""What all tests share."""

import os

from hypothesis import settings

# What gates a change looks at the same examples every time, so that it fails for the change and not by luck.
# Elsewhere each run tries others.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")
