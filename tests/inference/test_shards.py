"""Several commands share the scans of one input, and the stores of one cohort; together they do what one would."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnr_iemn.inference.answers import FOLDER
from cnr_iemn.utils.atomic_io import exclusive
from cnr_iemn.utils.shard import shard_of
from tests.pipeline import ROOT, SMALL_MODEL, TINY, entry_point

PARTS = 2


def test_a_scan_belongs_to_one_shard_whatever_others_there_are() -> None:
    scans = [f"P{k:03d}" for k in range(3000)]
    shares = [shard_of(scan, 10) for scan in scans]
    assert set(shares) == set(range(10))
    assert all(200 < shares.count(k) < 400 for k in range(10))
    # fixed for ever: parts of one output may run under several versions
    assert [shard_of(scan, 100) for scan in ("P001", "scan-0001", "a/b", "ü")] == [19, 9, 61, 28]
    assert shard_of("P001", None) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["part=0"], "part=0 and parts=null belong together"),
        (["parts=3"], "part=null and parts=3 belong together"),
        (["part=3", "parts=3"], "part=3 is not one of the 3 parts. Give 0 to 2."),
    ],
)
@pytest.mark.parametrize("name", ["predict", "prepare"])
def test_a_part_that_cannot_be_is_refused(
    name: str, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = ["study=x", "input=x"] if name == "predict" else []
    assert entry_point(name)([*study, *words]) == 2
    assert reason in capsys.readouterr().err


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"{name}.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def contents(output: Path) -> dict[str, bytes]:
    files = (path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def words(tiny_study: Path, small_study: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of predict.py on three phantoms and a scan that is refused, some in each part."""
    scans = tmp_path_factory.mktemp("parts") / "scans"
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    for name in ("P001", "P002", "bad", "normal001"):
        (scan,) = cohort.parent.glob(f"*/{'P003' if name == 'bad' else name}")
        shutil.copytree(scan, scans / name)
    victim = min((scans / "bad").iterdir())
    victim.write_bytes(victim.read_bytes()[:-200])
    assert {shard_of(path.name, PARTS) for path in scans.iterdir()} == set(range(PARTS))
    ensemble = [f"runs={small_study / 'runs'}", "study=tiny", f"ensemble={SMALL_MODEL}"]
    return [*ensemble, f"input={scans}", "gpus=0", "engine=torch", "pages=false"]


def test_parts_at_the_same_time_are_joined_to_what_one_command_writes(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    predict = entry_point("predict")
    assert predict([*words, f"output={whole}"]) == 1
    with ThreadPoolExecutor() as threads:
        jobs = [
            threads.submit(run, "predict", *words, f"output={out}", f"part={k}", f"parts={PARTS}") for k in range(PARTS)
        ]
        done = [job.result() for job in jobs]
    assert sorted(job.returncode for job in done) == [0, 1], [job.stderr for job in done]  # one has the bad scan
    assert all(f"Part {k} of {PARTS}" in done[k].stdout.replace("part", "Part") for k in range(PARTS))
    assert contents(out) == {}
    capsys.readouterr()
    assert predict([*words, f"output={out}", "join=true"]) == 1
    assert contents(out) == contents(whole)
    assert "1 of 4 scans were refused:\n  bad" in capsys.readouterr().err
    assert predict([*words, f"output={out}"]) == 1  # which has nothing left to predict
    assert "Each of the 4 scans has an answer" in capsys.readouterr().out


def test_parts_that_lack_are_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, predict = tmp_path / "out", entry_point("predict")
    assert predict([*words, f"output={out}", "join=true"]) == 2
    assert "4 of 4 scans have no answer with these settings: bad, normal001, P001, P002." in (capsys.readouterr().err)
    assert not out.exists()
    (number,) = {shard_of("P001", PARTS)}
    with exclusive(out / FOLDER / f".part-{number}-of-{PARTS}.lock", lambda: None):
        assert predict([*words, f"output={out}", f"part={number}", f"parts={PARTS}"]) == 2
        assert f"Another predict.py writes into {out}." in capsys.readouterr().err
    with exclusive(out / FOLDER / ".lock", lambda: None):  # a command without part=
        assert predict([*words, f"output={out}", f"part={number}", f"parts={PARTS}"]) == 2
    assert predict([*words, f"output={out}", f"part={number}", f"parts={PARTS}"]) in (0, 1)
    capsys.readouterr()
    assert predict([*words, f"output={out}", "join=true"]) == 1
    assert "scans have no answer with these settings" in capsys.readouterr().err
    answered = {answer["scan"] for answer in json.loads((out / "predictions.json").read_text())["scans"]}
    assert answered == {name for name in ("P001", "P002", "normal001") if shard_of(name, PARTS) == number}


def stored(cache: Path) -> dict[str, bytes]:
    """Return the files of the scans of the one store in a cache."""
    (settings,) = cache.glob("*/*/settings.json")
    files = (path for path in settings.parent.rglob("*") if path.is_file() and path.name != "report.html")
    return {str(path.relative_to(settings.parent)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_one_store_is_prepared_by_several_commands_at_once(tiny_study: Path, tmp_path: Path) -> None:
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    options = [word for word in TINY if word.startswith(("data.labelled_normals", "data.split", "ingest"))]
    words = ["data=covid_ct_md", f"data.root={cohort.parent}", *options]
    assert entry_point("prepare")([*words, f"ingest.cache={tmp_path / 'one'}"]) == 0
    shared = [*words, f"ingest.cache={tmp_path / 'shared'}"]
    with ThreadPoolExecutor() as threads:  # two parts, and two commands that both want all scans
        parts = [["part=0", "parts=2"], ["part=1", "parts=2"], [], []]
        done = [threads.submit(run, "prepare", *shared, *part) for part in parts]
        assert [job.result().returncode for job in done] == [0, 0, 0, 0], [job.result().stderr for job in done]
    assert stored(tmp_path / "shared") == stored(tmp_path / "one")
    assert not list((tmp_path / "shared").rglob(".*"))
