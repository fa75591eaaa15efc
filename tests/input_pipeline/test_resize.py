"""Resizing is antialiased and centred; every mode becomes plain pixels; ADM's steps are exact."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import resize

RNG = np.random.default_rng(0)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize("shape", [(6, 6, 3), (4, 9, 3), (5, 3, 1)])
def test_an_image_of_the_size_itself_is_untouched(shape):
    image = noise(*shape)
    np.testing.assert_array_equal(resize.crop(resize.picture(image), shape), image)


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = resize.crop(Image.fromarray(stripes), (8, 8, 3)).astype(int)
    assert np.abs(found - 127.5).max() < 8


def test_the_middle_is_kept_and_mirroring_commutes():
    wide = Image.fromarray(noise(10, 30))
    np.testing.assert_array_equal(resize.crop(wide, (5, 5, 3)), resize.crop(wide, (5, 15, 3))[:, 5:10])
    image = noise(33, 47)
    mirrored = resize.crop(Image.fromarray(image[:, ::-1].copy()), (8, 8, 3))
    flipped = resize.crop(Image.fromarray(image), (8, 8, 3))[:, ::-1]
    assert np.abs(mirrored.astype(int) - flipped.astype(int)).max() <= 1


@pytest.mark.parametrize("height, width", [(3, 5), (1, 1), (1, 400), (500, 2)])
def test_tiny_and_extreme_images_are_enlarged(height, width):
    assert resize.crop(Image.fromarray(noise(height, width)), (16, 16, 3)).shape == (16, 16, 3)


# independent of Pillow: the two kernels (cubic with a = -1/2) as matrices, one for each axis
def box(x):
    return (x > -0.5) & (x <= 0.5)


def cubic(x):
    x = np.abs(x)
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))


def matrix(kernel, before, after):
    scale = before / after
    centres = (np.arange(after) + 0.5) * scale - 0.5
    weights = kernel((np.arange(before) - centres[:, None]) / max(scale, 1))
    return weights / weights.sum(1, keepdims=True)


def scaled(image, kernel, height, width):
    image = np.einsum("qw,hwc->hqc", matrix(kernel, image.shape[1], width), image)
    return np.einsum("ph,hwc->pwc", matrix(kernel, image.shape[0], height), np.clip(image, 0, 255))


def adm_by_hand(image, size):
    image = image.astype(float)
    while min(image.shape[:2]) >= 2 * size:
        image = scaled(image, box, image.shape[0] // 2, image.shape[1] // 2)
    height, width = (round(side * size / min(image.shape[:2])) for side in image.shape[:2])
    image = np.clip(scaled(image, cubic, height, width), 0, 255)
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]


@pytest.mark.parametrize("height, width", [(64, 64), (20, 31), (90, 70), (128, 64), (8, 11), (16, 16)])
def test_adm_is_box_halving_then_bicubic_then_the_centre(height, width):
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([127 + 90 * np.sin(x / 5), 127 + 90 * np.cos(y / 7), 255 * x / width], -1).astype(np.uint8)
    found = resize.adm(Image.fromarray(smooth), (16, 16, 3))
    assert np.abs(found - adm_by_hand(smooth, 16)).max() <= 1.6  # Pillow rounds after each direction


def test_adm_differs_from_one_bicubic_step():
    image = Image.fromarray(noise(128, 128))
    assert (resize.adm(image, (16, 16, 3)) != resize.crop(image, (16, 16, 3))).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I"])
def test_every_mode_becomes_plain(mode, channels):
    grey = Image.new("L", (9, 7), 255)
    image = Image.new(mode, (9, 7), 65535) if mode.startswith("I") else grey.convert("RGB").convert(mode)
    if mode == "HSV":
        image = Image.new("HSV", (9, 7), (0, 0, 255))
    np.testing.assert_array_equal(resize.crop(image, (7, 9, channels)), 255)


def test_sixteen_bits_keep_their_range():
    ramp = np.array([[0, 257, 49152, 65535]], np.uint16)
    file = saved(Image.fromarray(ramp))
    np.testing.assert_array_equal(resize.decode(file, (1, 4, 1))[0, :, 0], [0, 1, 191, 255])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_white(mode):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0)).convert(mode if mode != "P" else "RGBA")
    if mode == "P":
        clear = Image.new("P", (4, 4), 0)
        clear.putpalette([255, 0, 0])
        file = saved(clear, transparency=0)
    else:
        file = saved(clear)
    np.testing.assert_array_equal(resize.decode(file, (4, 4, 3)), 255)


def test_palette_is_looked_up_before_resizing():
    image = Image.fromarray(np.repeat(noise(1, 8), 8, axis=0)).quantize(8)
    small = resize.crop(image, (4, 4, 3)).astype(int)
    assert np.abs(small - resize.crop(image.convert("RGB"), (4, 4, 3))).max() == 0


def test_cmyk_jpeg_keeps_its_colours():
    file = saved(Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK"), "JPEG", quality=100)
    red = resize.decode(file, (8, 8, 3)).reshape(-1, 3).mean(0)
    assert red[0] > 240 and max(red[1:]) < 15


def test_orientation_marks_are_obeyed_by_crop_only():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    file = saved(Image.fromarray(image), exif=exif)
    np.testing.assert_array_equal(resize.decode(file, (8, 8, 3)), image[::-1])
    file.seek(0)
    np.testing.assert_array_equal(resize.decode(file, (8, 8, 3), "adm"), image)


def test_floating_point_is_refused():
    with pytest.raises(ValueError, match="floating-point"):
        resize.crop(Image.new("F", (4, 4)), (4, 4, 1))


def test_impossible_preprocessing_is_refused():
    with pytest.raises(ValueError, match="'crop', 'adm'"):
        resize.check("squash", (4, 4, 3))
    with pytest.raises(ValueError, match="4x6"):
        resize.check("adm", (4, 6, 3))
