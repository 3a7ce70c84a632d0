"""What a checklist of a finished study names is there: each file, each key in it, each section of the report."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cnr_iemn.constants import CHECKLISTS
from tests.pipeline import MODELS, QUICK, entry_point

pytestmark = pytest.mark.slow
STUDY = "tiny"


@pytest.fixture(scope="module")
def folder(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble of a copy of the tiny study, with every checklist and a plan."""
    runs = tmp_path_factory.mktemp("checklists") / "runs"
    shutil.copytree(tiny_study / "runs", runs)
    plan = runs.parent / "plan.yaml"
    plan.write_text("refits: 3\npermutations: 99\n")
    settings = [f"runs={runs}", f"study={STUDY}", f"ensemble=[{','.join(MODELS)}]", f"plan={plan}"]
    assert entry_point("aggregate")([*settings, *QUICK, f"checklist=[{','.join(CHECKLISTS)}]"]) == 0
    return runs / STUDY / "ensembles" / "+".join(MODELS)


def rows(folder: Path) -> Iterator[dict[str, str]]:
    for name in (*(f"checklist-{key}" for key in CHECKLISTS), "datasheet"):
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)


def places(folder: Path, source: str) -> list[Path]:
    """Return the files that a source of a statement names."""
    study = folder.parents[1]
    runs = [study / model / "seed0" for model in MODELS]
    if source.endswith(" of each run"):
        return [run / source.removesuffix(" of each run") for run in runs]
    if source.endswith(" of each stored scan"):
        record = json.loads((runs[0] / "run.json").read_text())
        name = source.removesuffix(" of each stored scan")
        return [Path(record["store"]) / scan_id / name for scan_id in record["scans"]["pixels"]]
    return [study / source if source == "split.csv" else folder / source]


def require_key(path: Path, key: str) -> None:
    """Fail where a file has no value under a key: a path in JSON, a column of a table."""
    if path.suffix == ".csv":
        assert key in pd.read_csv(path, nrows=1), f"{path.name} has no column {key}"
        return
    value: Any = json.loads(path.read_text())
    for part in key.split("."):
        assert part in value, f"{path.name} has no {key}"
        value = value[part]


def test_every_file_and_key_that_an_answer_rests_on_exists(folder: Path) -> None:
    sources = {source for row in rows(folder) for source in row["file"].split("; ") if source}
    assert len(sources) > 20
    for source in sources:
        name, _, keys = source.partition(": ")
        for path in places(folder, name):
            assert path.is_file(), f"{source}: {path} is not there"
            for key in filter(None, keys.split(", ")):
                require_key(path, key)


def test_every_section_that_an_answer_is_shown_in_exists(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    headings = set(re.findall(r"<h2>(.*?)</h2>", page))
    headings |= {text.split(":")[0] for text in re.findall(r"<summary>(.*?)</summary>", page)}
    named = {place for row in rows(folder) for place in row["shown in"].split("; ") if place}
    assert len(named) > 10
    assert named <= headings, named - headings


def test_an_answer_has_its_source_and_no_answer_has_none(folder: Path) -> None:
    for row in rows(folder):
        if row["status"] in ("author to fill", "not measured by this run"):
            assert row["answer of the run"] == row["file"] == row["shown in"] == ""
        elif not row["answer of the run"].startswith("No external set"):
            assert row["file"], row["item"]


def test_card_data_sheet_and_checklists_say_the_same(folder: Path) -> None:
    card = (folder / "model_card.md").read_text()
    sheet = {row["item"]: row["answer of the run"] for row in rows(folder)}
    with (folder / "checklist-claim.csv").open(newline="", encoding="utf-8") as file:
        claim = {row["item"]: row["answer of the run"] for row in csv.DictReader(file)}
    for item in ("7", "13", "20", "24", "26", "35", "36", "40"):
        sentences = claim[item].removesuffix(".").split(". ")
        missing = [sentence for sentence in sentences if sentence not in card]
        assert not missing, missing
    assert claim["36"].split(". ")[0] in sheet["11"]


def test_claim_is_answered_as_far_as_a_run_can(folder: Path) -> None:
    with (folder / "checklist-claim.csv").open(newline="", encoding="utf-8") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert len(statuses) == 44
    assert statuses.count("not measured by this run") == 0
    assert sum(status.startswith("answered by the run") for status in statuses) >= 32
