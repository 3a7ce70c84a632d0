"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from cnr_iemn.utils.console import start_logging
from tests.browser import find_browser
from tests.pipeline import MODELS, QUICK, TINY, entry_point


def pytest_configure() -> None:
    """Show the package's messages, as the entry points do, and give each test process one thread.

    There is one process on each core, and more threads than cores wait for each other.
    """
    start_logging()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads OpenMP; subprocesses have it, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a trained study as slow, and those that open a page as browser."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture, mark in (("tiny_study", "slow"), ("browser", "browser")):
            if fixture in fixtures:
                item.add_marker(mark)


@pytest.fixture(scope="session")
def sample_root() -> Path:
    """The three real COVID-CT-MD scans with the label arrays, where the environment names them."""
    value = os.environ.get("COVID_CT_MD_SAMPLE")
    if not value:
        pytest.skip("COVID_CT_MD_SAMPLE is not set: the tests on real scans need the public sample of COVID-CT-MD")
    root = Path(value)
    if not root.is_dir():
        pytest.fail(f"COVID_CT_MD_SAMPLE={value} is not a folder")
    return root


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cache/ and runs/tiny: two backbones trained for an epoch and aggregated. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    cache, runs = f"ingest.cache={folder / 'cache'}", f"runs={folder / 'runs'}"
    ensemble = f"ensemble=[{','.join(MODELS)}]"
    assert entry_point("train")(["-m", *TINY, cache, runs, "study=tiny", f"model={','.join(MODELS)}"]) == 0
    assert entry_point("aggregate")([runs, "study=tiny", ensemble, *QUICK]) == 0
    return folder


@pytest.fixture(scope="session")
def varied_study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/tiny on the store of the tiny study: at ten times its rate not every slice is called Normal.

    So slices contribute to a prediction. Not to be changed.
    """
    folder = tmp_path_factory.mktemp("varied")
    cache, runs = f"ingest.cache={tiny_study / 'cache'}", f"runs={folder / 'runs'}"
    models, ensemble = f"model={','.join(MODELS)}", f"ensemble=[{','.join(MODELS)}]"
    assert entry_point("train")(["-m", *TINY, cache, runs, "study=tiny", models, "trainer.learning_rate=0.001"]) == 0
    assert entry_point("aggregate")([runs, "study=tiny", ensemble, *QUICK]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's browser; of a module, since its event loop would be in the way of others."""
    found = find_browser()
    if found is None:
        pytest.skip("neither Chromium nor Chrome is installed: the pages cannot be opened as their readers do")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        instance = playwright.chromium.launch(executable_path=found, args=arguments)
        yield instance
        instance.close()
