"""The clear disease: what the classes share, what they differ in, and that nothing but the lesions tells them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from benchmarks.phantom_leakage import artefact_studies, leak_outside_lesions
from benchmarks.phantom_oracle import oracle_auc
from cnr_iemn.constants import SPGC_CLASSES
from cnr_iemn.ct.lungs.segmentation import segment_lungs
from cnr_iemn.errors import CohortError
from cnr_iemn.phantom.anatomy import LOBES
from cnr_iemn.phantom.cohort_writer import write_cohort
from cnr_iemn.phantom.lesions import ellipsoid_share, share_at
from cnr_iemn.phantom.renderer import make_scan
from cnr_iemn.phantom.scan_spec import CLEAR, lesion_table, make_scan_spec

pytestmark = pytest.mark.slow

DISEASES = SPGC_CLASSES[1:]
SMALL = {"rows": 64, "n_slices": (10, 12), "disease": CLEAR}
N_SLICES = (20, 22)


@pytest.fixture(scope="module")
def specs():
    return {
        name: [make_scan_spec(seed, name, n_slices=N_SLICES, disease=CLEAR) for seed in range(24)] for name in DISEASES
    }


def amounts(spec):
    """Diseased share of the lungs, consolidated share, left share, infected length in mm."""
    points = spec.anatomy.sample(np.random.default_rng(1), 6000)
    warped = spec.anatomy.warp(points)
    lobe = spec.anatomy.lobe(*warped)
    filled, dense, depths = np.zeros(len(points)), np.zeros(len(points)), []
    for lesion in spec.lesions:
        if lesion.kind in ("ground_glass", "consolidation"):
            share = share_at(lesion, points, lesion.edge.at(points)) * (lobe == LOBES.index(lesion.lobe))
            np.maximum(filled, share, out=filled)
            if lesion.kind == "consolidation":
                np.maximum(dense, share, out=dense)
            depths += [lesion.centre[2] - lesion.radii[2], lesion.centre[2] + lesion.radii[2]]
    return filled.mean(), dense.mean(), filled[warped[0] > 0].sum() / filled.sum(), max(depths) - min(depths)


def deep_share(spec):
    """Share of the ground glass and what is within it that lies more than 25 mm from the pleura."""
    points = spec.anatomy.sample(np.random.default_rng(1), 6000)
    glass = [lesion for lesion in spec.lesions if lesion.kind == "ground_glass"]
    lobe = spec.anatomy.lobe(*spec.anatomy.warp(points))
    shares = [share_at(x, points, x.edge.at(points)) * (lobe == LOBES.index(x.lobe)) for x in glass]
    filled = np.maximum.reduce(shares)
    return filled[spec.anatomy.pleural_depth(*spec.anatomy.warp(points)) > 25].sum() / filled.sum()


def test_classes_of_one_seed_have_one_burden(specs):
    for seed, (covid, cap) in enumerate(zip(*specs.values(), strict=True)):
        normal = make_scan_spec(seed, "Normal", n_slices=N_SLICES, disease=CLEAR)
        assert covid.signs == cap.signs == normal.signs
        assert [finding.centre for finding in covid.findings] == [finding.centre for finding in cap.findings]


def test_volume_consolidation_side_and_length_have_one_distribution(specs):
    covid, cap = (np.array([amounts(spec) for spec in specs[name]]) for name in DISEASES)
    for column, name in enumerate(("volume", "consolidation", "left share", "length")):
        assert ks_2samp(covid[:, column], cap[:, column]).pvalue > 0.01, name
    assert np.median(np.abs(covid[:, 2] - cap[:, 2])) < 0.1
    assert covid[:, 0].mean() == pytest.approx(cap[:, 0].mean(), rel=0.3)  # tree-in-bud and effusion are not in it


def test_patches_lie_at_the_pleura_and_segments_reach_from_the_hilum(specs):
    tables = {name: pd.concat([lesion_table(spec) for spec in specs[name]]) for name in DISEASES}
    for table in tables.values():
        assert {"ground_glass", "consolidation"} <= set(table["kind"])
    covid, cap = (tables[name][tables[name]["kind"] == "ground_glass"] for name in DISEASES)
    assert covid["peripheral"].all()
    assert len(covid) > 2.5 * len(cap)
    depth = {name: np.mean([deep_share(spec) for spec in specs[name]]) for name in DISEASES}
    assert depth["CAP"] > 2 * depth["COVID-19"]
    assert all(lesion.bronchi for spec in specs["CAP"] for lesion in spec.lesions if lesion.kind == "consolidation")


def test_place_tells_the_classes_of_one_seed(specs):
    behind = []
    for seed, (covid, cap) in enumerate(zip(*specs.values(), strict=True)):
        normal = make_scan_spec(seed, "Normal", n_slices=N_SLICES, disease=CLEAR)
        segments = [lesion for lesion in cap.lesions if lesion.kind == "ground_glass"]
        # two to an oedema: the whole and its consolidated part
        for segment, oedema in zip(segments, normal.lesions[::2], strict=True):
            assert segment.lobe == oedema.lobe
            behind.append(segment.centre[1] > oedema.centre[1] + 10)
        assert {segment.lobe for segment in segments} == {LOBES[index] for index in cap.signs.lobes}
        # two lobes of a lung at least, where a segment has one
        assert len({patch.lobe for patch in covid.lesions}) > len(segments)
    assert np.mean(behind) > 0.8  # an upper lobe may not reach the back


def test_blunt_lesion_is_wider_near_its_ends(specs):
    patch = specs["COVID-19"][0].lesions[0]
    at = {"x": np.arange(-150, 150, 2, dtype=np.float32), "y": np.arange(-150, 150, 2, dtype=np.float32)}
    u = patch.centre[2] + 0.8 * patch.radii[2]
    blunt, pointed = (ellipsoid_share(replace(patch, blunt=value), **at, u=u).sum() for value in (True, False))
    assert blunt > 1.2 * pointed


def test_histogram_within_the_lung_mask_is_the_same():
    bins = np.array([-1100, -800, -600, -450, -300, -100, 400])
    shares = []
    for seed in range(100, 106):
        kinds = (("Normal", False), *((name, True) for name in SPGC_CLASSES))
        scans = [make_scan(seed, name, rows=96, n_slices=(14, 16), disease=CLEAR, lesions=add) for name, add in kinds]
        masks = [segment_lungs(scan.hu, scan.spacing_mm).mask for scan in scans]
        shares.append([np.histogram(s.hu[m], bins)[0] / m.sum() for s, m in zip(scans, masks, strict=True)])
    empty, *classes = np.mean(shares, axis=0)
    added = np.mean(classes, axis=0) - empty
    assert added[2:].min() > 0
    for share in classes:
        np.testing.assert_allclose(share - empty, added, atol=0.25 * np.abs(added).max())


def test_oedema_is_no_disease():
    scan = make_scan(3, "Normal", **SMALL)
    assert {lesion.kind for lesion in scan.spec.lesions} == {"oedema"}
    assert scan.lesion_mask.any()
    assert not scan.infected.any()
    assert not scan.labelled.any()
    assert scan.lesions.empty


@pytest.mark.parametrize("label", DISEASES)
def test_classes_of_one_seed_differ_only_at_lesions(label):
    assert leak_outside_lesions(5, label, **SMALL) == 0
    normal, diseased, twin, empty = (
        make_scan(5, name, **SMALL, lesions=lesions)
        for name, lesions in (("Normal", True), (label, True), (label, False), ("Normal", False))
    )
    assert (normal.hu != diseased.hu).any()
    assert (twin.hu == empty.hu).all()


def test_oracle_tells_the_classes():
    auc, accuracy = oracle_auc(scans=20, n_slices=N_SLICES, seed=1, disease=CLEAR)
    assert auc > 0.97
    assert accuracy > 0.95


def test_nothing_but_disease_tells_the_class(tmp_path):
    # six intervals at once: 99% each keeps the chance of a false alarm near 5%
    studies = artefact_studies(
        scans=8, rows=48, n_slices=(5, 6), seed=3, folder=tmp_path / "cohort", level=0.99, disease=CLEAR
    )
    assert len(studies) == 6
    for name, (_, low, _high) in studies.items():
        assert low <= 0.5, name  # below it nothing was found that holds on other scans


def test_cohort_says_which_disease_it_has(tmp_path):
    words = {"scans": {"CAP": 1}, "labelled": {"CAP": 1}, "seed": 0, "rows": 32, "n_slices": (4, 5)}
    write_cohort(tmp_path / "clear", **words, disease=CLEAR)
    assert '"disease": "clear"' in (tmp_path / "clear" / "phantom.json").read_text()
    truth = pd.read_parquet(tmp_path / "clear" / "truth" / "scans.parquet")
    assert {"share", "dense", "lobes"} <= set(truth.columns)
    with pytest.raises(CohortError, match="disease: clear there, published asked"):
        write_cohort(tmp_path / "clear", **words)


def test_unknown_disease_is_refused():
    with pytest.raises(CohortError, match=r"no disease 'hard'.*published, clear"):
        make_scan(0, "CAP", rows=64, n_slices=(4, 5), disease="hard")
