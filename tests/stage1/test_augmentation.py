import math
from collections.abc import Callable
from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import functional as functional_v1
from torchvision.transforms.v2 import functional as tv

from cnr_iemn.ct.resize import resize_square
from cnr_iemn.ct.window import window_to_uint8
from cnr_iemn.errors import ConfigurationError
from cnr_iemn.phantom.renderer import make_scan
from cnr_iemn.stage1.data.augmentation import (
    AugmentationSettings,
    Draw,
    Warp,
    apply_warp,
    box_filter,
    compose,
    draw_parameters,
    draw_warp,
    plain_warp,
)
from tests.config.test_configuration import compose as settings_of

INPUT, IMAGE = 336, 224
SETTINGS = AugmentationSettings()


def some_draws(n=12):
    draws = [draw_parameters(np.random.default_rng(k), SETTINGS, image_size=IMAGE) for k in range(n)]
    assert {draw.flip for draw in draws} == {True, False}
    return draws


def perspective_arguments(draw):
    last = draw.working_size - 1
    return [[0, 0], [last, 0], [last, last], [0, last]], [list(corner) for corner in draw.corners]


def transform_points(points, draw, *, input_size):
    """Where torchvision's five transforms, one after the other, put points given as pixel indices (x, y)."""
    canvas = (draw.working_size, draw.working_size)
    half = 0.5  # resize, perspective and rotation count from the outer corner of a pixel, the flip from its centre
    points = torch.from_numpy(points) + half
    points, _ = tv.resize_keypoints(points, size=list(canvas), canvas_size=(input_size, input_size))
    if draw.flip:
        points = tv.horizontal_flip_keypoints(points - half, canvas_size=canvas) + half
    if draw.corners is not None:
        points = tv.perspective_keypoints(points, canvas, *perspective_arguments(draw))
    points, _ = tv.rotate_keypoints(points, canvas_size=canvas, angle=draw.angle)
    return (points - half - torch.tensor([draw.left, draw.top])).numpy()


def transform_image(image, draw, *, image_size):
    """The same on a float image [h, w], five interpolations one after the other."""
    tensor = torch.from_numpy(image).float()[None]
    tensor = tv.resize(tensor, [draw.working_size] * 2, antialias=True)
    if draw.flip:
        tensor = tv.horizontal_flip(tensor)
    if draw.corners is not None:
        tensor = tv.perspective(tensor, *perspective_arguments(draw))
    tensor = tv.rotate(tensor, draw.angle, interpolation=tv.InterpolationMode.BILINEAR)
    return tv.crop(tensor, draw.top, draw.left, image_size, image_size)[0].numpy()


def project(homography, points):
    rows = np.column_stack([points, np.ones(len(points))]) @ homography.T
    return rows[:, :2] / rows[:, 2:]


def smooth_image(size=INPUT):
    noise = np.random.default_rng(5).random((size, size))
    field = ndimage.gaussian_filter(noise, 14, mode="wrap")
    return np.uint8(30 + 200 * (field - field.min()) / np.ptp(field))


def plain(image, image_size):
    return apply_warp(
        image, np.zeros_like(image), plain_warp(input_size=len(image), image_size=image_size), image_size=image_size
    )[0]


@pytest.mark.parametrize("draw", some_draws())
def test_corners_and_a_grid_of_points_land_where_the_five_transforms_put_them(draw):
    axis = np.linspace(0, INPUT - 1, 8)
    points = np.array([(x, y) for x in axis for y in axis])
    reference = transform_points(points, draw, input_size=INPUT)
    landed = project(compose(draw, input_size=INPUT).homography, points)
    # torchvision rounds its coefficients to float32
    np.testing.assert_allclose(landed, reference, atol=5e-3)
    assert np.ptp(landed[:, 0]) > 90


def test_perspective_moves_the_corners_of_the_working_image_to_the_drawn_ones():
    draw = Draw(
        working_size=244, flip=False, corners=((10, 20), (200, 5), (240, 190), (33, 243)), angle=0, left=0, top=0
    )
    corners = np.array([[0, 0], [243, 0], [243, 243], [0, 243]], dtype=float)
    matrix = compose(draw, input_size=244).homography
    np.testing.assert_allclose(project(matrix, corners - 0.5) + 0.5, draw.corners, atol=1e-6)
    # the way back is the coefficients torchvision computes
    *row, g, h = functional_v1._get_perspective_coeffs(*perspective_arguments(draw))
    back = np.array([[*row[:3]], [*row[3:]], [g, h, 1]])
    np.testing.assert_allclose(project(back, np.array(draw.corners, dtype=float)), corners, atol=1e-3)


@pytest.mark.parametrize("draw", some_draws(6))
def test_markers_in_an_image_land_where_torchvision_puts_them(draw):
    visible = 0
    warp = compose(draw, input_size=INPUT)
    for x, y in [(168, 168), (120, 200), (210, 130), (150, 110), (230, 220)]:
        rows, columns = np.mgrid[:INPUT, :INPUT]
        image = np.uint8(255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 4**2)))
        reference = transform_image(image, draw, image_size=IMAGE)
        warped, _ = apply_warp(image, image, Warp(warp.homography), image_size=IMAGE)
        expected = np.array(ndimage.center_of_mass(reference))
        if not (np.all(expected > 12) and np.all(expected < IMAGE - 12)):
            continue
        visible += 1
        np.testing.assert_allclose(ndimage.center_of_mass(warped), expected, atol=0.03)
    assert visible >= 3


@pytest.mark.parametrize("draw", some_draws(6))
def test_a_smooth_image_looks_as_after_five_interpolations(draw):
    image = smooth_image()
    reference = transform_image(image, draw, image_size=IMAGE)
    warped, _ = apply_warp(image, image, Warp(compose(draw, input_size=INPUT).homography), image_size=IMAGE)
    inside = ndimage.binary_erosion((reference > 25) & (warped > 25), iterations=3)
    assert inside.sum() > 8000
    difference = np.abs(warped - reference)[inside]
    assert difference.max() < 4
    assert difference.mean() < 0.8
    # the comparison is sharp enough to see one pixel of displacement
    assert np.abs(np.roll(warped, 1, axis=1) - reference)[inside].mean() > 2 * difference.mean()


def test_drawn_parameters_keep_to_their_ranges_and_probabilities():
    rng = np.random.default_rng(0)
    draws = [draw_parameters(rng, SETTINGS, image_size=IMAGE) for _ in range(4000)]
    jittered = [draw for draw in draws if draw.brightness is not None]
    for count in (len(jittered), sum(draw.flip for draw in draws)):
        assert stats.binomtest(count, 4000, 0.2).pvalue > 0.01
    assert all((draw.brightness is None) == (draw.contrast is None) for draw in draws)
    assert stats.binomtest(sum(draw.contrast_first for draw in jittered), len(jittered), 0.5).pvalue > 0.01
    for values in ([d.brightness for d in jittered], [d.contrast for d in jittered]):
        assert stats.kstest(values, stats.uniform(0.8, 0.4).cdf).pvalue > 0.01
    assert stats.kstest([d.angle for d in draws], stats.uniform(-30, 60).cdf).pvalue > 0.01
    assert {d.working_size for d in draws} == {244}
    offsets = np.array([(d.left, d.top) for d in draws])
    assert set(np.unique(offsets)) == set(range(21))
    # each corner covers its own quadrant up to half of half the side, both ends included
    corners = np.array([d.corners for d in draws])
    inwards = np.where(corners < 122, corners, 243 - corners)
    assert inwards.min() == 0
    assert inwards.max() == 61
    np.testing.assert_array_equal(np.unique(corners[:, 0]), np.unique(243 - corners[:, 2]))
    assert stats.chisquare(np.bincount(inwards.ravel(), minlength=62)).pvalue > 0.01


def test_switching_perspective_off_leaves_the_other_numbers_as_they_were():
    some = AugmentationSettings(perspective_probability=0.5)
    draws = [draw_parameters(np.random.default_rng(k), some, image_size=IMAGE) for k in range(400)]
    without = sum(draw.corners is None for draw in draws)
    assert stats.binomtest(without, 400, 0.5).pvalue > 0.01
    for k in range(20):
        standard = draw_parameters(np.random.default_rng(k), SETTINGS, image_size=IMAGE)
        assert (standard.angle, standard.left, standard.top) == (draws[k].angle, draws[k].left, draws[k].top)


def test_one_generator_gives_one_warp():
    first, again, other = (
        draw_warp(np.random.default_rng(seed), SETTINGS, input_size=INPUT, image_size=IMAGE) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.homography, again.homography)
    assert (first.brightness, first.contrast) == (again.brightness, again.contrast)
    assert not np.allclose(first.homography, other.homography)


@pytest.mark.parametrize("contrast_first", [False, True])
@pytest.mark.parametrize(("brightness", "contrast"), [(1.2, 0.8), (0.81, 1.19)])
def test_jitter_is_that_of_torchvision(brightness, contrast, contrast_first):
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    warp = Warp(plain_warp(input_size=64, image_size=64).homography, brightness, contrast, contrast_first)
    jittered, _ = apply_warp(image, image, warp, image_size=64)
    steps = [(tv.adjust_brightness, brightness), (tv.adjust_contrast, contrast)]
    expected = torch.from_numpy(image)[None]
    for function, factor in reversed(steps) if contrast_first else steps:
        expected = function(expected, factor)
    difference = np.abs(jittered.astype(int) - expected[0].numpy())
    assert difference.max() <= 1  # a truncation on the brink of an integer
    assert (difference > 0).mean() < 0.01


def test_jitter_changes_grey_and_neither_the_mask_nor_the_fill():
    image = smooth_image()
    mask = image > 120
    homography = draw_warp(np.random.default_rng(1), SETTINGS, input_size=INPUT, image_size=IMAGE).homography
    grey, lungs = apply_warp(image, mask, Warp(homography), image_size=IMAGE)
    bright, same = apply_warp(image, mask, Warp(homography, 1.2, 0.8), image_size=IMAGE)
    assert np.abs(bright.astype(int) - grey).max() > 5
    np.testing.assert_array_equal(lungs, same)
    np.testing.assert_array_equal(bright[grey == 0], 0)


def test_outside_the_frame_is_air_and_no_lung():
    white = np.full((INPUT, INPUT), 255, dtype=np.uint8)
    rng = np.random.default_rng(2)
    outside = 0
    for _ in range(20):
        warp = draw_warp(rng, SETTINGS, input_size=INPUT, image_size=IMAGE)
        grey, lungs = apply_warp(white, white, Warp(warp.homography, 1.2, 0.8), image_size=IMAGE)
        y, x = np.mgrid[:IMAGE, :IMAGE]
        origin = project(np.linalg.inv(warp.homography), np.column_stack([x.ravel(), y.ravel()]))
        distance = np.maximum(np.abs(origin - (INPUT - 1) / 2).max(axis=1) - INPUT / 2, -2).reshape(IMAGE, IMAGE)
        np.testing.assert_array_equal(grey[distance > 2], 0)
        np.testing.assert_array_equal(lungs[distance > 2], 0)
        assert lungs[distance < -1].all()
        outside += int((distance > 2).sum())
    assert outside > 20 * 1000


def test_the_mask_moves_with_the_image_and_stays_binary():
    y, x = np.mgrid[:INPUT, :INPUT]
    disc = (x - 150) ** 2 + (y - 190) ** 2 < 60**2
    image = np.where(disc, np.uint8(255), np.uint8(0))
    for seed in range(8):
        warp = draw_warp(np.random.default_rng(seed), SETTINGS, input_size=INPUT, image_size=IMAGE)
        grey, lungs = apply_warp(image, disc, Warp(warp.homography), image_size=IMAGE)
        assert lungs.dtype == grey.dtype == np.uint8
        assert set(np.unique(lungs)) == {0, 1}
        np.testing.assert_array_equal(lungs, grey >= 128)
        same = apply_warp(image, disc.astype(np.uint8), Warp(warp.homography), image_size=IMAGE)[1]
        np.testing.assert_array_equal(lungs, same)


@pytest.mark.parametrize("image_size", [64, 96, 224, 299, 400])
def test_a_plain_warp_is_a_resize_of_the_whole_image(image_size):
    image = smooth_image()
    tensor = torch.from_numpy(image).float()[None]
    reference = tv.resize(tensor, [image_size] * 2, antialias=image_size < INPUT)[0].numpy()
    assert np.abs(plain(image, image_size) - reference).max() < 3
    corners = np.array([[-0.5, -0.5], [INPUT - 0.5, INPUT - 0.5]])
    landed = project(plain_warp(input_size=INPUT, image_size=image_size).homography, corners)
    np.testing.assert_allclose(landed, [[-0.5, -0.5], [image_size - 0.5] * 2], atol=1e-9)


def test_an_image_of_the_right_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    grey, lungs = apply_warp(image, image > 99, plain_warp(input_size=96, image_size=96), image_size=96)
    np.testing.assert_array_equal(grey, image)
    np.testing.assert_array_equal(lungs, image > 99)


def test_shrinking_sees_every_pixel():
    checkerboard = np.uint8(255 * (np.indices((INPUT, INPUT)).sum(axis=0) % 2))
    np.testing.assert_allclose(plain(checkerboard, INPUT // 4), 127.5, atol=1)
    # a warp to a quarter of the side; one bilinear look at four pixels would leave stripes of 0 and 255
    settings = AugmentationSettings(perspective_distortion=0)
    warp = draw_warp(np.random.default_rng(0), settings, input_size=INPUT, image_size=76)
    grey, _ = apply_warp(checkerboard, checkerboard, Warp(warp.homography), image_size=76)
    assert np.abs(grey[20:-20, 20:-20].astype(float) - 127.5).max() < 12
    direct = cv2.warpPerspective(checkerboard, warp.homography, (76, 76))
    assert np.ptp(direct[20:-20, 20:-20]) > 100


def test_a_homography_times_a_number_is_the_same_warp():
    checkerboard = np.uint8(255 * (np.indices((INPUT, INPUT)).sum(axis=0) % 2))
    for seed in range(4):
        homography = draw_warp(np.random.default_rng(seed), SETTINGS, input_size=INPUT, image_size=96).homography
        grey, _ = apply_warp(checkerboard, checkerboard, Warp(homography), image_size=96)
        same, _ = apply_warp(checkerboard, checkerboard, Warp(5 * homography), image_size=96)
        np.testing.assert_allclose(same, grey, atol=1)


def test_settings_outside_their_range_are_refused():
    for name, value in [
        ("flip_probability", 1.5),
        ("perspective_distortion", 0.7),
        ("crop_ratio", 0.0),
        ("contrast", -1),
    ]:
        with pytest.raises(ConfigurationError, match=rf"augmentation\.{name}={value}"):
            AugmentationSettings(**{name: value})


def test_a_share_of_items_stays_as_it_is_and_the_others_are_warped_as_without_it() -> None:
    """The paper's probability of 1 leaves none, bit for bit."""
    left = plain_warp(input_size=INPUT, image_size=IMAGE).homography
    some, shares = AugmentationSettings(probability=0.7), []
    for k in range(400):
        every = compose(draw_parameters(np.random.default_rng(k), SETTINGS, image_size=IMAGE), input_size=INPUT)
        papers, other = (
            draw_warp(np.random.default_rng(k), options, input_size=INPUT, image_size=IMAGE)
            for options in (SETTINGS, some)
        )
        assert np.array_equal(papers.homography, every.homography)
        assert (papers.brightness, papers.contrast) == (every.brightness, every.contrast)
        shares.append(np.array_equal(other.homography, left) and other.brightness is None)
        assert shares[-1] or np.array_equal(other.homography, every.homography)
    assert stats.binomtest(sum(shares), len(shares), 0.3).pvalue > 0.01


def sizes_shown(settings: AugmentationSettings) -> np.ndarray:
    """How large items show the middle of the body, 1 as a slice that is validated."""
    middle = (INPUT - 1) / 2 + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sizes = []
    for k in range(500):
        warp = draw_warp(np.random.default_rng(k), settings, input_size=INPUT, image_size=IMAGE)
        origin, *edges = project(warp.homography, middle)
        sizes.append(np.sqrt(abs(np.linalg.det(np.array(edges) - origin))) * INPUT / IMAGE)
    return np.array(sizes)


def test_the_standard_recipe_trains_at_the_size_of_prediction_and_the_paper_s_recipe_does_not() -> None:
    """Perspective moves corners inwards alone, so that it shrinks: the paper's items by a fifth."""
    ours = settings_of("train", "data=manifest", "data.csv=x.csv", "balancing=auto").augmentation
    sizes = sizes_shown(AugmentationSettings(**asdict(ours)))
    assert np.abs(sizes - 1).max() < 0.1
    papers = sizes_shown(AugmentationSettings())
    assert np.median(papers) == pytest.approx(0.8, abs=0.02)
    assert (papers > 0.9).mean() < 0.1


def sharpness(images: list[np.ndarray], *, edge: int) -> float:
    """Return the variance of the Laplacian inside ``edge`` pixels, the mean over the images."""
    inside = slice(edge, -edge)
    return float(np.mean([cv2.Laplacian(each[inside, inside].astype(np.float32), cv2.CV_32F).var() for each in images]))


def turned(
    slices: list[np.ndarray], size: int, resample: Callable[[np.ndarray, np.ndarray], np.ndarray], *, zoom: float
) -> float:
    """Return how much sharper slices are that were turned than slices of the same scale that were not."""
    whole = round(size * zoom)
    edge = (whole - size) // 2
    draws = [Draw(whole, flip=False, corners=None, angle=a, left=edge, top=edge) for a in (-20, -7, 3, 11, 25)]
    warps = [compose(draw, input_size=INPUT).homography for draw in draws]
    quarter = size // 4
    return sharpness([resample(image, matrix) for image in slices for matrix in warps], edge=quarter) / sharpness(
        [plain(image, whole) for image in slices], edge=quarter + edge
    )


@pytest.fixture(scope="module")
def phantom_slices() -> list[np.ndarray]:
    scan = make_scan(3, "Normal", rows=512, n_slices=(12, 12))
    return [resize_square(window_to_uint8(hu, low=-1000, high=400), INPUT) for hu in scan.hu[3:9]]


@pytest.mark.parametrize(
    ("size", "zoom", "bilinear"),
    [(224, 0.85, 1.52), (224, 1.0, 1.18), (299, 0.85, 1.26), (160, 1.0, 0.64), (64, 1.09, 0.64)],
)
def test_warped_and_other_slices_are_alike_sharp(
    phantom_slices: list[np.ndarray], size: int, zoom: float, bilinear: float
) -> None:
    """What is warped, one class in the paper's recipe, must not be told by its sharpness. 0.85: the recipe's median."""

    def one_look(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        smaller = len(image) // 2 ** math.floor(-math.log2(size * zoom / INPUT))  # as warps were until 2026-11-30
        image = cv2.resize(image, (smaller, smaller), interpolation=cv2.INTER_AREA)
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        matrix = matrix @ np.linalg.inv(half) @ np.diag([INPUT / smaller, INPUT / smaller, 1]) @ half
        return cv2.warpPerspective(image, matrix, (size, size))

    def ours(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return apply_warp(image, image, Warp(matrix), image_size=size)[0]

    before, after = (turned(phantom_slices, size, resample, zoom=zoom) for resample in (one_look, ours))
    assert before == pytest.approx(bilinear, abs=0.03)
    assert after == pytest.approx(1, abs=0.14)
    assert abs(after - 1) < abs(before - 1) / 2


@pytest.mark.parametrize("width", [1, 1.2, 1.5, 2, 2.9, 3, 4.4, 7])
def test_a_mean_over_a_width_has_the_width_s_variance(width: float) -> None:
    taps = box_filter(width)
    places = np.arange(len(taps)) - len(taps) // 2
    assert taps.sum() == pytest.approx(1)
    assert (taps >= 0).all()
    assert taps.max() == pytest.approx(taps[len(taps) // 2])
    assert taps @ places**2 == pytest.approx((width**2 - 1) / 12)
    if width % 2 == 1:
        np.testing.assert_allclose(taps[1:-1], 1 / width, atol=1e-12)
