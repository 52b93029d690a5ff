"""
SQL text as SQLite's tokenizer reads it: two texts with the same tokens say the same, however they are written.

White space and comments fall away, words and names lose their case, and names their quotes. The rules are those of
SQLite's own tokenizer, to the character: whatever this one passed over and SQLite did not could hide a CHECK.

Source:
    https://sqlite.org/src/file/src/tokenize.c (sqlite3GetToken); https://sqlite.org/lang_comment.html
"""

from __future__ import annotations

from itertools import islice, zip_longest
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits, hexdigits
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Token = tuple[str, str]
"""What it is (a word, a name, a literal or an operator), and its text; a word's and a name's without quotes and case."""

_WORD, _NAME, _LITERAL, _OPERATOR, _NOTHING = "word", "name", "literal", "operator", ""
_Found = tuple[str, int]  # what begins at a place, _NOTHING where it is to be passed over, and where it ends

_FOLD: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_DIGITS: Final = frozenset(digits)
_DIGITS_APART: Final = frozenset(digits + "_")
_HEX_DIGITS: Final = frozenset(hexdigits)
_HEX_DIGITS_APART: Final = frozenset(hexdigits + "_")
_SPACES: Final = frozenset(" \t\n\v\f\r")  # a vertical tab goes on with white space, and cannot begin it
_OPERATORS: Final = ("->>", "->", "||", "==", "!=", "<=", "<>", "<<", ">=", ">>", *"-+*/%=<>|&~.,;()")  # the longest first
_WORD_CHARACTERS: Final = frozenset(ascii_letters + digits + "_$")  # and every character that is not ASCII


def folded(name: str) -> str:
    """A name without its case, as SQLite compares names: ASCII letters only, so that the Kelvin sign is no `k`."""
    return name.lower() if name.isascii() else name.translate(_FOLD)


def same(text: str, expected: Iterable[Token], names: frozenset[str]) -> bool:
    """
    Whether a text has these tokens and no others; it is read as far as it agrees with them.

    Args:
        text: Any text.
        expected: What `tokens` gave for another one, with the same names.
        names: As `tokens`.
    """
    try:
        return all(found == token for found, token in zip_longest(tokens(text, names), expected))
    except ValueError:
        return False


def begins(text: str, *words: str) -> bool:
    """Whether these words, folded, are the first tokens of a text."""
    try:
        return all(found == (_WORD, word) for found, word in zip(islice(tokens(text), len(words)), words, strict=True))
    except ValueError:
        return False


def tokens(text: str, names: frozenset[str] = frozenset()) -> Iterator[Token]:
    """
    Read the tokens of a text, one by one.

    Args:
        text: Any text.
        names: Words, folded, that are names also without quotes. `not` is none: in quotes it is no keyword any more.

    Raises:
        ValueError: Something in it is no token that a schema may have: a quote that is never closed, a variable, a NUL.
    """
    if "\0" in text:  # where a text ends for SQLite, whatever stands behind it
        raise ValueError("a NUL character")
    at = 0
    while at < len(text):
        kind, end = _READERS.get(text[at], _operator)(text, at) if text[at] < "\x80" else _beyond_ascii(text, at)
        value = text[at:end]
        at = end
        if kind == _NAME:
            yield _NAME, folded(_unquoted(value))
        elif kind == _WORD:
            word = folded(value)
            yield (_NAME if word in names else _WORD), word
        elif kind != _NOTHING:
            yield kind, value


def _unquoted(value: str) -> str:
    mark, inside = value[0], value[1:-1]
    return inside if mark == "[" else inside.replace(mark + mark, mark)


def _past(text: str, at: int, characters: frozenset[str]) -> int:
    """Where the run of these characters ends that begins here, if one does."""
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def _past_word(text: str, at: int) -> int:
    while at < len(text) and (text[at] in _WORD_CHARACTERS or text[at] >= "\x80"):
        at += 1
    return at


def _space(text: str, at: int) -> _Found:
    return _NOTHING, _past(text, at + 1, _SPACES)


def _word(text: str, at: int) -> _Found:
    return _WORD, _past_word(text, at + 1)


def _beyond_ascii(text: str, at: int) -> _Found:
    """A byte order mark is white space where a token could begin; a space of Unicode is a letter like any other."""
    return (_NOTHING, at + 1) if text[at] == "\ufeff" else _word(text, at)


def _word_or_blob(text: str, at: int) -> _Found:
    if not text.startswith("'", at + 1):
        return _word(text, at)
    end = _past(text, at + 2, _HEX_DIGITS)
    if not text.startswith("'", end) or (end - at) % 2:
        raise ValueError(f"a blob that is none, at {at}")
    return _LITERAL, end + 1


def _minus_or_comment(text: str, at: int) -> _Found:
    if not text.startswith("--", at):
        return _operator(text, at)
    end = text.find("\n", at)  # nothing else ends it, also no carriage return
    return _NOTHING, len(text) if end < 0 else end


def _slash_or_comment(text: str, at: int) -> _Found:
    if not text.startswith("/*", at) or at + 2 == len(text):  # at the very end of a text SQLite takes it for two operators
        return _operator(text, at)
    end = text.find("*/", at + 2)  # comments do not nest, and one that is never closed ends with the text
    return _NOTHING, len(text) if end < 0 else end + 2


def _quoted(text: str, at: int) -> _Found:
    mark, end = text[at], at + 1
    while (end := text.find(mark, end)) >= 0:
        if not text.startswith(mark, end + 1):
            return (_LITERAL if mark == "'" else _NAME), end + 1
        end += 2
    raise ValueError(f"a quote that is never closed, at {at}")


def _bracketed(text: str, at: int) -> _Found:
    end = text.find("]", at)
    if end < 0:
        raise ValueError(f"a bracket that is never closed, at {at}")
    return _NAME, end + 1


def _dot_or_number(text: str, at: int) -> _Found:
    return _number(text, at) if text[at + 1 : at + 2] in _DIGITS else _operator(text, at)


def _number(text: str, at: int) -> _Found:
    if text[at : at + 2] in {"0x", "0X"} and text[at + 2 : at + 3] in _HEX_DIGITS:
        end = _past(text, at + 2, _HEX_DIGITS_APART)
    else:
        end = _past(text, at, _DIGITS_APART)
        if text.startswith(".", end):
            end = _past(text, end + 1, _DIGITS_APART)
        if text[end : end + 1] in {"e", "E"}:
            exponent = end + 1 + (text[end + 1 : end + 2] in {"+", "-"})
            if text[exponent : exponent + 1] in _DIGITS:
                end = _past(text, exponent, _DIGITS_APART)
    if _past_word(text, end) > end:
        raise ValueError(f"a number that goes over into a word, at {at}")
    return _LITERAL, end


def _operator(text: str, at: int) -> _Found:
    for operator in _OPERATORS:
        if text.startswith(operator, at):
            return _OPERATOR, at + len(operator)
    raise ValueError(f"no token of a schema, at {at}")


_READERS: Final[dict[str, Callable[[str, int], _Found]]] = {
    **dict.fromkeys(" \t\n\f\r", _space),
    **dict.fromkeys(ascii_letters + "_", _word),
    **dict.fromkeys("xX", _word_or_blob),
    **dict.fromkeys(digits, _number),
    **dict.fromkeys("'\"`", _quoted),
    "[": _bracketed,
    "-": _minus_or_comment,
    "/": _slash_or_comment,
    ".": _dot_or_number,
}
