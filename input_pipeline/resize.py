"""From an image file to uint8 pixels [h w c]: any mode made plain, resized, centre-cropped.

Pixels that shine through show white. 16 bits become 8 by rounding v / 257. Images smaller than the
size are enlarged. Floating-point pixels have no known range and are refused.
"""

import numpy as np
from PIL import Image, ImageOps

BICUBIC, BOX = Image.Resampling.BICUBIC, Image.Resampling.BOX


def plain(image: Image.Image, channels: int) -> Image.Image:
    """A Pillow image of any mode as grey ('L', channels 1) or 'RGB' (3), composited on white.

    ValueError for modes that have no such reading (floating point, LAB).
    """
    if image.mode == "F":
        raise ValueError("mode 'F': floating-point pixels have no known range")
    if image.mode.startswith("I"):  # Pillow's own conversion would clip at 255
        wide = np.asarray(image, np.float64) / 257
        image = Image.fromarray(np.clip(np.round(wide), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def crop(image: Image.Image, shape: tuple) -> np.ndarray:
    """The largest centred part of the shape's aspect, resized: uint8 [h w c].

    Bicubic with its support widened by the scale (antialiased, half-pixel centres), in one step.
    The camera's orientation mark is obeyed.
    """
    height, width, channels = shape
    image = plain(ImageOps.exif_transpose(image), channels)
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, image.width - left, image.height - top)
    return pixels(image.resize((width, height), BICUBIC, box=box))


def adm(image: Image.Image, shape: tuple) -> np.ndarray:
    """ADM's ImageNet preprocessing to the letter, for squares: uint8 [h w c].

    Halve with a box while the short side is at least twice the size, scale the short side to the
    size with bicubic, cut out the centre. Orientation marks are ignored, as there.

    Source: Dhariwal and Nichol 2021, guided-diffusion's image_datasets.py.
    """
    size, _, channels = shape
    image = plain(image, channels)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return pixels(image.crop((left, top, left + size, top + size)))


def pixels(image: Image.Image) -> np.ndarray:
    """A grey or RGB Pillow image as uint8 [h w c]."""
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def picture(array: np.ndarray) -> Image.Image:
    """uint8 [h w c], c 1 to 4, as a Pillow image; ValueError for other types."""
    if array.dtype != np.uint8:
        raise ValueError(f"pixels of type {array.dtype} are not uint8")
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def decode(file, shape: tuple, preprocess: str = "crop") -> np.ndarray:
    """The image in `file` (a path or a binary file) as uint8 [h w c]; raises what Pillow raises."""
    with Image.open(file) as image:
        return PREPROCESS[preprocess](image, shape)


def check(preprocess: str, shape: tuple) -> None:
    """ValueError unless the preprocessing is known and can make the shape."""
    if preprocess not in PREPROCESS:
        raise ValueError(f"preprocess={preprocess!r} is not known; choose from {list(PREPROCESS)}")
    if preprocess == "adm" and shape[0] != shape[1]:
        raise ValueError(f"preprocess='adm' makes squares, not {shape[0]}x{shape[1]}; use 'crop'")


PREPROCESS = {"crop": crop, "adm": adm}  # (Pillow image, shape) -> uint8 [h w c]
