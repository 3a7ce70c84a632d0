"""The import rules of the project, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cnr_iemn"
# what each folder may import of the others; modules in none of them (constants, schemas, errors, ...) are open to all
ALLOWED: dict[str, set[str]] = {
    "utils": set(),
    "config": {"utils"},
    "ct": {"utils"},
    "phantom": {"utils", "ct"},
    "data": {"utils", "ct"},
    "statistics": set(),
    "stage1": {"utils", "config", "ct", "data", "phantom", "statistics"},
    "stage2": {"utils", "config", "ct", "data", "statistics", "stage1"},
    "tuning": {"utils", "config", "data", "stage1"},
    "inference": {"utils", "ct", "data", "stage1", "stage2"},
    "evaluation": {"utils", "ct", "data", "statistics", "stage1", "stage2", "inference"},
    "report": {"utils", "config", "ct", "data", "statistics", "stage1", "stage2", "inference", "evaluation"},
    "dicom_export": {"utils", "ct", "stage2", "inference"},
    "service": {"utils", "config", "ct", "stage1", "stage2", "inference", "report", "dicom_export"},
}
FOLDERS = tuple(ALLOWED)
# loaded before the configuration is checked
LIGHT = ("constants", "errors", "read_options")
LIGHT_UTILS = ("shell_words", "text", "exclusions", "writable", "atomic_io", "console", "packages")
SCRIPTS = ("prepare", "train", "tune", "aggregate", "predict", "export")
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
    assert {path.relative_to(PACKAGE).parts[0] for path in modules()} >= set(FOLDERS)
    assert "torch" in top(imports(PACKAGE / "stage1" / "models" / "network.py"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_point_one_way(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("cnr_iemn.")} & set(FOLDERS)
        assert used <= ALLOWED[folder] | {folder}, f"{path.relative_to(ROOT)} imports {used}"


def test_ct_data_and_stage_2_know_no_torch() -> None:
    for folder in ("ct", "phantom", "data", "statistics", "stage2"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not top(imports(path)) & {"torch", "torchvision", "pytorch_lightning", "torchmetrics"}, path


def test_the_network_knows_no_lightning() -> None:
    for path in [*(PACKAGE / "stage1" / "models").glob("*.py"), *(PACKAGE / "stage1" / "data").glob("*.py")]:
        if path.stem != "datamodule":
            assert not top(imports(path)) & {"pytorch_lightning", "torchmetrics"}, path


def test_wandb_in_two_modules() -> None:
    users = {path.stem for path in modules() if "wandb" in top(imports(path))}
    assert users == {"wandb_logger", "wandb_report"}


def test_hydra_only_in_config() -> None:
    users = {path.relative_to(PACKAGE).parts[0] for path in modules() if top(imports(path)) & {"hydra", "omegaconf"}}
    assert users == {"config"}


def test_optuna_only_in_tuning() -> None:
    users = {path.parent.name for path in modules() if "optuna" in top(imports(path))}
    assert users == {"tuning"}


def test_xgboost_and_torch_never_in_one_module() -> None:
    for path in modules():
        assert not {"xgboost", "torch"} <= top(imports(path)), path


def test_nothing_heavy_before_the_configuration_is_checked() -> None:
    light = [PACKAGE / f"{name}.py" for name in (*LIGHT, "schemas", "__init__", "cli")]
    light += [PACKAGE / "utils" / f"{name}.py" for name in (*LIGHT_UTILS, "__init__")]
    scripts = [ROOT / f"{name}.py" for name in SCRIPTS]
    early = ("config", *LIGHT, *(f"utils.{name}" for name in LIGHT_UTILS))
    for path in [*light, *scripts, *(PACKAGE / "config").rglob("*.py")]:
        names = imports(path, top_level_only=True)
        assert not top(names) & HEAVY, path
        ours = [n.removeprefix("cnr_iemn.") for n in names - {"cnr_iemn.__version__"} if n.startswith("cnr_iemn.")]
        assert all(name.startswith(tuple(f"{module}." for module in early)) for name in ours), (path, ours)


def test_folders_stay_small() -> None:
    folders = {path.parent for path in modules()}
    for folder in folders:
        files = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(files) <= 16, f"{folder.relative_to(ROOT)} has {len(files)} modules"


def test_files_stay_short() -> None:
    scripts = [ROOT / f"{name}.py" for name in SCRIPTS]
    for path in [*modules(), *scripts]:
        lines = path.read_text(encoding="utf-8").count("\n")
        assert lines <= (120 if path in scripts else 300), f"{path.relative_to(ROOT)} has {lines} lines"
