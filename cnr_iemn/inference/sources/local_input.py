"""What ``input=`` names, as a folder or file that ``find_new_scans`` takes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cnr_iemn.ct.io.discovery import is_zip
from cnr_iemn.ct.io.image_stack import ImageStack
from cnr_iemn.ct.source_signature import content_signature, place_signature, source_signature
from cnr_iemn.inference.sources.archive import unpack_scans
from cnr_iemn.inference.sources.dicomdir import is_dicomdir, link_series
from cnr_iemn.inference.sources.dicomweb import is_remote, receive_series
from cnr_iemn.utils.scratch import scratch_folder


@dataclass(frozen=True)
class LocalInput:
    """The scans of an input on this disk.

    Attributes:
        path: A folder or file that ``find_new_scans`` takes.
        signature: Of the files of one of its scans: the same in each command while they are unchanged, though a
            temporary folder is new each time.
        place: Hash of where the files of one of its scans are; "" in a temporary folder, and where names must not show.
    """

    path: Path
    signature: Callable[[Path | ImageStack], str]
    place: Callable[[Path | ImageStack], str] = lambda _: ""


@contextmanager
def local_input(source: str, *, anonymous: bool = False) -> Iterator[LocalInput]:
    """Give an input's scans on this disk: the input itself, or a temporary folder made of it.

    Args:
        source: The input: a path or a DICOMweb address.
        anonymous: Whether messages and signatures must not name it.

    Yields:
        The scans; a temporary folder is removed at the end.

    Raises:
        CohortError: A DICOMDIR is damaged or incomplete, or a server does not give what it lists.
        ConfigurationError: The address is no DICOMweb address, or no temporary folder can be made.
    """
    signature = partial(source_signature, names=not anonymous)
    if is_remote(source):
        with scratch_folder() as folder:
            receive_series(source, folder)
            yield LocalInput(folder, _received_signature)
        return
    path = Path(source)
    if is_dicomdir(path):
        medium = signature(path)
        with scratch_folder() as folder:
            link_series(path, folder, label="the DICOMDIR" if anonymous else None)
            yield LocalInput(folder, partial(_linked_signature, medium))
    elif path.is_file() and is_zip(path):
        archive = signature(path)  # before it is unpacked: a later change shows
        with scratch_folder() as folder:
            yield LocalInput(unpack_scans(path, folder) or path, lambda _: archive)
    else:
        yield LocalInput(path, signature) if anonymous else LocalInput(path, signature, place_signature)


def _linked_signature(medium: str, source: Path | ImageStack) -> str:
    """Return the signature of a series of a DICOMDIR: the files that its links lead to, and ``medium``, the DICOMDIR.

    The number of a series is its own as long as the DICOMDIR is unchanged.
    """
    return hashlib.sha256(f"{medium} {source_signature(source, names=False)}".encode()).hexdigest()


def _received_signature(source: Path | ImageStack) -> str:
    """Return the signature of a series from a server, which gives no times: it is of the content."""
    assert isinstance(source, Path)  # only DICOM comes
    return content_signature(source)
