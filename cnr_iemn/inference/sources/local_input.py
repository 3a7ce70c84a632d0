"""What ``input=`` names, as a folder or file that ``find_new_scans`` takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnr_iemn.ct.io.discovery import is_zip
from cnr_iemn.inference.sources.archive import unpack_scans
from cnr_iemn.inference.sources.dicomdir import is_dicomdir, link_series
from cnr_iemn.inference.sources.dicomweb import is_remote, receive_series
from cnr_iemn.utils.scratch import scratch_folder


@contextmanager
def local_input(source: str, *, anonymous: bool = False) -> Iterator[Path]:
    """Give the place of an input's scans on this disk: the input itself, or a temporary folder made of it.

    Args:
        source: The input: a path or a DICOMweb address.
        anonymous: Whether messages must not name it.

    Yields:
        A folder or file; a temporary one is removed at the end.

    Raises:
        CohortError: A DICOMDIR is damaged or incomplete, or a server does not give what it lists.
        ConfigurationError: The address is no DICOMweb address, or no temporary folder can be made.
    """
    if is_remote(source):
        with scratch_folder() as folder:
            receive_series(source, folder)
            yield folder
        return
    path = Path(source)
    if is_dicomdir(path):
        with scratch_folder() as folder:
            link_series(path, folder, label="the DICOMDIR" if anonymous else None)
            yield folder
    elif path.is_file() and is_zip(path):
        with scratch_folder() as folder:
            yield unpack_scans(path, folder) or path
    else:
        yield path
