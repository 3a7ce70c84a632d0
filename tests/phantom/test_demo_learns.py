"""On clear phantoms a network sees more than density: one small backbone beats the histogram of HU."""

import json

import pytest

from tests.pipeline import entry_point

pytestmark = pytest.mark.slow


def test_one_backbone_beats_the_histogram_by_ten_points(tmp_path):
    study = ["study=demo", f"runs={tmp_path / 'runs'}"]
    cohort = [
        "data.phantom.scans={Normal: 36, COVID-19: 72, CAP: 36}",
        "data.phantom.labelled={COVID-19: 28, CAP: 16}",
        "data.labelled_normals=20",
        "data.phantom.n_slices=[24,25]",
        "data.split.validation=0.5",
        f"ingest.cache={tmp_path / 'cache'}",
    ]
    network = ["model=timm", "model.name=resnet18", "model.weights=none", "model.image_size=48", "trainer.max_epochs=2"]
    assert entry_point("train")(["experiment=demo", *network, *cohort, *study, "trainer.gpus=0"]) == 0
    assert entry_point("aggregate")([*study, "ensemble=[resnet18]"]) == 0
    (path,) = (tmp_path / "runs" / "demo" / "ensembles").glob("*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["accuracy"] >= metrics["baselines"]["HU histogram"]["accuracy"] + 0.1
