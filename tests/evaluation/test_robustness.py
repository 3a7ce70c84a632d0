"""How many answers change: by hand, and on a study of the command line."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy.stats import binomtest

from cnr_iemn.ct.perturbations import PERTURBATIONS, THICK
from cnr_iemn.errors import RunError
from cnr_iemn.evaluation.robustness import perturbed_scans
from cnr_iemn.evaluation.robustness.perturbed_scans import CHANGED, FOLDER, ScanAnswers, answer_perturbed
from cnr_iemn.evaluation.robustness.robustness_metrics import AS_READ, Robustness, measure_robustness
from cnr_iemn.report.figures.robustness import robustness_figure
from cnr_iemn.report.tables.robustness import robustness_sentence, robustness_table
from cnr_iemn.stage2.out_of_fold import SliceSets
from tests.pipeline import entry_point

CLASSES = ("a", "b", "c")
TRUTH = dict(zip("stuvwx", "aabbcc", strict=True))
ANSWERS = dict(zip("stuvwx", "aababc", strict=True))  # 4 of 6: v and w are wrong


def sets_of(answers: Mapping[str, str]) -> SliceSets:
    """One network and one slice a scan, whose probabilities are those of the scan."""
    return {
        scan_id: (np.where(np.array(CLASSES) == label, 0.8, 0.1).astype(np.float32)[None, None],)
        for scan_id, label in answers.items()
    }


def predict(scans: SliceSets) -> np.ndarray:
    return np.array([arrays[0][0, 0] for arrays in scans.values()], dtype=np.float64).reshape(len(scans), 3)


def measure(
    changed: Mapping[str, Mapping[str, str]], refused: Mapping[str, Mapping[str, str]] | None = None
) -> Robustness:
    """``changed``: answers that differ, by perturbation; ``refused``: codes."""
    refusals: dict[str, dict[str, str]] = {
        name: dict((refused or {}).get(name, {})) for name in (AS_READ, *PERTURBATIONS)
    }
    sets = {
        name: sets_of({k: v for k, v in {**ANSWERS, **changed.get(name, {})}.items() if k not in refusals[name]})
        for name in refusals
    }
    held_out = pd.DataFrame({"label": TRUTH, "predicted": ANSWERS})
    return measure_robustness(sets, refusals, held_out, CLASSES, predict)


def test_changes_are_counted_by_kind_and_class() -> None:
    robustness = measure({"+10 HU": {"s": "b", "t": "c", "v": "b", "w": "a"}})
    row = robustness["rows"]["+10 HU"]
    changes = row["changes"]
    assert (changes["n"], changes["to_wrong"], changes["to_correct"], changes["wrong_twice"]) == (6, 2, 1, 1)
    assert changes["share"]["value"] == pytest.approx(4 / 6)
    assert {label: (part["n"], part["share"]["value"]) for label, part in row["classes"].items()} == {
        "a": (2, 1.0),
        "b": (2, 0.5),
        "c": (2, 0.5),
    }
    assert row["accuracy"]["value"] == pytest.approx(3 / 6)
    assert row["comparison"] is not None
    assert row["comparison"]["difference"] == pytest.approx(1 / 6)  # 4 of 6 less 3 of 6
    assert row["comparison"]["p"] == pytest.approx(binomtest(2, 3).pvalue)
    assert row["probability"] == pytest.approx(4 * 0.7 / 6)
    unchanged = robustness["rows"]["-10 HU"]
    assert unchanged["changes"]["share"]["value"] == 0
    assert unchanged["probability"] == 0
    assert (robustness["n"], robustness["agreement"], robustness["unread"]) == (6, 1.0, {})


def test_holm_corrects_over_the_perturbations() -> None:
    wide = {f"{k}": "a" for k in range(9)}
    sets = {AS_READ: sets_of(wide), **{name: sets_of(wide) for name in PERTURBATIONS}}
    sets["+10 HU"] = sets_of(dict.fromkeys(wide, "b"))
    held_out = pd.DataFrame({"label": wide, "predicted": wide})
    rows = measure_robustness(sets, {name: {} for name in sets}, held_out, CLASSES, predict)["rows"]
    comparison = rows["+10 HU"]["comparison"]
    assert comparison is not None
    assert comparison["p_holm"] == pytest.approx(comparison["p"] * len(PERTURBATIONS))


def test_refused_and_unread_scans_are_no_changes() -> None:
    refused = {
        AS_READ: {"x": "damaged-file"},
        THICK: {"s": "too-few-slices", "t": "too-few-slices", "x": "damaged-file"},
        "smooth kernel": dict.fromkeys(TRUTH, "missing-geometry"),
    }
    robustness = measure({THICK: {"u": "a"}}, refused)
    assert (robustness["n"], robustness["unread"]) == (5, {"x": "damaged-file"})
    row = robustness["rows"][THICK]
    assert row["refused"] == {"too-few-slices": 2}
    assert (row["changes"]["n"], row["changes"]["to_wrong"]) == (3, 1)
    nothing = robustness["rows"]["smooth kernel"]
    assert (nothing["comparison"], nothing["accuracy"]["value"], nothing["refused"]) == (
        None,
        None,
        {"missing-geometry": 5},
    )


def test_other_answers_than_the_study_has_are_refused() -> None:
    held_out = pd.DataFrame({"label": TRUTH, "predicted": dict.fromkeys(TRUTH, "c")})
    sets = {name: sets_of(ANSWERS) for name in (AS_READ, *PERTURBATIONS)}
    with pytest.raises(RunError, match=r"Only 16\.7% of the validation scans get the answer"):
        measure_robustness(sets, {name: {} for name in sets}, held_out, CLASSES, predict)
    with pytest.raises(RunError, match=r"None of the 6 validation scans can be read .*\(damaged-file\)"):
        measure({}, {name: dict.fromkeys(TRUTH, "damaged-file") for name in (AS_READ, *PERTURBATIONS)})


@pytest.mark.parametrize(("n_others", "refused"), [(1, False), (2, True)])
def test_of_few_scans_rounding_may_move_one(n_others: int, refused: bool) -> None:
    others = {scan_id: "b" if ANSWERS[scan_id] == "a" else "a" for scan_id in list(ANSWERS)[:n_others]}
    held_out = pd.DataFrame({"label": TRUTH, "predicted": {**ANSWERS, **others}})
    sets = {name: sets_of(ANSWERS) for name in (AS_READ, *PERTURBATIONS)}
    arguments = sets, {name: {} for name in sets}, held_out, CLASSES, predict
    if refused:
        with pytest.raises(RunError, match=r"Only 66\.7% of the validation scans"):
            measure_robustness(*arguments)
    else:
        assert measure_robustness(*arguments)["agreement"] == pytest.approx(5 / 6)


def test_refusals_of_the_moment_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    files: Any = SimpleNamespace(
        key=lambda source: "", read=lambda scan_id, key: None, write=lambda scan_id, key, scan: written.append(scan_id)
    )
    ends = {"s": "damaged-file", "t": "memory-limit", "u": "no-access"}
    finished = [(scan_id, ScanAnswers(refused={THICK: code})) for scan_id, code in ends.items()]
    monkeypatch.setattr(perturbed_scans, "_answer_each", lambda *_: iter(finished))
    nothing: Any = None
    answers = answer_perturbed(nothing, nothing, dict.fromkeys(ends, tmp_path), list(ends), files)
    assert {scan_id: scan.refused[THICK] for scan_id, scan in answers.items()} == ends
    assert written == ["s"]


def test_table_figure_and_sentence_say_what_was_measured() -> None:
    refused = {AS_READ: {"x": "damaged-file"}, "smooth kernel": dict.fromkeys(TRUTH, "missing-geometry")}
    robustness = measure({THICK: {"u": "a", "v": "b"}, "+10 HU": {"s": "b"}}, refused)
    metrics: Any = {"robustness": robustness, "classes": CLASSES, "models": ["resnext50"], "method": "", "features": ""}
    table = robustness_table(metrics)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == list(PERTURBATIONS)
    assert rows[THICK]["other answer"] == "40.00 [11.8, 76.9]"
    assert (rows[THICK]["true b"], rows[THICK]["now wrong"], rows[THICK]["now correct"]) == (
        "2 of 2",
        "1",
        "1",
    )
    assert rows["+10 HU"]["accuracy, change in points"].startswith("-20.00 [")
    assert rows["smooth kernel"]["scans"] == "0, 5 refused"
    assert rows["smooth kernel"]["accuracy, change in points"] == "–"
    assert table.caption is not None
    assert table.caption.endswith(
        "Refused: missing-geometry. Left out, since they cannot be read as before: x (damaged-file)."
    )
    sentence = robustness_sentence(metrics)
    assert (
        f"5 validation scans were read again with 9 small changes in turn. Most answers change with: {THICK}, 2 of 5"
        in sentence
    )
    assert sentence.endswith("5 readings were refused.")
    drawing = robustness_figure(metrics, robustness)
    assert f"{THICK}: 1 now wrong, 0 wrong both times, 1 now correct, of 5" in drawing.text
    assert "all refused" in drawing.svg


WORDS = ("study=tiny", "ensemble=[resnext50,densenet161]", "permutations=0", "refits=0", "methods=false", "gpus=0")


@pytest.fixture
def runs(varied_study: Path, tmp_path: Path) -> Path:
    """A copy of the runs of a study whose answers differ; the cohort and the store are where they were."""
    return Path(shutil.copytree(varied_study / "runs", tmp_path / "runs"))


@pytest.mark.slow
def test_a_study_read_again_unchanged_has_its_own_answers(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: dict[str, np.ndarray] = {}
    plain = perturbed_scans.answer_perturbed

    def watched(*arguments: Any) -> Any:
        answers = plain(*arguments)
        seen.update({scan_id: scan.channels[AS_READ] for scan_id, scan in answers.items() if AS_READ in scan.channels})
        return answers

    monkeypatch.setattr("cnr_iemn.evaluation.robustness.network_evidence.answer_perturbed", watched)
    words = [f"runs={runs}", *WORDS, "robustness=true"]
    assert entry_point("aggregate")(words) == 0
    folder = runs / "tiny" / "ensembles" / "resnext50+densenet161"
    metrics = json.loads((folder / "metrics.json").read_text())
    robustness = metrics["robustness"]
    patients = pd.read_csv(folder / "patients.csv").set_index("scan_id")
    held_out = patients[patients["split"] == "validation"]
    assert (robustness["n"], robustness["agreement"], robustness["unread"]) == (len(held_out), 1.0, {})
    assert set(seen) == set(held_out.index)  # no training scan was touched
    saved = pd.read_parquet(runs / "tiny" / "resnext50" / "seed0" / "predictions.parquet")
    columns = [f"p_{name}" for name in metrics["classes"]]
    for scan_id, channels in seen.items():
        rows = saved[saved["scan_id"] == scan_id].sort_values("slice_index")
        np.testing.assert_allclose(channels[0][:, :3], rows[columns], atol=0.02)  # bf16 then, float32 now
    assert robustness["rows"][THICK]["refused"] == {"too-few-slices": len(held_out)}  # 20 slices: 10 are left
    page = (folder / "report.html").read_text()
    assert '<section id="robustness">' in page
    assert (folder / "figures" / "robustness.svg").is_file()
    assert "Perturbing" in caplog.text

    def unused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(perturbed_scans, "_answer_each", unused)
    first = metrics["robustness"]
    assert entry_point("aggregate")(words) == 0  # from the answers that were kept
    assert json.loads((folder / "metrics.json").read_text())["robustness"] == first
    kept = sorted((folder / FOLDER).glob("*.safetensors"))
    assert {path.stem for path in kept} == set(held_out.index)
    majority = 'primary_method="majority vote of the slices"'
    assert entry_point("aggregate")([*words, majority]) == 0  # the networks answer alike for another stage 2
    kept[0].write_bytes(kept[0].read_bytes()[:-4])  # damaged: that scan alone is done again
    with pytest.raises(AssertionError):
        entry_point("aggregate")(words)


@pytest.mark.slow
def test_scans_that_cannot_be_read_as_before_are_left_out_and_named(
    runs: Path, tiny_study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (index,) = tiny_study.glob("cache/phantom-*/Index.csv")
    cohort = index.parent
    copied = Path(shutil.copytree(cohort, tmp_path / "cohort"))
    for record in runs.glob("tiny/*/*/run.json"):
        record.write_text(record.read_text().replace(str(cohort), str(copied)))
    split = pd.read_csv(runs / "tiny" / "split.csv")
    damaged, changed, *_ = split[split["split"] == "validation"]["scan_id"]
    for path in sorted(next(copied.glob(f"*/{damaged}")).iterdir()):
        path.write_bytes(path.read_bytes()[:200])
    for path in next(copied.glob(f"*/{changed}")).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept += 20  # as if the scanner had been calibrated since
        dataset.save_as(path)
    words = [f"runs={runs}", *WORDS, "ensemble=resnext50", "robustness=true"]  # the reading is that of any network
    assert entry_point("aggregate")(words) == 0
    metrics = json.loads((runs / "tiny" / "ensembles" / "resnext50" / "metrics.json").read_text())
    unread = metrics["robustness"]["unread"]
    assert set(unread) == {damaged, changed}
    assert unread[changed] == CHANGED
    assert f"Left out of the robustness: {damaged}" in caplog.text


@pytest.mark.slow
def test_a_cohort_that_has_gone_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for record in runs.glob("tiny/*/*/run.json"):
        values = json.loads(record.read_text())
        values["cohort"]["root"] = str(tmp_path / "gone")
        record.write_text(json.dumps(values))
    assert entry_point("aggregate")([f"runs={runs}", *WORDS, "robustness=true"]) == 2
    error = capsys.readouterr().err
    assert "their cohort cannot be opened" in error
    assert "gone" in error
