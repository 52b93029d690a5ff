"""What is shipped under one name of a target: where it ends, and its objects from a slot on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from milepost import segment
from milepost.errors import DamagedTargetError, TargetError
from milepost.segment import FIRST, Piece, Reading, SegmentError, Slot, log_object
from milepost.signature import EMPTY

if TYPE_CHECKING:
    from milepost.segment import Header, Owner
    from milepost.targets import Target

_ATTEMPTS: Final = 20
"""How often to look again while objects are merged between two looks."""


class Tail(NamedTuple):
    """
    Where a log ends.

    Attributes:
        slot: The slot behind its last object.
        signature: The chain's signature there.
        key_check: That of the chain; None also if nothing is shipped yet.
        owner: Who has shipped last, or None if nothing is shipped yet.
        pieces: The objects that lead there.
    """

    slot: Slot
    signature: bytes
    key_check: bytes | None
    owner: Owner | None
    pieces: list[Piece]


class ShippedLog:
    """
    The objects of one name.

    Args:
        target: Where they are.
        name: The name.
    """

    def __init__(self, target: Target, name: str) -> None:
        self.target = target
        self.name = name

    def merged(self) -> list[Piece]:
        """List the merged objects."""
        found = self.target.objects(segment.merged_folder(self.name))
        pieces = (segment.piece_of(object_name, size) for object_name, size in found)
        return [piece for piece in pieces if piece is not None]

    def pieces_from(self, start: Slot) -> list[Piece]:
        """
        Return the objects that lead from a slot to the end of the log, as few as there are.

        Raises:
            DamagedTargetError: One of them is missing.
            TargetError: They cannot be listed.
        """
        at = start
        for _ in range(_ATTEMPTS):
            path = segment.path_through(self.merged(), start)
            at = (path[-1].ends if path else None) or start
            lone = self._log_from(at)
            if not lone or lone[0].begins == at:
                return path + lone
            # Those before it were merged since their names were listed, or are missing.
        raise self.missing(at)

    def _log_from(self, start: Slot) -> list[Piece]:
        just_before = log_object(self.name, start)[:-1]
        found = self.target.objects(segment.log_folder(self.name), just_before)
        slots = [(slot, size) for object_name, size in found if (slot := segment.slot_of(object_name)) and slot >= start]
        ends: list[Slot | None] = [slot for slot, _ in slots[1:]]
        return [
            Piece(log_object(self.name, slot), slot, end, 0, size)
            for (slot, size), end in zip(slots, [*ends, None], strict=False)
        ]

    def read(self, piece: Piece) -> Reading | None:
        """
        Read an object, but for its lines; None if it is gone, for example because it was merged.

        Raises:
            DamagedTargetError: It is not what was shipped.
            TargetError: It cannot be read.
        """
        data = self.target.get(piece.object_name)
        return None if data is None else self.reading(piece, data)

    def reading(self, piece: Piece, data: bytes) -> Reading:
        """
        Return what an object says.

        Raises:
            DamagedTargetError: It is not what was shipped there.
        """
        try:
            reading = Reading(data)
            _check_place(piece, reading.header)
        except SegmentError as fault:
            raise self.damaged(piece, fault) from None
        return reading

    def tail(self) -> Tail:
        """
        Find where the log ends.

        Raises:
            DamagedTargetError: An object is missing, or the last one is not what was shipped.
            TargetError: They cannot be listed or read.
        """
        for _ in range(_ATTEMPTS):
            pieces = self.pieces_from(FIRST)
            if not pieces:
                return Tail(FIRST, EMPTY, None, None, [])
            last = self.read(pieces[-1])
            if last is not None:
                header = last.header
                whole = [*pieces[:-1], pieces[-1]._replace(ends=header.ends)]
                return Tail(header.ends, header.signature, header.key_check, header.owner, whole)
        raise TargetError(self.target.label, f"{self.name}: its objects are merged again and again: retry")

    def damaged(self, piece: Piece, fault: SegmentError, index: int | None = None) -> DamagedTargetError:
        """Return the error about an object. `index` is that of the faulty entry in it, if the fault has none itself."""
        at = fault.index if fault.index is not None else index
        return DamagedTargetError(self.target.label, piece.object_name, piece.begins.position + 1 + (at or 0), fault.problem)

    def missing(self, at: Slot) -> DamagedTargetError:
        """Return the error about a slot whose object is gone, while there are later ones."""
        problem = "the object is missing, and there are later ones"
        return DamagedTargetError(self.target.label, log_object(self.name, at), at.position + 1, problem)


def _check_place(piece: Piece, header: Header) -> None:
    if header.begins != piece.begins or (piece.level > 0 and header.ends != piece.ends):
        raise SegmentError(
            f"its name and its header disagree: it says that it leads from slot {header.begins} to {header.ends}"
        )
