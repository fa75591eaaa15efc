"""Uses of a trained model, as wrappers of sample(): what is known of an image, or where sampling starts from.

A method is up to three wrappers, each the identity unless it says otherwise: of the denoiser before thresholding and
after it, and of the sampler; and a map of the grid. METHODS names their builders.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from diffusion.editing import guided, replacement
from diffusion.editing.operators import Operator
from diffusion.prediction import Denoise
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule


def same(x):
    return x


class Method(NamedTuple):
    """How a sampler is held to what is known."""

    guide: Callable[[Denoise], Denoise] = same  # before thresholding, whose derivative is 0 where it clips
    limit: Callable[[Denoise], Denoise] = same  # after it
    sampler: Callable[[Sampler], Sampler] = same


def replace(schedule: Schedule, operator: Operator, y) -> Method:
    """The known part of x_s is drawn anew after each step."""
    return Method(sampler=lambda sampler: replacement.replaced(sampler, schedule, operator, y))
