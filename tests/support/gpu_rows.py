"""Rows of the translation of `resources.gpu`: what a spec asks for, by the name of its golden file."""

from typing import Any, Final

ROWS: Final[dict[str, dict[str, Any]]] = {
    "exclusive": {"count": 2},
    "types": {"count": 1, "type": ["h100", "l4"]},
    "memory": {"count": 1, "memory": "40Gi"},
    "types-and-memory": {"count": 1, "type": ["a100-80gb", "h100"], "memory": "70Gi"},
    "mig": {"count": 1, "sharing": {"mode": "mig", "profile": "1g.10gb"}},
    "mig-media": {"count": 1, "type": ["a100-80gb"], "sharing": {"mode": "mig", "profile": "1g.10gb.me"}},
    "fraction": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.5"}},
    "fraction-of-a-third": {"count": 1, "memory": "20Gi", "sharing": {"mode": "fraction", "fraction": "0.333333"}},
    "fraction-above-half": {"count": 1, "sharing": {"mode": "fraction", "fraction": "0.7"}},
    "time-sliced": {"count": 1, "sharing": {"mode": "timeSliced"}},
    "time-sliced-type": {"count": 1, "type": ["l4"], "memory": "20Gi", "sharing": {"mode": "timeSliced"}},
    "amd": {"count": 1, "vendor": "amd"},
    "gaudi": {"count": 2, "vendor": "gaudi"},
}
