"""The files of an exposure log in a bucket: a real S3 server, and Google's emulator where something is refused."""

from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from store_processes import BUILD_S, Put
from sundog_operator.adapters import export_destinations
from sundog_operator.adapters.export_destinations import DestinationRefused
from waiting import PATIENCE_S

pytestmark = pytest.mark.timeout(BUILD_S + PATIENCE_S)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
async def test_files_are_put_below_a_prefix_and_replaced(bucket: tuple[str, Put], s3: str, tmp_path: Path) -> None:
    """Google's emulator does not know the way by which obstore writes."""
    start, _ = bucket
    store = S3Store("models", endpoint=s3, client_options={"allow_http": True})
    small, large = tmp_path / "plan.json", tmp_path / "exposures.jsonl"
    large.write_bytes(b"a row\n" * 2_000_000)
    for text in (b"one", b"another"):
        small.write_bytes(text)
        await export_destinations.put_files([large, small], f"{start}/logs/a/")
        assert obstore.get(store, "logs/a/plan.json").bytes() == text
    assert obstore.get(store, "logs/a/exposures.jsonl").bytes() == large.read_bytes()
    await export_destinations.put_files([small], start)
    assert obstore.get(store, "plan.json").bytes() == b"another"


async def test_what_a_bucket_refuses_is_reported_without_its_credentials(
    bucket: tuple[str, Put], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, _ = bucket
    (tmp_path / "plan.json").write_bytes(b"{}")
    if start.startswith("s3"):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    place = start.replace("models", "no-such-bucket")
    with pytest.raises(DestinationRefused, match=f"^{place}/logs: cannot be written") as refused:
        await export_destinations.put_files([tmp_path / "plan.json"], f"{place}/logs")
    assert "secret" not in str(refused.value)
