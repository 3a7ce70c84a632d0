"""predict.py as a stream: answers are kept as they come, and the same command goes on where it was."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cnr_iemn.inference.answers import FOLDER
from cnr_iemn.inference.networks import EnsembleNetworks
from cnr_iemn.inference.prediction_writer import PredictionWriter
from cnr_iemn.utils.atomic_io import exclusive
from tests.pipeline import MODELS, ROOT, SMALL_MODEL, entry_point

pytestmark = pytest.mark.slow

TABLES = ("predictions.json", "predictions.csv", "slices.csv", "predictions.parquet")
SCANS = ("P001", "P002", "P003", "bad", "normal001")
Predict = Callable[..., int]


@pytest.fixture(scope="module")
def source(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four phantoms and a scan that is refused. Not to be changed."""
    (cohort,) = tiny_study.glob("cache/phantom-*/Index.csv")
    folder = tmp_path_factory.mktemp("stream") / "scans"
    for name in SCANS:
        (scan,) = cohort.parent.glob(f"*/{'P004' if name == 'bad' else name}")
        shutil.copytree(scan, folder / name)
    victim = min((folder / "bad").iterdir())
    victim.write_bytes(victim.read_bytes()[:-200])
    return folder


@pytest.fixture
def scans(source: Path, tmp_path: Path) -> Path:
    """A copy of the scans for a test that changes them."""
    return Path(shutil.copytree(source, tmp_path / "scans"))


def words_for(study: Path, scans: Path, models: Sequence[str] = (SMALL_MODEL,)) -> list[str]:
    ensemble = [f"runs={study / 'runs'}", "study=tiny", f"ensemble=[{','.join(models)}]"]
    return [*ensemble, f"input={scans}", "gpus=0", "engine=torch", "pages=false"]


@pytest.fixture(scope="module")
def words(small_study: Path, source: Path) -> list[str]:
    return words_for(small_study, source)


@pytest.fixture(scope="module")
def long_words(tiny_study: Path, source: Path) -> list[str]:
    """Of a command of two backbones, which is still at work when a signal comes."""
    return words_for(tiny_study, source, MODELS)


@pytest.fixture(scope="module")
def whole(long_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a command that nothing has interrupted."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert entry_point("predict")([*long_words, f"output={output}"]) == 1
    return output


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of slices of the scans that networks have seen."""
    seen: list[int] = []
    plain = EnsembleNetworks.outputs

    def counted(self: EnsembleNetworks, prepared: object) -> object:
        seen.append(len(prepared.grey))  # type: ignore[attr-defined]
        return plain(self, prepared)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleNetworks, "outputs", counted)
    return seen


def contents(output: Path) -> dict[str, bytes]:
    """Return the files of an output folder that people and programs read."""
    files = (path for path in output.rglob("*") if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_each_answer_is_on_the_disk_before_the_networks_see_the_next_scan(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    plain = EnsembleNetworks.outputs

    def counted(self: EnsembleNetworks, prepared: object) -> object:
        counts.append(len(list((tmp_path / "out" / FOLDER).glob("*.safetensors"))))
        return plain(self, prepared)  # type: ignore[arg-type]

    monkeypatch.setattr(EnsembleNetworks, "outputs", counted)
    assert entry_point("predict")([*words, f"output={tmp_path / 'out'}"]) == 1
    assert counts == [1, 2, 3, 4]  # the first one is refused
    text = (tmp_path / "out" / "predictions.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1)  # as if it were written in one


def test_the_same_command_predicts_only_what_has_changed(
    small_study: Path, scans: Path, tmp_path: Path, calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words, out, predict = words_for(small_study, scans), tmp_path / "out", entry_point("predict")
    assert predict([*words, f"output={out}"]) == 1
    first = contents(out)
    assert set(first) == {*TABLES, "refused.csv"}
    assert len(calls) == 4
    capsys.readouterr()

    assert predict([*words, f"output={out}"]) == 1  # the refusal is still there
    assert len(calls) == 4
    captured = capsys.readouterr()
    assert "Each of the 5 scans has an answer; redo=all predicts them again." in captured.out
    assert "1 of 5 scans were refused:\n  bad" in captured.err
    assert contents(out) == first

    os.utime(min((scans / "P002").iterdir()))
    assert predict([*words, f"output={out}"]) == 1
    assert len(calls) == 5
    assert "4 of 5 scans have an answer; the others follow." in capsys.readouterr().out
    assert contents(out) == first

    shutil.rmtree(scans / "P001")
    assert predict([*words, f"output={out}", "redo=refused"]) == 1
    assert len(calls) == 5
    document = json.loads((out / "predictions.json").read_text())
    assert [answer["scan"] for answer in document["scans"]] == ["normal001", "P002", "P003"]
    assert len(list((out / FOLDER).glob("*.safetensors"))) == 4

    assert predict([*words, f"output={out}", "redo=all"]) == 1
    assert len(calls) == 8
    assert predict([*words, f"output={out}", "ingest.allow_gaps=true"]) == 1  # another request
    assert len(calls) == 11


def test_where_all_scans_are_refused_nothing_earlier_stays(
    small_study: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans, out, predict = tmp_path / "scans", tmp_path / "out", entry_point("predict")
    for name in ("P001", "bad"):
        shutil.copytree(source / name, scans / name)
    words = [*words_for(small_study, scans), f"output={out}"]
    assert predict([*words, "pages=true"]) == 1
    assert set(contents(out)) == {*TABLES, "refused.csv", "P001.html"}
    (out / "notes.txt").write_text("of a reader")
    victim = min((scans / "P001").iterdir())
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-200])
    assert predict([*words, "pages=true"]) == 2
    assert "None of the 2 scans of the input can be classified" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
    victim.write_bytes(whole)
    assert predict([*words, "pages=true"]) == 1
    assert set(contents(out)) == {*TABLES, "refused.csv", "P001.html", "notes.txt"}


def test_a_page_belongs_to_its_answer(small_study: Path, source: Path, tmp_path: Path, calls: list[int]) -> None:
    words = words_for(small_study, source / "P001")
    out, predict = tmp_path / "out", entry_point("predict")
    assert predict([*words, f"output={out}", "pages=true"]) == 0
    first = contents(out)
    assert set(first) == {*TABLES, "P001.html"}
    (out / "P001.html").unlink()
    assert predict([*words, f"output={out}", "pages=true"]) == 0  # it is made again
    assert contents(out) == first
    (answer,) = (out / FOLDER).glob("*.safetensors")
    answer.write_bytes(answer.read_bytes()[:-1] + b"\0")  # damaged: its checksum differs
    assert predict([*words, f"output={out}", "pages=true"]) == 0
    assert contents(out) == first
    assert len(calls) == 3
    assert predict([*words, f"output={out}"]) == 0
    assert set(contents(out)) == set(TABLES)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_command_goes_on(
    long_words: list[str], whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A signal ends it after the scan of the moment, and all answers so far are kept; the rest gives the same files."""
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "predict.py"), *long_words, f"output={out}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("1/5"):
                process.send_signal(number)
                break
        said, errors = process.communicate(timeout=300)
    assert process.returncode == code, errors
    printed = [line for line in [*lines, *said.splitlines()] if line[:1].isdigit() and line[1:3] == "/5"]
    kept = len(list((out / FOLDER).glob("[!.]*.safetensors")))
    assert len(printed) <= kept <= 2 + (code == -9)
    if code > 0:
        assert f"{kept} of 5 scans have an answer; the same command goes on." in said
        assert len(printed) == kept
    assert not (out / "predictions.json").exists()
    assert entry_point("predict")([*long_words, f"output={out}"]) == 1
    assert contents(out) == contents(whole)
    assert not list(out.rglob("*.tmp"))


def test_a_signal_within_a_scan_waits_for_its_answer(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = PredictionWriter.add

    def signalled(self: PredictionWriter, result: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        plain(self, result)  # type: ignore[arg-type]

    monkeypatch.setattr(PredictionWriter, "add", signalled)
    assert entry_point("predict")([*words, f"output={tmp_path / 'out'}"]) == 143
    captured = capsys.readouterr()
    assert "1/5  " in captured.out
    assert "1 of 5 scans have an answer; the same command goes on." in captured.out
    assert captured.err == "Terminated by SIGTERM.\n"


def test_another_command_in_the_same_folder_is_refused(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with exclusive(out / FOLDER / ".lock", lambda: None):
        assert entry_point("predict")([*words, f"output={out}"]) == 2
    assert f"Another predict.py writes into {out}. Wait until it ends, or give another" in capsys.readouterr().err
