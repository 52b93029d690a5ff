"""A chain whose links need a secret: who cannot read the key cannot forge them."""

from __future__ import annotations

import hashlib
import hmac
import logging
import pickle
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost import (
    Checkpoint,
    CheckpointStore,
    Head,
    InvalidArgumentError,
    Receipt,
    StoreError,
    WrongKeyError,
)
from milepost.checkpoint import chain_signature, signed
from support.chains import chain, entry
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

KEY = b"correct horse battery staple 42!"
OTHER = b"another key altogether, not that"


def _signature(entries: Iterable[Checkpoint], key: bytes = KEY) -> str:
    """The signature of a keyed chain, computed by the rule in the file format alone."""
    signature = bytes(32)
    for each in entries:
        signature = hmac.digest(key, signature + signed(each), "sha256")
    return signature.hex()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a keyed chain of nine entries."""
    path = tmp_path / "keyed.milepost"
    with CheckpointStore(path, hmac_key=KEY) as store:
        store.append_many(chain(9))
    return path


@given(st.binary(min_size=1, max_size=100), st.integers(0, 12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_the_links_are_hmac_sha_256_over_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, key: bytes, length: int
) -> None:
    """With any key, for the chain and for each run of its own."""
    entries = chain(length)
    with CheckpointStore(tmp_path_factory.mktemp("keyed") / "store", hmac_key=key) as store:
        store.append_many(entries[: length // 2])
        for each in entries[length // 2 :]:
            store.append(each)
        assert _signature(entries, key) == store.chain_signature()
        for run_id in {each.run_id for each in entries}:
            assert _signature([each for each in entries if each.run_id == run_id], key) == store.chain_signature(run_id)
        verification = store.verify()
        assert (True, length, _signature(entries, key)) == (verification.ok, verification.entries, verification.signature)


def test_a_keyed_chain_is_not_the_chain_without_a_key(path: Path) -> None:
    """Nor that of another key."""
    with CheckpointStore(path, hmac_key=KEY) as store:
        assert store.chain_signature() not in {chain_signature(chain(9)), _signature(chain(9), OTHER)}


def test_it_goes_on_with_its_key(path: Path) -> None:
    """Every verb works as without one; a duplicate is one."""
    more = entry(run_id="later", sequence=1)
    with CheckpointStore(path, hmac_key=KEY) as store:
        assert store.append(more) == Receipt(10, _signature([*chain(9), more]))
        assert store.append(more).duplicate
        assert store.verify(run_id="later", expected=Head(1, _signature([more]))).ok


@pytest.mark.parametrize("key", [OTHER, None, KEY + b"!", KEY[:-1]])
def test_it_is_not_opened_for_writing_without_its_key(path: Path, key: bytes | None) -> None:
    """A wrong key, or none, is a clear error, and changes nothing."""
    before = path.read_bytes()
    with pytest.raises(WrongKeyError, match="its chain is keyed") as caught:
        CheckpointStore(path, hmac_key=key)
    assert caught.value.path == str(path)
    assert before == path.read_bytes()


def test_a_chain_without_a_key_is_not_opened_with_one(tmp_path: Path) -> None:
    """Somebody may have put another file there, or removed the mark."""
    path = tmp_path / "plain.milepost"
    with CheckpointStore(path) as store:
        store.append_many(chain(3))
    with pytest.raises(WrongKeyError, match="not keyed"):
        CheckpointStore(path, hmac_key=KEY)
    with pytest.raises(WrongKeyError, match="not keyed"):
        CheckpointStore.open_readonly(path, hmac_key=KEY)


def test_without_its_key_it_can_be_read_and_only_verify_says_that_it_cannot_judge(path: Path) -> None:
    """Read-only, every other verb answers."""
    with CheckpointStore.open_readonly(path) as store:
        assert chain(9) == list(store.history())
        assert store.head() == Head(9, _signature(chain(9)))
        verification = store.verify(expected=store.head())
        assert (verification.ok, [fault.kind for fault in verification.faults]) == (False, ["key"])
        assert [fault.kind for fault in store.verify(run_id=chain(9)[0].run_id).faults] == ["key"]


def test_without_its_key_verify_still_finds_what_needs_no_key(path: Path) -> None:
    """A head that is not in the chain."""
    with CheckpointStore.open_readonly(path) as store:
        expected = Head(10, "ab" * 32)
        assert sorted(fault.kind for fault in store.verify(expected=expected).faults) == ["head", "key"]


def test_with_its_key_it_is_judged_read_only(path: Path) -> None:
    """And a wrong key is refused there as well."""
    with CheckpointStore.open_readonly(path, hmac_key=KEY) as store:
        assert store.verify().ok
    with pytest.raises(WrongKeyError, match="another key"):
        CheckpointStore.open_readonly(path, hmac_key=OTHER)


def test_a_forged_tail_with_recomputed_links_is_found(path: Path) -> None:
    """Without the key the forger can only link with SHA-256, which a chain without a key would take."""
    entries = chain(9)
    last = entries[-1]._replace(at_ms=entries[-1].at_ms + 1)
    forged = hashlib.sha256(bytes.fromhex(_signature(entries[:-1])) + signed(last)).hexdigest()
    tamper(
        path,
        f"UPDATE entry SET at_ms = at_ms + 1, signature = x'{forged}' WHERE position = 9",
    )
    with CheckpointStore(path, hmac_key=KEY) as store:
        assert (9, "link") in {(fault.position, fault.kind) for fault in store.verify().faults}


def test_a_file_rewritten_as_a_whole_without_the_key_is_refused(path: Path, tmp_path: Path) -> None:
    """Rewritten under a key of the forger's, or under none."""
    for key in (OTHER, None):
        path.unlink()
        with CheckpointStore(path, hmac_key=key) as store:
            store.append_many(chain(5))
        with pytest.raises(WrongKeyError):
            CheckpointStore.open_readonly(path, hmac_key=KEY)


def test_a_mark_that_was_removed_is_noticed(path: Path) -> None:
    """Whoever gives the key is told that the chain is not keyed."""
    tamper(path, "DELETE FROM keyed")
    with pytest.raises(WrongKeyError, match="not keyed"):
        CheckpointStore(path, hmac_key=KEY)


def test_a_backup_is_keyed_as_its_original(path: Path, tmp_path: Path) -> None:
    """And verifies with the same key."""
    copy = tmp_path / "copy.milepost"
    with CheckpointStore(path, hmac_key=KEY) as store:
        assert store.head() == store.backup(copy)
    with CheckpointStore(copy, hmac_key=KEY) as store:
        assert store.verify().ok


@pytest.mark.parametrize("key", ["text is not bytes", b"", bytearray(KEY), 42, [KEY]])
def test_a_key_that_is_not_bytes_is_refused_and_not_shown(tmp_path: Path, key: object) -> None:
    """It may be the secret itself, in the wrong type."""
    with pytest.raises(InvalidArgumentError) as caught:
        CheckpointStore(tmp_path / "store", hmac_key=key)  # type: ignore[arg-type]
    assert (caught.value.argument, "bytes" in str(caught.value)) == ("hmac_key", True)
    assert "text is not bytes" not in f"{caught.value!r} {caught.value} {caught.value.args}"
    assert "correct horse" not in f"{caught.value!r} {caught.value} {caught.value.args}"
    assert list(tmp_path.iterdir()) == []


def test_the_key_shows_nowhere(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the file or its WAL, a repr, a log, a pickle, or an exception with the values of our variables."""
    secret = repr(KEY)[2:-1]
    store = CheckpointStore(path, hmac_key=KEY)
    shown = [repr(store), str(store), repr(vars(store)), repr(vars(store._database)), repr(store.verify())]
    with caplog.at_level(logging.DEBUG):
        store.append(entry(run_id="x", sequence=1))
    files = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    with pytest.raises(StoreError) as pickled:
        pickle.dumps(store)
    store.close()
    with pytest.raises(WrongKeyError) as wrong:
        CheckpointStore(path.with_name("keyed.milepost"), hmac_key=OTHER)
    for error in (pickled.value, wrong.value):
        frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
        shown += [repr(error), str(error), repr(error.args), pickle.dumps(error).decode("latin-1")]
        shown += [str(frame.locals) for frame in frames if frame.filename != __file__]
    assert not [text for text in (*shown, caplog.text) if secret in text or repr(OTHER)[2:-1] in text]
    assert KEY not in files
