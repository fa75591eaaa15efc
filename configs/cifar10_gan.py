"""CIFAR-10 by a generator against a discriminator (R3GAN), class-conditional.

    python main.py --config=configs/cifar10_gan.py --workdir=runs/cifar10_gan

19,382,912 parameters, half of them the discriminator's. R3GAN (Huang et al. 2024, arXiv 2501.05441) has FID 1.96 on it,
with batch 512 and augmentation of what the discriminator sees. Here: its penalty's first value (0.05), learning rate
and moments, without the schedules and without the augmentation, in residual blocks of 3x3 convolutions. For a GPU.
Not trained here.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False)
    config = base.get_config()
    config.family = "gan"
    config.task.update(name="class", flip=True)
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3), classes=10)
    config.model.update(name="gan", channels=256, multipliers=(1, 1, 1, 1), blocks=2)
    config.gan.gamma = 0.05
    config.optim.update(lr=2e-4, warmup=0, b1=0.0, b2=0.99, clip=0.0)
    config.ema.update(decays=(0.9999,))
    config.train.update(steps=400_000, batch_size=512)
    config.evaluation.update(evaluators=("fid",), samples=50_000)
    return base.tiny(config) if word.tiny else config
