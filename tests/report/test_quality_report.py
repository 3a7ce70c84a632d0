"""prepare.py's report: doubtful scans come first, refused ones are named, and names are escaped."""

import base64
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.data.build_store import prepare_store
from cnr_iemn.data.cohort import Cohort, ScanRecord
from cnr_iemn.data.slice_store import PixelSettings, SliceStore, StoredScan
from cnr_iemn.errors import RefusalCode, ScanError
from cnr_iemn.report.quality_report import print_quality_table, write_quality_report


@pytest.fixture
def store(tmp_path):
    """Two scans with lungs of 48 x 48 pixels, the second of them too small to be lungs."""
    hu = np.full((6, 48, 48), -1000, np.int16)
    hu[:, 6:42, 4:44] = 40
    hu[:, 12:34, 8:21] = hu[:, 12:34, 27:40] = -850
    hu += np.random.default_rng(0).integers(-20, 20, hu.shape, np.int16)  # three grey values would be a mask
    files = []
    for k, image in enumerate(hu):
        files.append(tmp_path / f"{k}.png")
        cv2.imwrite(str(files[-1]), np.rint((image.clip(-1000, 400) + 1000) / 1400 * 255).astype(np.uint8))
    scans = tuple(
        ScanRecord(name, name, files[0], "ill", images=ImageStack(name, tuple(files), spacing_mm=spacing))
        for name, spacing in (("good", (50.0, 5.0, 5.0)), ("<b>small", (1.0, 1.0, 1.0)))
    )
    cohort = Cohort("x", tmp_path, ("well", "ill"), scans)
    return prepare_store(cohort, PixelSettings(size=48), cache=tmp_path / "cache")[0]


def test_page_and_json(store, capsys):
    page = write_quality_report(
        store, ["good", "<b>small"], {"P012": ScanError(RefusalCode.NOT_HU, "P012: no air <near> -1000 HU")}
    )
    text = page.read_text()
    assert text.index("&lt;b&gt;small") < text.index("<b>good</b>")
    assert "<b>small" not in text
    assert "P012: no air &lt;near&gt; -1000 HU" in text
    assert "2 scans prepared, 1 with a lung mask in doubt, 1 refused" in text
    images = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(images) == 6
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(images[0]), np.uint8), cv2.IMREAD_COLOR).astype(int)
    orange = (picture[..., 2] - picture[..., 0]) > 60  # the only colour
    assert 2 * 4 * 40 < orange.sum() < 2 * 4 * 200  # the outline of two lungs of about 88 x 52 pixels
    document = json.loads((store.root / "report.json").read_text())
    assert [(scan["scan_id"], scan["doubtful"]) for scan in document["scans"]] == [("<b>small", True), ("good", False)]
    assert document["refused"] == {"P012": "P012: no air <near> -1000 HU"}
    assert document["codes"] == {"P012": "not-hu"}
    assert "notice" not in document
    print_quality_table(store, ["good"])
    assert "50.00 x 5.00 x 5.00" in capsys.readouterr().out


def test_a_phantom_is_marked(store, monkeypatch: pytest.MonkeyPatch):
    real = SliceStore.scan

    def phantom(self: SliceStore, scan_id: str) -> StoredScan:
        return replace(real(self, scan_id), phantom=True)

    monkeypatch.setattr(SliceStore, "scan", phantom)
    page = write_quality_report(store, ["good"], {})
    assert "phantom study: no diagnostic meaning" in page.read_text()
    assert json.loads((store.root / "report.json").read_text())["notice"] == "phantom study: no diagnostic meaning"
