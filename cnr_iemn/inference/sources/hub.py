"""Bundles by name on the Hugging Face Hub, through its own client and cache (extra ``hub``)."""

import logging
import re
from pathlib import Path

from cnr_iemn.errors import ConfigurationError, RunError

log = logging.getLogger(__name__)

PREFIX = "hf:"
_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_BUNDLE = re.compile(rf"{PREFIX}({_NAME})@([\w./-]+)")
_REPOSITORY = re.compile(rf"{PREFIX}({_NAME})")


def local_bundle(given: str) -> Path:
    """Return the folder of a bundle, which is fetched where it is named on the Hub and not in the cache.

    Args:
        given: A folder, or ``hf:OWNER/NAME@REVISION``; the revision is a tag, a commit or a branch. Its files are
            checked when the bundle is opened, as those of any folder.

    Raises:
        ConfigurationError: The name has no revision, or another form.
        RunError: The bundle is not there, or neither in the cache nor in reach.
    """
    if not given.startswith(PREFIX):
        return Path(given)
    match = _BUNDLE.fullmatch(given)
    if match is None:
        raise ConfigurationError(
            f"bundle={given} does not name a bundle and its revision, without which the weights could change "
            f"unnoticed. Give bundle={PREFIX}OWNER/NAME@REVISION with a tag or commit, or a folder."
        )
    folder = _fetch(given, name=match[1], revision=match[2])
    log.info("%s is commit %s", given, folder.name)
    return folder


def _fetch(given: str, *, name: str, revision: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except LocalEntryNotFoundError as error:
        raise RunError(
            f"{given} is not, or not whole, in the cache {constants.HF_HUB_CACHE}, and the Hub cannot be reached or is "
            "switched off (HF_HUB_OFFLINE). Run the command once where it can, copy that cache here (HF_HOME), or give "
            "the bundle as a folder."
        ) from error
    except RevisionNotFoundError as error:
        raise RunError(f"{given}: {name} has no revision {revision}. Give one of its tags or commits.") from error
    except HfHubHTTPError as error:
        raise RunError(
            f"{given}: the Hub refuses it (status {error.response.status_code}). Check the name, and HF_TOKEN where it "
            "is private."
        ) from error
    except Exception as error:
        raise RunError(
            f"{given} cannot be fetched ({type(error).__name__}). Try again, or give the bundle as a folder."
        ) from error


def parse_repository(given: str) -> str:
    """Return OWNER/NAME of ``hf:OWNER/NAME``. Raises ConfigurationError."""
    match = _REPOSITORY.fullmatch(given)
    if match is None:
        raise ConfigurationError(f"push={given} names no repository. Give push={PREFIX}OWNER/NAME.")
    return match[1]


def push_bundle(folder: Path, repository: str) -> str:
    """Make a bundle the content of a repository on the Hub; a new one is private.

    Args:
        folder: The bundle.
        repository: OWNER/NAME.

    Returns:
        The commit.

    Raises:
        RunError: The Hub refuses it or cannot be reached. The bundle stays.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="A bundle of export.py", delete_patterns="*"
        )
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        reason = type(error).__name__ if status is None else f"status {status}"
        raise RunError(
            f"{folder} is written, but {PREFIX}{repository} was not changed ({reason}). Set HF_TOKEN to a token that "
            "may write there, and run the command again with overwrite=true."
        ) from error
    return str(commit.oid)
