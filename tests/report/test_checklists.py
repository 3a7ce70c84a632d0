"""Checklists: numbers of the items, and that each answer rests on a fact of the run and goes with it."""

import csv
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from cnr_iemn.config.schema.settings import AugmentationSettings, BalancingSettings, TrainerSettings
from cnr_iemn.constants import CHECKLISTS as NAMES
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.data.slice_store import PixelSettings
from cnr_iemn.evaluation.aggregate import assemble_results
from cnr_iemn.evaluation.evidence import EvidenceOptions
from cnr_iemn.read_options import ReadOptions
from cnr_iemn.report.checklists.checklist import Answer, Status, checklist_table, fill, write_checklist
from cnr_iemn.report.checklists.datasheet import DATASHEET
from cnr_iemn.report.checklists.study_facts import CohortFacts, ErrorFacts, QualityFacts, Spread, StudyFacts
from cnr_iemn.report.checklists.topics import TOPICS, statements
from cnr_iemn.report.checklists.training_facts import TrainingFacts
from cnr_iemn.report.checklists.writer import CHECKLISTS
from tests.builders import make_predictions, make_scans, make_summaries

EVERY = (*CHECKLISTS.values(), DATASHEET)
TRAINING = TrainingFacts(
    "resnext50", "torchvision", 224, "imagenet", ("grey", "mask", "product"), False, "both", "slices", 0, "mine",
    "manifest", 0.325, 0, False, False, False,
    TrainerSettings(), AugmentationSettings(), BalancingSettings(), "2 CPU cores", {"torch": "2.14"},
)  # fmt: skip
ORIGIN: dict[str, Any] = {
    "command": "python aggregate.py study=x",
    "versions": {"python": "3.11", "cnr-iemn": "0.1"},
    "booster_seed": 0,
    "booster": {"rounds": 100, "max_depth": 6, "eta": 0.3},
    "left_out": ["P999"],
    "runs": [{"model": "resnext50", "command": "python train.py", "checkpoint_sha256": "ab" * 32, "versions": {}}],
}
ENTRY: Any = {"sha256": "cd" * 32, "registered": "2026-12-01T10:00:00+00:00", "after_scoring": False, "plan": {}}
PLAN: Any = {"schema_version": 2, "entries": [ENTRY], "settings": {}}
COUNTS = {"training": {"Normal": 12, "COVID-19": 12, "CAP": 12}, "validation": {"Normal": 6, "COVID-19": 6, "CAP": 6}}


@pytest.fixture(scope="module")
def facts() -> StudyFacts:
    scans = make_scans(12, 6)
    predictions = {name: make_predictions(name, scans, skill=0.3) for name in ("resnext50", "densenet161")}
    options = EvidenceOptions(permutations=3, refits=2)
    results = assemble_results(predictions, make_summaries(scans), cohort="mine", options=options)
    audit = {"auc": 0.61, "p": 0.2, "alarm": False, "association": {}}
    ablations = {"agreement": 1.0, "n": 18, "networks": 2, "rows": {"lungs erased": {"accuracy": 0.4}}}
    flow = {"total": 56, "refused": {"n slices missing": 1}, "excluded": 1, "unclassed": 0, "slice_labelled": 30}
    metrics: Any = {
        **results.metrics,
        "audit": audit,
        "ablations": ablations,
        "scan_flow": {**flow, "training": COUNTS["training"], "validation": COUNTS["validation"]},
    }
    return StudyFacts(
        metrics=metrics,
        provenance=ORIGIN,  # type: ignore[arg-type]  # what the topics read of it
        cohort=CohortFacts("mine", "manifest", False, 54, COUNTS, 1, 30, False),
        pixels=PixelSettings(),
        acquisition=(Spread("slice distance, mm", 54, 2.0, 1.0, 5.0),),
        quality=QualityFacts(54, 50, 2),
        training=(TRAINING, replace(TRAINING, model="densenet161")),
        errors=ErrorFacts(18, {("CAP", "COVID-19"): 2}),
        external=(),
        plan=PLAN,
    )


def answers_of(name: str, facts: StudyFacts) -> dict[str, Answer]:
    checklist = next(each for each in EVERY if each.key == name)
    return {answer.item.number: answer for answer in fill(checklist, statements(facts))}


def test_the_items_are_numbered_as_the_checklists_are() -> None:
    assert tuple(CHECKLISTS) == NAMES
    assert [item.number for item in CHECKLISTS["claim"].items] == [str(k) for k in range(1, 45)]
    tripod, stard = ([item.number for item in CHECKLISTS[name].items] for name in ("tripod-ai", "stard-ai"))
    assert len(tripod) == len(set(tripod)) == 52
    assert list(dict.fromkeys(int(number.rstrip("abcdefg")) for number in tripod)) == list(range(1, 28))
    assert len(stard) == len(set(stard)) == 48
    assert list(dict.fromkeys(int(number.rstrip("abcd")) for number in stard)) == list(range(1, 41))


def test_every_item_can_be_answered_by_someone_and_every_topic_is_asked_for() -> None:
    asked = {topic for checklist in EVERY for item in checklist.items for topic in item.topics}
    assert asked == set(TOPICS)
    assert all(item.topics or item.author for checklist in EVERY for item in checklist.items)


def test_claim_is_answered_by_the_run_or_left_to_the_author(facts: StudyFacts) -> None:
    answers = answers_of("claim", facts)
    statuses = [answer.status for answer in answers.values()]
    assert sum(status is not Status.MISSING for status in statuses) >= 35
    assert sum(status in (Status.RUN, Status.BOTH) for status in statuses) >= 30
    only_author = {number for number, answer in answers.items() if answer.status is Status.AUTHOR}
    # what no run can know: title page, design, reference standard, registration, use, funding
    assert {"3", "4", "5", "6", "11", "15", "16", "17", "18", "34", "36", "41", "44"} <= only_author


def test_groups_are_told_where_they_are_known(facts: StudyFacts) -> None:
    interaction = {"groups": 2, "n": 18, "p": 0.7, "p_holm": 0.7, "detectable": 0.5}
    sex = {"counts": {"female": [9], "male": [9]}, "missing": [0]}
    known: Any = {
        **facts.metrics,  # type: ignore[dict-item]
        "cohort_table": {"groups": {"sex": sex}},
        "subgroups": {"sex": {"groups": {}, "interaction": interaction}},
    }
    before, after = answers_of("claim", facts), answers_of("claim", replace(facts, metrics=known))
    assert (before["36"].status, after["36"].status) == (Status.AUTHOR, Status.BOTH)
    assert "Known of the scans: sex. Not known: age" in str(after["36"].row)
    assert "no difference of accuracy was found by sex" in str(after["30"].row)
    assert "by sex" not in str(before["30"].row)


def test_a_run_that_knows_nothing_claims_nothing() -> None:
    assert statements(StudyFacts()) == {}
    for checklist in EVERY:
        for answer in fill(checklist, {}):
            assert answer.status in (Status.AUTHOR, Status.MISSING)
            assert answer.row[4] == answer.row[5] == answer.row[6] == ""


@pytest.mark.parametrize("field", [field.name for field in fields(StudyFacts)])
def test_an_answer_goes_with_its_fact(field: str, facts: StudyFacts) -> None:
    before, after = statements(facts), statements(replace(facts, **{field: None}))
    gone = {name for name in before if name not in after}
    assert gone == {name for name in before if TOPICS[name].fact == field}
    assert gone
    assert all(after[name] == before[name] for name in after)


@pytest.mark.parametrize(
    ("key", "topics"),
    [
        ("scan_flow", {"flow"}),
        ("calibration", {"calibration", "updating", "undecided"}),
        ("operating_point", {"threshold", "decision"}),
        ("clinical_use", {"decision"}),
        ("audit", {"audit"}),
        ("ablations", {"ablations"}),
        ("contributions", {"attribution"}),
    ],
)
def test_an_analysis_that_was_not_made_is_not_claimed(key: str, topics: set[str], facts: StudyFacts) -> None:
    assert facts.metrics is not None
    metrics: Any = {**facts.metrics, key: None}
    before, after = statements(facts), statements(replace(facts, metrics=metrics))
    assert set(before) - set(after) == topics
    for name in ("uncertainty", "metrics", "disjoint"):  # they stay, and do not speak of it
        assert not (key == "clinical_use" and "net benefit" in after[name].sentence)


def test_what_was_not_searched_for_is_said(facts: StudyFacts) -> None:
    assert facts.metrics is not None
    near: Any = {**facts.metrics, "near_duplicates": {"n": 4, "threshold": 0.8, "highest": 0.9, "pairs": [1, 2]}}
    assert "not searched for" in statements(facts)["disjoint"].sentence
    assert "(correlation of 0.8 or more): 2." in statements(replace(facts, metrics=near))["disjoint"].sentence
    without: Any = {**facts.metrics, "permutation_test": None}
    assert "permutation" in statements(facts)["uncertainty"].sentence
    assert "permutation" not in statements(replace(facts, metrics=without))["uncertainty"].sentence


def test_sentences_hold_the_figures_of_the_run(facts: StudyFacts) -> None:
    said, metrics = statements(facts), facts.metrics
    assert metrics is not None
    assert f"{100 * metrics['accuracy']:.2f}%" in said["result"].sentence
    assert "54 scans with a class, of 54 patients" in said["cohort"].sentence
    assert "left out by name: 1." in said["eligibility"].sentence
    assert said["flow"].sentence.startswith("56 scans found; 1 refused (1 for: n slices missing); 1 left out by name;")
    assert "100 trees for each class, depth at most 6, learning rate 0.3, seed 0" in said["stage2"].sentence
    assert "30 of 36 training scans" in said["subsets"].sentence
    assert "validation: 18 (Normal 6, COVID-19 6, CAP 6)" in said["counts"].sentence
    assert "HU from -1000 to 400" in said["preprocessing"].sentence
    assert "2 of 18 validation scans are wrong (CAP predicted COVID-19: 2)" in said["errors"].sentence
    assert "only 6 validation scans of Normal, 6 validation scans of COVID-19" in said["limitations"].sentence
    assert said["external"].sentence == "No external set had been scored with this fit when this was written."
    for label, row in zip(SPGC_CLASSES, metrics["confusion_matrix"], strict=True):
        assert f"{label}: {', '.join(map(str, row))}" in said["confusion"].sentence


def test_sentences_follow_the_settings(facts: StudyFacts) -> None:
    def sentence(topic: str, **changes: Any) -> str:
        return statements(replace(facts, **changes))[topic].sentence

    assert "stops the training" in sentence("eligibility")
    allowed = PixelSettings(read_options=ReadOptions(allow_gaps=True))
    assert "Accepted on request: missing slices." in sentence("missing", pixels=allowed)
    assert "Accepted" not in sentence("missing")
    networks = (TRAINING, replace(TRAINING, model="densenet161", trainer=TrainerSettings(optimizer="adamw")))
    assert "ResNeXt-50: adam, " in sentence("training", training=networks)
    assert "DenseNet-161: adamw, weight decay 0.05" in sentence("training", training=networks)
    assert "column split; else 32.5% of the patients" in sentence("partition")
    drawn = replace(TRAINING, reader="covid_ct_md")
    assert sentence("partition", training=(drawn,)).startswith("32.5% of the patients of each class")
    given = replace(TRAINING, split_share=None)
    assert sentence("partition", training=(given,)).startswith("A file gave the side")
    phantoms = CohortFacts("phantom", "phantom", True, 54, COUNTS, 0, 30, True)
    assert "no diagnostic meaning" in sentence("cohort", cohort=phantoms)
    assert "weak labels" in sentence("labels", cohort=phantoms)
    accuracy = {"value": 0.5, "low": 0.3, "high": 0.7}
    scored: Any = {"set": "test-1", "n_labelled": 30, "n_predicted": 29, "refused": {"no-lungs": 1}}
    scored |= {"phantom_study": False, "n_phantom_scans": 0}
    scored |= {"intervals": {"wilson": {"accuracy": {"value": 0.6, "low": 0.4, "high": 0.8}}}}
    scored |= {"missing_as_wrong": {"accuracy": accuracy}}
    assert sentence("external", external=(scored,)) == (
        "test-1: 30 scans given, 1 refused (no-lungs 1), 29 answered and rated, accuracy 60.00% [40.0, 80.0], with the "
        "refused counted as wrong 50.00% [30.0, 70.0]."
    )


def test_a_model_is_described_by_its_settings(facts: StudyFacts) -> None:
    def sentence(topic: str, **changes: Any) -> str:
        return statements(replace(facts, training=(replace(TRAINING, **changes),)))[topic].sentence

    assert "3 channels (grey image, lung mask, lungs alone)" in sentence("architecture")
    assert "(grey image, mediastinal window" in sentence("architecture", channels=("grey", "mediastinum", "mask"))
    assert "mirror image" in sentence("architecture", flips=True)
    assert "mirror image" not in sentence("architecture")
    assert "diseased lobes, in training" not in sentence("architecture")
    assert "for the diseased lobes in training alone" in sentence("architecture", lobes=True)
    assert "beside the image" not in sentence("architecture", position="none")
    assert "weights of ImageNet" in sentence("initialisation")
    assert "the weights that timm has for the name" in sentence("initialisation", library="timm")
    assert "random weights, their heads at random" in sentence("initialisation", weights="none")
    assert "the weights mine.pth" in sentence("initialisation", weights="mine.pth")
    assert "focal loss with gamma 1.5 of the class plus 1 times" in sentence("training")
    assert "cross-entropy of the class" in sentence("training", trainer=TrainerSettings(gamma=0.0))
    assert "gradients clipped at 1" in sentence("training", trainer=TrainerSettings(clip=1.0))
    assert "batches of 64 slices in bags of 32" in sentence("training", task="bags")


def test_several_seeds_are_told(facts: StudyFacts) -> None:
    assert "averaging" not in statements(facts)
    networks = tuple(replace(TRAINING, seed=seed) for seed in (0, 1, 2))
    said = statements(replace(facts, training=networks))
    assert "means over 3 networks" in said["averaging"].sentence
    assert "seed 0; ResNeXt-50: seed 1; ResNeXt-50: seed 2" in said["initialisation"].sentence
    assert said["architecture"].sentence.count("ResNeXt-50 of torchvision") == 1


def test_labels_that_are_not_the_readers_are_told(facts: StudyFacts) -> None:
    assert facts.cohort is not None
    plain = statements(facts)["labels"].sentence
    assert "permuted" not in plain
    assert "pseudo" not in plain
    changed = replace(facts, cohort=replace(facts.cohort, labels_permuted=True, pseudo_labels=True))
    assert "permuted: a negative control" in statements(changed)["labels"].sentence
    assert "(pseudo-labels)" in statements(changed)["labels"].sentence


def test_another_method_has_no_settings_of_trees(facts: StudyFacts) -> None:
    without: Any = {**ORIGIN, "booster": None}
    assert "stage2" not in statements(replace(facts, provenance=without))
    old: Any = {key: value for key, value in ORIGIN.items() if key != "booster"}
    assert "stage2" not in statements(replace(facts, provenance=old))


def test_groups_answer_what_the_checklists_ask_of_them(facts: StudyFacts) -> None:
    test = {"groups": 2, "n": 18, "p": 0.7, "p_holm": 0.9, "detectable": 0.5}
    groups = {
        "site": {"counts": {"a": [9], "b": [8]}, "missing": [1]},
        "age": {"counts": {"50-59": [None]}, "missing": [None]},
        "manufacturer": {"counts": {"GE": [9], "other": [9]}, "missing": [0]},
    }
    known: Any = {
        **facts.metrics,  # type: ignore[dict-item]
        "cohort_table": {"groups": groups},
        "subgroups": {"site": {"groups": {}, "interaction": test}},
    }
    said = statements(replace(facts, metrics=known))
    assert "p = 0.7, with Holm's correction 0.9" in said["centres"].sentence
    assert "manufacturer: GE, other" in said["devices"].sentence
    unknown = said["unknown_values"].sentence
    assert unknown.startswith("Known of every scan: manufacturer. Missing for some scans: site (1 missing), age (numb")
    before = answers_of("tripod-ai", facts)
    after = answers_of("tripod-ai", replace(facts, metrics=known))
    for number in ("12d", "23b"):
        assert (before[number].status, after[number].status) == (Status.AUTHOR, Status.BOTH)


def test_an_item_that_asks_for_reasons_is_never_answered_by_the_run_alone(facts: StudyFacts) -> None:
    asked = {
        "claim": ("8", "12", "13", "19", "21", "31", "33", "35", "36", "39", "40", "43"),
        "tripod-ai": ("5a", "7", "9a", "9b", "10", "12c", "12e", "13", "14", "15", "16", "20a", "20b", "20c", "26"),
        "stard-ai": ("7", "11", "13", "15c", "21", "22", "23", "24", "25", "28", "29", "33", "40a", "40b"),
    }
    for name, numbers in asked.items():
        answers = answers_of(name, facts)
        assert not {number for number in numbers if answers[number].status is Status.RUN}


def test_the_files_hold_every_item(facts: StudyFacts, tmp_path: Path) -> None:
    for checklist in EVERY:
        table = checklist_table(checklist, fill(checklist, statements(facts)), notice="phantom | study")
        write_checklist(tmp_path, checklist.key, table)
        with (tmp_path / f"{checklist.key}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["item"] for row in rows] == [item.number for item in checklist.items]
        assert {row["notice"] for row in rows} == {"phantom | study"}
        lines = (tmp_path / f"{checklist.key}.md").read_text().splitlines()
        assert sum(line.startswith("| ") for line in lines) == len(checklist.items) + 1
