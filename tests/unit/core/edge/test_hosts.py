from typing import Any

import pytest

from sundog_operator.core.edge.hosts import find_conflicting_deployment


def deployment(name: str, host: str = "", created: str = "2026-11-25T12:00:00Z") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "vision", "creationTimestamp": created},
        "spec": {"endpoint": {"host": host}},
    }


LATER = "2026-11-25T13:00:00Z"


@pytest.mark.parametrize(
    ("asking", "others", "owner"),
    [
        (deployment("digits"), [deployment("words")], ""),
        (deployment("digits", "ai.example.com"), [deployment("words", "other.example.com")], ""),
        (deployment("digits", "ai.example.com", LATER), [deployment("words", "ai.example.com")], "words"),
        (deployment("digits", "ai.example.com"), [deployment("words", "ai.example.com", LATER)], ""),
        (deployment("digits", "ai.example.com"), [deployment("alpha", "ai.example.com")], "alpha"),
        (deployment("digits", "words.vision.svc"), [deployment("words", created=LATER)], "words"),
        (deployment("digits", "digits.vision.svc"), [deployment("words")], ""),
        (deployment("digits", "ai.example.com"), [deployment("digits", "ai.example.com")], ""),
        ({**deployment("digits"), "spec": {"endpoint": "broken"}}, [deployment("words")], ""),
    ],
)
def test_a_host_belongs_to_its_name_else_to_the_oldest(
    asking: dict[str, Any], others: list[dict[str, Any]], owner: str
) -> None:
    assert find_conflicting_deployment(asking, others) == owner
