"""Samplers, one algorithm a file: builders (schedule, **settings) -> Sampler, by name in SAMPLERS."""

from diffusion.samplers.addim import addim
from diffusion.samplers.ancestral import ancestral
from diffusion.samplers.consistency import consistency
from diffusion.samplers.ddim import ddim
from diffusion.samplers.dpm_solver import dpmpp_2m, dpmpp_3m_sde
from diffusion.samplers.euler import euler, euler_ancestral
from diffusion.samplers.heun import heun
from diffusion.samplers.predictor_corrector import predictor_corrector
from diffusion.samplers.unipc import unipc

SAMPLERS = {
    "ancestral": ancestral,
    "ddim": ddim,
    "addim": addim,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "predictor_corrector": predictor_corrector,
    "consistency": consistency,
}
