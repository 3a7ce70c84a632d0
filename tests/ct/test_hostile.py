"""Files made to take all memory or time: each is refused within 5 seconds of computing and a gigabyte."""

import re
import sys
import time
import zlib
from pathlib import Path

import imagecodecs
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from cnr_iemn.ct.io.reader import read_scan
from cnr_iemn.errors import ScanError
from cnr_iemn.utils.sandbox import run_limited

pytestmark = pytest.mark.slow


def read_and_measure(folder: Path) -> tuple[str, float, float]:
    """Return refusal, seconds and the process's largest memory in GB."""
    start = time.process_time()  # a busy machine makes the process wait
    try:
        read_scan(folder)
        answer = "read"
    except ScanError as error:
        answer = str(error)
    # getrusage would count what the parent held before this process began
    status = Path("/proc/self/status").read_text()
    return answer, time.process_time() - start, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def bomb(dicom, folder):
    """600 kB that inflate to 640 MB."""
    deflate(folder / "IM0005.dcm", lambda dataset: [bytes(2**24)] * 40)


def items(dicom, folder):
    """65 kB that inflate to 8 million empty items of a sequence, for which pydicom would take 90 seconds and 6 GB."""
    sequence = b"\x00\x52\x30\x92SQ\0\0\xff\xff\xff\xff"  # (5200,9230)
    deflate(folder / "IM0005.dcm", lambda dataset: [dataset, sequence, b"\xfe\xff\x00\xe0\0\0\0\0" * 8_000_000])


def deflate(path, inside):
    """Say that a file is deflated, and put what ``inside`` makes of its dataset there, in chunks."""
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    meta = data[:end].replace(uid.ExplicitVRLittleEndian.encode() + b"\0", uid.DeflatedExplicitVRLittleEndian.encode())
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    length = (int.from_bytes(data[140:144], "little") + len(meta) - end).to_bytes(4, "little")
    meta = meta[:140] + length + meta[144:]
    chunks = inside(data[end : data.index(b"\xe0\x7f\x10\x00")])
    path.write_bytes(meta + b"".join(stream.compress(chunk) for chunk in chunks) + stream.flush())


def giant(dicom, folder):
    slices = dicom.make_slices()
    for ds in slices:
        ds.Rows = ds.Columns = 65535
    dicom.write(folder, slices)


def giant_stream(dicom, folder):
    """A JPEG 2000 header of 2.2 kB that says 60,000 x 60,000."""
    slices = dicom.make_slices()
    stream = bytearray(imagecodecs.jpeg2k_encode(dicom.stored(slices[5]), reversible=True, codecformat="j2k")[:2200])
    stream[8:16] = (60000).to_bytes(4, "big") * 2
    slices[5].file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    slices[5].PixelData = encapsulate([bytes(stream) + b"\xff\xd9"])
    slices[5]["PixelData"].VR = "OB"
    dicom.write(folder, [slices[5]], ["IM0005.dcm"])


def deep_sequences(dicom, folder):
    """20,000 sequences in one another."""
    path = folder / "IM0005.dcm"
    data = path.read_bytes()
    at = data.index(b"\xe0\x7f\x10\x00")
    item = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"  # (0040,0275)
    path.write_bytes(data[:at] + item * 20_000 + data[at:])


def frames(dicom, folder):
    slices = dicom.make_slices()
    slices[5].NumberOfFrames = 10**6
    slices[5].SOPClassUID = slices[5].file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    dicom.write(folder, [slices[5]], ["IM0005.dcm"])


def long_element(dicom, folder):
    """An element of the header that says it has 4 GB."""
    path = folder / "IM0005.dcm"
    data = path.read_bytes()
    at = data.index(b"\x28\x00\x02\x00US")
    path.write_bytes(data[:at] + b"\x20\x00\x00\x40UT\0\0\xf0\xff\xff\xff" + data[at:])


def segments(dicom, folder):
    """A JPEG stream of 60 MB that consists of empty segments."""
    slices = dicom.make_slices()
    slices[5].file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    slices[5].PixelData = encapsulate([b"\xff\xd8" + b"\xff\xe0\x00\x02" * 15_000_000 + b"\xff\xd9"])
    slices[5]["PixelData"].VR = "OB"
    dicom.write(folder, [slices[5]], ["IM0005.dcm"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
@pytest.mark.parametrize(
    "make",
    [bomb, items, giant, giant_stream, deep_sequences, frames, long_element, segments],
    ids=lambda make: make.__name__,
)
def test_hostile_files(make, dicom, scan_folder):
    folder = scan_folder(dicom.make_slices())
    make(dicom, folder)
    ((_, answer),) = run_limited(read_and_measure, [folder], workers=1)
    assert not isinstance(answer, ScanError), f"the process was lost: {answer}"
    reason, seconds, gigabytes = answer
    assert reason.startswith("P012/IM0000.dcm" if make is giant else "P012/IM0005.dcm")
    assert seconds < 5
    assert gigabytes < 1
