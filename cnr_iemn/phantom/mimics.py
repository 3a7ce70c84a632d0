"""Opacities of the volume and density of the clear disease that belong to no class.

Half of the scans of every class have them, so that density does not tell disease from its absence either: hypostasis
along the back of both lungs, or oedema around both hila.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from cnr_iemn.phantom.anatomy import Anatomy
from cnr_iemn.phantom.lesions import Lesion, layer_at, make_lesion
from cnr_iemn.phantom.opacity_size import Amount, Site, consolidated_middle, fitted, resized

SHARE = 0.5
"""Of the scans of every class, half of them with hypostasis and half with oedema."""
POINTS = 6000


def draw_mimics(rng: np.random.Generator, anatomy: Anatomy) -> list[Lesion]:
    """Draw hypostasis or oedema of both lungs, or nothing."""
    if rng.random() > SHARE:
        return []
    amount, left = Amount.draw(rng), rng.uniform(0.35, 0.65)
    draw = draw_hypostasis if rng.random() < 0.5 else draw_oedema
    points = anatomy.sample(rng, POINTS)
    x, y, u = anatomy.warp(points)
    pleura = anatomy.pleural_depth(x, y, u).astype(float)
    middle, length = rng.uniform(0.35, 0.6) * anatomy.height, rng.uniform(0.3, 0.5) * anatomy.height
    lesions = []
    for lobe, share, inside in ((0, left, x > 0), (2, 1 - left, x < 0)):
        run = (middle - length / 2, middle + length / 2)
        filled = amount.share * share * len(points)
        site = Site(anatomy, lobe, points[inside], pleura[inside], run, filled, amount.dense * filled)
        lesions += draw(rng, site, amount)
    return lesions


def draw_hypostasis(rng: np.random.Generator, site: Site, amount: Amount) -> list[Lesion]:
    """Return a layer of ground glass along the back of a lung, and a consolidated one within it."""
    first, last = site.run
    centre = np.array([60.0 * site.side, 80.0, (first + last) / 2 + 0.15 * site.anatomy.height])
    layers = []
    for hu, volume in ((amount.glass_hu, site.filled), (amount.dense_hu, site.consolidated)):
        layer = make_lesion(rng, "atelectasis", site.name, centre, (1.0, 40.0, 0.7 * (last - first)), angle=0.0, hu=hu)
        trials = [replace(layer, radii=(thick, *layer.radii[1:])) for thick in np.geomspace(2, 60, 40).tolist()]
        volumes = [layer_at(trial, site.points, site.pleura, site.anatomy.half_depth).sum() for trial in trials]
        layers.append(trials[min(int(np.searchsorted(volumes, volume)), len(trials) - 1)])
    return layers


def draw_oedema(rng: np.random.Generator, site: Site, amount: Amount) -> list[Lesion]:
    """Return ground glass around a hilum with a consolidated middle."""
    first, last = site.run
    anatomy = site.anatomy
    centre = np.array([0.36 * site.side * anatomy.half_width, 0.08 * anatomy.half_depth, (first + last) / 2])
    radii = (0.2 * anatomy.half_width, 0.25 * anatomy.half_depth, (last - first) / 2)
    whole = make_lesion(rng, "oedema", site.name, centre, radii, angle=0.0, hu=amount.glass_hu)
    whole = fitted(site, site.filled, whole, partial(resized, whole))
    middle = partial(consolidated_middle, whole, amount)
    dense = fitted(site, site.consolidated, whole, lambda k: replace(middle(k), kind="oedema", centre=whole.centre))
    return [whole, dense]
