"""What --help says: a command's own keys, each with a comment, and nothing of another's."""

import json
from importlib.metadata import version

import pytest

import cnr_iemn
from cnr_iemn.cli import COMMANDS, main
from cnr_iemn.config.help import file_comments
from cnr_iemn.utils.shell_words import command, program_name
from tests.pipeline import entry_point

SEARCHED = ("tag", "overwrite", "resume", "debug")
"""Of train.py, which tune.py sets itself."""


def help_of(name, capsys, *words):
    assert entry_point(name)([*words, "--help"]) == 0
    return capsys.readouterr().out


def keys(text):
    """Return the lines of each key, by key."""
    section = text.split("Keys (key=value)")[1].split("Flags:")[0].splitlines()[1:]
    found = {}
    for line in section:
        if line.startswith("  ") and not line.startswith("      "):
            name = line.strip().split("=")[0]
            found[name] = []
        elif line:
            found[name].append(line.strip())
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_each_key_has_its_comment_and_each_command_two_examples(name, capsys):
    text = help_of(name, capsys)
    assert text.count(f"\n  python {name}.py ") >= 2
    without = [key for key, comment in keys(text).items() if not comment]
    assert without == (list(SEARCHED) if name == "tune" else [])


def test_a_command_shows_its_own_groups_and_keys_alone(capsys):
    assert {key.split(".")[0] for key in keys(help_of("export", capsys))} == {
        "study", "ensemble", "runs", "output", "onnx", "license", "overwrite", "push",
    }  # fmt: skip
    assert "Groups" not in help_of("predict", capsys)
    train = help_of("train", capsys)
    assert "booster" not in train
    assert "trainer.max_epochs=10" in train
    assert "model         resnext50; or densenet161, inception_v3, timm, wide_resnet50" in train


def test_words_choose_what_is_explained(capsys):
    text = help_of("train", capsys, "data=manifest", "trainer.max_epochs=3")
    assert "trainer.max_epochs=3" in text
    assert "data.phantom.rows" not in text
    assert "all healthy scans count" in " ".join(keys(text)["data.labelled_normals"])


def test_comments_behind_below_and_above_a_key():
    text = """# The file's.
first: 1   # behind
           # and below
group:
  inner: {a: 1}  # within
# of a section

# above
# in two lines
last: '#'
bare: 0
"""
    assert dict(file_comments(text)) == {
        "first": "behind and below", "group.inner": "within", "last": "above in two lines",
    }  # fmt: skip


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["-h"], 0), ([], 2), (["tarin"], 2)])
def test_the_command_lists_its_commands(words, code, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cnr-iemn", *words])
    assert main() == code
    printed = "".join(capsys.readouterr())
    assert all(f"\n  {name} " in printed for name in (*COMMANDS, "info"))


@pytest.mark.parametrize(("program", "line"), [("cnr-iemn", "cnr-iemn export"), ("x.py", "python -m cnr_iemn export")])
def test_examples_and_commands_name_the_program_that_was_run(program, line, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"/opt/bin/{program}", "export", "--help"])
    assert main() == 0
    assert f"  {line} study=covid_ct_md output=/data/bundle\n" in capsys.readouterr().out
    assert command("export") == "python export.py"
    with program_name("cnr-iemn"):
        assert command("predict", "study=a b") == "cnr-iemn predict 'study=a b'"


def test_the_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cnr-iemn", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"cnr-iemn {cnr_iemn.__version__}\n"


def test_information_for_programs(tmp_path, capsys, monkeypatch):
    ensemble = tmp_path / "here" / "demo" / "ensembles" / "all"
    ensemble.mkdir(parents=True)
    (ensemble / "ensemble.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["cnr-iemn", "info", "--json", f"runs={tmp_path / 'here'}"])
    assert main() == 0
    info = json.loads(capsys.readouterr().out)
    assert info["versions"]["torch"] == version("torch")
    assert info["studies"] == {"demo": ["all"]}
    assert info["extras"]["dev"] is True
    assert "precision" in info["device"]
    monkeypatch.setattr("sys.argv", ["cnr-iemn", "info", "runs=" + str(tmp_path / "none")])
    assert main() == 0
    assert "studies: none" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["cnr-iemn", "info", "jason"])
    assert main() == 2


def test_the_public_names_are_what_they_say():
    for name in cnr_iemn.__all__:
        assert getattr(cnr_iemn, name) is not None
    assert cnr_iemn.read_scan.__module__ == "cnr_iemn.ct.io.reader"
    with pytest.raises(AttributeError, match="no attribute 'read_scans'"):
        _ = cnr_iemn.read_scans
