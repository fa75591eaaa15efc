"""What a family of generative models is to all else: what it makes of a config, and what it is given for that."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calls import Call, choose, construct
from checks import check_model
from edits import Edits
from models import text
from training.step import Objective
from training.tasks import Cond, Task


class Parts(NamedTuple):
    """What all families share, made of the config before the family's own parts."""

    config: Any
    task: Task
    task_at: Callable[[tuple[int, int]], Task]  # (height, width) -> the task at another size
    text: text.TextEncoder | None  # of prompts and captions
    mesh: jax.sharding.Mesh
    whole: jax.sharding.NamedSharding  # of what a program returns for any process to read
    frozen: Any  # shapes of the parameters that are not trained, None without any
    batch: dict[str, np.ndarray]  # a training batch of one, all zeros


class Family(NamedTuple):
    """What differs between families. Where a field is None, or empty, the family has no such thing.

    averaged: names in the parameters, at their top, of what is averaged and sampled with; (): all of them.
    rates: names in the parameters of parts with an optimiser of their own, with the share of optim.lr that each takes;
    clipping is then of each part's gradient.
    project: parameters -> parameters, which puts them where the network wants them, after each update.
    """

    init: Callable[[jax.Array], Any]  # key -> the parameters
    objective: Objective
    validation: Callable | None  # (params, frozen, batch, indices [b]) -> the validation loss of each example [b]
    sample: Callable  # (params, frozen, seeds [b], given, Settings) -> images [b h w c] in [-1, 1]
    calls: Callable  # Settings -> network calls a sample; raises ValueError for settings that it cannot sample with
    bits: Callable | None = None  # (params, frozen, batch, keys [b]) -> {name: bits/dim [b]} without an ODE or a table
    check: Callable | None = None  # (uint8 images) -> raises ValueError for one that it cannot be trained on
    averaged: tuple[str, ...] = ()
    rates: dict[str, float] = {}
    project: Callable = lambda params: params
    schedule: Callable | None = None  # params -> Schedule
    denoiser: Callable | None = None  # (params, frozen, cond) -> Denoise
    edits: Edits | None = None  # sampling that is told what is known, or where to start


def prepared(parts: Parts) -> tuple[jax.Array, Cond]:
    """(x0, cond) of one example, all zeros: what a network is initialised with."""
    prepare = partial(parts.task.prepare, train=False)
    keys = jax.eval_shape(lambda: jax.random.key(0)[None])
    shapes = jax.eval_shape(prepare, parts.frozen, keys, parts.batch)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def build_model(config, table: dict[str, Callable[..., nn.Module]], **more) -> nn.Module:
    """The network that config.model names in a family's table, with the fields of config.model that it takes.

    more: its sizes, and what else follows from the rest of the config.
    """
    fields = config.model.to_dict()
    name = fields.pop("name")
    taken = inspect.signature(choose(table, name, "model.name")).parameters
    check_model(name, fields, {*taken, "flash"} if "attend" in taken else taken)
    own = tuple((key, value) for key, value in fields.items() if key in taken)
    return construct(table, Call(name, own), "model.name", **more)
