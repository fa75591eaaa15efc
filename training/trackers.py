"""Metrics in more than one place: Weights & Biases beside the workdir's own files."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


class All:
    """One writer made of several: every call goes to each."""

    def __init__(self, *writers):
        self._writers = writers

    def __getattr__(self, name: str):
        return lambda *args, **kwargs: [getattr(writer, name)(*args, **kwargs) for writer in self._writers]


class Wandb:
    """A Writer (training/metrics.py) into a project of Weights & Biases; a workdir keeps its run over resumes.

    Raises ImportError, in one line, where wandb is not installed.
    """

    def __init__(self, project: str, workdir: str):
        try:
            import wandb
        except ImportError:
            raise ImportError(f"log.wandb={project} needs wandb: pip install wandb, or leave log.wandb empty") from None
        self._wandb = wandb
        identity = hashlib.sha256(str(workdir).encode()).hexdigest()[:16]
        self._run = wandb.init(project=project, id=identity, name=str(workdir), resume="allow")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log(dict(scalars), step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({name: self._wandb.Image(image) for name, image in images.items()}, step=step)

    def write_texts(self, step: int, texts: Mapping[str, str]) -> None:
        self._run.summary.update(dict(texts))

    def write_hparams(self, hparams: Mapping[str, Any]) -> None:
        self._run.config.update(dict(hparams), allow_val_change=True)

    def flush(self) -> None:
        """wandb sends by itself."""

    def close(self) -> None:
        self._run.finish()
