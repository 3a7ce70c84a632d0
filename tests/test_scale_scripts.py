"""The scripts of docs/guide/scale.md: checked by shellcheck, printed on the page as they are, each run once."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnr_iemn.inference.answers import FOLDER
from tests.pipeline import ROOT, SMALL_MODEL, entry_point

SCRIPTS = ROOT / "docs" / "guide" / "scale"
PARTS = 2


def shell_texts() -> dict[str, str]:
    texts = {path.name: path.read_text(encoding="utf-8") for path in SCRIPTS.glob("*.sh")}
    container = kubernetes()["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["sh", "-c"]
    return {**texts, "kubernetes.yaml": "#!/bin/sh\n" + "\n".join(container["args"]) + "\n"}


def kubernetes() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SCRIPTS / "kubernetes.yaml").read_text(encoding="utf-8"))
    return document


def test_the_page_prints_the_scripts_as_they_are() -> None:
    page = (ROOT / "docs" / "guide" / "scale.md").read_text(encoding="utf-8")
    printed = re.findall(r"```(?:bash|yaml)\n(.*?)```", page, flags=re.DOTALL)
    assert sorted(printed) == sorted(path.read_text(encoding="utf-8") for path in SCRIPTS.iterdir())


@pytest.mark.parametrize("name", ["slurm.sh", "multirun.sh", "parallel.sh", "kubernetes.yaml"])
def test_a_script_is_clean(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(shell_texts()[name], encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    left_out = "SC2086" if name == "kubernetes.yaml" else "SC0000"  # its words are split on purpose
    done = subprocess.run(["shellcheck", "-e", left_out, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_indexed_job_has_a_part_for_each_index() -> None:
    spec = kubernetes()["spec"]
    environment = {entry["name"]: entry["value"] for entry in spec["template"]["spec"]["containers"][0]["env"]}
    assert spec["completionMode"] == "Indexed"
    assert int(environment["PARTS"]) == spec["completions"]


@pytest.fixture(scope="module")
def words(tiny_study: Path, small_study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    scans = tmp_path_factory.mktemp("scale") / "scans"
    for name in ("P001", "P002"):  # one in each part
        (source,) = tiny_study.glob(f"cache/phantom-*/*subjects/{name}")
        shutil.copytree(source, scans / name)
    ensemble = [f"runs={small_study / 'runs'}", "study=tiny", f"ensemble={SMALL_MODEL}"]
    return [*ensemble, f"input={scans}", "gpus=0", "engine=torch", "pages=false"]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("whole") / "out"
    assert entry_point("predict")([*words, f"output={output}"]) == 0
    return contents(output)


def contents(output: Path) -> dict[str, bytes]:
    files = (path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def run(name: str, words: list[str], folder: Path, **environment: str) -> None:
    path = folder / name
    path.write_text(shell_texts()[name], encoding="utf-8")
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": search_path, "PYTHONPATH": str(ROOT), **environment}
    shell = "sh" if name.endswith(".yaml") else "bash"
    done = subprocess.run(
        [shell, path, *words], cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["slurm.sh", "kubernetes.yaml"])
def test_an_array_and_an_indexed_job(name: str, words: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    """The last job of each; the first part, which a script that knows no part would predict, is there already."""
    words = [*words, f"output={tmp_path / 'out'}"]
    assert entry_point("predict")([*words, "part=0", f"parts={PARTS}"]) == 0
    k = str(PARTS - 1)
    if name == "slurm.sh":
        run(name, words, tmp_path, SLURM_ARRAY_TASK_ID=k, SLURM_ARRAY_TASK_COUNT=str(PARTS))
    else:
        run(name, [], tmp_path, JOB_COMPLETION_INDEX=k, PARTS=str(PARTS), WORDS=" ".join(words))
    assert entry_point("predict")([*words, "join=true"]) == 0
    assert contents(tmp_path / "out") == whole


def test_a_multirun_with_submitit(words: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="an extra: pip install '.[launchers]'")
    words = [*words, f"output={tmp_path / 'out'}"]
    run("multirun.sh", words, tmp_path, PARTS=str(PARTS), LAUNCHER="submitit_local", GPUS="0")
    assert contents(tmp_path / "out") == whole


def test_gnu_parallel(words: list[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    if shutil.which("parallel") is None:
        pytest.skip("GNU parallel is not installed")
    words = [*words, f"output={tmp_path / 'out'}"]
    run("parallel.sh", words, tmp_path, PARTS=str(PARTS), JOBS="1")
    assert contents(tmp_path / "out") == whole
