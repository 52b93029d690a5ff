"""What milepost itself records with an entry, its detail: signed, kept, found again, exported and imported."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, DamagedStoreError, Head, rows
from milepost.cli.exit_code import ExitCode
from milepost.details import detail
from milepost.signature import EMPTY, canonical_bytes, hmac_sha256, link, prefix
from support.chains import chain, entry
from support.command import answer, run
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.cli.exit_code import ExitCode
from milepost.signature import Hash

KEY = bytes(range(32))
DETAILS = (None, '{"a":1}', '"ü 日本 🚀 \\u2028 \\" \\\\"', None, "null", '{"x":"%s"}' % ("y" * 4000))
texts = st.none() | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])), st.lists, max_leaves=5
).map(lambda value: json.dumps(value, ensure_ascii=False))


def signatures(entries: list[Checkpoint], details: list[str | None], hash_function: Hash = sha256) -> list[str]:
    """The model: the signature after every entry."""
    canonical = (
        canonical_bytes(prefix(e.run_id, e.stage), e.sequence, *e.watermark, e.idempotency_key, e.at_ms, detail)
        for e, detail in zip(entries, details, strict=True)
    )
    found = accumulate(canonical, lambda before, each: link(before, each, hash_function), initial=EMPTY)
    return [signature.hex() for signature in found][1:]


def record(path: Path, entries: list[Checkpoint], details: list[str | None], key: bytes | None = None) -> None:
    """A file with these entries."""
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        store._writer.restore(entries, details, {})


@pytest.fixture
def file(path: Path) -> Path:
    """Entries of one stage with each detail in turn, twelve of them."""
    record(path, chain(12), [*DETAILS, *DETAILS])
    return path


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.long)])
def test_the_chain_of_any_details_is_that_of_the_pure_functions(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    """Plain and keyed; read back as they were, with their signatures, and verified."""

    @settings(max_examples=examples)
    @given(st.lists(texts, max_size=8), st.sampled_from([None, KEY]))
    def check(details: list[str | None], key: bytes | None) -> None:
        path, entries = tmp_path_factory.mktemp("any") / "store", chain(len(details))
        record(path, entries, details, key)
        with CheckpointStore.open_readonly(path, hmac_key=key) as store:
            found = list(store.receipts())
            assert [(each, detail) for _, each, detail in found] == list(zip(entries, details, strict=True))
            expected = signatures(entries, details, hmac_sha256(key) if key else sha256)
            assert [receipt.signature for receipt, *_ in found] == expected
            assert store.chain_signature() == (expected or [EMPTY.hex()])[-1]
            store.verify().raise_if_broken()
            store.verify(run_id="run-7").raise_if_broken() if details else None

    check()


def test_details_come_with_every_filter_and_in_both_directions(file: Path) -> None:
    """As the list of all of them has them."""
    with CheckpointStore.open_readonly(file) as store:
        everything = list(store.receipts())
        assert [detail for *_, detail in everything] == [*DETAILS, *DETAILS]
        assert list(store.receipts(newest_first=True)) == everything[::-1]
        assert list(store.receipts("run-7", "load", after=3, limit=4)) == everything[3:7]
        assert store.frame(after=3).to_polars()["detail"].to_list() == [detail for *_, detail in everything[3:]]
        assert [each for _, each, _ in everything] == list(store.history())


TAMPERED = {
    "changed": "UPDATE entry SET detail = '{\"a\":2}' WHERE position = 2",
    "taken away": "UPDATE entry SET detail = NULL WHERE position = 2",
    "put there": "UPDATE entry SET detail = '{\"a\":1}' WHERE position = 4",
    "no text": "UPDATE entry SET detail = CAST(x'ff' AS TEXT) WHERE position = 5",
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_detail_that_was_changed_is_found_there(file: Path, change: str) -> None:
    """And no other row is accused; in the run alone too."""
    tamper(file, TAMPERED[change])
    position = int(TAMPERED[change][-1])
    with CheckpointStore.open_readonly(file) as store:
        for found in (store.verify(), store.verify(run_id="run-7")):
            kind = "unreadable" if change == "no text" else "link"
            assert [(fault.kind, fault.position) for fault in found.faults] == [(kind, position)]


def test_a_kept_head_shows_a_detail_that_was_changed_together_with_its_chain(file: Path, tmp_path: Path) -> None:
    """Somebody who rewrites the rest makes a chain that is whole, and another one."""
    with CheckpointStore.open_readonly(file) as store:
        head, entries = store.head(), list(store.history())
    forged = tmp_path / "forged"
    record(forged, entries, ["{}", *DETAILS[1:], *DETAILS])
    with CheckpointStore.open_readonly(forged) as store:
        assert store.verify().ok
        assert [fault.kind for fault in store.verify(expected=head).faults] == ["head"]


def test_a_detail_that_is_no_text_is_a_damaged_store(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a damaged file SQLite gives what it finds, whatever the table declares."""
    original: Callable[..., list[tuple[Any, ...]]] = rows.signed_rows
    monkeypatch.setattr(rows, "signed_rows", lambda *given: [(*row[:-1], 7) for row in original(*given)])
    with CheckpointStore.open_readonly(file) as store, pytest.raises(DamagedStoreError):
        list(store.receipts())


def test_a_step_stated_again_is_a_duplicate_whatever_its_detail(file: Path) -> None:
    """Sequence and watermark decide; what is recorded stays."""
    with CheckpointStore(file, durability="normal") as store:
        found = store._writer.restore([chain(12)[1]], ["{}"], {})
        assert (found.appended, found.duplicates) == (0, 1)
        assert [detail for *_, detail in store.receipts()] == [*DETAILS, *DETAILS]


def test_an_import_makes_the_same_chain_of_an_export_with_details(file: Path, tmp_path: Path) -> None:
    """To its signature; a line without a detail has no word of one."""
    with CheckpointStore.open_readonly(file) as store:
        head, everything = store.head(), list(store.receipts())
    exported = answer("export", file)
    lines = [json.loads(line) for line in exported.splitlines()]
    assert [line.get("detail") for line in lines] == [*DETAILS, *DETAILS]
    assert ["detail" in line for line in lines] == [detail is not None for detail in [*DETAILS, *DETAILS]]
    (tmp_path / "exported").write_text(exported, encoding="ascii")
    assert Head.parse(answer("import", tmp_path / "exported", tmp_path / "again")) == head
    with CheckpointStore.open_readonly(tmp_path / "again") as store:
        assert list(store.receipts()) == everything


@pytest.mark.parametrize(
    "detail", ["7", "null", "{}", '"{"', json.dumps(json.dumps("y" * 4095)), '"\\ud800"', json.dumps("[" * 4000)]
)
def test_a_line_whose_detail_is_no_json_text_is_named(tmp_path: Path, detail: str) -> None:
    """And nothing is made."""
    values = {
        "run_id": "r",
        "stage": "s",
        "sequence": 1,
        "offset": 1,
        "event_time_ms": 1,
        "idempotency_key": "k",
        "at_ms": 1,
    }
    line = json.dumps(values)[:-1] + f', "detail": {detail}}}\n'
    found = run("import", "-", tmp_path / "new", stdin=line.encode())
    assert (found.exit_code, found.stdout) == (ExitCode.WRONG_INPUT, "")
    assert found.stderr.startswith("Error: line 1: detail ")
    assert not (tmp_path / "new").exists()


def test_the_command_line_shows_a_detail_where_there_is_one(file: Path) -> None:
    """As text in `latest`, as a value for programs."""
    assert "\ndetail      " in answer("latest", file)
    assert json.loads(answer("latest", file, "--json"))["detail"] == DETAILS[-1]
    assert [json.loads(line)["detail"] for line in answer("history", file, "--json").splitlines()] == [*DETAILS, *DETAILS]


def test_an_entry_without_a_detail_has_none(store: CheckpointStore) -> None:
    """As a rule."""
    store.append(entry(1))
    assert [detail for *_, detail in store.receipts()] == [None]


@given(
    st.text(st.characters(exclude_categories=["Cs"])) | st.binary(),
    st.dictionaries(st.sampled_from(["source", "branch_of"]), st.text(st.characters(exclude_categories=["Cs"]))),
)
def test_a_cursors_detail_is_the_json_of_its_digest_and_type_after_what_else_is_recorded(
    cursor: str | bytes, values: dict[str, Any]
) -> None:
    """Byte for byte, as the chain signs it."""
    digest = sha256(cursor if isinstance(cursor, bytes) else cursor.encode()).hexdigest()
    everything = {**values, "cursor": digest, "cursor_type": "bytes" if isinstance(cursor, bytes) else "json"}
    assert detail(cursor=cursor, **values) == json.dumps(everything, ensure_ascii=False, separators=(",", ":"))
