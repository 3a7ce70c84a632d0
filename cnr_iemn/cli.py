"""``cnr-iemn COMMAND key=value ...``, or ``python -m cnr_iemn COMMAND ...``: the entry points without a checkout."""

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from cnr_iemn import __version__
from cnr_iemn.utils.console import print_error, print_text
from cnr_iemn.utils.shell_words import program_name

COMMANDS = ("prepare", "train", "tune", "aggregate", "predict", "export")
_INFO = "Versions, device, extras and studies; --json as one JSON object; runs=FOLDER names another folder of studies."


def main() -> int:
    """Run the command that the first word names and return its exit code."""
    first, *words = sys.argv[1:] or ["--help"]
    if first in COMMANDS:
        with program_name("cnr-iemn" if Path(sys.argv[0]).name == "cnr-iemn" else "python -m cnr_iemn"):
            return run_command(first, words)
    if first == "info":
        from cnr_iemn.info import show_info

        return show_info(words)
    if first == "--version":
        print_text(f"cnr-iemn {__version__}")
        return 0
    if first in ("--help", "-h"):
        print_text(_usage())
        return 0 if len(sys.argv) > 1 else 2
    print_error(f"'{first}' is not a command.\n\n{_usage()}")
    return 2


def run_command(name: str, words: Sequence[str]) -> int:
    """Run a command and return its exit code. ``name``: one of ``COMMANDS``; ``words``: its ``key=value``."""
    return int(runpy.run_path(str(_script(name)))["main"](words))


def _usage() -> str:
    lines = {name: _docstring(name).splitlines()[0] for name in COMMANDS} | {"info": _INFO}
    listed = "\n".join(f"  {name:<10}{line}" for name, line in lines.items())
    return (
        f"Usage: cnr-iemn COMMAND [key=value ...]\n\n{listed}\n\n"
        "cnr-iemn COMMAND --help explains the keys of a command and has examples; cnr-iemn --version."
    )


def _script(name: str) -> Path:
    """Return the script of a command: an installed package carries it; a checkout has it beside the package."""
    package = Path(__file__).resolve().parent
    return next(path for folder in (package / "commands", package.parent) if (path := folder / f"{name}.py").is_file())


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(_script(name).read_text(encoding="utf-8"))) or ""


if __name__ == "__main__":
    raise SystemExit(main())
