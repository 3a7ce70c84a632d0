"""README and the pages in docs/: their links, the site's navigation and the generated page of the configuration."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pipeline import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
GENERATED = "reference/configuration.md"
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    yield from (target for target in LINK.findall(text) if not re.match(r"[a-z]+:", target))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def navigation(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for value in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(value)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if DOCS in page.parents and target == DOCS / GENERATED:
            continue
        assert target.exists(), link
        assert DOCS not in page.parents or DOCS in target.parents, f"{link}: the site has pages of docs/ alone"
        if anchor:
            assert anchor in anchors(target), link


def test_readme_links_every_page_or_its_index() -> None:
    linked = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    missing = {page for page in DOCS.rglob("*.md") if page.parent.name != "decisions"} - linked
    assert not missing, sorted(str(page.relative_to(ROOT)) for page in missing)


def test_every_page_is_in_the_navigation_or_in_the_index_of_decisions() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = set(navigation(settings["nav"]))
    records = {f"developer/decisions/{link}" for link in links(DOCS / "developer" / "decisions" / "index.md")}
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | {GENERATED}
    assert pages - records == listed
    assert {f"developer/decisions/{p.name}" for p in (DOCS / "developer/decisions").glob("[0-9]*.md")} <= records


@pytest.mark.parametrize("name", ["architecture", "extending"])
def test_developer_pages_name_files_and_functions_that_exist(name: str) -> None:
    text = (DOCS / "developer" / f"{name}.md").read_text(encoding="utf-8")
    new = set(re.findall(r"(?:new file|Add|to) `([\w/.]+)`", text))
    for path in set(re.findall(r"`(\w+/[\w/.]+\.(?:py|html|yaml))`", text)) - new:
        assert any((folder / path).is_file() for folder in (ROOT, ROOT / "cnr_iemn")), path
    for path, definition in re.findall(r"`([\w/.]+\.py)`: `(\w+)`", text):
        source = (ROOT / "cnr_iemn" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(def|class) {definition}\b", source, flags=re.M), f"{path}: {definition}"


def test_configuration_page_has_every_file_and_key() -> None:
    page = runpy.run_path(str(DOCS / "configuration_page.py"))["page"]()
    for path in (ROOT / "conf").rglob("*.yaml"):
        if path.name != "hydra_settings.yaml":
            keys = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for key in keys.keys() - {"defaults"}:
                assert f"\n{key}:" in page, f"{path}: {key}"


def test_workflows_and_templates_are_yaml() -> None:
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / "mkdocs.yml", ROOT / "CITATION.cff"]
    names = {path.stem for path in files if path.parent.name == "workflows"}
    assert names == {"container", "docs", "lint", "release", "tests"}
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
