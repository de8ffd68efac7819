"""Read statuses of older releases, which stored some reasons in texts only. No other module takes a text apart."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic.alias_generators import to_camel

from sundog_operator.api.reasons import EndReason, MetricNote

_CODE: Final = re.compile(r"([A-Z][A-Za-z]{1,62}): ")
_BY_COMMAND: Final = "by command"
_ARM_WAS_DROPPED: Final = "the arm was dropped"


def add_stored_code(data: Any, text: str, code: str) -> Any:
    """Return a stored object with the reason that its text begins with, if an older release stored only the text."""
    key = to_camel(code)
    if not isinstance(data, Mapping) or key in data or code in data:
        return data
    found = _CODE.match(str(data.get(text) or ""))
    return {**data, key: found[1]} if found else data


def add_stored_rollout_code(data: Any) -> Any:
    """Return a stored `lastRollout` with its code. An older release stored only the text, which has no reason for a command."""
    if isinstance(data, Mapping) and "code" not in data and str(data.get("reason") or "").startswith(_BY_COMMAND):
        return {**data, "code": str(EndReason.ABORTED)}
    return add_stored_code(data, "reason", "code")


def add_stored_metric_note(data: Any) -> Any:
    """Return a stored metric with the note that its arm was dropped, which an older release only wrote into the message."""
    if not isinstance(data, Mapping) or "note" in data or _ARM_WAS_DROPPED not in str(data.get("message") or ""):
        return data
    return {**data, "note": str(MetricNote.ARM_DROPPED)}


def add_stored_rollback(status: Any) -> Any:
    """Return a stored status whose candidate has `broughtBack`. An older release only recorded the command when the candidate started."""
    candidate, last = (status.get(key) if isinstance(status, Mapping) else None for key in ("candidate", "lastRollout"))
    if not isinstance(candidate, Mapping) or not isinstance(last, Mapping) or "broughtBack" in candidate:
        return status
    brought_back = (
        last.get("outcome") == EndReason.ROLLED_BACK
        and not last.get("experiment")
        and last.get("at") == candidate.get("since")
        and last.get("revision") != candidate.get("revision")
    )
    return {**status, "candidate": {**candidate, "broughtBack": True}} if brought_back else status
