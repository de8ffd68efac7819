"""Slots of applications, and what needs a reload."""

import orjson

from split_documents import arms_document
from sundog_edge.split.layout import Layout, SlotAssignment, SlotServer, fit_layout


def test_applications_keep_their_slots_and_give_them_back():
    first = fit_layout(Layout(), arms_document("a-r1", "a-r2"))
    assert first.slot_of == {"a-r1": "slot0", "a-r2": "slot1"}
    second = fit_layout(first, arms_document("a-r2", "a-r3"))
    # slot0 may still have requests of a-r1.
    assert second.slot_of == {"a-r2": "slot1", "a-r3": "slot2"}
    assert [holding.application for holding in second.leaving] == ["a-r1"]
    back = fit_layout(second, arms_document("a-r1", "a-r3"))
    assert back.slot_of == {"a-r1": "slot0", "a-r3": "slot2"}
    assert not first.needs_reload(back)


def test_slots_double_when_they_run_out_and_names_stay_until_the_next_reload():
    layout = Layout()
    for number in range(3):
        layout = fit_layout(layout, arms_document(*(f"b{number}-{n}" for n in range(8))))
    assert layout.slots == 32
    assert len({holding.slot for holding in (*layout.held, *layout.leaving)}) == 24
    with_header = fit_layout(layout, arms_document("c", header="X-A"))
    assert layout.needs_reload(with_header)
    assert fit_layout(with_header, arms_document("c")).units == ("header:x-a",)
    assert fit_layout(with_header, arms_document("c", header="x-b")).units == ("header:x-b",)
    assert not with_header.needs_reload(fit_layout(with_header, arms_document("c", header="x-A")))


def test_a_layout_survives_its_json_with_each_of_its_members():
    layout = Layout(
        slots=32,
        units=("header:x-u",),
        overrides=("x-o",),
        matches=("x-m",),
        waits=(("slot1", 2000),),
        public_keys=("key.pem",),
        grpc=True,
        shadow=True,
        cors=True,
        compression=True,
        drain_s=300,
        held=(SlotAssignment("slot0", "a", "digits", "/a.app"),),
        leaving=(SlotAssignment("slot1", "b", "digits", "/b.app"),),
        servers=(SlotServer("slot0", "s", "1.2.3.4:5", 6, backup=True, check_ms=900, check_port=7),),
        cold=("slot0",),
    )
    stored = orjson.loads(orjson.dumps(layout.as_json()))
    assert Layout.from_json(stored) == layout
    assert all(stored[name] for name in stored)
    assert Layout.from_json({**stored, "later": [1]}) == layout


def test_a_layout_of_an_older_edge_has_the_defaults_of_new_members():
    server = {"slot": "slot0", "name": "s", "address": "1.2.3.4:5", "maxconn": 6}
    stored = {"slots": 16, "held": [], "leaving": [], "servers": [server]}
    assert Layout.from_json(stored) == Layout(servers=(SlotServer("slot0", "s", "1.2.3.4:5", 6),))
