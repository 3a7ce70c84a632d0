"""A file of ids is what it says, whoever wrote it; many refused scans are offered as a file, few as words."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from cnr_iemn.config.entry_point import entry_point
from cnr_iemn.config.schema.settings import TrainSettings
from cnr_iemn.errors import CohortError, ConfigurationError
from cnr_iemn.stage1.training.study_data import require_all_scans
from cnr_iemn.utils.exclusions import exclusion_text, offer_exclusion, read_exclusions

IDS = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\\0"), min_size=1), min_size=1)


@given(IDS)
def test_every_id_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    ids = list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
    path = tmp_path_factory.getbasetemp() / "ids.txt"
    path.write_bytes(exclusion_text(dict.fromkeys(ids, "a\nreason"), ["before"]).encode())
    assert read_exclusions(path) == ["before", *(each for each in ids if each != "before")]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\xef\xbb\xbfP1\r\n# why\r\n\r\n  P 2  \r\n\\#3\r\nP1\r\n", ["P1", "P 2", "#3"]),
        ("12_3\nMüller (2)\n=1\n".encode(), ["12_3", "Müller (2)", "=1"]),
    ],
)
def test_a_file_of_a_person(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    (tmp_path / "ids.txt").write_bytes(data)
    assert read_exclusions(tmp_path / "ids.txt") == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"# none\n\n", "lists no scan"), ("Müller".encode("latin-1"), "is not UTF-8"), (None, "does")],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, data: bytes | None, expected: str) -> None:
    if data is not None:
        (tmp_path / "ids.txt").write_bytes(data)
    with pytest.raises(ConfigurationError, match=expected):
        read_exclusions(tmp_path / "ids.txt")


def read(words: str) -> dict[str, object]:
    return {each.key_or_group: each.value() for each in OverridesParser.create().parse_overrides(shlex.split(words))}


def test_few_are_words_with_what_was_left_out_before(tmp_path: Path) -> None:
    words = offer_exclusion(tmp_path / "a b" / "refused.txt", {"12_3": "no", "Müller (2)": "no"}, ["1e-3"])
    assert read(words) == {"data.exclude": ["1e-3", "12_3", "Müller (2)"]}
    assert list(tmp_path.iterdir()) == []


class Store:
    def __init__(self, root: Path) -> None:
        self.root = root


def test_thousands_are_a_file_and_one_line_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = {f"1_{k}": f"1_{k}: values -{k}..400, not in HU." for k in range(2473)}
    with pytest.raises(CohortError) as raised:
        require_all_scans(refused, Store(tmp_path / "a (b)"), ["before"])  # type: ignore[arg-type]
    text = str(raised.value)
    assert len(text) < 900
    assert text.count("\n") <= 4
    word = text.partition("leave them out with ")[2].partition(". The other")[0]
    assert read(word) == {"data.exclude_file": str(tmp_path / "a (b)" / "refused.txt")}
    seen: list[TrainSettings] = []
    assert entry_point("train", TrainSettings)(seen.append)(["data.exclude=[more]", *shlex.split(word)]) == 0
    assert seen[0].data.exclude == ["more", "before", *refused]
    assert seen[0].data.exclude_file is None
    assert entry_point("train", TrainSettings)(seen.append)(["data.exclude_file=none.txt"]) == 2
