"""EDM (Karras et al. 2022): preconditioned networks on CIFAR-10, with its augmentation, and on ImageNet-64.

    python main.py --config=configs/edm.py --workdir=runs/edm                              # CIFAR-10, with labels
    python main.py --config=configs/edm.py:uncond --workdir=runs/edm_uncond
    python main.py --config=configs/edm.py:imagenet64 --workdir=runs/edm64 --config.data.path=SHARDS

Parameters: 55,735,299 with labels, 55,733,891 without; ImageNet-64 295,899,267. Published (the least of three FIDs):
CIFAR-10 1.79 and 1.97, in 18 steps of Heun's method, 35 network calls, after 200M training images; ImageNet-64 2.22
with 79 calls and 1.36 with 511, after 2,500M. Non-finite gradients were made finite there; here they are skipped.
SHARDS: `python -m tools.pack --size=64`: its ImageNet-64 is a plain crop, so that its FIDs are not ADM's.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, uncond=False, imagenet64=False)
    base.one_of(word, ("uncond", "imagenet64"), "")
    config = base.get_config()
    (imagenet64 if word.imagenet64 else cifar10)(config)
    if not word.uncond:
        config.task.update(name="class")
        config.data.update(classes=1000 if word.imagenet64 else 10)
    config.diffusion.update(
        schedule="edm",
        prediction="edm(sigma_data=0.5)",
        weighting="edm(sigma_data=0.5)",
        times="log_normal(mean=-1.2, std=1.2)",
    )
    config.optim.update(clip=0.0, eps=base.summed_eps(config.data.shape))
    config.ema.update(warmup=False, ramp=0.05)
    config.sampling.update(grid="karras", threshold="none")
    return base.tiny(config) if word.tiny else config


def cifar10(config):
    config.task.update(augment=0.12)  # mirrors are a part of it
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3))
    config.model.update(name="song_unet", channels=128, multipliers=(2, 2, 2), blocks=4, attention=(16,), dropout=0.13)
    config.optim.update(lr=1e-3, warmup=19_531)  # 10M images
    config.ema.update(decays=(0.999290,))  # a half-life of 0.5M images
    config.train.update(steps=390_625, batch_size=512)
    config.sampling.update(sampler="heun", steps=18, batch_size=256)
    config.evaluation.update(samples=50_000)


def imagenet64(config):
    config.data.update(name="arrayrecord", shape=(64, 64, 3))
    base.adm64(config.model)  # float16 there, its loss scaled by 100
    config.optim.update(lr=1e-4, warmup=2441)
    config.ema.update(decays=(0.999943,))  # 50M images
    config.train.update(steps=610_352, batch_size=4096)
    churn = "churn=40.0, churn_min=0.05, churn_max=50.0, noise=1.003"
    config.sampling.update(sampler=f"heun({churn})", steps=256, batch_size=64)
