"""Law 14 for each family: saved, restored and trained on is, bit for bit, trained through."""

import jax
import numpy as np
import pytest

from configs import digits_autoregressive, digits_gan, digits_vae
from experiment import build
from training.checkpoint import Checkpoints, as_dict


@pytest.mark.parametrize("recipe", [digits_autoregressive, digits_gan, digits_vae])
def test_a_resumed_training_is_the_uninterrupted_one(recipe, tmp_path):
    experiment = build(recipe.get_config("tiny"))

    def trained(state, start, steps):
        batches = experiment.batches(start)
        for _ in range(steps):
            state, _ = experiment.train_step(state, None, next(batches))
        return state

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, trained(experiment.init(), 0, 2))
    checkpoints.close()
    resumed = trained(Checkpoints(tmp_path).restore(2, experiment.abstract), 2, 3)
    whole = trained(experiment.init(), 0, 5)
    jax.tree.map(np.testing.assert_array_equal, as_dict(resumed), as_dict(whole))
    assert int(resumed.step) == 5
