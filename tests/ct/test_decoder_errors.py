"""A decoder that keeps an error to itself and returns what it has of an image."""

import sys
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from benchmarks.damage import damage, make_slice
from cnr_iemn.ct.io.pixel_data import decode_pixels, frames_of
from cnr_iemn.ct.io.slice_header import read_headers
from cnr_iemn.errors import ScanError


def test_an_error_that_a_decoder_keeps_to_itself_refuses_the_slice(tmp_path, monkeypatch):
    """HTJ2K: the decoder prints its error; the image is not constant, and no range is stated that would tell."""
    rng = np.random.default_rng(0)
    content, _ = make_slice("HTJ2K", rng)
    path = tmp_path / "a.dcm"
    path.write_bytes(content)
    (header,) = read_headers(path, "a.dcm")
    pixels = replace(header.pixels, smallest=None, largest=None)
    (whole,) = frames_of(content, pixels, "a.dcm")
    errors: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    streams = [stream for stream in (_noise_in(whole, rng) for _ in range(300)) if _part_of_an_image(stream, errors)]
    errors.clear()
    assert streams
    for stream in streams:
        with pytest.raises(
            ScanError, match=r"^a\.dcm: the JPEG stream cannot be decoded to its end\. Scan refused; copy"
        ):
            decode_pixels(stream, pixels, "a.dcm")
    assert not errors  # nothing is printed either


def _noise_in(stream, rng):
    return damage(stream, "noise", 150, len(stream) - 2, rng)


def _part_of_an_image(stream, errors):
    errors.clear()
    try:
        image = imagecodecs.htj2k_decode(stream.rstrip(b"\0"))
    except imagecodecs.Htj2kError:
        return False
    whole_file = stream.rstrip(b"\0").endswith(b"\xff\xd9") and image.shape == (256, 256)
    return bool(errors) and whole_file and image.min() < image.max()
