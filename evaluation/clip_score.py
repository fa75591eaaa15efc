"""How well images fit their texts: the cosine between CLIP's embeddings of the two (Hessel et al. 2021).

    tokenise = tokenizer("clip-vit-large-patch14", 77)
    for name, result in clip_score(image_features, text_features, settings): print(name, result.value)

The embeddings are those of models/towers.py.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from evaluation.results import Result

# As papers plot it (Imagen's curves run from .2 to .3); other codes multiply.
SCALE = "mean cosine; Hessel et al. report 2.5, torchmetrics 100 times the cosines above 0"


def tokenizer(folder: str, length: int) -> Callable[[Sequence[str]], np.ndarray]:
    """texts -> tokens int32 [n length] by FOLDER/tokenizer.json, the start and the end in each, longer ones cut."""
    path = Path(folder).expanduser() / "tokenizer.json"
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError("a CLIP score needs its tokenizer: pip install tokenizers") from error
    if not path.is_file():
        raise ValueError(f"{path} is missing: fetch it with the weights, it is the tokenizer")
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{path} is no tokenizer: {error}") from None
    end = found.encode("").ids[-1]
    found.enable_truncation(length)
    found.enable_padding(pad_id=end, length=length)
    return lambda texts: np.array([row.ids for row in found.encode_batch(list(texts))], np.int32)


def clip_score(images: np.ndarray, texts: np.ndarray, settings: dict) -> Iterator[tuple[str, Result]]:
    """The score of images [n d] with their texts [n d], and of images with the text of the next one.

    The second says what unrelated pairs score: a model that ignores its prompts is at it.
    """
    if images.shape != texts.shape or len(images) < 2:
        raise ValueError(f"a CLIP score is of pairs, two or more: got {list(images.shape)} and {list(texts.shape)}")
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.float64, (images, texts)))
    cosines = (images * texts).sum(1)
    error = float(cosines.std(ddof=1) / np.sqrt(len(cosines)))
    settings = settings | {"n": len(images), "scale": SCALE}
    yield "clip_score", Result(float(cosines.mean()), settings | {"standard_error": error})
    yield "clip_score/unrelated", Result(float((images * np.roll(texts, -1, axis=0)).sum(1).mean()), settings)
