"""Scikit-learn's 8x8 digits by a generator against a discriminator (R3GAN), class-conditional.

    python main.py --config=configs/digits_gan.py --workdir=runs/digits_gan

997,696 parameters, of which the discriminator, left behind after the training, has 497,472. Expected:
docs/families.md, on two CPU cores.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.family = "gan"
    config.task.name = "class"
    config.data.update(name="digits", shape=(8, 8, 1), classes=10)
    config.model.update(name="gan", channels=64, multipliers=(1, 1.5), blocks=2)
    config.gan.gamma = 4.0
    config.optim.update(lr=1e-3, warmup=0, decay_steps=1400, b1=0.0, b2=0.99, clip=0.0)
    config.ema.update(decays=(0.995,))
    config.train.update(steps=1400, batch_size=64)
    config.checkpoint.update(every=350)
    config.log.update(every=50, samples_every=350)
    config.sampling.update(batch_size=250)
    config.evaluation.update(evaluators=("small_images",), samples=1000)
    return base.tiny(config) if word.tiny else config
