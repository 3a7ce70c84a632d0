"""Sex, age band and scanner from headers and manifests: what is told, what never is, and where it is kept."""

import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.demographics.groups import (
    AGE_BANDS,
    DeclaredGroups,
    Demographics,
    HeaderGroups,
    age_band,
    age_string_band,
    sex_of,
)
from cnr_iemn.data.demographics.header import read_header_groups
from cnr_iemn.data.demographics.scanner_names import kernel_class, manufacturer_name, model_family
from cnr_iemn.data.demographics.store_files import store_demographics, stored_demographics
from cnr_iemn.data.readers.manifest import read_manifest
from cnr_iemn.data.slice_store import PixelSettings, SliceStore
from cnr_iemn.errors import CohortError, StoreError
from tests.ct.conftest import Builder
from tests.data.test_manifest import chest, grey, write_csv, write_images

SCANNER = {"Manufacturer": "SIEMENS", "ManufacturerModelName": "SOMATOM Scope", "ConvolutionKernel": "D40s"}
"""Of COVID-CT-MD."""


def scan(folder: Path, change: Callable[[Dataset, int], object] = lambda ds, k: None, **values: object) -> Path:
    slices = Builder.make_slices()
    for k, ds in enumerate(slices):
        for name, value in {**SCANNER, "PatientSex": "F", "PatientAge": "063Y", **values}.items():
            setattr(ds, name, value)
        change(ds, k)
    return Builder.write(folder, slices)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("000Y", "0-9"), ("009Y", "0-9"), ("010Y", "10-19"), ("089Y", "80-89"), ("090Y", "90 and above"),
        ("104Y", "90 and above"), ("006M", "0-9"), ("020D", "0-9"), ("130M", "10-19"), ("973W", "10-19"),
        ("63", None), ("", None), ("063", None), ("Y063", None), ("999Y", None),
    ],
)  # fmt: skip
def test_an_age_string_is_a_band(text: str, band: str | None) -> None:
    assert age_string_band(text) == band


def test_no_band_is_finer_than_ten_years() -> None:
    for years in range(90):
        assert age_band(years) == f"{years // 10 * 10}-{years // 10 * 10 + 9}"
    assert {age_band(years) for years in range(90, 151)} == {AGE_BANDS[-1]}
    assert age_band(-1) is age_band(151) is age_band(float("nan")) is None


def test_words_for_a_sex() -> None:
    assert [sex_of(text) for text in ("F", "m", "O", "Female", "male", "", "U", "Smith^Jane")] == [
        "female", "male", "other", "female", "male", None, None, None,
    ]  # fmt: skip


def test_known_names_of_scanners_are_told_and_others_are_codes() -> None:
    for text, name in {
        "SIEMENS": "Siemens", "Siemens Healthineers": "Siemens", "GE MEDICAL SYSTEMS": "GE", "TOSHIBA": "Canon",
        "Philips Medical Systems": "Philips", "Canon Medical Systems": "Canon", "UIH": "United Imaging",
    }.items():  # fmt: skip
        assert manufacturer_name(text) == name
    assert manufacturer_name("  ") is None
    hidden = manufacturer_name("Germany Hospital of Dr Siemensen")
    assert hidden is not None
    assert hidden.startswith("unlisted ")
    assert len(hidden) == len("unlisted ") + 8
    for (manufacturer, model), family in {
        ("Siemens", "SOMATOM Scope"): "SOMATOM Scope", ("Siemens", "SOMATOM Definition AS+"): "SOMATOM Definition",
        ("Siemens", "SOMATOM go.Top"): "SOMATOM go.Top", ("GE", "LightSpeed VCT"): "LightSpeed",
        ("Philips", "Brilliance 64"): "Brilliance", ("Canon", "Aquilion ONE"): "Aquilion",
        ("Siemens", "Sensation 64"): "Sensation",
    }.items():  # fmt: skip
        told = model_family(manufacturer, model)
        assert told == (family if "go" not in family else "SOMATOM go"), told
    told = model_family("Siemens", "Dr Jane Doe's scanner")
    assert told is not None
    assert told.startswith("unlisted ")


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("D40s", "smooth"), ("B31f", "smooth"), ("Br44", "medium"), ("I50f/3", "medium"), ("B70f", "sharp"),
        ("Bl64", "sharp"), ("STANDARD", "smooth"), ("LUNG", "sharp"), ("FC52", "sharp"), ("FC08", "smooth"),
        ("YC", "sharp"), ("L", "sharp"), ("C", "smooth"), ("Jane Doe", "unlisted"), ("", None),
    ],
)  # fmt: skip
def test_classes_of_kernels(kernel: str, expected: str | None) -> None:
    assert kernel_class(kernel) == expected


def test_a_scan_tells_its_groups_and_nothing_else(tmp_path: Path) -> None:
    folder = scan(tmp_path / "a", ContrastBolusAgent="Iomeron 400 of Dr Doe", PatientName="Doe^Jane")
    expected = HeaderGroups("female", "60-69", "Siemens", "SOMATOM Scope", "smooth", "yes")
    assert read_header_groups(folder) == expected
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    assert read_header_groups(tmp_path / "a.zip") == expected
    assert read_header_groups(scan(tmp_path / "b", ContrastBolusAgent="NONE")).contrast == "no"
    assert read_header_groups(scan(tmp_path / "c", ContrastBolusAgent="")).contrast is None


def test_what_slices_disagree_on_is_not_known(tmp_path: Path) -> None:
    def change(ds: Dataset, k: int) -> None:
        ds.PatientAge = "063Y" if k else "013Y"

    groups = read_header_groups(scan(tmp_path / "a", change))
    assert (groups.age, groups.sex) == (None, "female")


def test_enhanced_ct_and_absent_or_damaged_elements(tmp_path: Path) -> None:
    enhanced = Builder.make_enhanced()
    enhanced.PatientSex, enhanced.PatientAge, enhanced.Manufacturer = "M", "095Y", "GE MEDICAL SYSTEMS"
    enhanced.ContrastBolusAgentSequence = Sequence([Dataset()])
    groups = read_header_groups(Builder.write(tmp_path / "e", [enhanced]))
    assert (groups.sex, groups.age, groups.manufacturer, groups.contrast) == ("male", "90 and above", "GE", "yes")

    def drop(ds: Dataset, k: int) -> None:
        del ds.PatientSex, ds.ManufacturerModelName, ds.Manufacturer, ds.ConvolutionKernel
        ds.PatientAge = ""

    assert read_header_groups(scan(tmp_path / "n", drop)) == HeaderGroups()


HEAD = "scan_id,path,class,sex,age,site,group_ward"


def test_a_manifest_declares_groups(tmp_path: Path) -> None:
    write_images(tmp_path / "eight", grey(chest()))
    rows = ("a,eight,healthy,F,63,Lille,icu", "b,eight,sick,male,90+,,", "c,eight,sick,,104.5,Bari,")
    cohort = read_manifest(write_csv(tmp_path / "scans.csv", HEAD, *rows))
    assert [each.declared for each in cohort.scans] == [
        DeclaredGroups("female", "60-69", "Lille", {"ward": "icu"}),
        DeclaredGroups("male", "90 and above"),
        DeclaredGroups(None, "90 and above", "Bari"),
    ]


def test_every_wrong_value_is_told_with_its_line(tmp_path: Path) -> None:
    write_images(tmp_path / "eight", grey(chest()))
    rows = ("a,eight,healthy,X,63,,", "b,eight,sick,F,1950-01-02,,", "c,eight,sick,F,-3,,")
    with pytest.raises(CohortError) as error:
        read_manifest(write_csv(tmp_path / "scans.csv", HEAD, *rows))
    for line, words in ((2, "sex 'X' is none of F, M, O"), (3, "age '1950-01-02' is no number"), (4, "age '-3'")):
        assert f"scans.csv:{line}: {words}" in str(error.value)
    with pytest.raises(CohortError, match="column 'group_sex' needs a name of its own"):
        read_manifest(write_csv(tmp_path / "s.csv", "scan_id,path,class,group_sex", "a,eight,healthy,x"))
    with pytest.raises(CohortError, match=r"unknown ward; known are .*group_\*"):
        read_manifest(write_csv(tmp_path / "t.csv", "scan_id,path,class,ward", "a,eight,healthy,x"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    scan(tmp_path / "d1", PatientSex="M")
    scan(tmp_path / "d2", PatientAge="071Y")
    write_images(tmp_path / "eight", grey(chest()))
    return write_csv(tmp_path / "scans.csv", "scan_id,path,class,sex", "a,d1,healthy,F", "b,d2,sick,", "c,eight,sick,M")


def prepare(manifest: Path, *, headers: bool, workers: int = 0) -> SliceStore:
    cohort = read_manifest(manifest)
    store, failures = prepare_store(cohort, PixelSettings(size=48), cache=manifest.parent / "cache")
    assert not failures
    store_demographics(cohort, store, headers=headers, workers=workers)
    return store


def test_the_store_keeps_what_was_declared_and_asked_for(manifest: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = prepare(manifest, headers=False)
    assert stored_demographics(store, "a") == Demographics(DeclaredGroups("female"))
    assert not (store.root / "b" / "demographics.json").exists()  # nothing declared, nothing asked for
    pixels = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.npy")}
    with caplog.at_level(logging.INFO, "cnr_iemn"):
        store = prepare(manifest, headers=True, workers=1)
    assert pixels == {path: path.stat().st_mtime_ns for path in store.root.rglob("*.npy")}  # an old store is good
    assert "Demographics of 3 scans, known of: sex 3, age 2" in caplog.text
    assert "differ: a. The manifest counts" in caplog.text
    assert stored_demographics(store, "a").values["sex"] == "female"
    assert stored_demographics(store, "b").values == {
        "sex": "female", "age": "70-79", "manufacturer": "Siemens", "model_family": "SOMATOM Scope", "kernel": "smooth",
    }  # fmt: skip
    assert stored_demographics(store, "c").values == {"sex": "male"}
    written = {path: path.stat().st_mtime_ns for path in store.root.rglob("demographics.json")}
    prepare(manifest, headers=False)  # what was asked for once is kept
    assert written == {path: path.stat().st_mtime_ns for path in store.root.rglob("demographics.json")}
    write_csv(manifest, "scan_id,path,class,site", "a,d1,healthy,Lille", "b,d2,sick,", "c,eight,sick,")
    store = prepare(manifest, headers=False)
    assert stored_demographics(store, "a").values["sex"] == "male"  # the header's, now that nothing else is declared
    assert stored_demographics(store, "a").values["site"] == "Lille"
    assert stored_demographics(store, "c").values == {}


def test_a_damaged_file_is_named(manifest: Path) -> None:
    store = prepare(manifest, headers=True)
    path = store.root / "b" / "demographics.json"
    document = json.loads(path.read_text())
    for damage in ({"age": "63"}, {"sex": "Jane Doe"}):
        path.write_text(json.dumps({**document, "header": {**document["header"], **damage}}))
        with pytest.raises(StoreError, match=r"demographics\.json is damaged"):
            stored_demographics(store, "b")
