"""What sample and evaluate share: which weights, which settings, and what a result depends on."""

import sys
from typing import NamedTuple

import workdir as records
from experiment import Experiment
from plans import Settings, settings_of
from training import ema, posthoc


def asked_settings(config, flags) -> Settings:
    """config.sampling, overridden by the flags that were given."""
    given = {key: flags[key].value for key in ("sampler", "steps", "guidance")}
    return settings_of(config)._replace(**{key: value for key, value in given.items() if value is not None})


class Weights(NamedTuple):
    """Restored parameters and where they are from."""

    params: dict
    step: int
    name: str


def restored(config, experiment: Experiment, workdir, flags) -> Weights:
    """The weights that --checkpoint and --ema ask for; the latest and the config's first average by default."""
    name = flags.ema or ema.name(config.ema.decays[0])
    checkpoints = posthoc.holding(workdir, name)
    step = checkpoints.latest() if flags.checkpoint is None else flags.checkpoint
    if step is None:
        raise ValueError(f"no checkpoint in {checkpoints.directory} yet: train first, or name another --workdir")
    params = checkpoints.restore_weights(step, name, experiment.abstract.params)
    return Weights(params, step, name)


def provenance(config, experiment: Experiment, weights: Weights, settings: Settings, flags) -> dict:
    """What a picture or a number depends on."""
    return {
        "checkpoint": weights.step,
        "ema": weights.name,
        "seed": flags.seed,
        **settings._asdict(),
        "network_calls": experiment.calls(settings),
        "schedule": config.diffusion.schedule,
        "prediction": config.diffusion.prediction,
        "dtype": config.model.dtype,
        "to_uint8": "round",
        "data": {key: config.data[key] for key in ("name", "dataset", "shape", "preprocess")},
        "git": records.git_state(),
        "command": sys.argv,
        "at": records.now(),
    }
