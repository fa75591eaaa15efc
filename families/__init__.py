"""Families of generative models, on one seam: each builds of a config what only it knows, and the rest is shared."""

from collections.abc import Callable

import workdir as records
from configs import base
from families import autoregressive, diffusion, gan, vae
from families.family import Family, Parts

FAMILIES: dict[str, Callable[[Parts], Family]] = {
    "diffusion": diffusion.build,
    "vae": vae.build,
    "gan": gan.build,
    "autoregressive": autoregressive.build,
}

# Config keys, or whole sections, that mean something to these families alone.
OWN: dict[str, tuple[str, ...]] = {
    "diffusion": ("diffusion",),
    "vae": ("vae",),
    "latent": ("diffusion",),
    "gan": ("gan",),
    "distill": ("diffusion",),
    "task.low_size": ("diffusion",),
    "task.inpaint": ("diffusion",),
    "task.augment": ("diffusion",),
    "sampling.sampler": ("diffusion", "autoregressive"),
    "sampling.steps": ("diffusion",),
    "sampling.grid": ("diffusion",),
    "sampling.guidance": ("diffusion",),
    "sampling.guidance_interval": ("diffusion",),
    "sampling.guidance_channels": ("diffusion",),
    "sampling.guidance_rescale": ("diffusion",),
    "sampling.threshold": ("diffusion",),
    "sampling.aug_level": ("diffusion",),
    "evaluation.sweep_guidance": ("diffusion",),
    "evaluation.sweep_steps": ("diffusion",),
}

# Of the section of a family's own name: what stands beside its pictures and numbers.
NAMED: dict[str, tuple[str, ...]] = {
    "diffusion": ("schedule", "prediction"),
    "vae": ("beta", "likelihood", "latent"),
    "gan": ("gamma",),
    "autoregressive": (),
}


def owners(key: str) -> tuple[str, ...] | None:
    """The families to which a config key means something; None for all of them."""
    return next((families for own, families in OWN.items() if key == own or key.startswith(f"{own}.")), None)


def means_nothing(key: str, family: str) -> bool:
    return owners(key) is not None and family not in owners(key)


def check_keys(config) -> None:
    """Raises ValueError for a key that is set and means nothing to the config's family."""
    for key, (_, value) in records.differences(config, base.get_config()).items():
        if means_nothing(key, config.family):
            whose = " and ".join(owners(key))
            raise ValueError(f"{key}={value} is of family={whose}, and this config's is {config.family}: leave it out")
