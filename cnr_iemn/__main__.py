"""``cnr-iemn COMMAND key=value ...``, or ``python -m cnr_iemn COMMAND ...``: the entry points without a checkout."""

import runpy
import sys
from pathlib import Path

COMMANDS = ("prepare", "train", "aggregate", "predict", "export")


def main() -> int:
    """Run the entry point that the first word names and return its exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        given = f"'{sys.argv[1]}' is not a command. " if len(sys.argv) > 1 else ""
        print(f"{given}Usage: cnr-iemn {{{'|'.join(COMMANDS)}}} [key=value ...] [--help]", file=sys.stderr)
        return 2
    package = Path(__file__).resolve().parent
    # an installed package carries the scripts; a checkout has them beside the package
    folders = (package / "commands", package.parent)
    script = next(path for folder in folders if (path := folder / f"{sys.argv[1]}.py").is_file())
    return int(runpy.run_path(str(script))["main"](sys.argv[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
