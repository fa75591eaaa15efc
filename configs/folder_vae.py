"""A variational autoencoder of any folder of images, for latent diffusion: latents of an eighth of the sides.

    python main.py --config=configs/folder_vae.py:path=DIR,size=64 --workdir=runs/faces_vae
    python main.py --mode=sample --workdir=runs/faces_vae

`quarter`: of a quarter. `size` is what resize and centre crop make, 64 or 96x64 (height x width). What follows is
configs/folder_latent.py. Expected: docs/families.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, quarter=False, path="", size="64", channels=3)
    config = base.get_config()
    config.family = "vae"
    config.task.update(flip=True)
    config.data.update(name="folder", path=word.path, shape=(*base.sides(word.size), word.channels))
    multipliers = (1, 2, 4) if word.quarter else (1, 2, 4, 4)
    config.model.update(name="vae", channels=32, multipliers=multipliers, blocks=1, groups=8)
    # less than the bound's weight: images for the decoder to be exact about, not a prior to sample from
    config.vae.update(latent=4, beta=0.1, likelihood="gaussian")
    config.optim.update(lr=1e-3, warmup=200)
    config.ema.update(decays=(0.999,))
    config.train.update(steps=20_000, batch_size=32)
    config.log.update(every=50, samples_every=1000, validation_every=1000)
    config.checkpoint.update(every=500)
    config.evaluation.update(validation_draws=1)
    return base.tiny(config) if word.tiny else config
