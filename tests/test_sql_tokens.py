"""SQL text read as SQLite's own tokenizer reads it: what is a token, and what falls away."""

from __future__ import annotations

import pytest

from milepost.sql_tokens import begins, folded, same, tokens


def _read(text: str) -> list[str]:
    """Each token as one word: w:word n:name l:literal o:operator."""
    return [f"{kind[0]}:{value}" for kind, value in tokens(text, frozenset({"entry"}))]


TOKENS = {
    "": [],
    " \t\n\f\r ": [],
    "NOT Null": ["w:not", "w:null"],
    "entry ENTRY": ["n:entry", "n:entry"],
    '"Not" `NOT` [nOT]': ["n:not", "n:not", "n:not"],
    '"a""b" `c``d` [e"f] "" []': ['n:a"b', "n:c`d", 'n:e"f', "n:", "n:"],
    "'It''s' '' 'A'": ["l:'It''s'", "l:''", "l:'A'"],
    "'--' '/*' \"*/\"": ["l:'--'", "l:'/*'", "n:*/"],
    "'a\nb'": ["l:'a\nb'"],
    "x'0aFF' X'' x": ["l:x'0aFF'", "l:X''", "w:x"],
    "x '00' ax'b'": ["w:x", "l:'00'", "w:ax", "l:'b'"],
    "a-- b\nc": ["w:a", "w:c"],
    "a-- b\rc": ["w:a"],
    "a--": ["w:a"],
    "a - -b --": ["w:a", "o:-", "o:-", "w:b"],
    "a/* b */c": ["w:a", "w:c"],
    "a/**/b/***/c/*/ d */e": ["w:a", "w:b", "w:c", "w:e"],
    "a/* /* */ b */": ["w:a", "w:b", "o:*", "o:/"],
    "a/* -- */b -- /*\nc": ["w:a", "w:b", "w:c"],
    "a/* ' \" */'b'": ["w:a", "l:'b'"],
    "a/* never closed": ["w:a"],
    "a/*": ["w:a", "o:/", "o:*"],
    "a/* ": ["w:a"],
    "\ufeffa\ufeffb \ufeff": ["w:a\ufeffb"],
    " \va": ["w:a"],
    "a\u00a0b \u00a0 \u2003c\x85": ["w:a\u00a0b", "w:\u00a0", "w:\u2003c\x85"],
    "Äé ä$1 \U0001f600": ["w:Äé", "w:ä$1", "w:\U0001f600"],
    "\u212aeyed \u017ftage": ["w:\u212aeyed", "w:\u017ftage"],
    "1 1.5 .5 1. 1e5 1.e-5 0x1F 1_000": ["l:1", "l:1.5", "l:.5", "l:1.", "l:1e5", "l:1.e-5", "l:0x1F", "l:1_000"],
    "1.5.5 a.b 1-1 1e5-5": ["l:1.5", "l:.5", "w:a", "o:.", "w:b", "l:1", "o:-", "l:1", "l:1e5", "o:-", "l:5"],
    "->> -> - > >= >> < <= <> <<": ["o:->>", "o:->", "o:-", "o:>", "o:>=", "o:>>", "o:<", "o:<=", "o:<>", "o:<<"],
    "= == != | || & ~ % + ,;()": [
        f"o:{each}" for each in ("=", "==", "!=", "|", "||", "&", "~", "%", "+", ",", ";", "(", ")")
    ],
    "|||=<>->>>": ["o:||", "o:|", "o:=", "o:<>", "o:->>", "o:>"],
}


@pytest.mark.parametrize("text", TOKENS)
def test_a_text_is_read_as_sqlite_reads_it(text: str) -> None:
    """Vectors, worked out by hand from SQLite's tokenizer."""
    assert _read(text) == TOKENS[text]


NO_TOKENS = ["'", "'a''", '"a', '"a""', "`", "[a", "[", "x'0'", "x'0g'", "x'00", "\0", "a\0", "-- \0", "/* \0", "'\0'",
             "\v", "a\v", "?", "?1", ":a", "@a", "#a", "$a", "!", "! =", "\\", "^", "{", "}", "\x01", "\x7f", "]",
             "1a", "1e", "0x", "0x1g", "1.5é", "1$"]  # fmt: skip


@pytest.mark.parametrize("text", NO_TOKENS)
def test_what_is_no_token_of_a_schema_is_the_same_as_nothing(text: str) -> None:
    """Not even as itself, nor as the text without it."""
    with pytest.raises(ValueError, match=r"at |NUL"):
        _read(text)
    assert not same(text, (), frozenset())
    assert not same(f"a,{text}", tokens("a,"), frozenset())
    assert not begins(f"create {text}", "create", "view")


def test_names_lose_the_case_of_ascii_letters_only() -> None:
    """As SQLite compares them: the Kelvin sign and the long s are letters of their own."""
    assert folded("Run_ID") == "run_id"
    assert folded("\u212aEYED \u017fTAGE ÄÉ İ") == "\u212aeyed \u017ftage ÄÉ İ"


def test_a_word_in_quotes_is_the_same_only_if_it_is_a_name() -> None:
    """Elsewhere the quotes take its meaning as a keyword away."""
    names = frozenset({"offset"})
    expected = tuple(tokens("offset INTEGER NOT NULL", names))
    assert same('"OFFSET" integer not null', expected, names)
    for other in ('offset INTEGER "NOT" NULL', 'offset "INTEGER" NOT NULL', "'offset' INTEGER NOT NULL"):
        assert not same(other, expected, names)


@pytest.mark.parametrize("text", ["a", "a b c", "b a", "a , b", "a 'b'", "", "ab"])
def test_another_token_makes_another_text(text: str) -> None:
    """One more, one less, another order, another kind."""
    assert not same(text, tokens("a b"), frozenset())


def test_the_beginning_of_a_text_is_read_and_no_more() -> None:
    """Whatever follows."""
    assert begins("CREATE /* TEMP */ View '", "create", "view")
    assert not begins("CREATE TEMP VIEW checkpoint", "create", "view")
    assert not begins('CREATE "VIEW"', "create", "view")
    assert not begins("CREATE", "create", "view")
