"""Fixtures shared by all tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, sync_playwright

from cnr_iemn.utils.atomic_io import exclusive
from cnr_iemn.utils.console import start_logging
from tests.browser import find_browser
from tests.pipeline import MODELS, QUICK, SMALL, SMALL_MODEL, TINY, entry_point


def pytest_configure() -> None:
    """Show the package's messages, as the entry points do, and give each test process one thread.

    There is one process on each core, and more threads than cores wait for each other.
    """
    start_logging()
    # no example is drawn by chance, and none fails because the machine is busy
    settings.register_profile("tests", deadline=None, derandomize=True, database=None)
    settings.load_profile("tests")
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

    def make(folder: Path) -> None:
        train_and_aggregate(folder / "cache", folder / "runs")

    return made_once("tiny", tmp_path_factory, make)


@pytest.fixture(scope="session")
def varied_study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/tiny on the store of the tiny study: at ten times its rate not every slice is called Normal.

    So slices contribute to a prediction. Not to be changed.
    """

    def make(folder: Path) -> None:
        train_and_aggregate(tiny_study / "cache", folder / "runs", "trainer.learning_rate=0.001")

    return made_once("varied", tmp_path_factory, make)


@pytest.fixture(scope="session")
def small_study(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/tiny on the store of the tiny study: of one small network, for tests that any network serves.

    Not to be changed.
    """
    pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")

    def make(folder: Path) -> None:
        words = [f"runs={folder / 'runs'}", "study=tiny"]
        assert entry_point("train")([*TINY, *SMALL, *words, f"ingest.cache={tiny_study / 'cache'}"]) == 0
        assert entry_point("aggregate")([*words, f"ensemble={SMALL_MODEL}", *QUICK]) == 0

    return made_once("small", tmp_path_factory, make)


def made_once(name: str, factory: pytest.TempPathFactory, make: Callable[[Path], None]) -> Path:
    """Return a folder that ``make`` has filled, once for all test processes: the first fills it, others wait."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers' common folder
    folder, mark = base / name, base / f"{name}.made"
    with exclusive(base / f"{name}.lock", lambda: None):
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a process that failed has left
            folder.mkdir()
            make(folder)
            mark.touch()
    return folder


def train_and_aggregate(cache: Path, runs: Path, *more: str) -> None:
    words = [f"runs={runs}", "study=tiny"]
    train = [*TINY, *words, f"ingest.cache={cache}", f"model={','.join(MODELS)}", *more]
    assert entry_point("train")(["-m", *train]) == 0
    assert entry_point("aggregate")([*words, f"ensemble=[{','.join(MODELS)}]", *QUICK]) == 0


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
