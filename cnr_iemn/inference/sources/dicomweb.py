"""Series from a DICOMweb server, each as a folder of DICOM files (extra ``dicomweb``)."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit, urlunsplit

from cnr_iemn.ct.io.dicom_file import PARSE_ERRORS, suppress_library_messages
from cnr_iemn.ct.io.folders import LEFT_FREE, MAX_BYTES, MAX_FILES
from cnr_iemn.errors import CohortError, ConfigurationError, ScanError
from cnr_iemn.utils.sandbox import run_limited

PREFIX = "dicomweb+"
TOKEN = "CNR_IEMN_DICOMWEB_TOKEN"
"""Environment variable of a bearer token; without one, ~/.netrc is asked."""
SECONDS = 4 * 3600.0
"""For all series of an input."""
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_KEYS = ("StudyInstanceUID", "SeriesInstanceUID")
_EXAMPLE = "dicomweb+https://HOST/PATH?StudyInstanceUID=..."
_SOP_INSTANCE, _SERIES_INSTANCE, _SERIES_NUMBER = "00080018", "0020000E", "00200011"


@dataclass(frozen=True)
class Query:
    """What an address asks for. ``host``: for messages, which name no UID. ``series``: empty for every CT series."""

    service: str
    host: str
    study: str
    series: str


def is_remote(address: str) -> bool:
    """Tell whether an input is a DICOMweb address."""
    return address.startswith(PREFIX)


def parse_query(address: str) -> Query:
    """Return what an address asks for.

    Args:
        address: ``dicomweb+https://HOST/PATH?StudyInstanceUID=...``, to which ``&SeriesInstanceUID=...`` may be added.

    Raises:
        ConfigurationError: It is no such address, is not encrypted, or holds a password.
    """
    try:
        url = urlsplit(address.removeprefix(PREFIX))
        host = url.netloc.rpartition("@")[2]
        values = parse_qs(url.query, strict_parsing=True)
    except ValueError as error:
        raise ConfigurationError(f"input is not a DICOMweb address ({error}). Give {_EXAMPLE}") from error
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOOPBACK):
        raise ConfigurationError(
            f"input={PREFIX}{url.scheme}://... would carry patients' images unencrypted. Give {_EXAMPLE}; http is "
            "for this machine alone."
        )
    if url.username is not None or not url.hostname:
        raise ConfigurationError(
            f"input must name a host, and no user or password: other programs see the command. Give {_EXAMPLE} and "
            f"the password in ~/.netrc, or a token in {TOKEN}."
        )
    if set(values) - set(_KEYS) or any(len(uids) > 1 for uids in values.values()) or _KEYS[0] not in values:
        raise ConfigurationError(
            f"input must name one StudyInstanceUID, and may name one SeriesInstanceUID: {_EXAMPLE}"
        )
    service = urlunsplit(SplitResult(url.scheme, url.netloc, url.path.rstrip("/"), "", ""))
    return Query(service, host, values[_KEYS[0]][0], values.get(_KEYS[1], [""])[0])


def receive_series(address: str, folder: Path) -> None:
    """Write a folder for each CT series of a DICOMweb address: series-1 and so on, in order of the series' numbers.

    A limited process talks to the server, whose answers are checked against its own list of instances.

    Args:
        address: The address.
        folder: Where the folders are made.

    Raises:
        ConfigurationError: The address cannot be used.
        CohortError: The server cannot be reached, refuses, or gives other instances than it lists.
    """
    query = parse_query(address)
    ((_, answer),) = run_limited(_receive, [(query, folder)], workers=1, seconds=SECONDS)
    if isinstance(answer, ScanError):
        raise CohortError(f"The answer of the DICOMweb server {query.host} was not taken: {answer}")


@suppress_library_messages()
def _receive(job: tuple[Query, Path]) -> None:
    """Fetch all series. Runs in the limited process."""
    import requests
    from dicomweb_client.api import DICOMwebClient

    query, folder = job
    session = requests.Session()
    session.max_redirects = 0  # to whom, the user has not said
    if token := os.environ.get(TOKEN):
        session.headers["Authorization"] = f"Bearer {token}"
    try:
        client = DICOMwebClient(query.service, session=session, permissive_uid=True)
        client.set_http_retry_params(retry=True, max_attempts=3, wait_exponential_multiplier=500)
        series = [query.series] if query.series else _list_series(client, query)
        for number, uid in enumerate(series, start=1):
            _receive_one(client, query, uid, folder / f"series-{number}")
    except (requests.RequestException, *PARSE_ERRORS, LookupError, RuntimeError) as error:
        response = error.response if isinstance(error, requests.RequestException) else None
        status = None if response is None else response.status_code
        what = f"answers {status}" if status else f"cannot be reached or gives no DICOM ({type(error).__name__})"
        raise CohortError(
            f"The DICOMweb server {query.host} {what}. Check the address, the UIDs, and the rights: ~/.netrc, or a "
            f"token in {TOKEN}."
        ) from None


def _list_series(client: Any, query: Query) -> list[str]:
    """Return the UIDs of the study's CT series, in order of their numbers."""
    uids: dict[str, int] = {}
    while True:
        page = client.search_for_series(query.study, offset=len(uids), search_filters={"Modality": "CT"})
        new = {_first(entry, _SERIES_INSTANCE): int(_first(entry, _SERIES_NUMBER) or 0) for entry in page}
        if new.keys() <= uids.keys() or len(uids) > MAX_FILES:
            break
        uids |= new
    if not uids:
        raise CohortError(f"The DICOMweb server {query.host} has no CT series of this study. Check its UID.")
    return sorted(uids, key=lambda uid: (uids[uid], uid))


def _list_instances(client: Any, query: Query, series: str) -> set[str]:
    """Return the UIDs of a series' instances, page by page; a server that knows no pages gives all of them again."""
    uids: set[str] = set()
    while True:
        page = client.search_for_instances(query.study, series, offset=len(uids))
        new = {_first(entry, _SOP_INSTANCE) for entry in page}
        if new <= uids or len(uids) > MAX_FILES:
            return uids
        uids |= new


def _first(entry: dict[str, dict[str, Any]], tag: str) -> str:
    """Return the first value of an element in DICOM JSON, empty where there is none."""
    return str(next(iter(entry.get(tag, {}).get("Value", [])), ""))


def _receive_one(client: Any, query: Query, series: str, folder: Path) -> None:
    """Write the instances of one series, which must be those that the server lists."""
    listed, received = _list_instances(client, query, series), set()
    folder.mkdir()
    left = MAX_BYTES
    stored = (("application/dicom", "*"),)  # in the transfer syntax that the server has
    for number, instance in enumerate(client.iter_series(query.study, series, media_types=stored)):
        path = folder / f"{number:05d}.dcm"
        instance.save_as(path)
        left -= path.stat().st_size
        if number >= MAX_FILES or left < 0 or shutil.disk_usage(folder).free < LEFT_FREE:
            raise CohortError(
                f"The DICOMweb server {query.host} gives a series of more than {MAX_FILES:,} files or {MAX_BYTES:,} "
                "bytes, or the disk is full. Name the series of one scan (SeriesInstanceUID), or free space."
            )
        received.add(str(instance.get("SOPInstanceUID", "")))
    if received != listed:
        raise CohortError(
            f"The DICOMweb server {query.host} lists {len(listed):,} instances of a series and gave "
            f"{len(received & listed):,} of them and {len(received - listed):,} others: slices may be missing. Run the "
            "command again."
        )
