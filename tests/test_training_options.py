"""What may be changed about a training, through train.py: on one of timm's test models, which takes seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from cnr_iemn.data.predictions.slice_predictions import read_predictions
from cnr_iemn.stage1.training.callbacks import NanGuard
from tests.pipeline import QUICK, SMALL, TINY, entry_point, stop_after_an_epoch

pytestmark = pytest.mark.slow

pytest.importorskip("timm", reason="an extra: pip install '.[timm]'")
MODEL = "test_resnet"


@pytest.fixture
def words(tiny_study: Path, tmp_path: Path) -> list[str]:
    return [
        *TINY,
        *SMALL,
        "study=options",
        "balancing.copies={Normal: 0, COVID-19: 0, CAP: 0}",  # a third of the slices
        "trainer.precision=32",
        f"ingest.cache={tiny_study / 'cache'}",
        f"runs={tmp_path}",
    ]


def run_folder(runs: Path, tag: str) -> Path:
    return runs / "options" / MODEL / tag


OPTIONS = (
    "trainer.ema=0.9 trainer.clip=0.5 trainer.checkpoint=last",
    "trainer.ema=0.9 trainer.checkpoint=best",
    "trainer.accumulate=3 trainer.schedule=cosine trainer.warmup_epochs=1",
    "trainer.deterministic=true trainer.schedule=one_cycle trainer.early_stopping=2",
    "augmentation.mixup=0.2 augmentation.cutmix=1.0 trainer.label_smoothing=0.1 balancing.sampling=classes",
    "trainer.optimizer=adamw trainer.layer_decay=0.7 trainer.schedule=cosine",
    "trainer.workers=2",  # which load the next batches before the trainer asks for any
)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_run_with_options_goes_on_as_it_would_have(
    options: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*words, *options.split(), "trainer.max_epochs=3"]
    train = entry_point("train")
    assert train([*command, "tag=whole"]) == 0
    with monkeypatch.context() as patched:
        stop_after_an_epoch(patched)
        assert train([*command, "tag=cut"]) == 130
    assert train([*command, "tag=cut"]) == 0
    whole, cut = (run_folder(tmp_path, tag) for tag in ("whole", "cut"))
    tables = [pd.read_csv(path / "metrics.csv") for path in (whole, cut)]
    assert tables[0]["epoch"].tolist() == tables[1]["epoch"].tolist() == [0, 1, 2]
    measured = [name for name in tables[0] if name.startswith(("train/", "val/"))]
    pd.testing.assert_frame_equal(tables[0][measured], tables[1][measured], check_exact=True)
    pd.testing.assert_frame_equal(
        *(read_predictions(path / "predictions.parquet").table for path in (whole, cut)), check_exact=True
    )


def test_averaged_weights_are_what_counts(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average over the steps, in its closed form, stands in the checkpoint; what is trained goes on without it."""
    trained: dict[str, list[torch.Tensor]] = {}
    plain = NanGuard.on_train_batch_end

    def noted(self: NanGuard, trainer: Any, module: Any, *rest: Any) -> None:
        plain(self, trainer, module, *rest)
        trained.setdefault(Path(trainer.default_root_dir).name, []).append(
            module.network.class_head.weight.detach().clone()
        )

    monkeypatch.setattr(NanGuard, "on_train_batch_end", noted)
    for tag, ema in (("ema", "0.75"), ("plain", "null")):
        command = [*words, f"trainer.ema={ema}", "trainer.checkpoint=last", "trainer.max_epochs=2", f"tag={tag}"]
        assert entry_point("train")(command) == 0
    assert all(torch.equal(first, other) for first, other in zip(trained["ema"], trained["plain"], strict=True))
    average = trained["ema"][0]
    for step, weights in enumerate(trained["ema"][1:], start=1):
        decay = min(0.75, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights
    state = torch.load(run_folder(tmp_path, "ema") / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(state["network.class_head.weight"], average)
    assert float((average - trained["ema"][-1]).abs().max()) > 1e-5


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_gradient_that_a_step_takes_is_as_long_as_asked_for(
    precision: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    norms = []
    plain = NanGuard.on_train_batch_end

    def noted(self: NanGuard, trainer: Any, module: Any, *rest: Any) -> None:
        plain(self, trainer, module, *rest)
        norms.append(
            float(torch.nn.utils.get_total_norm([parameter.grad for parameter in module.network.parameters()]))
        )

    monkeypatch.setattr(NanGuard, "on_train_batch_end", noted)
    train = entry_point("train")
    assert train([*words, f"trainer.precision={precision}", "tag=free"]) == 0
    free, norms = norms, []
    limit = 0.5 * min(free)
    assert train([*words, f"trainer.precision={precision}", f"trainer.clip={limit}", "tag=clipped"]) == 0
    assert len(norms) == len(free) > 1
    assert max(norms) == pytest.approx(limit, rel=1e-3)


def test_early_stopping_ends_where_nothing_improves_and_selects(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the weights stand still; the running means of the batch norm settle within a few epochs
    command = [*words, "trainer.learning_rate=1e-12", "trainer.max_epochs=30", "trainer.early_stopping=2"]
    command += ["trainer.checkpoint=last", "trainer.schedule=constant", "trainer.keep_last=true"]
    train = entry_point("train")
    assert train(command) == 0
    run = run_folder(tmp_path, "seed0")
    epochs = len(pd.read_csv(run / "metrics.csv"))
    assert epochs < 30
    assert json.loads((run / "metrics.json").read_text())["selected_on"] == "validation"
    table = read_predictions(run / "predictions.parquet").table
    labelled = table["split"].eq("validation") & table["slice_label"].notna()
    assert table["used_for_selection"].tolist() == labelled.tolist()
    assert "selected on this set" in capsys.readouterr().out
    # cut off between its end and its predictions: it has stopped and trains no further
    (run / "run.json").write_text((run / "run.json").read_text().replace('"finished"', '"interrupted"'))
    assert train(command) == 0
    assert len(pd.read_csv(run / "metrics.csv")) == epochs
    assert train([*command, "data.split.validation=0", "study=all"]) == 2
    assert "data.split.validation=0 leaves none" in capsys.readouterr().err


def test_deterministic_runs_have_the_same_bits(words: list[str], tmp_path: Path) -> None:
    for tag in ("one", "other"):
        assert entry_point("train")([*words, "trainer.deterministic=true", f"tag={tag}"]) == 0
        assert not torch.are_deterministic_algorithms_enabled()
    first, other = (
        torch.load(run_folder(tmp_path, tag) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for tag in ("one", "other")
    )
    assert all(torch.equal(first[key], other[key]) for key in first)


def test_a_network_of_timm_joins_an_ensemble_and_predicts(words: list[str], tiny_study: Path, tmp_path: Path) -> None:
    assert entry_point("train")([*words, "model.tta=flip", "tag=seed0"]) == 0  # in both: a mean over the mirror image
    assert entry_point("aggregate")([f"runs={tmp_path}", "study=options", f"ensemble={MODEL}", *QUICK]) == 0
    features = pd.read_parquet(tmp_path / "options" / "ensembles" / MODEL / "features.parquet")
    assert sum(name.startswith(f"{MODEL}/g") for name in features) == 60
    (scan,) = (tiny_study / "cache").glob("phantom-*/COVID-19 subjects/P005")
    predict = ["study=options", f"runs={tmp_path}", f"ensemble={MODEL}", f"input={scan}", "gpus=0"]
    assert entry_point("predict")(predict) == 0
    (answer,) = json.loads(next(tmp_path.rglob("predictions.json")).read_text())["scans"]
    rows = read_predictions(run_folder(tmp_path, "seed0") / "predictions.parquet").table
    rows = rows[rows["scan_id"] == answer["scan"]].sort_values("slice_index")
    probabilities = [[*entry["probabilities"][MODEL].values()] for entry in answer["slices"]]
    columns = [name for name in rows if name.startswith("p_")]
    np.testing.assert_allclose(probabilities, rows[columns], atol=1e-5)


def test_seeds_are_averaged_alike_in_the_study_in_predict_py_and_from_a_bundle(
    words: list[str], tiny_study: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        assert entry_point("train")([*words, f"seed={seed}"]) == 0
    place = [f"runs={tmp_path}", "study=options"]
    assert entry_point("aggregate")([*place, f"ensemble={MODEL}", "tag=[seed0,seed1]", *QUICK]) == 0
    name = f"{MODEL}@seed0+seed1"
    tables = [read_predictions(run_folder(tmp_path, f"seed{seed}") / "predictions.parquet").table for seed in (0, 1)]
    columns = [column for column in tables[0] if column.startswith("p_")]
    (scan,) = (tiny_study / "cache").glob("phantom-*/COVID-19 subjects/P005")
    assert entry_point("export")([*place, f"ensemble={name}", "onnx=false", f"output={tmp_path / 'bundle'}"]) == 0
    for words_of in ([*place, f"ensemble={name}"], [f"bundle={tmp_path / 'bundle'}"]):
        predict = [*words_of, f"input={scan}", "gpus=0", "pages=false", f"output={tmp_path / 'new'}"]
        assert entry_point("predict")(predict) == 0
        (answer,) = json.loads((tmp_path / "new" / "predictions.json").read_text())["scans"]
        probabilities = [[*entry["probabilities"][MODEL].values()] for entry in answer["slices"]]
        rows = [table[table["scan_id"] == answer["scan"]].sort_values("slice_index")[columns] for table in tables]
        np.testing.assert_allclose(probabilities, np.mean(rows, axis=0), atol=1e-5)
        assert np.abs(rows[0].to_numpy() - rows[1].to_numpy()).max() > 1e-3
