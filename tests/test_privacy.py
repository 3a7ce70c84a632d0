"""No value of a text element of a scan's files, and where asked no name of a file, in anything written or said."""

import base64
import gzip
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset

from cnr_iemn.ct.io.acquisition import code_of
from cnr_iemn.ct.io.dicom_file import suppress_library_messages
from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.read_options import ReadOptions
from tests.ct.hazard import Change, put
from tests.pipeline import MODELS, QUICK, SMALL, TINY, entry_point
from tests.planted import BOUNDED, OTHERWISE, PLANTED, SOUGHT, STEM, found_in, leaks, plant_folder, save

pytestmark = pytest.mark.slow

NAMES = ("Qwyxdoe", "Vbkjane", "Fjzfile")
"""Of folders and files: not to be told with anonymise_ids=true."""


def one(**values: object) -> Change:
    """Change elements of the sixth slice."""
    return lambda ds, k=0: put(**values)(ds, k) if k == 5 else None


def sixth_of_syntax(ds: Dataset, k: int = 0) -> None:
    if k == 5:
        ds.file_meta.TransferSyntaxUID = f"{PLANTED['UI']}.77"


def halves(keyword: str, one: object, other: object) -> Change:
    """Make two stacks of the slices."""
    return lambda ds, k=0: setattr(ds, keyword, one if k % 2 else other)


REFUSED: dict[str, Change] = {
    "class": one(SOPClassUID=f"{PLANTED['UI']}.5"),
    "all of another class": put(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"),
    "transfer syntax": sixth_of_syntax,
    "photometric": one(PhotometricInterpretation=STEM),
    "frames": one(NumberOfFrames=PLANTED["IS"]),
    "slope": one(RescaleSlope=PLANTED["DS"]),
    "spacing": one(PixelSpacing=[float(PLANTED["DS"])] * 2),
    "size": one(Rows=60),
    "gap": put(ImagePositionPatient=[0, 0, float(PLANTED["DS"])]),
    "localizers": put(ImageType=["LOCALIZER", STEM]),
}
"""Scans that are refused for what one of their elements says; kernels and series are added by hand."""


@pytest.fixture(scope="module")
def phantoms(tiny_study: Path) -> list[Path]:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    return sorted(cohort.parent.glob("COVID-19 subjects/*"))


@pytest.fixture(scope="module")
def planted(phantoms: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good scans of every kind, and scans that are refused, all of them planted."""
    root = tmp_path_factory.mktemp("planted") / NAMES[0]
    with suppress_library_messages():
        _plant(phantoms, root)
    return root


def _plant(phantoms: list[Path], root: Path) -> None:
    good, _, zipped, nifti = (
        plant_folder(_changed(source, folder / f"{NAMES[1]}-{name}", put()))
        for source, folder, name in zip(
            phantoms,
            (root, root, root.parent, root.parent),
            ("good1", "good2", "zip", "nifti"),
            strict=False,
        )
    )
    with zipfile.ZipFile(root / f"{NAMES[1]}-zip.zip", "w") as archive:
        archive.comment = STEM.encode()
        for path in zipped.iterdir():
            archive.write(path, f"{NAMES[2]}/{path.name}")
    _nifti(nifti, root / f"{NAMES[1]}-nifti.nii.gz")
    for name, change in REFUSED.items():
        _changed(good, root / f"{NAMES[1]}-{name}", change)
    for name, keyword in (("kernels", "ConvolutionKernel"), ("series", "SeriesInstanceUID")):
        folder = _changed(good, root / f"{NAMES[1]}-{name}", put(SeriesNumber=1917394628))
        for k, path in enumerate(sorted(folder.iterdir())):
            other = pydicom.dcmread(path)
            other[keyword].value = f"{PLANTED['UI']}.8" if name == "series" else f"{STEM}SHARP"
            put(SeriesNumber=1917394629, RescaleIntercept=-1000)(other, k)
            save(other, path.with_name(f"other-{path.name}"))
    victim = sorted(_copied(good, root / f"{NAMES[1]}-cut").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-200])


def _copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for path in source.iterdir():
        shutil.copy(path, target / (path.name if path.name.startswith(NAMES[2]) else f"{NAMES[2]}-{path.name}"))
    return target


def _changed(source: Path, target: Path, change: Change) -> Path:
    for k, path in enumerate(sorted(_copied(source, target).iterdir())):
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID = f"{PLANTED['UI']}.{zlib.crc32(target.name.encode())}"  # or they are taken for one scan
        change(ds, k)
        save(ds, path)
    return target


def _nifti(folder: Path, path: Path) -> None:
    volume = read_scan(folder)
    image = nibabel.Nifti1Image(volume.hu[::-1, ::-1, ::-1].transpose(2, 1, 0), np.diag([*volume.spacing_mm[::-1], 1]))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = STEM
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", STEM.encode()))
    nibabel.save(image, path)


def predict(tiny_study: Path, source: Path, output: Path, *words: str) -> int:
    ensemble = ["study=tiny", f"ensemble=[{','.join(MODELS)}]", f"runs={tiny_study / 'runs'}", "gpus=0"]
    return entry_point("predict")([*ensemble, f"input={source}", f"output={output}", *words])


def test_the_search_finds_what_is_planted(planted: Path, tmp_path: Path) -> None:
    """In each file, and within whatever may be packed or coded."""
    for path in (planted / f"{NAMES[1]}-good1").iterdir():
        assert found_in(path.read_bytes()) >= {STEM, PLANTED["UI"], PLANTED["DA"], *BOUNDED}
    first = min((planted / f"{NAMES[1]}-good1").iterdir())
    assert found_in(first.read_bytes()) == {*SOUGHT, *BOUNDED} - set(OTHERWISE)
    for k in range(3):
        assert found_in(b"x" + base64.b64encode(b"a" * k + f"{STEM}0017 b".encode())) == {STEM}
    assert found_in(STEM.lower().encode()) == {STEM}
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(STEM.encode()))
    pd.DataFrame({"a": [PLANTED["UI"]] * 99}).to_parquet(tmp_path / "b.parquet", compression="zstd")
    with zipfile.ZipFile(tmp_path / "c.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", PLANTED["DT"] * 50)
    (tmp_path / f"{STEM}.html").write_text("")
    assert len(leaks(tmp_path)) == 4


def test_predict_tells_nothing(
    tiny_study: Path, planted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """With anonymise_ids neither what files say nor how they are called; the test of prepare.py is without."""
    assert predict(tiny_study, planted, tmp_path / "out", "anonymise_ids=true") == 1
    captured = "".join(capfd.readouterr())
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    answered, refused = [answer["scan"] for answer in document["scans"]], document["refused"]
    assert (len(answered), len(refused)) == (4, len(REFUSED) + 3)
    assert not leaks(tmp_path / "out", (*SOUGHT, *NAMES, str(planted.parent)))
    assert not found_in(captured.encode(), (*SOUGHT, *NAMES, str(planted.parent)))
    assert sorted([*answered, *refused]) == [f"scan-{k:04d}" for k in range(1, len(answered) + len(refused) + 1)]
    assert {path.stem for path in (tmp_path / "out").glob("*.html")} == set(answered)
    for page in (tmp_path / "out").glob("*.html"):
        assert not re.search(r"(?:src|href)=.(?!data:|#)|url\(|@import|<script|<iframe", page.read_text()), page
    assert all(reason.startswith(scan_id) for scan_id, reason in refused.items())
    assert any(re.match(r"scan-\d{4} file \d+: ", reason) for reason in refused.values())


def test_choosing_among_scans_tells_nothing(planted: Path) -> None:
    options = [ReadOptions(kernel="other"), ReadOptions(series_number=3), ReadOptions(kernel=code_of(f"{STEM}SHARP"))]
    for scan in planted.iterdir():
        for allowed in options:
            try:
                volume = read_scan(scan, allowed)
                captured = f"{volume.findings} {volume.acquisition}"
            except ScanError as error:
                captured = str(error)
            assert not found_in(captured.encode()), captured
    assert len(read_scan(planted / f"{NAMES[1]}-kernels", options[-1]).hu) >= 20


def test_prepare_and_train_tell_nothing(
    planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    manifest = tmp_path / "scans.csv"
    scans = sorted(planted.iterdir())
    good = [scan for scan in scans if any(kind in scan.name for kind in ("good", "zip", "nifti"))]
    rows = [
        f"s{k},{scan},{'ab'[k % 2]},{'training' if k < 2 else 'validation'}"
        for k, scan in enumerate([*good, *(scan for scan in scans if scan not in good)])
    ]
    manifest.write_text("\n".join(["scan_id,path,class,split", *rows]) + "\n")
    labels = [f"s{k},{index},b" for k in (1, 3) for index in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["scan_id,slice_index,class", *labels]) + "\n")
    tables = [f"data.csv={manifest}", f"data.slices={tmp_path / 'labels.csv'}"]
    cohort = [*_without_phantoms(), *tables, f"ingest.cache={tmp_path / 'cache'}", "ingest.demographics=true"]
    assert entry_point("prepare")([word for word in cohort if word.startswith(("data", "ingest"))]) == 1
    excluded = ",".join(f"s{k}" for k in range(len(good), len(rows)))
    words = [*cohort, f"data.exclude=[{excluded}]", f"runs={tmp_path / 'runs'}", "study=planted"]
    words += [*SMALL, "balancing.copies={a: 0, b: 0}", "trainer.precision=32"]
    assert entry_point("train")([*words, "logger=wandb", "logger.offline=true", "logger.worst_slices=2"]) == 0
    study = [f"runs={tmp_path / 'runs'}", "study=planted", "ensemble=test_resnet", *QUICK]
    assert entry_point("aggregate")(study) == 0
    captured = "".join(capfd.readouterr())
    assert len(list((tmp_path / "cache").rglob("scan.json"))) == 4
    headers = [json.loads(path.read_text())["header"] for path in (tmp_path / "cache").rglob("demographics.json")]
    assert [header["age"] for header in headers].count("10-19") == 3  # of what is planted, 973 weeks; NIfTI has none
    assert {header["sex"] for header in headers} == {None}
    assert list((tmp_path / "runs").rglob("*.wandb"))
    assert not leaks(tmp_path)
    assert not found_in(captured.encode())


def _without_phantoms() -> Iterator[str]:
    yield "data=manifest"
    yield "data.classes=[a,b]"
    yield from (word for word in TINY if not word.startswith("data."))
