"""From [-1, 1] to uint8, from uint8 to features, and from many images to one picture in a file."""

import io
import textwrap

import numpy as np
from etils import epath
from PIL import Image, ImageDraw, ImageFont

from training.metrics import write_atomic


def to_uint8(x):
    """Images from [-1, 1] to uint8 by rounding: clip(round((x + 1) * 127.5), 0, 255).

    NumPy or JAX, inside jit too. Rounding, since truncation darkens by half a grey level, which a
    Frechet distance sees. NaN has no uint8: look for it before.
    """
    return ((x.astype("float32") + 1) * 127.5).round().clip(0, 255).astype("uint8")


def require_uint8(images: np.ndarray, name: str) -> np.ndarray:
    """`images` as they are, or ValueError where they are not uint8 b h w c."""
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"{name} must be uint8 [b h w c], got {images.dtype} {list(images.shape)}: "
            "pass images in [-1, 1] through to_uint8 first"
        )
    return images


def fitted(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 b h w 3 brought to b side side 3: Pillow's antialiased bicubic on the shorter side, then the centre."""
    found = np.empty((len(images), side, side, 3), np.uint8)
    for row, image in zip(found, images):
        height, width = image.shape[:2]
        scale = side / min(height, width)
        size = (max(side, round(width * scale)), max(side, round(height * scale)))
        large = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) if size != (width, height) else image
        top, left = (size[1] - side) // 2, (size[0] - side) // 2
        row[:] = np.asarray(large)[top : top + side, left : left + side]
    return found


FITTED = "Pillow bicubic of the shorter side to {}, centre crop"


def pixels(images: np.ndarray) -> np.ndarray:
    """Raw pixels as features: uint8 b h w c -> float64 [b, h*w*c] in [-1, 1]."""
    return require_uint8(images, "images").reshape(len(images), -1) / 127.5 - 1


def make_grid(images: np.ndarray, columns: int | None = None, tile: int = 64) -> np.ndarray:
    """Lays uint8 images b h w c out in rows, white lines between: one image [H W c].

    `columns` defaults to the square root of the count, rounded up. Images smaller than `tile`
    pixels are repeated pixel by pixel up to about that size, so that 8x8 digits can be seen.
    """
    count, height, width, channels = require_uint8(images, "images").shape
    columns = columns or max(1, int(np.ceil(np.sqrt(count))))
    rows = max(1, -(-count // columns))
    scale = max(1, tile // max(height, width))
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    large = np.pad(large, ((0, rows * columns - count), (0, 2), (0, 2), (0, 0)), constant_values=255)
    large = large.reshape(rows, columns, *large.shape[1:]).swapaxes(1, 2)
    return large.reshape(rows * (height * scale + 2), -1, channels)[:-2, :-2]


def captioned_grid(images: np.ndarray, captions: list[str], columns: int | None = None, tile: int = 128) -> np.ndarray:
    """The same with each image's caption below it, in at most three lines: one image [H W 3]."""
    scale = max(1, tile // max(require_uint8(images, "images").shape[1:3]))
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    large = np.broadcast_to(large, (*large.shape[:3], 3))
    font, width = ImageFont.load_default(11), large.shape[2]
    lines = [textwrap.wrap(caption, max(8, width // 6), max_lines=3, placeholder=" ..") for caption in captions]
    height = 14 * max(1, *map(len, lines)) + 4
    tiles = []
    for image, text in zip(large, lines):
        strip = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(strip).multiline_text((2, 1), "\n".join(text), fill="black", font=font, spacing=3)
        tiles.append(np.concatenate([image, np.asarray(strip)]))
    return make_grid(np.stack(tiles), columns, tile=1)


def save_png(path: epath.PathLike, image: np.ndarray) -> None:
    """Writes one uint8 image, [h w 3], [h w 1] or [h w], as PNG; `path` may lie in a bucket."""
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"a PNG takes uint8 [h w 3] or [h w 1], got {image.dtype} {list(image.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2:] == (1,) else image).save(buffer, "png")
    write_atomic(path, buffer.getvalue())
