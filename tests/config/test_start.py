"""What --help and a configuration error import: a clock would tell of the machine."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch", "torchvision", "pytorch_lightning", "torchmetrics", "numpy", "pandas", "pyarrow", "xgboost", "cv2",
    "pydicom", "sklearn", "scipy", "skimage", "wandb", "optuna", "timm", "safetensors", "onnxruntime",
)  # fmt: skip

PROGRAM = """
import runpy, sys
name, *words = sys.argv[1:]
sys.argv = [name, *words]
sys.path.insert(0, {root!r})
try:
    runpy.run_path(f"{root}/{{name}}", run_name="__main__")
except SystemExit as end:
    print()
    print("ended with", end.code)
print("imported:", sorted(set({heavy!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("script", "words", "code"),
    [
        ("train.py", ["--help"], "None"),
        ("train.py", ["trainer.max_epoch=5"], "2"),
        ("train.py", ["model=resnet"], "2"),
        ("train.py", ["trainer.batch_size=0"], "2"),
        ("train.py", ["-m", "model=resnext50,densenet"], "2"),
        ("tune.py", ["search.trials=0"], "2"),
        ("aggregate.py", ["--help"], "None"),
        ("predict.py", ["study=a/b", "input=x"], "2"),
        ("predict.py", ["bundle=b", "study=a", "input=x"], "2"),
        ("export.py", ["--help"], "None"),
        ("prepare.py", ["--cfg", "job"], "0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_nothing_heavy_before_the_configuration_is_checked(script: str, words: list[str], code: str) -> None:
    program = PROGRAM.format(root=str(ROOT), heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", program, script, *words], capture_output=True, text=True, timeout=300, check=True
    )
    assert ended.stdout.endswith("imported: []\n"), ended.stdout[-300:]
    if code != "None":
        assert f"ended with {code}" in ended.stdout
