"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


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
