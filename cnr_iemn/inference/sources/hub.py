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


def local_bundle(bundle: str) -> Path:
    """Return the folder of a bundle, which is fetched where it is named on the Hub and not in the cache.

    Args:
        bundle: A folder, or ``hf:OWNER/NAME@REVISION``; the revision is a tag, a commit or a branch. Its files are
            checked when the bundle is opened, as those of any folder.

    Raises:
        ConfigurationError: The name has no revision, or another form.
        RunError: The bundle is not there, or neither in the cache nor in reach.
    """
    if not bundle.startswith(PREFIX):
        return Path(bundle)
    match = _BUNDLE.fullmatch(bundle)
    if match is None:
        raise ConfigurationError(
            f"bundle={bundle} does not name a bundle and its revision, without which the weights could change "
            f"unnoticed. Give bundle={PREFIX}OWNER/NAME@REVISION with a tag or commit, or a folder."
        )
    folder = _fetch(bundle, repository=match[1], revision=match[2])
    log.info("%s is commit %s", bundle, folder.name)
    return folder


def _fetch(bundle: str, *, repository: str, revision: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision))
    except LocalEntryNotFoundError as error:
        raise RunError(
            f"{bundle} is missing or incomplete in the cache {constants.HF_HUB_CACHE}, and the Hub cannot be reached "
            "or is switched off (HF_HUB_OFFLINE). Run the command once where it can, copy that cache here (HF_HOME), "
            "or give the bundle as a folder."
        ) from error
    except RevisionNotFoundError as error:
        raise RunError(
            f"{bundle}: {repository} has no revision {revision}. Give one of its tags or commits."
        ) from error
    except HfHubHTTPError as error:
        raise RunError(
            f"{bundle}: the Hub refuses it (status {error.response.status_code}). Check the name, and HF_TOKEN where "
            "it is private."
        ) from error
    except Exception as error:
        raise RunError(
            f"{bundle} cannot be fetched ({type(error).__name__}). Try again, or give the bundle as a folder."
        ) from error


def parse_repository(push: str) -> str:
    """Return OWNER/NAME of ``hf:OWNER/NAME``. Raises ConfigurationError."""
    match = _REPOSITORY.fullmatch(push)
    if match is None:
        raise ConfigurationError(f"push={push} names no repository. Give push={PREFIX}OWNER/NAME.")
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
