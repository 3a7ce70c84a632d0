"""Cohorts too small for a figure: no nan and no empty interval, but a text that names what is missing."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.report.headline import headline
from cnr_iemn.report.study_report import write_report
from cnr_iemn.report.tables import ResultTable
from cnr_iemn.report.tables.evidence import evidence_tables
from cnr_iemn.report.tables.results import result_tables
from cnr_iemn.schemas import VALIDATION
from cnr_iemn.stage2.methods.registry import stage2_methods
from tests.builders import FakeScan, make_predictions, make_scans, make_summaries
from tests.report.test_study_report import ORIGIN, store_of

pytestmark = pytest.mark.slow

SCANS = make_scans(3, 2)
ONE_CLASS = {name: scan for name, scan in SCANS.items() if scan.split != VALIDATION or scan.label == "CAP"}
COHORTS = {
    "no labelled validation slice": {
        name: replace(scan, slice_labelled=scan.split != VALIDATION) for name, scan in SCANS.items()
    },
    "one class to judge": ONE_CLASS,
    "one scan to judge": {
        name: scan for name, scan in ONE_CLASS.items() if scan.split != VALIDATION or name == "CAP-003"
    },
    "one training scan a class": {
        name: scan for name, scan in SCANS.items() if scan.split == VALIDATION or name.endswith("000")
    },
    "neither labels nor class": {
        name: replace(scan, slice_labelled="00" in name[-3:-1] and scan.split != VALIDATION)
        for name, scan in ONE_CLASS.items()
    },
}


def words_of(table: ResultTable) -> str:
    return " ".join((table.title, table.caption or "", *table.columns, *(cell for row in table.rows for cell in row)))


def tables_of(scans: dict[str, FakeScan], folder: Path, *, methods: bool = False) -> tuple[list[ResultTable], str]:
    """Return the tables and all that is written."""
    made = {name: make_predictions(name, scans) for name in ("resnext50", "densenet161")}
    options = EvidenceOptions(permutations=2, methods=methods, method_repeats=1, refits=2)
    results = assemble_results(
        made, make_summaries(scans), cohort="x", methods=stage2_methods(rounds=3), options=options
    )
    write_report(folder, results, store_of(scans), ORIGIN, study="x")
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".md", ".svg")]
    tables = [*result_tables(results.metrics), *evidence_tables(results.metrics)]
    written = " ".join(path.read_text() for path in files)
    return tables, " ".join((headline(results.metrics), written, *map(words_of, tables)))


@pytest.mark.parametrize("kind", COHORTS)
def test_no_output_has_nan_or_an_empty_interval(kind: str, tmp_path: Path) -> None:
    tables, text = tables_of(COHORTS[kind], tmp_path, methods=kind == "one class to judge")
    assert not re.search(r"\bnan\b|\bNone\b|–%|\[–|inf%", re.sub(r' d="[^"]*"', "", text))
    assert not re.search(r"\[(-?[+\d.]+), \1\]", text)
    slices = tables[0]
    unlabelled = "label" in kind
    assert ("no labelled validation slices" in slices.title) is unlabelled
    assert not unlabelled or {row[1] for row in slices.rows} == {"–"}


def test_fewer_than_ten_patients_of_a_class_have_no_bootstrap_interval_and_keep_wilsons(tmp_path: Path) -> None:
    for number, few in ((9, True), (10, False)):
        scans = {name: scan for name, scan in make_scans(12, 12).items() if not name.startswith("CAP")}
        scans |= {f"CAP-{k}": FakeScan("CAP", VALIDATION) for k in range(number)}
        scans |= {f"CAP-{k}": FakeScan("CAP") for k in range(20, 20 + number)}
        tables, text = tables_of(scans, tmp_path)
        found = {table.title.split(",")[0]: table for table in tables}
        trusted = found["Confidence intervals"]
        assert {row[2] == "no interval" for row in trusted.rows if row[3] == "bootstrap"} == {few}
        assert all(row[2].startswith("[") for row in trusted.rows if row[3] == "Wilson")
        assert ("[no interval]" in tables[0].rows[0][1]) is few
        stability = found["Stability"]
        assert ({"no interval"} == set(stability.rows[3][1:])) is few
        for table in (tables[0], trusted, stability):
            assert ("No interval: a class has fewer than 10 patients" in str(table.caption)) is few
        assert ("No interval: a class" in text) is few
