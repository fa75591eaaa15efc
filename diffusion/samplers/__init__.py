"""Samplers, one algorithm a file: builders (schedule, **settings) -> Sampler, by name in SAMPLERS."""

from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.ddim import ddim

SAMPLERS = {"ancestral": ancestral, "ddim": ddim}
