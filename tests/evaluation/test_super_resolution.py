"""PSNR and SSIM against their formulas written out, and the judgement of samples that are known."""

import numpy as np
import pytest
from PIL import Image

from evaluation import super_resolution as sr


def noisy(images, deviation, seed=0):
    noise = np.random.default_rng(seed).normal(size=images.shape) * deviation
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def smooth_images(n=6, side=16):
    """Blobs away from the ends of the range."""
    rng, at = np.random.default_rng(1), np.arange(side)
    centre, width = rng.uniform(side / 4, 3 * side / 4, (n, 2, 1)), rng.uniform(2, 4, (n, 1, 1))
    rows, columns = (np.exp(-(((at - centre[:, i]) / width[:, 0]) ** 2)) for i in (0, 1))
    return np.round(60 + 120 * rows[:, :, None, None] * columns[:, None, :, None]).astype(np.uint8)


def test_psnr_is_twenty_decibels_for_a_tenth_of_the_range():
    black = np.zeros((2, 4, 4, 3))
    np.testing.assert_allclose(sr.psnr(black + 25.5, black), 20)
    np.testing.assert_allclose(sr.psnr(black + [[[[25.5]]], [[[2.55]]]], black), [20, 40])
    assert sr.psnr(black, black)[0] == np.inf


def test_ssim_is_its_formula_window_by_window():
    truth = smooth_images(2, 13)
    images = noisy(truth, 20)
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    for image, true, found in zip(images, truth, sr.ssim(images, truth)):
        values = []
        for i in range(3):
            for j in range(3):
                x, y = (a[i : i + 11, j : j + 11, 0].astype(np.float64) for a in (image, true))
                mx, my = (weights * x).sum(), (weights * y).sum()
                vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
                cov = (weights * (x - mx) * (y - my)).sum()
                values.append(
                    (2 * mx * my + 6.5025) * (2 * cov + 58.5225) / ((mx**2 + my**2 + 6.5025) * (vx + vy + 58.5225))
                )
        np.testing.assert_allclose(found, np.mean(values), rtol=1e-9)
    np.testing.assert_allclose(sr.ssim(truth, truth), 1)


def by_pillow(images, size):
    return np.stack([np.asarray(Image.fromarray(i[..., 0]).resize(size[::-1], Image.BICUBIC)) for i in images])[
        ..., None
    ]


@pytest.mark.filterwarnings("ignore:Frechet distance over 256")
def test_the_mean_of_eight_noisy_truths_beats_one_of_them_by_nine_decibels():
    truth = smooth_images()
    samples = np.stack([noisy(truth, 10, seed) for seed in range(8)])
    found = {name: result.value for name, result in sr.judge(samples, truth, by_pillow(truth, (8, 8)), by_pillow)}
    assert abs(found["psnr/mean_of_8"] - found["psnr/sample"] - 10 * np.log10(8)) < 0.3
    assert found["ssim/mean_of_8"] > found["ssim/sample"]
    assert abs(found["psnr/sample"] - 20 * np.log10(255 / 10)) < 0.3
    assert found["consistency/bicubic"] > found["consistency/sample"] > found["psnr/sample"]
    assert found.keys() >= {"frechet/sample", "frechet/bicubic", "psnr/bicubic"}


def test_the_truth_itself_is_at_no_distance():
    truth = smooth_images(40, 4)
    found = {name: result for name, result in sr.judge(truth[None], truth, by_pillow(truth, (2, 2)), by_pillow)}
    assert found["frechet/sample"].value < 1e-6 < found["frechet/bicubic"].value
    assert found["consistency/sample"].value == 100.0 and found["psnr/sample"].settings["to"] == [4, 4, 1]
    assert not any(name.startswith("ssim") for name in found)  # no whole window fits


def test_images_smaller_than_a_window_have_no_ssim():
    with pytest.raises(ValueError, match="sides of at least 11, got 8 x 8"):
        sr.ssim(np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1)))
