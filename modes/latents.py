"""The statistics of a run's latents, measured once, before its training starts, and kept in its config."""

import functools
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

import workdir as records
from autoencoders import build_autoencoder
from experiment import Experiment, build
from input_pipeline import evaluation_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import some
from training import sharding
from training.checkpoint import Checkpoints
from training.digest import digest
from training.latents import statistics

MEASURED = 10_000  # training images, at most


def with_statistics(config, workdir) -> ConfigDict:
    """The config with latent.mean, std and digest: its own, those of the run in the workdir, or measured now."""
    if not config.latent.encoder or config.latent.mean:
        return config
    config = config.copy_and_resolve_references()
    begun = (workdir / "checkpoints").exists() and Checkpoints(workdir, read_only=True).latest() is not None
    stored = records.read_config(workdir).latent if begun else config.latent
    if stored.encoder == config.latent.encoder and stored.mean:
        config.latent.update(mean=stored.mean, std=stored.std, digest=stored.digest)
        return config
    channels = build_autoencoder(config).channels
    config.latent.update(mean=(0.0,) * channels, std=(1.0,) * channels)
    experiment = build(config)
    mean, std = statistics(plain_latents(config, experiment))
    logging.info("latents measured: mean %s, std %s", np.round(mean, 4), np.round(std, 4))
    config.latent.update(mean=mean, std=std, digest=digest(experiment.frozen()["latent"]["params"]))
    return config


def plain_latents(config, experiment: Experiment) -> Iterator[np.ndarray]:
    """Those of MEASURED training images at most, under keys of their own, a batch at a time."""
    mesh, frozen = experiment.mesh, experiment.frozen()
    source = some(experiment.source(config.data.train_split), MEASURED)
    size, share = sharding.round_up(config.train.batch_size, sharding.batch_parts(mesh)), sharding.batch_share(mesh)

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def program(frozen, batch):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), batch["index"])
        return experiment.task.prepare(frozen, keys, batch, False)[0], batch["valid"]

    for i, batch in enumerate(evaluation_batches(source, size, **share)):
        index = (i * size + local_rows(size, **share)).astype(np.uint32)
        latents, valid = jax.device_get(program(frozen, sharding.put_batch(batch | {"index": index}, mesh)))
        yield latents[valid]
