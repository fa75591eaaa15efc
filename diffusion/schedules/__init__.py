"""Noise schedules: a time in [0, 1] to a noise level, and back through logsnr. Builders by name in SCHEDULES.

Those of LEARNED are trained with the network, and become a schedule once their parameters are given.
"""

from diffusion.schedules.base import Schedule, checked, clean_at_zero, last_time, preserves_variance, rate, within
from diffusion.schedules.composed import interpolated, shifted
from diffusion.schedules.continuous import cosine, edm, flow, laplace, sigmoid, sub_vp, ve, vp
from diffusion.schedules.discrete import cosine_discrete, from_betas, linear
from diffusion.schedules.learned import Learned, monotone

__all__ = [
    "Learned",
    "Schedule",
    "checked",
    "clean_at_zero",
    "from_betas",
    "last_time",
    "preserves_variance",
    "rate",
    "within",
]

SCHEDULES = {
    "linear": linear,
    "cosine_discrete": cosine_discrete,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "laplace": laplace,
    "vp": vp,
    "sub_vp": sub_vp,
    "ve": ve,
    "edm": edm,
    "flow": flow,
}
COMPOSED = {"shifted": shifted, "interpolated": interpolated}
LEARNED = {"monotone": monotone}
