"""
Split SQL text into tokens as SQLite does: two texts with the same tokens mean the same.

White space and comments are dropped, words and names lose their case, and names lose their quotes. The rules are exactly
those of SQLite's own tokenizer. If this one skipped text that SQLite reads, that text could hide a CHECK.

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
"""Its kind (a word, a name, a literal or an operator), and its text. Words and names have no quotes and no case."""

_WORD, _NAME, _LITERAL, _OPERATOR, _NOTHING = "word", "name", "literal", "operator", ""
_Found = tuple[str, int]  # the kind of a token, or _NOTHING for text to skip, and where it ends

_FOLD: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_DIGITS: Final = frozenset(digits)
_DIGITS_APART: Final = frozenset(digits + "_")
_HEX_DIGITS: Final = frozenset(hexdigits)
_HEX_DIGITS_APART: Final = frozenset(hexdigits + "_")
_SPACES: Final = frozenset(" \t\n\v\f\r")  # a vertical tab can continue white space, but not begin it
_OPERATORS: Final = ("->>", "->", "||", "==", "!=", "<=", "<>", "<<", ">=", ">>", *"-+*/%=<>|&~.,;()")  # the longest first
_WORD_CHARACTERS: Final = frozenset(ascii_letters + digits + "_$")  # and every non-ASCII character


def folded(name: str) -> str:
    """Lower the case of a name as SQLite does, for ASCII letters only: the Kelvin sign is no `k`."""
    return name.lower() if name.isascii() else name.translate(_FOLD)


def same(text: str, expected: Iterable[Token], names: frozenset[str]) -> bool:
    """
    Return whether a text has exactly these tokens. It stops at the first difference.

    Args:
        text: Any text.
        expected: The tokens of another text, made with the same `names`.
        names: The same as for `tokens`.
    """
    try:
        return all(found == token for found, token in zip_longest(tokens(text, names), expected))
    except ValueError:
        return False


def begins(text: str, *words: str) -> bool:
    """Return whether a text begins with these words, given folded."""
    try:
        return all(found == (_WORD, word) for found, word in zip(islice(tokens(text), len(words)), words, strict=True))
    except ValueError:
        return False


def tokens(text: str, names: frozenset[str] = frozenset()) -> Iterator[Token]:
    """
    Read the tokens of a text, one by one.

    Args:
        text: Any text.
        names: Folded words that are names even without quotes. Leave out keywords such as `not`: in quotes they are names.

    Raises:
        ValueError: The text has something that no schema may have: an unclosed quote, a variable, or a NUL.
    """
    if "\0" in text:  # SQLite's text ends there, whatever follows
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
    """Return the end of a run of these characters that begins at `at`, or `at` itself."""
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
    """Skip a byte order mark where a token could begin. Any other Unicode character, even a space, is a letter."""
    return (_NOTHING, at + 1) if text[at] == "\ufeff" else _word(text, at)


def _word_or_blob(text: str, at: int) -> _Found:
    if not text.startswith("'", at + 1):
        return _word(text, at)
    end = _past(text, at + 2, _HEX_DIGITS)
    if not text.startswith("'", end) or (end - at) % 2:
        raise ValueError(f"a malformed blob, at {at}")
    return _LITERAL, end + 1


def _minus_or_comment(text: str, at: int) -> _Found:
    if not text.startswith("--", at):
        return _operator(text, at)
    end = text.find("\n", at)  # only a newline ends it, not a carriage return
    return _NOTHING, len(text) if end < 0 else end


def _slash_or_comment(text: str, at: int) -> _Found:
    if not text.startswith("/*", at) or at + 2 == len(text):  # at the end of a text, SQLite reads two operators
        return _operator(text, at)
    end = text.find("*/", at + 2)  # comments do not nest, and an unclosed one ends with the text
    return _NOTHING, len(text) if end < 0 else end + 2


def _quoted(text: str, at: int) -> _Found:
    mark, end = text[at], at + 1
    while (end := text.find(mark, end)) >= 0:
        if not text.startswith(mark, end + 1):
            return (_LITERAL if mark == "'" else _NAME), end + 1
        end += 2
    raise ValueError(f"an unclosed quote, at {at}")


def _bracketed(text: str, at: int) -> _Found:
    end = text.find("]", at)
    if end < 0:
        raise ValueError(f"an unclosed bracket, at {at}")
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
        raise ValueError(f"a number that runs into a word, at {at}")
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
