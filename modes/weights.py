"""What sample and evaluate share: which weights, which settings, and what a result depends on."""

import sys
from typing import NamedTuple

import workdir as records
from experiment import Experiment
from families import NAMED, means_nothing
from plans import Settings, settings_of
from training import ema, posthoc
from training.checkpoint import Checkpoints
from training.digest import digest


def asked_settings(config, flags) -> Settings:
    """config.sampling, overridden by the flags that were given. Raises ValueError for one without a meaning here."""
    given = {key: flags[key].value for key in ("sampler", "steps", "guidance")}
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if means_nothing(f"sampling.{key}", config.family):
            raise ValueError(f"--{key}: this model is of family={config.family}, which samples without one")
    return settings_of(config)._replace(**given)


class Weights(NamedTuple):
    """Restored parameters and where they are from; digest is a hash of their numbers."""

    params: dict
    step: int
    name: str
    digest: str


def asked_ema(config, flags) -> str:
    return flags.ema or ema.first_name(config.ema)


def holding(config, workdir, flags) -> Checkpoints:
    """The checkpoints with the weights that --ema asks for."""
    return posthoc.holding(workdir, asked_ema(config, flags))


def restored(config, experiment: Experiment, workdir, flags, step: int | None = None) -> Weights:
    """The weights of `step`, or of --checkpoint, under --ema: the latest and the config's first average by default."""
    name, checkpoints = asked_ema(config, flags), holding(config, workdir, flags)
    step = flags.checkpoint if step is None else step
    step = checkpoints.latest() if step is None else step
    if step is None:
        raise ValueError(f"no checkpoint in {checkpoints.directory} yet: train first, or name another --workdir")
    state = experiment.abstract
    like = state.params if name == "raw" else next(iter(state.ema.values()))
    params = checkpoints.restore_weights(step, name, like)
    return Weights(params, step, name, digest(params))


def facts_of(config, settings: Settings) -> dict:
    """The family, what of the settings it samples by, and the mathematics that its section of the config names."""
    family = config.family
    used = {key: value for key, value in settings._asdict().items() if not means_nothing(f"sampling.{key}", family)}
    return {"family": family} | used | {key: config[family][key] for key in NAMED[family]}


def provenance(config, experiment: Experiment, weights: Weights, settings: Settings, flags) -> dict:
    """What a picture or a number depends on."""
    return {
        "checkpoint": weights.step,
        "ema": weights.name,
        "weights": weights.digest,
        "seed": flags.seed,
        **facts_of(config, settings),
        "network_calls": experiment.calls(settings),
        "dtype": config.model.dtype,
        "to_uint8": "round",
        "data": {key: config.data[key] for key in ("name", "dataset", "shape", "preprocess")},
        "git": records.git_state(),
        "command": sys.argv,
        "at": records.now(),
    }
