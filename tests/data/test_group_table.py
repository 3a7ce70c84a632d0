"""Groups that may be shared: rare values are merged, and nothing else changes."""

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest

from cnr_iemn.ct.io.acquisition import Acquisition
from cnr_iemn.data.demographics.group_table import coarse_table, group_table, indicators, levels_of
from cnr_iemn.data.demographics.groups import DeclaredGroups, Demographics, HeaderGroups
from cnr_iemn.data.scan_features import ScanFeatures
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.utils.atomic_io import json_text
from tests.data.test_shortcut_features import write


def coarse(name: str, **counts: int) -> dict[str, int]:
    values = [value.replace("_", "-").lstrip("-") for value, n in counts.items() for _ in range(n)]
    values = ["90 and above" if value == "old" else value for value in values]
    column = coarse_table(pd.DataFrame({name: values}, dtype="object"))[name]
    return {level: int((column == level).sum()) for level in levels_of(column)}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"Bari": 9, "Lille": 6}, {"Bari": 9, "Lille": 6}),
        ({"Bari": 9, "Lille": 4, "Rome": 3}, {"Bari": 9, "other": 7}),
        ({"Bari": 9, "Lille": 6, "Rome": 3}, {"Bari": 9, "other": 9}),  # three alone would be told
        ({"Bari": 9, "Lille": 3}, {"any": 12}),
        ({"Bari": 3}, {"any": 3}),
    ],
)
def test_rare_values_are_merged(counts: dict[str, int], expected: dict[str, int]) -> None:
    assert coarse("site", **counts) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"_30_39": 8, "_40_49": 8}, {"30-39": 8, "40-49": 8}),
        ({"_20_29": 2, "_30_39": 8, "_40_49": 9}, {"20-39": 10, "40-49": 9}),
        ({"_70_79": 9, "_80_89": 6, "old": 1}, {"70-79": 9, "80 and above": 7}),
        ({"_30_39": 7, "_50_59": 2, "_60_69": 2, "_70_79": 9}, {"30-69": 11, "70-79": 9}),
        ({"_30_39": 1, "_50_59": 2}, {"any": 3}),
    ],
)
def test_rare_bands_of_ages_are_merged_with_a_neighbour(counts: dict[str, int], expected: dict[str, int]) -> None:
    assert coarse("age", **counts) == expected


def test_merged_ages_can_be_merged_again_and_stay_in_order() -> None:
    bands = ["20-39"] * 6 + ["40-49"] * 3 + ["50 and above"] * 7
    column = coarse_table(pd.DataFrame({"age": bands}, dtype="object"))["age"]
    assert levels_of(column) == ["20-49", "50 and above"]


def test_a_value_must_be_frequent_among_the_scans_that_count() -> None:
    table = pd.DataFrame({"site": ["Bari"] * 8 + ["Lille"] * 8 + ["Rome"] * 8}, dtype="object")
    coarse = coarse_table(table, counted=[0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18])["site"]
    assert coarse.tolist() == ["Bari"] * 8 + ["other"] * 16
    assert set(coarse_table(table, counted=[0, 1, 2, 3, 4, 5, 8])["site"]) == {"any"}  # Rome has none that counts


def test_the_audit_gets_a_column_for_each_value() -> None:
    table = pd.DataFrame(
        {"sex": ["female"] * 5 + ["male"] * 5 + [None], "kernel": ["smooth"] * 11, "ward": ["icu"] * 6 + ["er"] * 5},
        dtype="object",
    )
    columns = indicators(table)
    assert list(columns) == ["sex female", "sex male", "ward er", "ward icu"]
    assert columns["sex female"].tolist()[:10] == [1.0] * 5 + [0.0] * 5
    assert columns.loc[10, ["sex female", "sex male"]].isna().all()


def test_groups_of_a_store_and_the_columns_of_the_audit(tmp_path: Path) -> None:
    """Twelve scans: six of one site, four of another and two of a third; thickness and voltage need no request."""
    for k, site in enumerate(["Bari"] * 6 + ["Lille"] * 4 + ["Rome"] * 2):
        write(tmp_path / f"s{k:02d}", (), (1.5, 0.7, 0.7))
        acquisition = Acquisition("k", "m", "n", "1.2", kvp=118.0, slice_thickness_mm=1.25 if k else math.nan)
        (tmp_path / f"s{k:02d}" / "source.json").write_text(
            json_text({"files": "", "source_sha256": "", "acquisition": asdict(acquisition)})
        )
        demographics = Demographics(DeclaredGroups(sex="female", site=site), HeaderGroups(age="60-69"))
        (tmp_path / f"s{k:02d}" / "demographics.json").write_text(json_text(asdict(demographics)))
    store, scans = SliceStore(tmp_path, PixelSettings()), [f"s{k:02d}" for k in range(12)]
    table = group_table(store, scans)
    assert list(table) == ["sex", "age", "site", "slice_thickness", "tube_voltage"]
    assert table.loc["s11"].tolist() == ["female", "60-69", "Rome", "0 to 1.5 mm", "120 kV"]
    assert table.loc["s00", "slice_thickness"] is None
    features = ScanFeatures.of(store, scans)
    assert set(features.groups["site"]) == {"Bari", "other"}
    columns = indicators(features.groups)
    assert columns["site other"].tolist() == [0.0] * 6 + [1.0] * 6
    assert not any("Rome" in str(column) for column in (*columns, *features.shortcuts))
    for scan_id in scans:
        (tmp_path / scan_id / "demographics.json").unlink()
    assert list(ScanFeatures.of(store, scans).groups) == ["slice_thickness", "tube_voltage"]  # an old store
