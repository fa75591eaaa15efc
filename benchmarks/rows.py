"""What benchmarks.run measures: for each row the work, how it is built here, and who does the same elsewhere."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

import experiment
from plans import settings_of
from training import sharding


class Row(NamedTuple):
    """Work that is timed call by call. peers: {name: request} of benchmarks.peers, of the same network and batch."""

    images: int  # a call
    build: Callable[[], tuple[int, Callable[[], None]]]  # -> (parameters, a call, done when it returns)
    peers: dict[str, dict]


def config_of(name: str, dtype: str):
    """The config of 'imagen_base64:300m'. Text goes through a small encoder of bytes, which needs no weights."""
    module, _, word = name.partition(":")
    config = importlib.import_module(f"configs.{module}").get_config(word)
    config.model.dtype = dtype
    config.text.encoder = "bytes(length=128, width=512)"
    return config


def batch_of(config, built, rows: int):
    """A training batch of random pixels."""
    rng = np.random.default_rng(0)

    def fill(shape):
        if shape.dtype == np.uint8:
            return rng.integers(0, 256, shape.shape, np.uint8)
        return np.ones(shape.shape, shape.dtype)

    batch = {name: fill(shape) for name, shape in experiment.abstract_batch(config, built.mesh, rows).items()}
    return sharding.put_batch(batch, built.mesh)


def training(name: str, rows: int, dtype: str, changes: dict):
    config = config_of(name, dtype)
    config.train.batch_size = rows
    config.update_from_flattened_dict(changes)
    built = experiment.build(config)
    held, batch = [built.init()], batch_of(config, built, rows)
    count = sum(leaf.size for leaf in jax.tree.leaves(held[0].params))

    def step():
        held[0], sums = built.train_step(held[0], None, batch)
        jax.block_until_ready(sums)

    return count, step


def sampling(name: str, rows: int, dtype: str):
    """DDIM in 50 steps, without guidance."""
    config = config_of(name, dtype)
    built = experiment.build(config)
    params = built.init().params
    settings = settings_of(config)._replace(sampler="ddim(eta=0.0)", steps=50, guidance=None)
    given = {"label": np.arange(rows, dtype=np.int32)} if config.task.name == "class" else {}
    seeds = np.arange(rows, dtype=np.uint32)

    def draw():
        jax.block_until_ready(built.sample(params, None, seeds, given, settings))

    return sum(leaf.size for leaf in jax.tree.leaves(params)), draw


def train_row(config: str, rows: int, dtype: str, peer: str = "", changes: dict = {}) -> Row:  # noqa: B006
    return Row(rows, lambda: training(config, rows, dtype, changes), peers_of("train", peer, rows))


def sample_row(config: str, rows: int, dtype: str, peer: str = "") -> Row:
    return Row(rows, lambda: sampling(config, rows, dtype), peers_of("sample", peer, rows))


def peers_of(work: str, network: str, rows: int) -> dict[str, dict]:
    request = {"build": work, "network": network, "batch": rows}
    kinds = {"diffusers": False, "diffusers, compiled": True}
    return {name: request | {"compiled": compiled} for name, compiled in kinds.items()} if network else {}


def rows(dtype: str) -> dict[str, Row]:
    """Every row by name; networks compute in dtype."""
    crop = {"task.crop": 64}
    return {
        "digits train": train_row("digits", 64, dtype, "digits"),
        "digits ddim50 x1": sample_row("digits", 1, dtype, "digits"),
        "digits ddim50 x16": sample_row("digits", 16, dtype, "digits"),
        "cifar10 train": train_row("cifar10", 16, dtype, "cifar10"),
        "cifar10 ddim50 x1": sample_row("cifar10", 1, dtype, "cifar10"),
        "cifar10 ddim50 x16": sample_row("cifar10", 16, dtype, "cifar10"),
        "imagenet64 train": train_row("imagenet64", 2, dtype, "imagenet64"),
        "sr256 train": train_row("imagen_sr256", 1, dtype, changes=crop),
        "text base train": train_row("imagen_base64:300m", 1, dtype),
    }
