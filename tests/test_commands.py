"""Whatever is printed to be pasted reaches the settings as the text it was: through bash's words and Hydra's parser."""

import shlex
import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cnr_iemn.utils.shell_words import command, hydra_text, override, shell

AWKWARD = [
    "12_3", "007", "1e-3", "1_0", "0x10", "true", "NULL", "nan", "-inf", "2021-03-15", "12:30", "", " ", "a b",
    "Müller (2)", "a,b", "[a]", "{a: b}", "a=b", "$HOME", "${oc.env:HOME}", r"\${x}", r"\\", r"a\\'b\"", "'", '"',
    "it's", "~", "~/x", "#1", "*", "a;b", "`id`", "$(id)", "!x", "a\tb", "line\nline", "日本", "=1+1", "@x", "..", "%s",
    "a:b", "choice(a,b)", "--help",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
BAD = st.text(r"\$'\"{}()[],:= ~a1_.e-+", max_size=12)


def read(word: str) -> object:
    """Return what a setting holds after Hydra has parsed the word and OmegaConf has resolved it."""
    (parsed,) = OverridesParser.create().parse_overrides([word])
    return OmegaConf.to_container(OmegaConf.create({"key": parsed.value()}), resolve=True)["key"]


@pytest.mark.parametrize("text", AWKWARD)
def test_bash_gives_hydra_the_text(text: str) -> None:
    line = command("train", override("data.exclude", [text, "P001"]), override("study", text))
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True, text=True)
    python, script, exclude, study, _ = words.stdout.split("\0")
    assert (python, script) == ("python", "train.py")
    assert read(exclude) == [text, "P001"]
    assert read(study) == text


@given(st.lists(TEXT | BAD, min_size=1, max_size=3))
@example(["\\", '\\"', "$", "\\${", "${a", "\\\\${a}\\"])
def test_any_text_survives(texts: list[str]) -> None:
    (word,) = shlex.split(shell(override("data.exclude", texts)))
    assert read(word) == texts
    assert read(override("study", texts[0])) == texts[0]


def test_plain_text_stays_plain() -> None:
    assert command("train", override("study", "default"), override("data.root", "/data/a-b_c.d")) == (
        "python train.py study=default data.root=/data/a-b_c.d"
    )
    assert hydra_text("12_3") == '"12_3"'
