"""What samples are given: labels, prompts, smaller images; of real examples, or as the flags ask."""

import csv
import functools
import io
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from etils import epath

import drawing
from experiment import Experiment
from models.text import batch_of
from training import sharding


class Prompt(NamedTuple):
    text: str
    category: str = ""


class Asked(NamedTuple):
    """What the images of a command are given, row i image i."""

    given: dict[str, np.ndarray]
    source: str  # where it is from
    prompts: list[Prompt]  # of each image; [] without
    cut: tuple[str, ...] = ()  # prompts that were longer than the encoder's limit

    def facts(self) -> dict:
        """For settings.json."""
        texts = {"prompts": [prompt._asdict() for prompt in self.prompts], "cut": self.cut} if self.prompts else {}
        return {"labels": self.source, **texts}

    def columns(self, classes: int) -> int | None:
        """Of a grid: one for each prompt or label, where there are few."""
        if self.prompts:
            several = len(set(self.prompts))
            return min(several, 10) if several > 1 else None
        return classes if self.source == "balanced" and classes <= 16 else None


def asked(experiment: Experiment, config, workdir, flags, seeds) -> Asked:
    """Labels by --label, or prompts by --prompt or --prompts; where neither is given, what real examples have.

    A stage of super-resolution on its own makes real images larger, held-out ones, with their own labels or captions,
    and a model that inpaints makes up parts of them.
    """
    if config.task.low_size or config.task.inpaint:
        if asked_prompts(flags) or flags.label is not None:
            better = "name the cascade's --config" if config.task.low_size else "use --mode=edit --task=inpaint"
            raise ValueError(f"--label, --prompt and --prompts: this model is told more than these; {better}")
        return Asked(drawing.held_out(experiment, config.data.eval_split, seeds), config.data.eval_split, [])
    return of_flags(experiment, config, workdir, flags, seeds)


def of_flags(experiment: Experiment, config, workdir, flags, seeds) -> Asked:
    """The same without smaller images: of a model that starts from noise. Image i has prompt i modulo their number."""
    prompts = asked_prompts(flags)
    if experiment.text is None:
        if prompts:
            raise ValueError(f"--prompt, --prompts: this model takes no text (task.name={config.task.name})")
        return Asked(*drawing.asked_condition(flags.label, config, workdir, seeds), [])
    if flags.label is not None:
        raise ValueError(f"--label={flags.label}: this model takes prompts (--prompt, --prompts), no labels")
    if not prompts:
        raise ValueError("this model takes text: give --prompt='..', or --prompts=FILE with one a line")
    rows, cut = told(experiment, [prompt.text for prompt in prompts])
    place = np.arange(len(seeds)) % len(prompts)
    return Asked({name: row[place] for name, row in rows.items()}, "prompts", [prompts[i] for i in place], cut)


def read_prompts(path: str) -> list[Prompt]:
    """The prompts of a file: one a line, or, in a CSV file with the header Prompts,Category, in DrawBench's form.

    Blank lines are left out, and said. Raises ValueError where there is no prompt.
    """
    try:
        text = epath.Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--prompts={path} cannot be read as UTF-8 text: {error}") from None
    if path.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(text))
        if "Prompts" not in (rows.fieldnames or ()):
            raise ValueError(f"--prompts={path} has columns {rows.fieldnames}; it needs Prompts, and may have Category")
        found = [Prompt((row["Prompts"] or "").strip(), (row.get("Category") or "").strip()) for row in rows]
    else:
        found = [Prompt(line.strip()) for line in text.splitlines()]
    prompts = [prompt for prompt in found if prompt.text]
    if not prompts:
        raise ValueError(f"--prompts={path} holds no prompt")
    if len(prompts) < len(found):
        logging.info("%d blank lines in %s are left out", len(found) - len(prompts), path)
    return prompts


def number(flags) -> int:
    """How many images: --num, or one for each prompt, or 64."""
    if flags.num is not None:
        return flags.num
    return len(asked_prompts(flags)) or 64


def asked_prompts(flags) -> list[Prompt]:
    """The prompts of --prompt or --prompts; [] where neither is given."""
    if flags.prompt is not None and flags.prompts is not None:
        raise ValueError("--prompt is one prompt and --prompts a file of them; give one of the two")
    if flags.prompts is not None:
        return read_prompts(flags.prompts)
    if flags.prompt is not None and not flags.prompt.strip():
        logging.info("the prompt is empty: images of no subject in particular")
    return [] if flags.prompt is None else [Prompt(flags.prompt.strip())]


def told(experiment: Experiment, prompts: list[str]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """(rows of text for each of the prompts, which of them were cut: said, too).

    A frozen encoder is read, used and let go here, so that its parameters and the network's need not fit beside each
    other.
    """
    encoder = experiment.text
    rows, cut = batch_of(encoder, prompts)
    lost = tuple(prompt for prompt, was in zip(prompts, cut) if was)
    if lost:
        logging.warning("%d prompts were cut at %d tokens: %s ..", len(lost), encoder.length, lost[0][:60])
    if "tokens" not in rows or encoder.encode is None:
        return rows, lost
    params, encode = encoder.load(sharding.placement(experiment.mesh)), jax.jit(encoder.encode)
    texts = []
    for first in range(0, len(prompts), AT_ONCE):
        part = np.arange(first, first + AT_ONCE).clip(max=len(prompts) - 1)
        texts.append(np.asarray(encode(params, rows["tokens"][part], rows["text_mask"][part])))
    return {"text": np.concatenate(texts)[: len(prompts)], "text_mask": rows["text_mask"]}, lost


def without_encoder(experiment: Experiment, asked: Asked) -> Experiment:
    """The experiment as it samples what is encoded already: its frozen encoder of text is not read."""
    frozen = functools.partial(experiment.frozen, without=("text",))
    return experiment._replace(frozen=frozen) if "text" in asked.given else experiment


AT_ONCE = 16  # prompts encoded at once
