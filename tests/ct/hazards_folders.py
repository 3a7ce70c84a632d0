"""Hazards in the files of a folder: damaged headers, names, and what lies beside the slices."""

import random
from pathlib import Path

from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from tests.ct.conftest import Builder
from tests.ct.hazard import Hazard, rewritten


def _junk(dicom: type[Builder], folder: Path) -> None:
    dicom.write(folder, dicom.make_slices())
    for name, text in {
        "empty": "",
        "notes.txt": "slices",
        "Thumbs.db": "x",
        "._IM0001.dcm": "",
        ".DS_Store": "",
        "a.log": "",
    }.items():
        (folder / name).write_text(text)
    (folder / "folder").mkdir()


def _other_objects(dicom: type[Builder], folder: Path) -> None:
    dicom.write(folder, dicom.make_slices())
    for name, sop_class in (("sr.dcm", uid.EnhancedSRStorage), ("rs.dcm", uid.RTStructureSetStorage)):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.77"
        ds.save_as(folder / name, enforce_file_format=True)


def _headless(dicom: type[Builder], folder: Path) -> None:
    """Write datasets alone: no preamble, no DICM, no file meta information."""
    folder.mkdir()
    for k, ds in enumerate(dicom.make_slices()):
        del ds.file_meta
        ds.save_as(folder / f"IM{k:04d}.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)


def _deep(dicom: type[Builder], folder: Path) -> None:
    slices = dicom.make_slices()
    dicom.write(folder / "a", slices[::2])
    dicom.write(folder / "b" / "c", slices[1::2])


def _name_files(pattern: str):
    def make(dicom: type[Builder], folder: Path) -> None:
        names = [pattern.format(k) for k in range(dicom.n)]
        random.Random(3).shuffle(names)
        dicom.write(folder, dicom.make_slices(), names)

    return make


def _loop(dicom: type[Builder], folder: Path) -> None:
    dicom.write(folder, dicom.make_slices())
    (folder / "loop").symlink_to(folder, target_is_directory=True)


_NO_ORIENTATION = (
    r"P012/IM0023\.dcm: ImageOrientationPatient is missing or makes no sense\. The order of the slices depends on "
    r"it, so the scan is refused\. Copy the file again, or export the scan anew\."
)
_NO_DICOM = (
    r"P012/IM0023\.dcm: not a DICOM file \(empty, cut or of another kind\)\. It lies among the slices; if it is one "
    r"of them, every label after it would shift\. Copy the scan again, remove it if it is not a slice, or set "
    r"ingest\.allow_unreadable=true to leave it out\."
)
_GIVE = r"Give the folder that holds the scan's DICOM files\."


FOLDERS = [
    *(
        Hazard("one file cut in the header", rewritten(lambda data, at=at: data[:at]), where, refusal=refusal)
        for where, at, refusal in (
            ("before the geometry", 450, _NO_ORIENTATION),
            ("in the class", 200, _NO_ORIENTATION),
            ("in the preamble", 100, _NO_DICOM),
            ("at its start", 0, _NO_DICOM),
        )
    ),
    Hazard("junk files", _junk, findings=("ignored: files that are not DICOM (6)",)),
    Hazard(
        "SR and RTSTRUCT beside the scan",
        _other_objects,
        findings=("ignored: EnhancedSRStorage (1), RTStructureSetStorage (1)",),
    ),
    Hazard(
        "no preamble, no meta information",
        _headless,
        refusal=r"P012: no CT image in it \(found files that are not DICOM \(24\)\)\. The first, P012/IM0000\.dcm: "
        r"begins like a DICOM dataset, but without the preamble and file meta information that say how to read it\. "
        r"Export the scan again as DICOM files\. " + _GIVE,
    ),
    Hazard("nested folders", _deep, findings=("slices from 2 folders",)),
    Hazard("odd names", _name_files("{}"), "no suffix"),
    Hazard("odd names", _name_files("1.2.840.113.{}"), "UID"),
    Hazard("odd names", _name_files("é '{}' ; $(x) \".DCM"), "upper case, quotes, ; $ accents"),
    Hazard("symlink loop", _loop, findings=("ignored: links to folders of the scan (1)",)),
    Hazard(
        "empty folder",
        lambda dicom, folder: folder.mkdir(),
        refusal=rf"P012: no CT image in it \(it is empty\)\. {_GIVE}",
    ),
]
