"""Number of examples that hypothesis generates: few and always the same in the gate, many in `make test-all`."""

import os
from typing import Final

from hypothesis import settings

_USUAL: Final = 100

# The time that an example takes fails nothing. The gate fails because of a change and not by chance.
settings.register_profile("any", deadline=None, max_examples=_USUAL)
settings.register_profile("gate", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("many", deadline=None, max_examples=500)
settings.load_profile("gate" if os.environ.get("CI") else "any")


def examples(usual: int) -> int:
    """Return how many examples a test takes under the profile in force that takes `usual` when it runs alone."""
    return max(5, usual * settings().max_examples // _USUAL)
