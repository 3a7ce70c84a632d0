"""A backbone that the paper does not have joins neither its ensemble nor its tables."""

import pytest

from cnr_iemn.config.ensemble_names import ensemble_models
from cnr_iemn.constants import BACKBONES, PAPER_BACKBONES, BackboneInfo
from cnr_iemn.evaluation.paper_reference import paper_comparisons
from cnr_iemn.report.tables.results import _paper


def test_another_backbone_stays_out_of_the_papers_ensemble_and_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    before = paper_comparisons()
    assert tuple(BACKBONES)[:4] == PAPER_BACKBONES
    monkeypatch.setitem(BACKBONES, "resnet18", BackboneInfo("resnet18", "ResNet-18", 512, 224, 32, "resnet18.pth"))
    assert ensemble_models("all") == PAPER_BACKBONES
    assert ensemble_models("resnet18") == ("resnet18",)
    assert paper_comparisons() == before
    assert "nan" not in _paper("resnet18", "paper_scan_accuracy")
