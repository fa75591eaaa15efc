"""Image files in and out of --mode=edit: what can be edited is read, what cannot is refused in a line that says why."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from evaluation.images import make_grid
from input_pipeline.folder import image_names
from input_pipeline.resize import BICUBIC, PREPROCESS, pixels
from training.metrics import write_atomic

MAX_PIXELS = 2**26
FORMATS = {
    "png": {"format": "PNG"},
    "jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    "webp": {"format": "WEBP", "lossless": True},
}


def listing(path: str) -> list[Path]:
    """The image itself, or all images in a folder and below it, sorted. Raises ValueError where there is none."""
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    names = image_names(root) if root.is_dir() else []
    if not names:
        raise ValueError(f"--input={path} is no image and no folder of images")
    return [root / name for name in names]


def read(path: Path) -> Image.Image:
    """An image as 'RGB' or 'L', upright. Raises ValueError for what would have to be guessed at."""
    try:
        with Image.open(path) as image:
            check(image)
            image.load()
            return ImageOps.exif_transpose(image).convert("L" if image.mode in ("1", "L") else "RGB")
    except ValueError:
        raise
    except Exception as error:  # decoders raise all sorts on bytes that are not an image
        raise ValueError(f"cannot be read ({error})") from None


def check(image: Image.Image) -> None:
    """Raises ValueError for an image that is huge, animated, transparent, or not of 8-bit RGB or grey."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, over {MAX_PIXELS:,}: resize it first")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"is animated, {image.n_frames} frames: give one of them")
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError("has transparent pixels: flatten it on the background you want")
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ValueError(f"is of mode {image.mode}: convert it to RGB or grey")


def fit(image: Image.Image, shape: tuple[int, int, int], preprocess: str) -> np.ndarray:
    """uint8 [h w c] of the model's shape, resized and cropped as in training."""
    return PREPROCESS[preprocess](image, shape)


def hidden(size: tuple[int, int], mask: Path | None, box: tuple[int, ...] | None) -> Image.Image:
    """What is to be made up of an image of size (width, height), white in 'L': a file's lighter half, or a box.

    box is top, left, height, width. Raises ValueError for a mask of another size and a box outside the image.
    """
    if mask:
        try:
            drawn = read(mask).convert("L")
        except ValueError as error:
            raise ValueError(f"has a mask, {mask}, that {error}") from None
        if drawn.size != size:
            raise ValueError("has {} x {} pixels, and its mask {} x {}: give them one size".format(*size, *drawn.size))
        return drawn.point(lambda value: 255 * (value > 127))
    y, x, h, w = box
    if min(box) < 0 or not (h and w) or x + w > size[0] or y + h > size[1]:
        raise ValueError(
            f"--box={y},{x},{h},{w} (top, left, height, width) is not in an image of {size[1]} x {size[0]}"
        )
    drawn = Image.new("L", size)
    drawn.paste(255, (x, y, x + w, y + h))
    return drawn


def fit_hidden(drawn: Image.Image, shape: tuple[int, int, int], preprocess: str) -> np.ndarray:
    """bool [h w]: the mask through the image's own resize; a pixel of which a part is hidden is hidden."""
    return PREPROCESS[preprocess](drawn, (*shape[:2], 1))[..., 0] > 0


def resized(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [h w c], all of the image."""
    height, width, channels = shape
    return pixels(image.convert("L" if channels == 1 else "RGB").resize((width, height), BICUBIC))


def save(path, image: np.ndarray, form: str) -> None:
    """uint8 [h w c], c 1 or 3, as a file of one of FORMATS."""
    write_atomic(path, encode([as_image(image)], **FORMATS[form]))


def save_animations(path, frames: np.ndarray, seconds: float = 4.0) -> None:
    """uint8 [k h w c] as PATH.gif and PATH.webp, the last frame held for as long as a quarter of the others."""
    images = [as_image(frame) for frame in frames]
    each = max(20, round(1000 * seconds / len(images)))
    timing = dict(save_all=True, append_images=images[1:], loop=0)
    duration = [each] * (len(images) - 1) + [each + round(250 * seconds)]
    write_atomic(path.with_name(path.name + ".gif"), encode(images, format="GIF", duration=duration, **timing))
    webp = encode(images, format="WEBP", lossless=True, duration=duration, **timing)
    write_atomic(path.with_name(path.name + ".webp"), webp)


def encode(images: list[Image.Image], **options) -> bytes:
    buffer = io.BytesIO()
    images[0].save(buffer, **options)
    return buffer.getvalue()


def as_image(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def strip(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 [n k h w c] as n rows, at most `columns` of the k evenly chosen, the first and the last among them."""
    chosen = np.unique(np.linspace(0, images.shape[1] - 1, columns).round().astype(int))
    kept = images[:, chosen]
    return make_grid(kept.reshape(-1, *images.shape[2:]), len(chosen))
