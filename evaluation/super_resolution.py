"""How good a larger image is where the true one is known: PSNR, SSIM, agreement with what it was made of.

for name, result in judge(samples, images, low_res, resize): print(name, result.value)
"""

from collections.abc import Callable, Iterator

import numpy as np

from evaluation.frechet import Moments, frechet_distance
from evaluation.images import pixels, require_uint8
from evaluation.results import Result

WINDOW, DEVIATION = 11, 1.5  # of SSIM's Gaussian weights


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Peak signal to noise ratio of each image [b], in dB of the range of 255; uint8 or floats in 0..255, b h w c."""
    error = np.mean((np.asarray(images, np.float64) - np.asarray(truth, np.float64)) ** 2, axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


# Wang et al. 2004, eq. (13), with the weights and constants of its section III
def ssim(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Structural similarity of each image [b], 1 for equal ones: mean over channels and whole windows of 11x11.

    Raises ValueError for images smaller than a window.
    """
    if min(images.shape[1:3]) < WINDOW:
        raise ValueError(f"SSIM needs sides of at least {WINDOW}, got {images.shape[1]} x {images.shape[2]}")
    x, y = np.asarray(images, np.float64), np.asarray(truth, np.float64)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, both = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return np.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)), axis=(1, 2, 3))


def blur(x: np.ndarray) -> np.ndarray:
    """Gaussian-weighted means of all whole windows, b h w c."""
    weights = np.exp(-0.5 * ((np.arange(WINDOW) - WINDOW // 2) / DEVIATION) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        x = np.lib.stride_tricks.sliding_window_view(x, WINDOW, axis) @ weights
    return x


def judge(
    samples: np.ndarray, images: np.ndarray, low_res: np.ndarray, resize: Callable[[np.ndarray, tuple], np.ndarray]
) -> Iterator[tuple[str, Result]]:
    """Yields the judgement of samples uint8 [k n h w c] of the images [n h w c] from low_res, beside a bicubic resize.

    psnr/.., ssim/..           of one sample, of the mean of the k, and of the resize: the mean beats the resize where
                               a model knows more; one sample of a posterior need not
    consistency/..             the same ratio, in dB, of what each is when made smaller again against low_res
    frechet/..                 distance of raw pixels to those of the images, of one sample and of the resize
    """
    k, n = samples.shape[:2]
    bicubic = resize(low_res, images.shape[1:3])
    entries = {"sample": samples[0], f"mean_of_{k}": samples.mean(axis=0), "bicubic": bicubic}
    settings = {"n": n, "from": list(low_res.shape[1:]), "to": list(images.shape[1:])}
    for name, made in entries.items():
        yield f"psnr/{name}", Result(np.mean(psnr(made, images)), settings)
        if min(images.shape[1:3]) >= WINDOW:
            yield f"ssim/{name}", Result(np.mean(ssim(made, images)), settings)
    real = Moments.of(pixels(require_uint8(images, "images")))
    for name in ("sample", "bicubic"):
        smaller = resize(entries[name], low_res.shape[1:3])
        yield f"consistency/{name}", Result(np.mean(np.minimum(psnr(smaller, low_res), BEST)), settings)
        moments = Moments.of(pixels(entries[name]))
        facts = {"dimensions": len(real.mean), "rank_deficient": moments.rank_deficient}
        yield f"frechet/{name}", Result(frechet_distance(moments, real), settings | facts)


BEST = 100.0  # dB that count for images that agree in every pixel
