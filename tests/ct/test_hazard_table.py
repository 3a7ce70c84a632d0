"""The table of hazards: each folder is read to the exact voxel, or refused with file, reason and remedy."""

import re
from pathlib import Path

import numpy as np
import pytest

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from tests.ct.conftest import Builder
from tests.ct.hazard import Hazard
from tests.ct.hazards_folders import FOLDERS
from tests.ct.hazards_geometry import GEOMETRY
from tests.ct.hazards_pixels import PIXELS

TABLE = [*GEOMETRY, *PIXELS, *FOLDERS]


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # pydicom's, while the test writes a NaN
@pytest.mark.parametrize("hazard", TABLE, ids=lambda hazard: hazard.name)
def test_a_hazard_is_read_rightly_or_refused_clearly(hazard: Hazard, dicom: type[Builder], tmp_path: Path) -> None:
    folder = tmp_path / "P012"
    hazard.make(dicom, folder)
    if hazard.refusal is not None:
        with pytest.raises(ScanError) as caught:
            read_scan(folder)
        assert re.fullmatch(hazard.refusal, str(caught.value)), f"{caught.value}\nis not\n{hazard.refusal}"
        return
    volume = read_scan(folder)
    np.testing.assert_array_equal(volume.hu, hazard.hu())
    assert volume.hu.dtype == np.int16
    assert volume.findings == hazard.findings
    # a tilted stack is closer along its normal than along z; its table moves along z
    lean = next((float(text.split()[6]) for text in volume.findings if text.startswith("gantry tilt")), 0.0)
    step = dicom.step * np.cos(np.radians(lean))
    assert volume.spacing_mm == pytest.approx((step, 0.7, 0.7), abs=0.01)
    np.testing.assert_allclose(volume.z_mm - volume.z_mm[0], -step * np.arange(dicom.n), atol=0.01)


def test_the_table_is_complete() -> None:
    """43 rows, some of several folders; two rows or folders of one name would be one."""
    assert len({hazard.row for hazard in TABLE}) >= 43
    assert len({hazard.name for hazard in TABLE}) == len(TABLE) >= 53
