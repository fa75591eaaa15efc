"""Numbers of a config that no run can use, refused before anything is read or compiled."""

from configs import base
from training import ema, sharding

LEAST = {
    "seed": 0,
    "data.workers": 1,
    "data.prefetch": 1,
    "optim.accumulate": 1,
    "optim.root_from": 0,
    "optim.max_skipped": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "log.every": 1,
    "ema.snapshot_every": 0,
    "sampling.batch_size": 1,
    "sampling.grid_images": 1,
    "evaluation.validation_draws": 1,
    "evaluation.validation_images": 1,
    "evaluation.samples": 1,
    "evaluation.batch_size": 1,
    "evaluation.reference_images": 0,
    "evaluation.likelihood_images": 1,
    "evaluation.likelihood_steps": 2,
}


def check_numbers(config) -> None:
    """Numbers that no run can use."""
    for key, least in LEAST.items():
        section, _, name = key.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < least:
            raise ValueError(f"{key}={value} must be {least} or more")
    if not all(0 <= decay < 1 for decay in config.ema.decays) or not (config.ema.decays or config.ema.sigma_rels):
        raise ValueError(f"ema.decays={tuple(config.ema.decays)} must be one or more numbers in [0, 1)")
    if not all(0 < sigma_rel < ema.WIDEST for sigma_rel in config.ema.sigma_rels):
        raise ValueError(f"ema.sigma_rels={tuple(config.ema.sigma_rels)} must lie between 0 and {ema.WIDEST:.4f}")
    if not 0 <= config.ema.ramp or (config.ema.ramp and config.ema.warmup):
        raise ValueError(f"ema.ramp={config.ema.ramp} is a share, and stands instead of ema.warmup={config.ema.warmup}")
    if config.ema.snapshot_every and not config.ema.sigma_rels:
        raise ValueError(
            f"ema.snapshot_every={config.ema.snapshot_every} has nothing to save: set ema.sigma_rels, or 0"
        )
    if config.seed >= 2**32:
        raise ValueError(f"seed={config.seed} must be below 2**32")


def check_model(name: str, fields: dict, taken) -> None:
    """Fields that were set, and that the named model does not take."""
    usual = base.get_config().model.to_dict()
    for key, value in fields.items():
        if key not in taken and value != usual[key]:
            choices = ", ".join(field for field in fields if field in taken)
            raise ValueError(f"model.{key}={value} is not taken by model.name={name}, which takes {choices}")


def check_batches(config, mesh) -> None:
    """Training batches that do not divide over devices and micro-batches."""
    split = sharding.batch_parts(mesh)
    parts = split * config.optim.accumulate
    what = f"parts ({split} of the mesh's data and fsdp x {config.optim.accumulate} micro-batches)"
    sharding.check_divides(config.train.batch_size, parts, "train.batch_size", what)
