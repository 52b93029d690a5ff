"""Receipts and heads: values that cannot exist in a wrong state."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milepost import BatchReceipt, Head, InvalidArgumentError, Receipt, Verification

SIGNATURE = "ab" * 32


@given(st.integers(1, 2**63 - 1), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_head_reads_back_what_it_writes(entries: int, signature: str) -> None:
    """One line, whatever white space is around it."""
    head = Head(entries, signature)
    assert "\n" not in str(head)
    assert Head.parse(str(head)) == head
    assert Head.parse(f"  {head}\r\n") == head


@given(st.text())
@example("")
@example(SIGNATURE)
@example(f"01:{SIGNATURE}")
@example(f"-1:{SIGNATURE}")
@example(f"+1:{SIGNATURE}")
@example(f"1:{SIGNATURE.upper()}")
@example(f"1:{SIGNATURE}0")
@example(f"1:{SIGNATURE}\n2:{SIGNATURE}")
@example(f"\u0661:{SIGNATURE}")
@example(f"9999999999999999999:{SIGNATURE}")
@example(f"0:{SIGNATURE}")
def test_anything_else_is_no_head(text: str) -> None:
    """A forged or damaged head is refused, not guessed at."""
    with pytest.raises(InvalidArgumentError):
        Head.parse(text)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Receipt, (0, SIGNATURE)),
        (Receipt, (True, SIGNATURE)),
        (Receipt, (1, SIGNATURE[:-1])),
        (Receipt, (1, SIGNATURE, 1)),
        (BatchReceipt, (-1, 0, 0, SIGNATURE)),
        (BatchReceipt, (0, 0.0, 0, SIGNATURE)),
        (BatchReceipt, (0, 0, 0, bytes(32))),
        (Head, (-1, SIGNATURE)),
        (Head, ("1", SIGNATURE)),
        (Head, (1, None)),
        (Head, (0, SIGNATURE)),
        (Verification, (False, 1, SIGNATURE, ())),
    ],
)
def test_a_wrong_value_cannot_be_made(kind: Any, arguments: tuple[Any, ...]) -> None:
    """The error names the field."""
    with pytest.raises(InvalidArgumentError):
        kind(*arguments)


@pytest.mark.parametrize("value", [Receipt(1, SIGNATURE), BatchReceipt(1, 2, 3, SIGNATURE), Head(1, SIGNATURE)])
def test_receipts_and_heads_are_values(value: Any) -> None:
    """Immutable, hashable, equal by value, and picklable."""
    twin = pickle.loads(pickle.dumps(value))
    assert twin == value
    assert hash(twin) == hash(value)
    with pytest.raises(AttributeError):
        value.signature = SIGNATURE
