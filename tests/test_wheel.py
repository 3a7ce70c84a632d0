"""A built wheel, installed away from the checkout, works alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cnr_iemn.cli import COMMANDS
from tests.pipeline import MODELS, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel and nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed package's command away from the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "cnr_iemn", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_carries_configuration_scripts_and_licence(installed: Path) -> None:
    assert (installed / "cnr_iemn" / "conf" / "model" / "densenet161.yaml").is_file()
    scripts = {path.stem for path in (installed / "cnr_iemn" / "commands").iterdir()}
    assert scripts == set(COMMANDS)
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))
    assert (installed / "cnr_iemn" / "report" / "templates" / "scan.html").is_file()
    assert not (installed / "tests").exists()


def test_the_installed_package_composes_its_configuration(installed: Path, tmp_path: Path) -> None:
    where = "import cnr_iemn; print(cnr_iemn.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(installed))
    done = run(installed, tmp_path, "train", "model=densenet161", "--cfg", "job")
    assert done.returncode == 0
    assert "name: densenet161" in done.stdout
    assert run(installed, tmp_path, "train", "model=densenet16").returncode == 2
    assert "not a command" in run(installed, tmp_path, "trains").stderr


def test_the_installed_package_aggregates_and_predicts(installed: Path, tiny_study: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_study / "runs", tmp_path / "runs")
    (scan,) = tiny_study.glob("cache/phantom-*/COVID-19 subjects/P005")
    ensemble = f"ensemble=[{','.join(MODELS)}]"
    done = run(installed, tmp_path, "aggregate", "study=tiny", ensemble)
    assert done.returncode == 0, done.stderr
    assert "Table 2" in done.stdout
    done = run(installed, tmp_path, "predict", f"input={scan}", "study=tiny", ensemble, "gpus=0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "tiny" / "predictions" / "P005" / "predictions.json").is_file()
