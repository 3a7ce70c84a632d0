"""The import rules of the project, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cnr_iemn"
FOLDERS = ("ct", "cohort", "slices", "patients", "engine", "report", "deliver", "settings")

# what each folder may import of the others; registry, records, errors and files are open to all
ALLOWED = {
    "ct": set(),
    "cohort": {"ct"},
    "slices": {"ct", "cohort"},
    "patients": {"ct", "cohort"},
    "engine": {"ct", "cohort", "slices", "patients", "settings"},
    "report": {"ct", "cohort", "patients"},
    "deliver": {"ct", "cohort", "slices", "patients", "engine", "report"},
    "settings": set(),
}
HEAVY = {
    "torch",
    "torchvision",
    "pytorch_lightning",
    "numpy",
    "pandas",
    "xgboost",
    "cv2",
    "pydicom",
    "sklearn",
    "scipy",
}


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Return the dotted names a module imports; of relative imports there are none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_rules_see_the_modules() -> None:
    assert {path.parent.name for path in modules()} >= set(FOLDERS)
    assert "torch" in top(imports(PACKAGE / "slices" / "network.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_point_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("cnr_iemn.")} & set(FOLDERS)
        assert used <= ALLOWED[folder] | {folder}, f"{path.relative_to(ROOT)} imports {used}"


def test_ct_cohort_and_patients_know_no_torch() -> None:
    for folder in ("ct", "cohort", "patients"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not top(imports(path)) & {"torch", "torchvision", "pytorch_lightning", "torchmetrics"}, path


def test_the_network_knows_no_lightning() -> None:
    for name in ("network", "backbones", "losses", "augmentation", "balancing", "inference"):
        assert not top(imports(PACKAGE / "slices" / f"{name}.py")) & {"pytorch_lightning", "torchmetrics"}


def test_wandb_only_in_the_engine() -> None:
    users = {path.parent.name for path in modules() if "wandb" in top(imports(path))}
    assert users == {"engine"}


def test_hydra_only_in_settings() -> None:
    users = {path.parent.name for path in modules() if top(imports(path)) & {"hydra", "omegaconf"}}
    assert users == {"settings"}


def test_optuna_only_in_the_engine() -> None:
    users = {path.parent.name for path in modules() if "optuna" in top(imports(path))}
    assert users == {"engine"}


def test_xgboost_and_torch_never_in_one_module() -> None:
    for path in modules():
        assert not {"xgboost", "torch"} <= top(imports(path)), path


def test_nothing_heavy_before_the_configuration_is_checked() -> None:
    light = [
        PACKAGE / name
        for name in ("registry.py", "records.py", "errors.py", "permissions.py", "__init__.py", "__main__.py")
    ]
    scripts = [ROOT / f"{name}.py" for name in ("prepare", "train", "aggregate", "predict", "export")]
    plugin = ROOT / "hydra_plugins" / "cnr_iemn_sweepers.py"  # Hydra imports it at every start
    for path in [*light, plugin, *scripts, *(PACKAGE / "settings").glob("*.py")]:
        names = imports(path, top_level_only=True)
        assert not top(names) & HEAVY, path
        assert all(
            n.split(".")[1] in ("settings", "errors", "registry", "permissions")
            for n in names
            if n.startswith("cnr_iemn.")
        ), path


def test_files_stay_short() -> None:
    scripts = [ROOT / f"{name}.py" for name in ("prepare", "train", "aggregate", "predict", "export")]
    for path in [*modules(), *scripts]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= (120 if path in scripts else 300), f"{path.relative_to(ROOT)} has {lines} lines"
