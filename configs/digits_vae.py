"""A class-conditional variational autoencoder on the digits, 8x8 grey: one latent vector an image, minutes on a CPU.

    python main.py --config=configs/digits_vae.py --workdir=runs/digits_vae
    python main.py --mode=evaluate --workdir=runs/digits_vae

Expected: docs/families.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.family = "vae"
    config.task.update(name="class")
    config.data.update(name="digits", shape=(8, 8, 1), classes=10)
    config.model.update(name="vae", channels=27, multipliers=(1, 2, 2, 2), blocks=1, groups=9)
    config.vae.update(latent=16)
    config.optim.update(lr=2e-3, warmup=100, decay_steps=3000)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=3000, batch_size=64)
    config.checkpoint.update(every=500)
    config.log.update(every=50, samples_every=500, validation_every=500)
    config.sampling.update(batch_size=250)
    config.evaluation.update(evaluators=("validation_loss", "likelihood", "small_images"), samples=1000)
    config.evaluation.update(likelihood_images=360)
    return base.tiny(config) if word.tiny else config
