"""CT series that arrive in an Orthanc server, put into the inbox of predict.py watch=true through Orthanc's REST API.

python -m cnr_iemn.service.orthanc url=http://127.0.0.1:8042 inbox=/data/inbox

The user and the password are taken from ORTHANC_USER and ORTHANC_PASSWORD. Each series comes once Orthanc calls it
stable (StableAge in its configuration). How far the list of changes has been read is kept in the inbox, so that nothing
is lost or taken twice while this, Orthanc or the inbox is down.
"""

import argparse
import base64
import json
import logging
import os
import shutil
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

from cnr_iemn.errors import CnrIemnError, ConfigurationError
from cnr_iemn.utils.atomic_io import write_text_atomic
from cnr_iemn.utils.console import start_logging

log = logging.getLogger(__name__)

_PAGE, _TIMEOUT = 100, 60.0
_LONGEST_PAUSE = 300.0


@dataclass
class Orthanc:
    """A server. ``url``: of its REST API; ``user``, ``password``: empty for none."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)

    def open(self, path: str) -> Any:
        """Return the response to a GET. Raises URLError or OSError."""
        request = urllib.request.Request(f"{self.url.rstrip('/')}/{path}")
        if self.user:
            token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        return urllib.request.urlopen(request, timeout=_TIMEOUT)

    def read(self, path: str) -> Any:
        """Return the JSON at a path."""
        with self.open(path) as response:
            return json.load(response)


class Poller:
    """Hands new CT series over.

    Args:
        server: Where they arrive.
        inbox: Where they go, a zip for each, named by Orthanc's identifier, which tells nothing of the patient.
    """

    def __init__(self, server: Orthanc, inbox: Path) -> None:
        self._server, self._inbox = server, inbox
        self._state = inbox / ".orthanc.json"

    @property
    def last_change(self) -> int:
        """Number of the last change that was read; 0 at first."""
        return int(json.loads(self._state.read_text(encoding="utf-8"))["last"]) if self._state.is_file() else 0

    def poll(self) -> int:
        """Take over what has arrived since the last time; return the number of series."""
        n_series, done = 0, False
        while not done:
            page = self._server.read(f"changes?since={self.last_change}&limit={_PAGE}")
            for change in page["Changes"]:
                if change["ChangeType"] == "StableSeries" and self._is_ct(change["ID"]):
                    self._download(change["ID"])
                    n_series += 1
                write_text_atomic(self._state, json.dumps({"last": change["Seq"]}))
            done = bool(page["Done"])
        return n_series

    def _is_ct(self, series: str) -> bool:
        """Return whether a series is there and CT: the results that come back to the server are of other kinds."""
        try:
            tags = self._server.read(f"series/{series}")["MainDicomTags"]
        except URLError as error:
            if getattr(error, "code", None) == 404:  # removed meanwhile
                return False
            raise
        return bool(tags.get("Modality") == "CT")

    def _download(self, series: str) -> None:
        partial = self._inbox / f"{series}.zip.part"
        with self._server.open(f"series/{series}/archive") as response, partial.open("wb") as file:
            shutil.copyfileobj(response, file)
        partial.rename(partial.with_suffix(""))
        log.info("took over series %s", series)


def watch(poller: Poller, *, seconds: float) -> None:
    """Poll for ever; where the server cannot be reached, wait longer each time, up to five minutes."""
    pause = seconds
    while True:
        try:
            poller.poll()
            pause = seconds
        except OSError as error:  # URLError is one
            pause = min(2 * pause, _LONGEST_PAUSE)
            log.warning("Orthanc or the inbox cannot be reached (%s). Next try in %.0f s.", error, pause)
        time.sleep(pause)


def main(arguments: list[str] | None = None) -> int:
    """Run the poller. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="key=value", help="url=, inbox= and seconds=5 between two looks")
    words = dict(word.partition("=")[::2] for word in parser.parse_args(arguments).words)
    start_logging()
    try:
        inbox = Path(words.get("inbox", ""))
        unknown = set(words) - {"url", "inbox", "seconds"}
        if unknown or not words.get("url") or not words.get("inbox") or not inbox.is_dir():
            raise ConfigurationError("Give url= of Orthanc's REST API and inbox=, a folder that exists.")
        user, password = (os.environ.get(f"ORTHANC_{name}", "") for name in ("USER", "PASSWORD"))
        watch(Poller(Orthanc(words["url"], user, password), inbox), seconds=float(words.get("seconds", "5")))
    except CnrIemnError as error:
        log.error("Error: %s", error)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
