"""Captions: where they lie, which of several an example shows, and their place in a batch.

A Source that was built with captions=True reads `captions`, object [k] of tuples of str, which stay on the host:
`tokenised` puts tokens in their place, input_pipeline/embeddings.py embeddings that were made before.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from input_pipeline.source import Source

KEYS = ("captions", "caption", "text")


def captions_of(fields: Mapping) -> list[str]:
    """The captions in a JSON object or a tfds example, blank ones left out.

    One string or several, under the usual keys; or, as in coco_captions, objects that hold one under 'text'.
    """
    found = next((fields[key] for key in KEYS if fields.get(key) is not None), [])
    found = found.get("text", []) if isinstance(found, Mapping) else found
    found = [found] if isinstance(found, str | bytes) else found
    found = [one.get("text", "") if isinstance(one, Mapping) else one for one in found]
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in found]
    return [text.strip() for text in texts if text.strip()]


def caption_lines(root: Path) -> dict[str, list[str]]:
    """{file: captions} of ROOT/captions.jsonl, whose lines hold "file" and "caption" or "captions".

    A file may have several lines. ValueError with the number of a line that is not of that form.
    """
    path, found = root / "captions.jsonl", {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would split at more, which captions may hold
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            found.setdefault(fields["file"], []).extend(captions_of(fields))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f'{path}, line {number}, is no {{"file": ..., "caption": ...}} ({reason})') from None
    return found


def of_folder(root: Path, names: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """(the captions of each image, of ROOT/captions.jsonl or IMAGE.txt beside it; names that have a caption only)."""
    lines = caption_lines(root)
    lost = [name for name in lines.keys() - set(names) if not (root / name).is_file()]
    return [lines.get(name) or _beside(root / name) for name in names], sorted(lost)


def checked(root: Path, names: Sequence[str], max_bad_share: float) -> list[list[str]]:
    """The same captions; images without captions and captions without images are counted, named, or a ValueError."""
    found, lost = of_folder(root, names)
    check_share(lost, len(names), f"captions in {root} have no image", max_bad_share)
    bare = [name for name, captions in zip(names, found) if not captions]
    check_share(bare, len(names), f"images in {root} have no caption", max_bad_share)
    return found


def _beside(image):
    path = image.with_suffix(".txt")
    return captions_of({"text": path.read_text(encoding="utf-8", errors="replace")}) if path.is_file() else []


def check_share(names: Sequence[str], total: int, what: str, max_bad_share: float) -> None:
    """Say in one line how many there are and the first of them; ValueError for more than a share of `total`."""
    said = f"{len(names)} {what} (images: {total}): {', '.join(names[:3])}"
    if len(names) > max_bad_share * total:
        raise ValueError(f"{said}; mend them, or raise max_bad_share={max_bad_share}")
    if names:
        logging.warning("%s; they are left out", said)


def choose(counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Which caption of each example, int64 [k]: a draw is uint64, and 0 chooses the first."""
    return (draws % np.maximum(counts, 1).astype(np.uint64)).astype(np.int64)


def tokenised(source: Source, tokenise: Callable) -> Source:
    """Batches with `tokens` int32 [k l] and `text_mask` bool [k l] of the chosen captions.

    tokenise(captions) -> (tokens [k l], mask [k l], cut [k]). It runs in the reading threads, batch by batch. Captions
    that were cut are said, the first three.
    """
    said = itertools.count()

    def text(batch, indices, draws):
        batch = dict(batch)
        captions = batch.pop("captions")
        chosen = choose(np.array([len(row) for row in captions], np.int64), draws)
        shown = [row[i] if row else "" for row, i in zip(captions, chosen)]
        tokens, mask, cut = tokenise(shown)
        for caption in itertools.compress(shown, cut):
            if next(said) < 3:
                logging.warning("caption cut at %d tokens: %r", tokens.shape[1], caption[:80])
        return batch | {"tokens": tokens, "text_mask": mask & batch["valid"][:, None]}

    return source._replace(text=text, in_memory=False)
