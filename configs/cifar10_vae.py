"""A variational autoencoder of CIFAR-10's images, with labels: 4x4 latents of 16 channels.

    python main.py --config=configs/cifar10_vae.py --workdir=runs/cifar10_vae
    python main.py --config=configs/cifar10_vae.py:path=DIR --workdir=runs/cifar10_vae    # a folder of class subfolders

Expected: docs/families.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="")
    config = base.get_config()
    config.family = "vae"
    config.task.update(name="class", flip=True)
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3), classes=10)
    if word.path:
        config.data.update(name="folder", dataset="", path=word.path)
    config.model.update(name="vae", channels=64, multipliers=(1, 2, 4, 4), blocks=1, groups=16)
    config.vae.update(latent=16)
    config.optim.update(lr=1e-3, warmup=500)
    config.ema.update(decays=(0.999,))
    config.train.update(steps=100_000, batch_size=64)
    config.log.update(every=100, samples_every=2500, validation_every=2500)
    config.evaluation.update(evaluators=("validation_loss", "likelihood"), samples=10_000)
    return base.tiny(config) if word.tiny else config
