"""Paint everything but the lungs: table, skin, muscle, bones, heart, abdomen. Values in HU."""

import numpy as np

from cnr_iemn.phantom.anatomy import Anatomy
from cnr_iemn.phantom.protocol import ScanProtocol
from cnr_iemn.phantom.random_fields import Array, blend, capsule, coverage, ellipse

AIR, FAT, MUSCLE, BLOOD, BONE, CORTEX = -1000.0, -100.0, 52.0, 42.0, 190.0, 520.0


def back_of_body(anatomy: Anatomy) -> float:
    """Return y of the skin of the back."""
    return anatomy.half_depth + 12 + 1.3 * anatomy.muscle + 0.5 * anatomy.fat


def paint_table(image: Array, x: Array, y: Array, pixel: float, *, anatomy: Anatomy, protocol: ScanProtocol) -> None:
    """Paint the two shells of the curved table and at times a blanket's folds."""
    curve = protocol.table_curve * x**2
    top = back_of_body(anatomy) + protocol.table_gap + 4 - 0.5 * curve
    for below, value in ((0.0, -250.0), (protocol.table_layers, 40.0)):
        blend(image, value, coverage(np.abs(y - top - below + 0.4 * below * curve / 40) - 1.4, pixel))
    blend(
        image,
        -960.0,
        coverage(np.abs(y - top - protocol.table_layers / 2) - protocol.table_layers / 2 + 1.5, pixel),
    )
    if protocol.blanket:
        front = -anatomy.half_depth - anatomy.fat - 30
        fold = front + 10 * np.sin(x / 23 + protocol.table_z) + 5 * np.sin(x / 9 + 1.7) + 0.001 * x**2
        blend(image, -800.0, coverage(np.abs(y - fold) - 0.7, pixel))


def paint_body(image: Array, x: Array, y: Array, u: float, pixel: float, *, anatomy: Anatomy) -> Array:
    """Paint skin, fat, muscle, shoulders and the cage's content as soft tissue; return the cage's signed distance."""
    t = u / anatomy.height
    back, front = back_of_body(anatomy), -(anatomy.half_depth + 8 + 0.6 * anatomy.muscle + 0.9 * anatomy.fat)
    front *= float(np.interp(t, [-0.2, -0.05, 0.3, 1.0], [0.42, 0.55, 1.0, 0.97]))
    width = anatomy.half_width + 12 + anatomy.muscle + anatomy.fat
    skin = ellipse(x, y - (back + front) / 2, width, (back - front) / 2, 2.25)
    rim = 2.5 + anatomy.fat * (0.75 + 0.25 * np.sin(3 * x / width))
    if t < 0.25:
        for side in (-1, 1):
            lift = np.interp(t, [-0.15, 0.25], [0, 40])
            skin = np.minimum(skin, ellipse(x - side * (width - 8 + lift), y - 0.35 * back, 55, 48 - 0.4 * lift))
    if anatomy.female and 0.3 < t < 0.75:
        swell = np.sqrt(max(1 - ((t - 0.52) / 0.22) ** 2, 0.0))
        for side in (-1, 1):
            breast = ellipse(x - side * 0.5 * width, y - front - 10, 58 * swell + 1, 30 * swell + 1)
            rim = rim + 30 * coverage(breast, 12 * pixel)
            skin = np.minimum(skin, breast)
    if anatomy.arms_down:
        for side in (-1, 1):
            arm = np.hypot(x - side * (width + 42), y - 0.3 * back) - 38
            skin = np.minimum(skin, arm)
    cage = anatomy.cage(x, y, u)
    blend(image, FAT, coverage(skin, pixel))
    blend(image, MUSCLE, coverage(np.minimum(skin + rim, cage - 8), 1.5 * pixel) * coverage(skin + 2, pixel))
    return cage


def paint_bones(image: Array, x: Array, y: Array, u: float, pixel: float, *, anatomy: Anatomy, cage: Array) -> None:
    """Paint ribs, sternum, shoulder blades, collar bones, arms and the spine."""
    t, b, w = u / anatomy.height, anatomy.half_depth, anatomy.half_width
    scale = w / 130
    forward = np.arctan2(np.abs(x) / w, y / b) / np.pi  # 0 at the spine, 1 at the sternum
    phase = (u - 95 * forward) / 26 + anatomy.rib_phase
    beat = np.abs(phase - np.round(phase)) * 26 - 5.5  # mm from the rib's middle, in u
    rib = np.maximum(np.abs(cage - 5) - 2.8, beat)
    rib = np.where((np.abs(x) > 16) & (t > -0.12), rib, 9)
    share = coverage(rib, pixel)
    cartilage = np.clip((forward - 0.76) / 0.1, 0, 1)
    blend(image, (CORTEX - 150 * coverage(rib + 1.6, pixel)) * (1 - cartilage) + 110 * cartilage, share)
    front = -b * float(np.interp(t, [-0.1, 0.0, 0.3, 1.0], [0.2, 0.4, 0.93, 1.0])) - 7
    if 0.05 < t < 0.75:
        bone(image, ellipse(x, y - front, 17 * scale, 6.5), pixel)
    if -0.12 < t < 0.1:
        for side in (-1, 1):
            bone(image, capsule(x, y, (side * 22, front + 2), (side * (85 - 200 * t), front + 12 + 80 * t), 5.5), pixel)
    if -0.1 < t < 0.5:
        for side in (-1, 1):
            inner = (side * (0.50 + 0.1 * t) * w, b + 10 + 0.3 * anatomy.muscle)
            outer = (side * (w + 10 + 30 * max(0.2 - t, 0)), b * (0.55 - 0.3 * t))
            bone(image, capsule(x, y, inner, outer, 2.8), pixel)
    if t < 0.06 and anatomy.arms_down:
        for side in (-1, 1):
            bone(image, np.hypot(x - side * (w + 38), y - 0.32 * b) - 21, pixel)
    spine(image, x, y - 0.80 * b, u, pixel, scale=scale, phase=anatomy.rib_phase)


def bone(image: Array, distance: Array, pixel: float) -> None:
    """Paint a bone with its denser rim."""
    blend(image, CORTEX, coverage(distance, pixel))
    blend(image, BONE, coverage(distance + 2.2, pixel))


def spine(image: Array, x: Array, y: Array, u: float, pixel: float, *, scale: float, phase: float) -> None:
    """Paint a vertebra (or the disc between two) with its arch and canal; ``y`` counts from the body's centre."""
    place = abs((u / 24 + phase) % 1 - 0.5) * 24  # mm from the middle of a vertebra
    body = ellipse(x, y + 2, 20 * scale, 16 * scale, 2.2)
    if place < 9.5:
        bone(image, body, pixel)
    else:
        blend(image, 90.0, coverage(body, pixel))
    arch = capsule(x, y, (0, 24 * scale), (0, 44 * scale), 3.0)
    if place < 8:
        for side in (-1, 1):
            arch = np.minimum(arch, capsule(x, y, (side * 12, 14 * scale), (side * 33 * scale, 26 * scale), 4.0))
    for side in (-1, 1):
        arch = np.minimum(arch, capsule(x, y, (side * 11, 12 * scale), (0, 27 * scale), 3.0))
    bone(image, arch, pixel)
    blend(image, 30.0, coverage(np.hypot(x, y - 18 * scale) - 7 * scale, pixel))


def paint_inside(image: Array, x: Array, y: Array, u: float, pixel: float, *, anatomy: Anatomy, cage: Array) -> None:
    """Paint what the cage holds around the lungs: mediastinal fat, heart and vessels, the organs of the abdomen."""
    t, b, w = u / anatomy.height, anatomy.half_depth, anatomy.half_width
    inside = coverage(cage + 2, pixel)
    if t > 0:
        blend(image, FAT + 10, inside)
    hx, hy, ht, share, tall = anatomy.heart
    slim = np.sqrt(max(1 - ((u - ht * anatomy.height) / (0.93 * tall)) ** 2, 0.0))
    vessels = np.minimum(np.hypot(x - 20 * w / 130, y - 0.42 * b) - 11, np.hypot(x + 14, y + 14) - 9)
    if t < 0.55:
        vessels = np.minimum(vessels, ellipse(x + 2, y + 0.35 * b, 17, 17))
        vessels = np.minimum(vessels, ellipse(x - 10, y, 14 + 8 * (0.2 < t < 0.28), 12 + 12 * (0.2 < t < 0.28)))
    if slim > 0.05:
        tilt = 0.35 * (y - hy * b)
        heart = ellipse(x - hx * w - tilt, y - hy * b, share * w * slim - 2, 0.93 * share * w * slim - 2)
        vessels = np.minimum(vessels, heart)
    blend(image, BLOOD, coverage(vessels, pixel) * inside)
    oesophagus = np.hypot(x - 6, y - 0.47 * b) - 7
    blend(image, BLOOD, coverage(np.minimum(oesophagus, ellipse(x, y - 0.8 * b, 30, 26)), 2 * pixel) * inside)
    depth = anatomy.diaphragm(x, y)
    if u > float(depth.min()):
        below_dome = coverage((depth + 2 - u) * 0.7, pixel) * inside
        paint_abdomen(image, x, y, u, pixel, anatomy=anatomy, below_dome=below_dome, cage=cage)


def paint_abdomen(
    image: Array, x: Array, y: Array, u: float, pixel: float, *, anatomy: Anatomy, below_dome: Array, cage: Array
) -> None:
    """Paint liver, stomach, spleen and at times bowel gas where ``below_dome`` (0 to 1) lies below the diaphragm."""
    w, b = anatomy.half_width, anatomy.half_depth
    blend(image, FAT, below_dome)
    rim = coverage(cage + 6, 2 * pixel) * below_dome
    deep = (u / anatomy.height - 0.85) * 60
    liver = ellipse(x + 0.5 * w - 0.1 * deep, y + 0.08 * b, 0.75 * w, 1.15 * b, 2.6)
    spleen = ellipse(x - 0.72 * w, y - 0.35 * b, 0.32 * w, 0.6 * b)
    stomach = ellipse(x - 0.42 * w, y + 0.25 * b, 0.42 * w, 0.55 * b)
    blend(image, 28.0, coverage(stomach, pixel) * rim)
    blend(image, 50.0, coverage(spleen, pixel) * rim)
    blend(image, 62.0, coverage(liver, pixel) * rim)
    spine_muscle = ellipse(x, y - 0.85 * b, 48, 30)
    blend(image, MUSCLE, coverage(spine_muscle, pixel) * below_dome)
    clear = coverage((anatomy.diaphragm(x, y) + 14 - u) * 0.7, pixel) * coverage(cage + 16, pixel)
    for gx, gy, gu, radius in anatomy.gas:
        bubble = np.sqrt((x - gx) ** 2 + (y - gy) ** 2 + (u - gu) ** 2) - radius
        blend(image, AIR + 20, coverage(bubble, pixel) * clear)
