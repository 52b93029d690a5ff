"""A segment says what was shipped, byte for byte, and anything else is refused; few objects lead to the end of a log."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost import segment
from milepost.segment import FIRST, Header, Owner, Piece, Reading, Segment, SegmentError, Slot
from milepost.signature import EMPTY, canonical_bytes, link, prefix
from support.chains import chain, entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost import Checkpoint

LONG: Final = segment.SEALED_BYTES
OWNER: Final = Owner("5" * 32, "1-2-3", ("4-5-6",), "node-a", 4711, 1767225600000)


def line(each: Checkpoint, detail: str | None = None) -> bytes:
    """The canonical bytes of an entry."""
    run_id, stage, sequence, (offset, event_time_ms), key, at_ms = each
    return canonical_bytes(prefix(run_id, stage), sequence, offset, event_time_ms, key, at_ms, detail)


def made(lines: Sequence[bytes], begins: Slot = FIRST, before: bytes = EMPTY, cursors: Any = None) -> Segment:
    """A segment of these lines."""
    signature = before
    for each in lines:
        signature = link(signature, each)
    ends = Slot(begins.position + len(lines), 0 if lines else begins.number + 1)
    found = cursors or {}
    return Segment(Header(begins, ends, before, signature, len(lines), len(found), 0, None, OWNER), list(lines), found)


@given(
    st.lists(st.binary(max_size=40).filter(lambda each: b"\n" not in each), min_size=1),
    st.binary(max_size=10),
    st.text(max_size=9),
)
def test_a_segment_comes_back_as_it_was(lines: list[bytes], raw: bytes, text: str) -> None:
    """Every line, and cursors of both kinds."""
    cursors = {1: raw, len(lines): json.dumps(text + ".")}
    whole = made(lines, cursors=cursors)
    assert segment.decode(segment.encode(whole)) == whole


def test_a_segment_is_the_documented_bytes() -> None:
    """A line with the SHA-256 of the rest, which is gzip; its lines are what the chain signs. Anyone can check it."""
    entries = chain(3)
    data = segment.encode(made([line(each) for each in entries], cursors={2: b"\0"}))
    first, packed = data.split(b"\n", 1)
    assert first == b"milepost segment 1 " + sha256(packed).hexdigest().encode()
    header, *lines = gzip.decompress(packed).splitlines()
    said = json.loads(header)
    signature = bytes(32)
    for each in lines[:3]:
        signature = sha256(signature + each).digest()
    assert (said["signature"], said["begins"], said["ends"]) == (signature.hex(), [0, 0], [3, 0])
    assert json.loads(lines[3]) == [2, "bytes", "AA=="]


def test_every_changed_bit_and_every_cut_of_a_segment_is_refused() -> None:
    """Wherever it is."""
    data = segment.encode(made([line(each) for each in chain(2)]))
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises(SegmentError):
                segment.decode(bytes(changed))
        with pytest.raises(SegmentError):
            segment.decode(data[:place])
    with pytest.raises(SegmentError):
        segment.decode(data + b"x")


def _signed(packed: bytes) -> bytes:
    return b"milepost segment 1 " + sha256(packed).hexdigest().encode() + b"\n" + packed


def _repacked(payload: bytes) -> bytes:
    return _signed(gzip.compress(payload))


HEADER: Final[dict[str, Any]] = json.loads(
    gzip.decompress(segment.encode(made([line(chain(1)[0])])).split(b"\n", 1)[1]).splitlines()[0]
)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"begins": [1]}, "not that of a segment"),
        ({"begins": 5}, "not that of a segment"),
        ({"ends": [2, 0]}, "does not fit"),
        ({"begins": [2**63, 0]}, "not that of a segment"),
        ({"entries": True}, "not that of a segment"),
        ({"entries": -1}, "not that of a segment"),
        ({"entries": 0, "ends": [0, 1]}, "signature changes without an entry"),
        ({"signature_before": "00"}, "not that of a segment"),
        ({"signature_before": "f" * 64}, "the empty chain has a signature"),
        ({"host": "x" * 256}, "not that of a segment"),
        ({"deposed": 7}, "not that of a segment"),
        ({"cursors": 1}, "the line of a cursor is no JSON"),
        ({"entries": 2, "ends": [2, 0]}, "ends before entry 2"),
        ({"entries": 0, "ends": [0, 0], "signature": "0" * 64}, "does not fit"),
        ({"signature": " " * 64}, "not that of a segment"),
        ({"signature": "A" * 64}, "not that of a segment"),
        ({"deposed": ["x" * 256]}, "not that of a segment"),
        ({"at_ms": 2**63}, "not that of a segment"),
        ({"kept": 1}, "which does not fit"),
        ({"kept": 1, "entries": 0, "ends": [0, 1]}, "which does not fit"),
        ({"kept": 1, "entries": 0, "begins": [0, 1]}, "which does not fit"),
        ({"kept": 1, "entries": 0, "begins": [1, 0], "ends": [2, 0]}, "which does not fit"),
    ],
)
def test_a_header_that_no_shipper_writes_is_refused(changes: dict[str, Any], fault: str) -> None:
    """Even with the right SHA-256."""
    data = _repacked(json.dumps({**HEADER, **changes}).encode() + b"\n" + line(chain(1)[0]) + b"\n")
    with pytest.raises(SegmentError, match=fault):
        segment.decode(data)


@pytest.mark.parametrize("payload", [b"", b"{}\n", b"[" * 100_000 + b"\n", b"null\n", b"\xff\n", b'{"begins":'])
def test_what_has_no_header_is_refused(payload: bytes) -> None:
    """Empty, no object, nested too deeply, no text, cut."""
    with pytest.raises(SegmentError):
        segment.decode(_repacked(payload))


@pytest.mark.parametrize(
    "shown",
    [
        '[1,"json","null"]',
        '[1,"bytes","?"]',
        '[1,"x","1"]',
        '[9,"json","1"]',
        '[0,"json","1"]',
        "[1]",
        '["1","json","1"]',
        '[1,"json",5]',
    ],
)
def test_a_line_that_is_no_cursor_is_refused(shown: str) -> None:
    """Of another position, of another kind, or none at all."""
    header = json.dumps({**HEADER, "cursors": 1}).encode()
    with pytest.raises(SegmentError):
        segment.decode(_repacked(b"\n".join([header, line(chain(1)[0]), shown.encode(), b""])))


@pytest.mark.timeout(60)
def test_a_compressed_part_that_ends_elsewhere_than_its_lines_is_refused() -> None:
    """Cut anywhere, or with something behind it: reading ends, though the SHA-256 is right."""
    packed = segment.encode(made([line(each) for each in chain(3)], cursors={2: "2"})).split(b"\n", 1)[1]
    for other in (*(packed[:cut] for cut in range(len(packed))), packed + b"x", packed + packed):
        with pytest.raises(SegmentError):
            segment.decode(_signed(other))
    for more in (b"x", b"\n", b"[2]\n"):
        with pytest.raises(SegmentError):
            segment.decode(_repacked(gzip.decompress(packed) + more))


def test_an_object_that_is_compressed_otherwise_is_refused() -> None:
    """Anybody's gunzip has to read what a restore takes."""
    plain = gzip.decompress(segment.encode(made([line(each) for each in chain(3)])).split(b"\n", 1)[1])
    with pytest.raises(SegmentError, match="cannot be read"):
        segment.decode(_signed(zlib.compress(plain)))


def test_a_header_takes_few_deposed_files() -> None:
    """A shipper looks through them all, and puts them into its own claim."""
    deposed = [str(number) for number in range(1000)]
    header = json.dumps({**HEADER, "deposed": deposed}).encode()
    read = Reading(_repacked(b"\n".join([header, line(chain(1)[0]), b""])))
    assert read.header.owner.deposed == tuple(deposed[:64])


def test_a_decompression_bomb_fills_no_memory() -> None:
    """An object of 100 KB that would become 100 MB."""
    packing = zlib.compressobj(9, wbits=31)
    packed = b"".join([*(packing.compress(bytes(1 << 20)) for _ in range(100)), packing.flush()])
    bomb = b"milepost segment 1 " + sha256(packed).hexdigest().encode() + b"\n" + packed
    tracemalloc.start()
    with pytest.raises(SegmentError, match="a line has more than"):
        Reading(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 << 20


@pytest.mark.parametrize(
    "lines",
    [
        [b'["r","s",1,[1,1],"k",1],["r","s",2,[1,1],"k2",1]', b""],
        [b"1"],
        [b'["r","s",1,[1],"k",1]'],
        [b'["r","s",1,[1,1],"k",1,5]'],
        [b'["r","s",1,[1,1],"k",1,null]'],
        [b'["r","s",1,[1,1],"k",1,"no JSON"]'],
        [b'["r","s",1,[1,1],"k",1,"{}",1]'],
        [b'{"a":1}'],
        [b'["r","s",1,"ab","k",1'],
    ],
)
def test_lines_that_are_no_entries_are_refused(lines: list[bytes]) -> None:
    """Also two in one, which would have passed for two lines."""
    with pytest.raises(SegmentError):
        segment.parse(lines)


KEPT: Final[dict[str, Any]] = segment.KeptRow(
    5, 1, "r", 2, "s", 3, 10, 20, "key", 30, "ab" * 32, "cd" * 32, 3, "{}"
)._asdict()


@pytest.mark.parametrize(
    "changes",
    [
        {"position": -1},
        {"run_number": "1"},
        {"stage_number": None},
        {"run_id": ""},
        {"stage": "s\0"},
        {"sequence": -1},
        {"offset": 2**63},
        {"event_time_ms": 1.5},
        {"idempotency_key": "x" * 1025},
        {"at_ms": True},
        {"signature": "ab"},
        {"signature": None},
        {"run_signature": "AB" * 32},
        {"entries_so_far": -1},
        {"entries_so_far": "3"},
        {"detail": 5},
        {"detail": "no JSON"},
        {"more": 1},
    ],
)
def test_a_line_that_is_no_row_that_an_archive_leaves_is_refused(changes: dict[str, Any]) -> None:
    """By its values alone, before it comes near a file."""
    assert segment.parse_kept(segment.kept_line(segment.KeptRow(**KEPT)), 0) == segment.KeptRow(**KEPT)
    for bare in ({"run_signature": None}, {"entries_so_far": None}, {"detail": None}):
        row = segment.KeptRow(**{**KEPT, **bare})
        assert segment.parse_kept(segment.kept_line(row), 0) == row
    with pytest.raises(SegmentError) as found:
        segment.parse_kept(json.dumps(list({**KEPT, **changes}.values())).encode(), 7)
    assert found.value.index == 7


def test_a_merged_segment_has_all_lines_and_the_last_two_cursors_of_each_stage() -> None:
    """As the file itself keeps them."""
    entries = chain(6)
    first = made([line(each) for each in entries[:3]], cursors={1: "1", 3: "3"})
    claim = made([], first.header.ends, first.header.signature)
    last = made([line(each) for each in entries[3:]], claim.header.ends, first.header.signature, {5: "5"})
    merged = segment.merge([first, claim, last])
    assert merged == made([line(each) for each in entries], cursors={3: "3", 5: "5"})
    with pytest.raises(SegmentError, match="begins at slot"):
        segment.merge([first, last])


def test_a_merged_segment_has_the_cursors_of_every_stage() -> None:
    """Two of each, though one of them has many more; from the middle of the chain too."""
    stages = "abbbabbabb"
    entries = [entry(number, stage=stage) for number, stage in enumerate(stages, 1)]
    parts: list[Segment] = []
    for begin, end in ((0, 4), (4, 6), (6, 10)):
        begins, before = (parts[-1].header.ends, parts[-1].header.signature) if parts else (FIRST, EMPTY)
        cursors = {position: str(position) for position in range(begin + 1, end + 1)}
        parts.append(made([line(each) for each in entries[begin:end]], begins, before, cursors))
    assert segment.merge(parts).cursors == {5: "5", 8: "8", 9: "9", 10: "10"}
    assert segment.merge(parts[1:]).cursors == {5: "5", 8: "8", 9: "9", 10: "10"}
    assert segment.merge(parts[:2]).cursors == {1: "1", 4: "4", 5: "5", 6: "6"}


def test_a_merged_segment_is_owned_by_who_shipped_the_last_of_it() -> None:
    """A shipper that comes later asks who has shipped last."""
    parts: list[Segment] = []
    for number in range(1, 4):
        begins, before = (parts[-1].header.ends, parts[-1].header.signature) if parts else (FIRST, EMPTY)
        whole = made([line(entry(number))], begins, before)
        parts.append(whole._replace(header=whole.header._replace(owner=OWNER._replace(shipper=str(number) * 32))))
    assert segment.merge(parts).header.owner.shipper == "3" * 32


def _of_sizes(*sizes: int, levels: Sequence[int] = ()) -> list[Piece]:
    """Objects that follow each other."""
    numbered = enumerate(zip(sizes, levels or [0] * len(sizes), strict=True))
    return [Piece(str(at), Slot(at, 0), Slot(at + 1, 0), level, size) for at, (size, level) in numbered]


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ((1, 1, LONG), range(2)),
        ((LONG, 1, 1, 1, LONG), range(1, 4)),
        ((1, LONG), None),
        ((LONG, 1, LONG), None),
        ((1, 1), None),
        ((1, 1, LONG, LONG), None),
        ((LONG - 1, LONG - 1, LONG), range(2)),
    ],
)
def test_short_objects_before_a_long_one_are_merged_at_once(sizes: tuple[int, ...], chosen: range | None) -> None:
    """All of them, and the long one stays as it is; a single one has nothing to be merged with."""
    assert segment.due(_of_sizes(*sizes)) == chosen


def test_objects_of_different_levels_are_merged_together_before_a_long_one_only() -> None:
    """At the end of a log, a level waits until it has 32."""
    levels = [1] * 3 + [0] * 31
    assert segment.due(_of_sizes(*[1] * 34, levels=levels)) is None
    assert segment.due(_of_sizes(*[1] * 35, levels=[*levels, 0])) == range(3, 35)
    assert segment.due(_of_sizes(*[1] * 34, LONG, levels=[*levels, 0])) == range(34)


def test_a_merge_reads_a_bounded_number_of_objects() -> None:
    """As many bytes as it may, or as many objects: a hundred thousand short ones are merged in several goes."""
    assert segment.due(_of_sizes(*[1] * 2000, LONG)) == range(1024)
    assert segment.due(_of_sizes(*[LONG - 1] * 100, LONG)) == range(33)


def _shipped(sizes: Sequence[int]) -> list[Piece]:
    """The objects after ships of these sizes, each merged as soon as it is due; one merged is as long as its parts."""
    pieces: list[Piece] = []
    for number, size in enumerate(sizes):
        pieces.append(Piece(str(number), Slot(number, 0), Slot(number + 1, 0), 0, size))
        while (chosen := segment.due(pieces)) is not None:
            assert len(chosen) > 1
            these = pieces[chosen.start : chosen.stop]
            whole = sum(piece.size for piece in these)
            assert whole <= (8 << 20) + segment.SEALED_BYTES
            level = max(piece.level for piece in these) + 1
            pieces[chosen.start : chosen.stop] = [Piece("", these[0].begins, these[-1].ends, level, whole)]
    return pieces


def test_a_take_over_reads_31_objects_of_each_level_at_most() -> None:
    """The bound that docs/guide.md states: 62 for a thousand ships, 93 for 32,000."""
    for ships in (31, 32, 1_023, 1_024, 20_000, 32_767):
        levels = 1 if ships < 32 else 2 if ships < 1_024 else 3
        assert len(_shipped([1] * ships)) <= 31 * levels


@given(st.lists(st.sampled_from([1, 1000, 200_000, 300_000, 5 << 20]), max_size=300))
def test_long_objects_are_left_alone_and_short_ones_never_pile_up(sizes: list[int]) -> None:
    """Two objects for each long one, and 31 of each level at the end; what they lead through stays whole."""
    pieces = _shipped(sizes)
    long = sum(piece.size >= segment.SEALED_BYTES for piece in pieces)
    assert len(pieces) <= 2 * long + 31 * 3
    assert sum(piece.size for piece in pieces) == sum(sizes)
    assert [piece.ends for piece in pieces[:-1]] == [piece.begins for piece in pieces[1:]]


def test_the_path_through_merged_objects_may_overlap() -> None:
    """As after a take-over in the middle of a merge: the furthest one from each slot, and none behind a gap."""
    spans = [(0, 32), (0, 10), (5, 37), (37, 40), (41, 50)]
    merged = [Piece(str(span), Slot(span[0], 0), Slot(span[1], 0), 1, 1) for span in spans]
    assert [piece.object_name for piece in segment.path_through(merged, FIRST)] == ["(0, 32)", "(5, 37)", "(37, 40)"]
    assert segment.path_through(merged, Slot(40, 0)) == []
    assert [piece.object_name for piece in segment.path_through(merged, Slot(41, 0))] == ["(41, 50)"]


def test_names_of_objects_are_pinned() -> None:
    """They are a format: a log is found by them years later."""
    assert segment.log_object("orders", Slot(42, 3)) == "orders/log/0000000000000000042-000000003"
    piece = segment.merged_piece("orders", Slot(0, 0), Slot(2**63 - 1, 0), 2, 7)
    assert piece.object_name == "orders/merged/0000000000000000000-000000000_9223372036854775807-000000000_2"
    assert segment.piece_of(piece.object_name, 7) == piece
    assert segment.slot_of("orders/log/0000000000000000042-000000003") == Slot(42, 3)
    for other in ("orders/log/.new-1", "orders/log/42-3", "orders/merged/x", "orders/log/0000000000000000042-000000003.tmp"):
        assert segment.slot_of(other) is None
        assert segment.piece_of(other, 1) is None


def test_the_files_of_earlier_shippers_are_deposed_and_that_of_the_next_is_not() -> None:
    """The last 64 of them, each once; of a file that the system cannot tell nothing is known."""
    assert segment.deposed_by(None, "new") == ()
    assert segment.deposed_by(OWNER, "new") == ("4-5-6", "1-2-3")
    assert segment.deposed_by(OWNER, "1-2-3") == ("4-5-6",)
    assert segment.deposed_by(OWNER, None) == ("4-5-6", "1-2-3")
    assert segment.deposed_by(OWNER._replace(file=None), "new") == ("4-5-6",)
    assert segment.deposed_by(OWNER._replace(deposed=("a", "b", "a"), file="b"), "a") == ("b",)
    many = tuple(map(str, range(64)))
    assert segment.deposed_by(OWNER._replace(deposed=many), "new") == (*many[1:], "1-2-3")
