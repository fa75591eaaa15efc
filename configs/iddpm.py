"""iDDPM (Nichol and Dhariwal 2021): learned variance, 4000 levels, hybrid loss or the bound itself.

    python main.py --config=configs/iddpm.py --workdir=runs/iddpm                          # CIFAR-10
    python main.py --config=configs/iddpm.py:imagenet64 --workdir=runs/iddpm64 --config.data.path=SHARDS
    python main.py --config=configs/iddpm.py:imagenet64,cond --workdir=runs/iddpm64 --config.data.path=SHARDS

`vlb` minimises the variational bound with importance-sampled times. Parameters: 52,546,438 (CIFAR-10), 121,063,942
(ImageNet-64), 273,049,350 with labels. Published, in training images of 500k, 1.5M, 250k steps: CIFAR-10, 64M: FID 3.19
and 3.17 bits/dim, with `vlb` 11.47 and 2.94; ImageNet-64, 192M: FID 19.2, with `vlb` 3.53 bits/dim; with labels, 512M:
FID 2.92 in 250 steps. Others report FID near 7 at 100 steps from the CIFAR-10 flags.
SHARDS: `python -m tools.pack --size=64` of image-net.org's own 64x64 images; with labels, of the full ones, cropped as
ADM's code does it: `--size=64 --preprocess=adm`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, imagenet64=False, cond=False, vlb=False)
    if word.cond and not word.imagenet64:
        raise ValueError("config word 'cond' is of ImageNet-64: iddpm.py:imagenet64,cond")
    config = base.get_config()
    config.data.update(name="tfds", dataset="cifar10", shape=(32, 32, 3))
    config.model.update(
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=3,
        attention=(16, 8),
        num_heads=4,
        dropout=0.3,
        scale_shift=True,
        convention="adm",  # cos | sin without the -1, group norms' epsilon 1e-5
    )
    # Told t 1000 / 4000, and the bound's term weighed by 4000 / 1000: rescale_timesteps and rescale_learned_sigmas.
    config.diffusion.update(schedule="cosine_discrete(steps=4000)", prediction="eps(rescale=True)", loss="hybrid")
    config.optim.update(name="adamw", lr=1e-4, warmup=0, clip=0.0)
    config.ema.update(warmup=False)
    config.train.update(steps=500_000, batch_size=128)
    config.sampling.update(sampler="ancestral(variance='learned')", steps=4000, grid="uniform")
    if word.imagenet64:
        config.data.update(name="arrayrecord", dataset="", shape=(64, 64, 3))
        config.model.update(multipliers=(1, 2, 3, 4), dropout=0.0, dtype="bfloat16")
        config.train.update(steps=1_500_000)
    if word.cond:
        config.task.update(name="class")
        config.data.update(classes=1000, preprocess="adm")
        config.model.update(channels=192)
        config.diffusion.update(prediction="eps", loss="hybrid(rescale=False)")  # both left as they are, in this run
        config.optim.update(lr=3e-4)
        config.train.update(steps=250_000, batch_size=2048)
        config.sampling.update(steps=250)
    if word.vlb:
        config.diffusion.update(loss="variational", times="importance")
    return base.tiny(config) if word.tiny else config
