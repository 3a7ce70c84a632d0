import dataclasses

import pytest

from cnr_iemn.data.predictions.slice_predictions import Predictions, check_joinable
from cnr_iemn.errors import RunError
from tests.builders import FakeScan, make_predictions

SCANS = {
    "a": FakeScan("Normal", n_slices=6),
    "b": FakeScan("COVID-19", n_slices=7, fold=1),
    "c": FakeScan("CAP", n_slices=5, slice_labelled=False),
    "d": FakeScan("CAP", "validation", n_slices=9),
}


def changed(scan_id: str, **values: object) -> dict[str, FakeScan]:
    return {**SCANS, scan_id: dataclasses.replace(SCANS[scan_id], **values)}


def pair(second: Predictions) -> dict[str, Predictions]:
    return {"resnext50": make_predictions("resnext50", SCANS), "densenet161": second}


def test_predictions_of_one_study_join_whatever_their_row_order() -> None:
    second = make_predictions("densenet161", SCANS)
    shuffled = dataclasses.replace(second, table=second.table.sample(frac=1, random_state=3).reset_index(drop=True))
    check_joinable(pair(shuffled))


@pytest.mark.parametrize(
    ("metadata", "mine", "theirs"),
    [
        ({"store": "other"}, "on store 5707e", "on store other"),
        ({"split_sha256": "other"}, "on split 5b117", "on split other"),
        ({"tag": "seed1"}, "under tag seed0", "under tag seed1"),
        ({"seed": 4, "tag": "seed0"}, "with seed 0", "with seed 4"),
        ({"phantom": True}, "with phantom=False", "with phantom=True"),
        (
            {"classes": ("Normal", "CAP", "COVID-19")},
            r"for the classes \('Normal', 'COV",
            r"for the classes \('Normal', 'CAP'",
        ),
    ],
)
def test_differing_origins_are_named(metadata: dict[str, object], mine: str, theirs: str) -> None:
    message = f"resnext50 was predicted {mine}.*, densenet161 {theirs}.*Run train.py for densenet161 again"
    with pytest.raises(RunError, match=message):
        check_joinable(pair(make_predictions("densenet161", SCANS, **metadata)))


@pytest.mark.parametrize(
    ("scans", "message"),
    [
        ({name: SCANS[name] for name in "abd"}, "resnext50 was predicted on scan c, densenet161 without"),
        ({name: SCANS[name] for name in "ad"}, "resnext50 was predicted on scans b, c, densenet161 without"),
        ({**SCANS, "e": FakeScan("CAP")}, "resnext50 was predicted without scan e, densenet161 with"),
        (changed("b", n_slices=8), "with n_slices=7 for scan b, densenet161 with n_slices=8"),
        (changed("c", label="COVID-19"), "with label=CAP for scan c, densenet161 with label=COVID-19"),
        (changed("b", split="validation"), "with split=training for scan b, densenet161 with split=validation"),
        (changed("b", fold=None), "with fold=1 for scan b, densenet161 with fold=none"),
        (changed("d", patient_id="x"), "with patient_id=d for scan d, densenet161 with patient_id=x"),
        (
            changed("c", slice_labelled=True),
            "with slice_label=none for slice 0 of scan c, densenet161 with slice_label=Normal",
        ),
    ],
)
def test_differing_scans_are_named(scans: dict[str, FakeScan], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check_joinable(pair(make_predictions("densenet161", scans)))


def test_long_lists_of_scans_are_cut() -> None:
    more = {f"x{number}": FakeScan("CAP") for number in range(8)}
    with pytest.raises(RunError, match="without scans x0, x1, x2, x3, x4 and 3 more"):
        check_joinable(pair(make_predictions("densenet161", {**SCANS, **more})))


def test_a_validation_scan_that_trained_the_network_is_refused() -> None:
    with pytest.raises(RunError, match="resnext50 was trained on scan d, which the split holds out"):
        check_joinable({"resnext50": make_predictions(scans=SCANS, training_scan_ids=("a", "b", "d"))})
    same_patient = changed("d", patient_id="a")
    with pytest.raises(RunError, match="another of the same patient"):
        check_joinable({"resnext50": make_predictions(scans=same_patient)})
    flagged = make_predictions(scans=SCANS, training_scan_ids=())
    flagged.table.loc[flagged.table["scan_id"] == "d", "seen_in_training"] = True
    with pytest.raises(RunError, match="trained on scan d"):
        check_joinable({"resnext50": flagged})


def test_predictions_in_a_foreign_folder_and_an_empty_ensemble_are_refused() -> None:
    with pytest.raises(RunError, match="given for densenet161 were made by inception_v3"):
        check_joinable(pair(make_predictions("inception_v3", SCANS)))
    with pytest.raises(RunError, match="Name at least one model"):
        check_joinable({})
