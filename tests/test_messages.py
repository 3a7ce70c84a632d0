"""Messages about many scans stay short and whole; text from files steers no terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cnr_iemn.utils.text import MAX_NAMES, grouped, visible


def test_thousands_of_refusals_are_one_line_a_reason() -> None:
    reasons = {f"s{k}": f"s{k}: values -{700 + k % 50}..400, not in HU. Export it again." for k in range(2473)}
    reasons |= {"odd": "odd: three channels.", "zip": "the decoder ended by signal 9"}
    text = grouped(reasons, rest="/cache/refused.txt")
    assert text.splitlines() == [
        "  2473 scans: values -700..400, not in HU. Export it again. (as of s0)",
        "    s0, s1, s2, s3, s4 and 2468 others: /cache/refused.txt",
        "  odd: three channels.",
        "  zip: the decoder ended by signal 9",
    ]


def test_few_scans_have_a_line_each_with_their_own_reason() -> None:
    reasons = {f"P{k}": f"P{k}: {k} slices." for k in range(MAX_NAMES)}
    assert grouped(reasons, rest="file") == "\n".join(f"  P{k}: {k} slices." for k in range(MAX_NAMES))
    assert grouped({}, rest="file") == ""


def test_as_many_reasons_as_scans_stay_short() -> None:
    reasons = {f"{chr(97 + k % 26) * (1 + k // 26)}": f"reason {chr(97 + k % 26) * (1 + k // 26)}x" for k in range(400)}
    text = grouped(reasons, rest="file")
    assert len(text.splitlines()) < 15
    assert "388 scans for 388 other reasons: file" in text


def test_an_id_that_is_part_of_a_word_does_not_part_one_reason() -> None:
    reasons = {letter: f"{letter}: bad scan" for letter in "abcdefgh"}
    assert grouped(reasons, rest="file").startswith("  8 scans: bad scan (as of a)")


def test_names_steer_no_terminal() -> None:
    reasons = {"a\x1b]0;pwned\x07": "a\x1b]0;pwned\x07: no\nFAKE: CAP 1.000", "b\udce9": "b\u202e\x9b2J"}
    text = grouped(reasons, rest="f\x1b[2J")
    assert text.count("\n") == 1
    text.encode()
    assert not any(c in text for c in "\x1b\x07\u202e\x9b")
    assert r"\x1b]0;pwned\x07: no\nFAKE" in text


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "L", "Zs", "So"])))
def test_nothing_harmful_is_left(text: str) -> None:
    shown = visible(text, keep="\n")
    assert not {unicodedata.category(c) for c in shown.replace("\n", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert visible("Müller (2) 日本") == "Müller (2) 日本"
