"""DDPM on CelebA-HQ at 256x256, unconditional (Ho et al. 2020): 113,673,219 parameters.

    python main.py --config=configs/celebahq256.py --workdir=runs/celebahq --config.data.path=DIR

DIR holds record shards that `python -m tools.pack --size=256` made of the images. Published: 0.5M steps of batch 64.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.task.update(flip=True)
    config.data.update(name="arrayrecord", shape=(256, 256, 3))
    config.model.update(channels=128, multipliers=(1, 1, 2, 2, 4, 4), blocks=2, attention=(16,), dtype="bfloat16")
    config.optim.update(lr=2e-5)
    config.ema.update(warmup=False)
    config.train.update(steps=500_000, batch_size=64)
    config.sampling.update(sampler="ancestral(variance='small')", steps=1000, batch_size=16, grid_images=16)
    return base.tiny(config) if word.tiny else config
