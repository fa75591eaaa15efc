"""Prompts to judge text models by: COCO's captions, and sheets in DrawBench's form.

    prompts = coco_captions("captions_val2014.json", 30_000)          # Imagen's COCO-30K
    sections = sheet(prompts, images)                                  # for evaluation.page: a row of images a prompt

COCO-30K (Saharia et al. 2022, section 4.2): one sample of 256 x 256 for each of 30,000 captions drawn from the
validation set of 2014, against all 40,504 images of that set, cropped to their centre. The choice of captions is
everyone's own: here a permutation by `RandomState(seed)` of the captions in the order of their ids.
"""

import json
from collections.abc import Sequence

import numpy as np
from etils import epath

from evaluation import page
from evaluation.images import make_grid


def coco_captions(path: epath.PathLike, n: int, seed: int = 0) -> list[str]:
    """n captions of a COCO annotations file. Raises ValueError for another file, and where it has fewer."""
    try:
        found = json.loads(epath.Path(path).read_text())["annotations"]
        captions = [each["caption"].strip() for each in sorted(found, key=lambda each: each["id"])]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no COCO captions file: it needs annotations, each with id and caption") from None
    captions = [caption for caption in captions if caption]
    if len(captions) < n:
        raise ValueError(f"{path} has {len(captions)} captions, and {n} were asked for")
    return [captions[i] for i in np.random.RandomState(seed).permutation(len(captions))[:n]]


def sheet(prompts: Sequence[tuple[str, str]], images: np.ndarray) -> list[tuple[str, str]]:
    """Sections of a page, a category each, with the images of every (text, category): uint8 [n k h w c], k for each."""
    if len(prompts) != len(images) or images.ndim != 5:
        raise ValueError(f"a sheet of {len(prompts)} prompts takes images [{len(prompts)} k h w c], got {images.shape}")
    rows: dict[str, list[str]] = {}
    for (text, category), few in zip(prompts, images):
        rows.setdefault(category or "Prompts", []).append(page.picture(make_grid(few, columns=len(few)), text))
    return [(category, "".join(pictures)) for category, pictures in rows.items()]
