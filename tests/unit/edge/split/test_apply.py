"""Slots whose requests are held, when the state directory is full."""

import errno
from types import SimpleNamespace

import pytest

from split_documents import arm_fields, parsed, service_fields
from sundog_edge.counting.evidence import AppliedDocument
from sundog_edge.security.secrets import SecretsDir
from sundog_edge.split import apply as split_apply
from sundog_edge.split.apply import SplitApplier
from sundog_edge.split.layout import Layout, fit_layout
from sundog_edge.state_dir import StateDir

DOCUMENT = parsed(service_fields(arm_fields("digits-r7", revision=7), coldStartSeconds=120))


@pytest.mark.parametrize("unwritable", ["maps", "layout.json"])
async def test_held_slots_that_could_not_be_written_are_written_by_the_next_call(tmp_path, monkeypatch, unwritable):
    state = StateDir.at(tmp_path / "s")
    split = SplitApplier(None, SimpleNamespace(all=[]), state, SecretsDir(None))
    split.in_force, split.layout = AppliedDocument(DOCUMENT, 0.0, {}), fit_layout(Layout(), DOCUMENT)
    slots = (split.layout.slot_of["digits-r7"],)
    write = split_apply.write_atomically

    def full(path, content):
        if unwritable in {path.name, path.parent.name}:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    with monkeypatch.context() as disk:
        disk.setattr(split_apply, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            await split.set_cold(slots, 1.0)
    await split.set_cold(slots, 2.0)
    assert split.layout.cold == slots
    assert f"{slots[0]} 150000" in state.map("cold").read_text()
    assert SplitApplier(None, None, state, SecretsDir(None)).layout.cold == slots
