"""Secrets: folding of stringData, violations, and messages without values."""

from pathlib import Path
from typing import Any

import pytest

from sundog_operator.adapters.memory_kubernetes import MemoryKubernetes
from sundog_operator.errors import Invalid
from sundog_operator.ports import SECRET, Object, Ref

KEYS = Ref(SECRET, "vision", "keys")


def secret(**content: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "vision"}, **content}


@pytest.fixture
def kube(clock: Any) -> MemoryKubernetes:
    return MemoryKubernetes(clock)


async def stored(kube: MemoryKubernetes) -> Object:
    found = await kube.get(KEYS)
    assert found is not None
    return found


async def test_plain_text_is_folded_into_data(kube: MemoryKubernetes) -> None:
    await kube.apply(secret(stringData={"ann": "one"}, data={"bob": "dHdv"}))
    found = await stored(kube)
    assert found["data"] == {"ann": "b25l", "bob": "dHdv"}
    assert "stringData" not in found
    assert found["type"] == "Opaque"
    again = await kube.apply(secret(stringData={"ann": "one"}, data={"bob": "dHdv"}))
    assert again["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]


async def test_a_key_that_is_taken_out_is_revoked(kube: MemoryKubernetes) -> None:
    await kube.apply(secret(stringData={"ann": "one", "bob": "two"}))
    await kube.apply(secret(stringData={"ann": "one"}))
    assert (await stored(kube))["data"] == {"ann": "b25l"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stringData": {"pin": 428571}}, "stringData[pin]: int; expected a string. Put it in quotes."),
        ({"stringData": [{"ann": "hunter2!"}]}, "stringData: list; expected an object, such as {key: value}"),
        ({"data": ["hunter2!"], "stringData": {"a": "b"}}, "data: list; expected an object, such as {key: value}"),
        ({"data": {"ann": "hunter2!"}}, "data[ann]: not base64. Put plain text in stringData."),
        ({"stringData": {"../ann": "hunter2!"}}, "data[../ann]: invalid key; expected letters, digits, -, _ and ."),
        ({"stringData": {"..": "hunter2!"}}, "data[..]: invalid key; expected letters, digits, -, _ and ."),
        (
            {"type": "kubernetes.io/tls", "stringData": {"tls.crt": "hunter2!"}},
            "data[tls.key]: missing; expected in a Secret of type kubernetes.io/tls",
        ),
    ],
)
async def test_messages_do_not_quote_values(kube: MemoryKubernetes, content: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as refused:
        await kube.apply(secret(**content))
    assert refused.value.causes == (message,)
    assert "hunter2" not in str(refused.value)
    assert "428571" not in str(refused.value)
    assert await kube.get(KEYS) is None


async def test_its_type_stays_and_immutable_holds(kube: MemoryKubernetes) -> None:
    await kube.apply(secret(stringData={"ann": "one"}, immutable=True))
    for change, message in (
        ({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "a", "tls.key": "b"}}, "type: is immutable"),
        ({"stringData": {"ann": "two"}, "immutable": True}, "data: the Secret is immutable"),
    ):
        with pytest.raises(Invalid, match=message):
            await kube.apply(secret(**change))


async def test_the_state_file_is_private(clock: Any, tmp_path: Path) -> None:
    kube = MemoryKubernetes.open(tmp_path / "objects.db", clock)
    try:
        await kube.apply(secret(stringData={"ann": "one"}))
        assert open_to_others(tmp_path) == []
    finally:
        kube.close()


def open_to_others(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.stat().st_mode & 0o077]
