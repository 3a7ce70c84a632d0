"""Messages: nothing in them can steer the terminal, and nothing is printed past them."""

import ast
import logging
from pathlib import Path

import cnr_iemn
from cnr_iemn.utils.console import line_label, print_error

PACKAGE = Path(cnr_iemn.__file__).parent
SCRIPTS = [PACKAGE.parent / f"{name}.py" for name in ("prepare", "train", "tune", "aggregate", "predict", "export")]
log = logging.getLogger("cnr_iemn.test")


def test_names_in_messages_steer_nothing(capsys):
    log.info("wrote %s\n%d of %d", "a\x1b[2Jb\nc\u202e[bold]", 1, 2)
    log.warning("%s is damaged", "run\rs")
    printed, warned = capsys.readouterr()
    assert printed == "wrote a\\x1b[2Jb\\nc\\u202e[bold]\n1 of 2\n"
    assert warned == "run\\rs is damaged\n"


def test_an_error_keeps_its_lines(capsys):
    print_error("one\x1b\ntwo")
    assert capsys.readouterr().err == "one\\x1b\ntwo\n"


def test_the_package_prints_through_the_console_alone():
    """A bare print would show names of folders and scans as they are."""
    found = []
    for path in [*PACKAGE.rglob("*.py"), *SCRIPTS]:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        if any(isinstance(call, ast.Name) and call.id == "print" for call in calls):
            found.append(path.relative_to(PACKAGE.parent).as_posix())
    assert found == ["cnr_iemn/utils/console.py"]


def test_lines_of_a_job_begin_with_its_label(capsys):
    with line_label("[2/4]"), line_label("fold 1:"):
        log.info("wrote %s", "here")
    log.info("wrote %s", "there")
    assert capsys.readouterr().out == "[2/4] fold 1: wrote here\nwrote there\n"
