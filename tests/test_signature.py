"""The chain's arithmetic, against literal vectors that any language can test itself with."""

from __future__ import annotations

import json
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, InvalidCheckpointError, SequenceError, Watermark
from milepost.checkpoint import chain_signature, signed, valid
from milepost.signature import EMPTY, canonical_bytes, link, prefix
from support.chains import entry
from support.strategies import checkpoints

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("vectors.json").read_text(encoding="utf-8"))["chains"]


def _entries(vector: dict[str, Any]) -> list[Checkpoint]:
    return [
        Checkpoint(run_id, stage, sequence, Watermark(*mark), key, at_ms)
        for run_id, stage, sequence, mark, key, at_ms, *_ in vector["entries"]
    ]


def _details(vector: dict[str, Any]) -> list[str | None]:
    return [(*entry[6:], None)[0] for entry in vector["entries"]]


def test_there_are_at_least_twenty_vectors_and_all_are_different() -> None:
    """The vectors file covers what it promises."""
    assert len(VECTORS) >= 20
    assert len({vector["signature"] for vector in VECTORS}) == len(VECTORS)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_canonical_bytes_and_signatures_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    """Every entry's canonical bytes, and the signature after every entry, are pinned."""
    entries, details = _entries(vector), _details(vector)
    assert all(map(valid, entries))
    canonical = [
        canonical_bytes(prefix(e.run_id, e.stage), e.sequence, *e.watermark, e.idempotency_key, e.at_ms, detail)
        for e, detail in zip(entries, details, strict=True)
    ]
    assert [text.encode() for text in vector["canonical"]] == canonical
    signatures = accumulate(canonical, link, initial=EMPTY)
    assert [EMPTY.hex(), *vector["signatures"]] == [signature.hex() for signature in signatures]
    assert vector["signature"] == (vector["signatures"] or [EMPTY.hex()])[-1]


@pytest.mark.parametrize("vector", [v for v in VECTORS if not any(_details(v))], ids=lambda vector: vector["name"])
def test_chain_signature_is_that_of_the_vectors_without_details(vector: dict[str, Any]) -> None:
    """The pure function knows checkpoints, which have none."""
    entries = _entries(vector)
    assert [text.encode() for text in vector["canonical"]] == [signed(entry) for entry in entries]
    lengths = range(1, len(entries) + 1)
    assert vector["signatures"] == [chain_signature(entries[:length]) for length in lengths]
    assert vector["signature"] == chain_signature(entries)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_a_store_has_the_signatures_of_the_vectors(vector: dict[str, Any], store: CheckpointStore) -> None:
    """After every entry, details among them; but for one that no store would take."""
    entries, details = _entries(vector), _details(vector)
    if "no store would take" in vector["name"]:
        with pytest.raises(SequenceError):
            store._writer.restore(entries, details, {})
        return
    store._writer.restore(entries, details, {})
    assert [receipt.signature for receipt, *_ in store.receipts()] == vector["signatures"]
    assert [(entry, detail) for _, entry, detail in store.receipts()] == list(zip(entries, details, strict=True))
    store.verify().raise_if_broken()


def test_the_first_vector_is_pinned_here_too() -> None:
    """A changed vectors file does not pass unnoticed."""
    entries = [Checkpoint("run-7", "load", 1, Watermark(500, 1767225600000), "load:0-499", 1767225601000)]
    assert chain_signature(entries) == "69bc00a87f49c7da3e2381e7c1b11e08b1ea8640bd502de2dd82768392b750e0"
    assert chain_signature([]) == "0" * 64


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.long)])
def test_canonical_bytes_are_the_shortest_json_of_the_standard_library(examples: int) -> None:
    """The canonical bytes are JSON without white space, and read back as what was written."""

    @settings(max_examples=examples)
    @given(checkpoints)
    def check(given_entry: Checkpoint) -> None:
        run_id, stage, sequence, mark, key, at_ms = given_entry
        fields = [run_id, stage, sequence, list(mark), key, at_ms]
        assert signed(given_entry) == json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        assert json.loads(signed(given_entry)) == fields

    check()


@given(checkpoints, checkpoints)
def test_two_checkpoints_share_canonical_bytes_only_if_they_are_equal(one: Checkpoint, other: Checkpoint) -> None:
    """The encoding is injective."""
    assert (signed(one) == signed(other)) == (one == other)


@pytest.mark.long
@settings(max_examples=100_000)
@given(checkpoints, checkpoints)
def test_a_hundred_thousand_pairs_share_canonical_bytes_only_if_they_are_equal(one: Checkpoint, other: Checkpoint) -> None:
    """Promise C7: no two records share bytes."""
    assert (signed(one) == signed(other)) == (one == other)


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.long)])
def test_a_signature_chains_the_hash_of_each_entry_to_the_one_before(examples: int) -> None:
    """SHA-256(signature before ‖ canonical bytes), from 32 zero bytes on."""

    @settings(max_examples=examples)
    @given(st.lists(checkpoints, max_size=5))
    def check(entries: list[Checkpoint]) -> None:
        signature = bytes(32)
        for each in entries:
            signature = sha256(signature + signed(each)).digest()
        assert signature.hex() == chain_signature(iter(entries))

    check()


def test_an_invalid_checkpoint_in_a_chain_is_named_by_its_place() -> None:
    """No signature is made over something that no store would record."""
    with pytest.raises(InvalidCheckpointError, match=r"entry 1 of the batch: sequence is True") as caught:
        chain_signature([entry(1), entry(2)._replace(sequence=True)])
    assert (caught.value.index, caught.value.field, caught.value.value) == (1, "sequence", True)
