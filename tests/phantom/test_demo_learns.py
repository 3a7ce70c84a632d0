"""On clear phantoms a network sees more than density: one small backbone beats the histogram of HU."""

import json

import pytest

from tests.pipeline import QUICK, entry_point

pytestmark = pytest.mark.slow


def test_one_backbone_beats_the_histogram_by_ten_points(tmp_path):
    study = ["study=demo", f"runs={tmp_path / 'runs'}"]
    cohort = [
        "data.phantom.scans={Normal: 40, COVID-19: 50, CAP: 40}",
        "data.phantom.labelled={COVID-19: 50, CAP: 40}",
        "data.labelled_normals=40",
        "data.phantom.n_slices=[20,21]",
        "data.split.validation=0.4",
        f"ingest.cache={tmp_path / 'cache'}",
    ]
    network = ["model=timm", "model.name=resnet18", "model.weights=none", "model.image_size=48", "trainer.max_epochs=3"]
    assert (
        entry_point("train")(["experiment=demo", *network, *cohort, *study, "trainer.gpus=0", "ingest.workers=2"]) == 0
    )
    assert entry_point("aggregate")([*study, *QUICK, "ensemble=[resnet18]"]) == 0
    (path,) = (tmp_path / "runs" / "demo" / "ensembles").glob("*/metrics.json")
    metrics = json.loads(path.read_text())
    assert metrics["accuracy"] >= metrics["baselines"]["HU histogram"]["accuracy"] + 0.1
