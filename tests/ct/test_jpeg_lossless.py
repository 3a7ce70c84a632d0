"""JPEG Lossless streams of every kind pass, and those that do not fit their pixels are refused."""

import imagecodecs
import numpy as np
import pytest

from benchmarks.damage import make_slice
from cnr_iemn.ct.io.codestreams import check_pixels, parse_single_scan

pytestmark = pytest.mark.slow

FILL, END = b"\xff", b"\xff\xd9"


def chest(seed=0):
    """Stored values of a chest made by code, uint16 [256, 256]."""
    return (make_slice("native", np.random.default_rng(seed))[1].astype(np.int32) + 1024).astype(np.uint16)


def lossless(image, **how):
    return imagecodecs.jpeg8_encode(image, lossless=True, **{"predictor": 1, "bitspersample": 12, **how})


def decoded(stream):
    scan = parse_single_scan(stream)
    pixels = imagecodecs.jpeg8_decode(stream)
    check_pixels(stream, scan, pixels)
    return pixels


def assert_refused(stream, match):
    with pytest.raises(ValueError, match=match):
        decoded(stream)


def stream_of(image, lengths, shift=0, bits=16):
    """Write a stream with predictor 1 bit by bit. ``lengths``: of the code of each category, 0 for none."""
    order = sorted((length, category) for category, length in enumerate(lengths) if length)
    codes, code, last = {}, 0, 0
    for length, category in order:
        code <<= length - last
        codes[category] = f"{code:0{length}b}"
        code, last = code + 1, length
    left = np.empty(image.shape, int)
    left[:, 1:], left[1:, 0], left[0, 0] = image[:, :-1], image[:-1, 0], 2 ** (bits - 1 - shift)
    text = ""
    for value in ((image.astype(int) - left + 2**15 - 1) % 2**16 - 2**15 + 1).ravel().tolist():
        category = abs(value).bit_length()
        text += codes[category]
        if 0 < category < 16:
            text += f"{value if value > 0 else value + (1 << category) - 1:0{category}b}"
    text += "1" * (-len(text) % 8)
    data = bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")
    counts = bytes(sum(length == n for length, _ in order) for n in range(1, 17))
    table = b"\0" + counts + bytes(category for _, category in order)
    rows, columns = (n.to_bytes(2, "big") for n in image.shape)
    frame = bytes([bits]) + rows + columns + b"\x01\x01\x11\0"
    segments = ((0xC4, table), (0xC3, frame), (0xDA, b"\x01\x01\0\x01\0" + bytes([shift])))
    head = b"".join(bytes([255, marker]) + (2 + len(body)).to_bytes(2, "big") + body for marker, body in segments)
    return b"\xff\xd8" + head + data + END


def with_segment(stream, marker, body, before=0xDA):
    at = stream.index(bytes([255, before]))
    return stream[:at] + bytes([255, marker]) + (2 + len(body)).to_bytes(2, "big") + body + stream[at:]


# --- every kind of stream


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [2, 8, 12, 16])
def test_every_predictor_and_precision(predictor, bits):
    rng = np.random.default_rng(predictor)
    most = 2**bits - 1
    smooth = chest() >> max(12 - bits, 0)
    noise = rng.integers(0, most + 1, (40, 33))
    single = np.where(rng.random((90, 70)) < 0.01, most, 0)
    for values in (smooth, noise, single, np.full((20, 20), most), smooth[:1], smooth[:, :1]):
        image = np.ascontiguousarray(values, np.uint8 if bits <= 8 else np.uint16)
        pixels = decoded(lossless(image, predictor=predictor, bitspersample=bits))
        np.testing.assert_array_equal(pixels, image)


def test_a_stream_of_another_encoder():
    stream = imagecodecs.ljpeg_encode(chest(), bitspersample=12)
    assert parse_single_scan(stream).predictor == 6
    np.testing.assert_array_equal(decoded(stream), chest())


@pytest.mark.parametrize("lengths", [[5] * 17, [*range(16, 0, -1), 16], [16, *range(16, 0, -1)], [2, 2, 3, *[8] * 14]])
def test_short_and_long_codes_of_every_category(lengths):
    rng = np.random.default_rng(sum(lengths))
    steps = rng.choice([-1, 1], (60, 50)) * (2.0 ** rng.integers(0, 16, (60, 50))).astype(int) * rng.integers(0, 2, 50)
    image = np.cumsum(steps + 2**15 * (rng.random((60, 50)) < 0.05), axis=1).astype(np.uint16)
    stream = stream_of(image, lengths)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), image)
    np.testing.assert_array_equal(decoded(stream), image)


def test_a_point_transform_moves_the_bits():
    image = np.arange(300, dtype=np.uint16).reshape(15, 20)
    stream = stream_of(image, [5] * 17, shift=2)
    np.testing.assert_array_equal(imagecodecs.jpeg8_decode(stream), image * 4)
    np.testing.assert_array_equal(decoded(stream), image * 4)


# --- damage


def test_fill_bytes_and_one_byte_too_many_pass():
    stream = lossless(chest())
    for extra in (FILL * 3, b"\x12"):
        np.testing.assert_array_equal(decoded(stream[:-2] + extra + END), chest())
    assert_refused(stream[:-2] + b"\x12\x34" + END, "its pixels take")


def test_streams_that_do_not_fit_their_pixels():
    stream = lossless(chest())
    assert_refused(stream[:-5] + END, "ends before its last pixel")
    assert_refused(stream[:-20_000] + END, "ends before its last pixel")
    assert_refused(stream[: parse_single_scan(stream).start + 1] + END, "ends before its last pixel")
    assert_refused(stream[:20_000] + b"\xff\xd0" + stream[20_000:], "marker within the image")
    assert_refused(
        stream_of(np.zeros((16, 16), np.uint16), [2, *[3] * 2, *[0] * 13, 5])[:-20] + b"\xfe" * 30 + END,
        "its pixels take|a code that is not in its Huffman table",
    )


@pytest.mark.parametrize("lengths", [None, [3, 3, 3, 3, 3, 3, 4, *[0] * 10], [*range(16, 0, -1), 16]])
def test_what_is_accepted_is_bit_by_bit_the_code_of_the_pixels(lengths):
    """A code that the table lacks is read as another one, of another length."""
    rng = np.random.default_rng(6)
    image = chest()[:128, :128]
    image = image // 32 + 2**15 if lengths else image
    stream = stream_of(image, lengths) if lengths else lossless(image)
    scan = parse_single_scan(stream)
    codes = [0] * 17
    for category, code in scan.codes:
        codes[category] = len(code)
    accepted = refused = 0
    for _ in range(150):
        damaged = bytearray(stream)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(scan.start, len(stream) - 2)] ^= 1 << rng.integers(0, 8)
        try:
            pixels = decoded(bytes(damaged))
        except (ValueError, RuntimeError):  # RuntimeError: of the decoder
            refused += 1
            continue
        assert data_of(bytes(damaged)).startswith(data_of(stream_of(pixels, codes, bits=scan.precision))[:-1])
        accepted += 1
    assert accepted > 5
    assert refused > 5


def data_of(stream):
    return stream[parse_single_scan(stream).start : -2].replace(b"\xff\0", b"\xff")


@pytest.mark.parametrize("n", range(1, 6))
def test_codes_that_the_table_lacks_are_refused_wherever_they_stand(n):
    """As the last pixels, too, where few bits are missing or left over."""
    lengths = [2, 3, *[0] * 14, 16]
    image = np.full((16, 16), 2**15, np.uint16)
    data = data_of(stream_of(image, lengths))
    head = stream_of(image, lengths)[: -2 - len(data)]
    bits = "".join(f"{byte:08b}" for byte in data)[:512]
    for at in (0, 100, 500, 510):
        text = bits[:at] + "1" * 17 * n + bits[at + 2 * n :]
        text += "1" * (-len(text) % 8)
        plain = bytes(int(text[k : k + 8], 2) for k in range(0, len(text), 8))
        stream = head + plain.replace(b"\xff", b"\xff\0") + END
        with pytest.raises(ValueError, match=r"its pixels take|a code that is not in its Huffman table|last pixel"):
            decoded(stream)


@pytest.mark.parametrize(
    ("marker", "offset", "value"),
    [
        (0xDA, 3, 10),
        (0xDA, 5, 2),
        (0xDA, 7, 0),
        (0xDA, 7, 9),
        (0xDA, 8, 1),
        (0xDA, 9, 0xFF),
        (0xDA, 9, 0x10),
        (0xC3, 3, 14),
        (0xC3, 4, 1),
        (0xC3, 4, 17),
        (0xC3, 11, 0),
    ],
    ids=[
        "longer scan header",
        "another component",
        "predictor 0",
        "predictor 9",
        "end",
        "shift",
        "bit of successive approximation",
        "longer frame header",
        "precision 1",
        "precision 17",
        "sampling",
    ],
)
def test_headers_without_sense_are_refused(marker, offset, value):
    stream = bytearray(lossless(chest()))
    stream[stream.index(bytes([0xFF, marker])) + offset] = value
    assert_refused(bytes(stream), "makes no sense")


def test_a_header_with_no_columns_is_refused():
    stream = bytearray(lossless(chest()))
    at = stream.index(b"\xff\xc3")
    stream[at + 7 : at + 9] = b"\0\0"
    assert_refused(bytes(stream), "makes no sense")


def test_a_damaged_byte_of_the_header_gives_no_other_image():
    """Other tables, predictors and a greater precision may fit the stream as well; of a real file, its range tells."""
    stream = lossless(chest())
    start = parse_single_scan(stream).start
    rest = set()
    for at in range(2, start):
        for value in (0, 1, 2, 4, 8, 9, 0x10, 0x40, 0x80, 0xFF):
            damaged = stream[:at] + bytes([value]) + stream[at + 1 :]
            try:
                pixels = decoded(damaged) if parse_single_scan(damaged) else chest()
            except (ValueError, RuntimeError):  # RuntimeError: of the decoder
                continue
            if not np.array_equal(pixels, chest()):
                rest.add(at)
    frame, tables, scan = (stream.index(bytes([0xFF, marker])) for marker in (0xC3, 0xC4, 0xDA))
    assert rest <= {frame + 4, *range(tables, scan), scan + 7}


def test_pixels_that_need_more_bits_than_the_stream_has_are_refused():
    stream = bytearray(lossless(chest()))
    stream[stream.index(b"\xff\xc3") + 4] = 10
    assert_refused(bytes(stream), "need more than the 10 bits")


def test_fill_bytes_hold_no_pixels_but_for_the_first():
    """Where all ones are a code, which no writer may use, a lost end that is filled with 255 looks like pixels."""
    steps = np.random.default_rng(9).integers(-60, 61, (64, 64))
    stream = stream_of((2**15 + np.cumsum(steps, axis=1)).astype(np.uint16), [3] * 8 + [0] * 9)
    for n in (2, 3, 100):
        assert_refused(stream[: -2 - n] + FILL * n + END, "ends before its last pixel")


@pytest.mark.parametrize(
    "table",
    [
        bytes([3, *[0] * 15, 0, 1, 2]),
        bytes([1, 1, *[0] * 14, 4, 4]),
        bytes([1, *[0] * 15, 17]),
        bytes([2, *[0] * 15, 1]),
    ],
    ids=["more codes than there are", "a category twice", "category 17", "cut"],
)
def test_tables_without_sense_are_refused(table):
    assert_refused(with_segment(lossless(chest()), 0xC4, b"\0" + table), "Huffman table|makes no sense")


def test_a_second_frame_makes_no_sense():
    stream = lossless(chest())
    frame = b"\x0c\xff\xff\xff\xff\x01\x01\x11\0"
    assert_refused(with_segment(stream, 0xC3, frame), "makes no sense")
    assert_refused(stream.replace(b"\xff\xc3", b"\xff\xc0"), "makes no sense")
    assert_refused(stream[: stream.index(b"\xff\xda")] + END, "makes no sense")


def test_restart_markers_and_several_components_are_left_to_others():
    stream = lossless(chest())
    assert parse_single_scan(with_segment(stream, 0xDD, b"\x01\0")) is None
    assert parse_single_scan(with_segment(stream, 0xDD, b"\0\0")) is not None
    assert parse_single_scan(lossless(np.stack([chest()] * 3, axis=2))) is None


def test_tables_of_coefficients_are_skipped():
    table = bytes([0x10, 1, *[0] * 15, 0xF0])
    np.testing.assert_array_equal(decoded(with_segment(lossless(chest()), 0xC4, table)), chest())
