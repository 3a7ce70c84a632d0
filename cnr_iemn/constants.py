"""Names of classes and backbones. Imports nothing heavy, so that checks and ``--help`` answer at once."""

import ast
import functools
import math
from dataclasses import dataclass
from pathlib import Path

SPGC_CLASSES = ("Normal", "COVID-19", "CAP")
"""Classes of COVID-CT-MD, healthy first; other cohorts bring their own.

SPGC is the IEEE Signal Processing Grand Challenge 2021 on COVID-19, whose training and validation scans they are.
"""


@dataclass(frozen=True)
class BackboneInfo:
    """What is known of a backbone without building it.

    ``features``: length of the deep feature vector. ``image_size``: default input side in pixels (authors' other code;
    Inception's own 299). ``minimum_size``: smallest side the architecture accepts. ``weights_url``: torchvision's
    published ImageNet weights. ``paper_slice_accuracy`` and ``paper_scan_accuracy``: percent on the paper's validation
    set (Tables 1 and 2), NaN for a backbone that the paper does not have.
    """

    name: str
    paper_name: str
    features: int
    image_size: int
    minimum_size: int
    weights_url: str
    paper_slice_accuracy: float = math.nan
    paper_scan_accuracy: float = math.nan


_HUB = "https://download.pytorch.org/models/"

BACKBONES: dict[str, BackboneInfo] = {
    info.name: info
    for info in (
        BackboneInfo("resnext50", "ResNeXt-50", 2048, 224, 32, _HUB + "resnext50_32x4d-7cdf4587.pth", 88.91, 79.59),
        BackboneInfo("densenet161", "DenseNet-161", 2208, 224, 32, _HUB + "densenet161-8d451a50.pth", 88.61, 82.65),
        BackboneInfo(
            "inception_v3", "Inception-v3", 2048, 299, 75, _HUB + "inception_v3_google-0cc3c7bd.pth", 88.74, 85.71
        ),
        BackboneInfo(
            "wide_resnet50", "Wide-ResNet-50", 2048, 224, 32, _HUB + "wide_resnet50_2-95faca4d.pth", 88.37, 80.61
        ),
    )
}
"""Backbones that torchvision builds: the paper's four, and any others."""

PAPER_BACKBONES = ("resnext50", "densenet161", "inception_v3", "wide_resnet50")
"""In the order of the paper's tables; ``ensemble=all`` means these, whatever else is in ``BACKBONES``."""

ENGINES = ("auto", "torch", "openvino")
"""What predict.py can have the networks run by (``inference.backends``)."""

TIMM_SOURCES = ("hf-hub:", "local-dir:")
"""What timm's names of models elsewhere begin with: on the Hugging Face Hub, in a folder."""

PAPER_COHORT = "covid_ct_md"
"""``data.name`` of the cohort that the paper's figures are of."""
PAPER_TRAINING_SLICES = (10_294, 2_482, 742)
"""Slices of Normal, COVID-19 and CAP that train the networks (section 2.1.2)."""
PAPER_ENSEMBLE_ACCURACY = 87.75
"""Percent of validation scans, all four backbones joined (Table 2, CNR-IEMN)."""
PAPER_SENSITIVITY = {"Normal": 95.83, "COVID-19": 96.36, "CAP": 52.63}
"""Percent on the paper's validation set (section 3.1.2, Figure 4)."""
PAPER_COUNTS = {"validation": (86, 98), "validation, CAP": (10, 19), "tests": (73, 90), "tests, CAP": (9, 20)}
"""Scans that the paper's ensemble has right, and of how many (sections 3.1.2 and 3.2)."""

BOOSTER, BOOSTER_METHOD = "booster", "XGBoost on percentages"
"""The word of settings for the paper's stage 2, the default, and its name among the methods."""
CHECKLISTS = ("claim", "tripod-ai", "stard-ai")
"""Reporting checklists that aggregate.py fills (``report.checklists``)."""
THRESHOLD_CLASS = "COVID-19"
"""Of the SPGC cohort: the class whose sensitivity is set on training scans, being the one that must not be missed."""

INPUT_WINDOW = (-1000.0, 400.0)
"""HU at grey 0 and 255 in the networks' images, unless ``ingest.window`` is given: lung and soft tissue.

The paper names no window.
"""
MEDIASTINAL_WINDOW = (-160.0, 240.0)
"""HU at black and white in the input channel ``mediastinum``: level 40, width 400, in which consolidation, effusion and
calcium differ. The slice store's own window must hold it."""

LOBES = ("LLL", "LUL", "RLL", "RML", "RUL")
"""Lower and upper lobe of the left lung, lower, middle and upper lobe of the right, as the label arrays order them."""

PAPER_CHANNELS = ("grey", "mask", "product")
"""Of a network's input (section 2.1.1)."""
INPUT_CHANNELS = (*PAPER_CHANNELS, "previous", "next", "mediastinum")
"""All that a channel can be: grey slice, lung mask, grey within it; the slice above and below; another window."""

LUNG_WINDOW = (-1350.0, 150.0)
"""HU at black and white in pictures for readers, a radiologist's lung window: level -600, width 1500."""

N_GROUPS = 20
"""Groups of slices in stage 2 (section 2.2)."""
N_REGIONS = 5
"""Regions of a scan, the second task of stage 1 (section 2.1.2)."""

CLOSED_SET = (
    "Closed set: a scan with any other finding is still assigned to one of these classes; {first} means only that a "
    "scan resembles this cohort's {first} scans."
)
"""On every page and report. ``first``: the first class, the healthy one."""

PHANTOM_NOTICE = "phantom study: no diagnostic meaning"
"""Heads whatever a study trained on phantoms says about a scan."""
PHANTOM_DISEASES = {
    "published": "The phantom's disease is the published one: frequencies of signs as in published series.",
    "clear": "The phantom's disease is the clear one: shape and place tell COVID-19 from CAP, density does not.",
}
"""On every page of a phantom study, by the cohort's setting of ``disease``."""
WEAK_LABELS_NOTICE = (
    "Weak slice labels (data.slice_labels=from_patient): slices that no reader labelled have their scan's class. The "
    "networks learnt from them, and the figures of slices are measured against them; those of patients are not."
)
"""Heads what a study says of slices whose labels come from the classes of scans."""
PHANTOM_SCANS_NOTICE = "phantom scans: no diagnostic meaning"
"""Heads what a study of real scans says about phantoms."""


def notice_for(*, study: bool, scans: bool) -> str | None:
    """Return what heads a study's words on scans, None where nothing is synthetic. ``scans``: if one is."""
    return PHANTOM_NOTICE if study else PHANTOM_SCANS_NOTICE if scans else None


@functools.cache
def method_names() -> tuple[str, ...]:
    """Return the names of the stage-2 methods in the order of their table.

    They are the keys of the one dictionary in ``stage2/methods/registry.py``, read from its source: importing the
    module would load scikit-learn and XGBoost before the settings are checked.
    """
    source = (Path(__file__).parent / "stage2" / "methods" / "registry.py").read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    (table,) = (node for node in ast.walk(functions["stage2_methods"]) if isinstance(node, ast.Dict))
    return tuple(str(key.value) if isinstance(key, ast.Constant) else BOOSTER_METHOD for key in table.keys)


def method_name(setting: str) -> str:
    """Return the name of the method that the setting ``primary_method`` gives."""
    return BOOSTER_METHOD if setting == BOOSTER else setting
