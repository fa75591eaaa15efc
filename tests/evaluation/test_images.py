"""uint8 by rounding, and grids that lose no pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from evaluation.images import captioned_grid, make_grid, pixels, save_png, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def test_every_level_survives_the_round_trip():
    x = pixels(LEVELS.reshape(1, 16, 16, 1))
    assert (x.min(), x.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(to_uint8(x.ravel()), LEVELS)


def test_values_between_levels_round_to_the_nearer_and_outside_are_clipped():
    x = np.array([-9.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 0.9, 1.0, 1.01, np.inf])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 1, 242, 255, 255, 255])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_numpy_and_a_compiled_program_agree(dtype):
    x = jnp.linspace(-1.1, 1.1, 5001, dtype=dtype)
    np.testing.assert_array_equal(jax.jit(to_uint8)(x), to_uint8(np.asarray(x)))


@pytest.mark.parametrize("count, columns, rows", [(1, None, 1), (5, None, 2), (6, 4, 2), (64, None, 8)])
@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 10, 3), (100, 70, 3)])
def test_a_grid_holds_each_image_in_its_place(count, columns, rows, shape):
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    grid = make_grid(images, columns)
    columns, scale = columns or int(np.ceil(count**0.5)), max(1, 64 // max(shape[:2]))
    height, width = shape[0] * scale + 2, shape[1] * scale + 2
    assert grid.shape == (rows * height - 2, columns * width - 2, shape[2])
    for i, image in enumerate(images):
        top, left = i // columns * height, i % columns * width
        tile = grid[top : top + height - 2, left : left + width - 2]
        np.testing.assert_array_equal(tile[::scale, ::scale], image)
        np.testing.assert_array_equal(tile[scale - 1 :: scale, scale - 1 :: scale], image)


def test_a_caption_stands_below_its_image_and_leaves_its_pixels_alone():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    captions = ["a seven", "", "a prompt of very many words that no tile is wide enough for, " * 5]
    grid = captioned_grid(images, captions, columns=3, tile=128)
    for i, image in enumerate(images):
        tile = grid[:128, i * 130 : i * 130 + 128]
        np.testing.assert_array_equal(tile[::16, ::16], np.repeat(image, 3, axis=-1))
    ink = [(grid[128:, i * 130 : i * 130 + 128] < 128).any() for i in range(3)]
    assert ink == [True, False, True] and grid.shape[0] < 128 + 60 and (grid[-1] == 255).all()


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 1), (5, 7)])
def test_a_saved_picture_reads_back(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    save_png(tmp_path / "samples" / "grid.png", image)
    read = np.asarray(Image.open(tmp_path / "samples" / "grid.png"))
    np.testing.assert_array_equal(read, image[..., 0] if shape[2:] == (1,) else image)


def test_other_arrays_are_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^images must be uint8 \[b h w c\], got float32 .*$"):
        make_grid(np.zeros((2, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match=r"^a PNG takes uint8 .* got uint8 \[8, 8, 2\]$"):
        save_png(tmp_path / "x.png", np.zeros((8, 8, 2), np.uint8))
