"""A hook of mkdocs that makes reference/configuration.md from the files in conf/, so that it is never out of date."""

from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parent.parent / "conf"
PAGE = "reference/configuration.md"
HEAD = """# Configuration

Every option is a key of these files. Set one with `key=value` on the command line, prefixed with its group:
`trainer.max_epochs=5`. Choose a file of a group with `group=file`: `trainer=paper`. `COMMAND --cfg job` prints the
configuration that a command would run with.
"""
COMMANDS = ("prepare", "train", "tune", "aggregate", "predict", "export")


def page() -> str:
    """Return the page: the files of the commands, then those of the groups, each as it is, with its comments."""
    commands = [CONF / f"{name}.yaml" for name in COMMANDS if (CONF / f"{name}.yaml").is_file()]
    sections = [HEAD, "## Commands", *(f"### {path.stem}.py\n\n{_block(path)}" for path in commands)]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir()):
        sections.append(f"## {folder.name}")
        sections.extend(f"### {folder.name}={path.stem}\n\n{_block(path)}" for path in sorted(folder.glob("*.yaml")))
    return "\n\n".join(sections) + "\n"


def _block(path: Path) -> str:
    text = path.read_text(encoding="utf-8").strip()
    if path.parent != CONF:
        return f"```yaml\n{text}\n```"
    # the list of defaults is Hydra's: the groups have their own sections
    head, rest = text.split("defaults:\n", 1)
    keys = rest.split("\n\n", 1)
    return f"```yaml\n{head}{keys[1] if len(keys) > 1 else ''}\n```"


def on_files(files: Any, config: Any) -> Any:
    """Add the page to the site."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files
