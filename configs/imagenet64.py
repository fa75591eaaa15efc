"""ADM on ImageNet at 64x64, class-conditional, learned variance (Dhariwal and Nichol 2021): 295,904,454 parameters.

    python main.py --config=configs/imagenet64.py --workdir=runs/imagenet64 --config.data.path=DIR

DIR holds record shards that `python -m tools.pack --size=64 --preprocess=adm` made of the images. Published: FID 2.07
with 250 ancestral steps after 540k steps of batch 2048. The word `guided` drops 10% of the labels, for
classifier-free guidance, which adds the null label's row of 768 parameters.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, guided=False)
    config = base.get_config()
    config.task.update(name="class", drop=0.1 if word.guided else 0.0, flip=True)
    config.data.update(name="arrayrecord", shape=(64, 64, 3), classes=1000, preprocess="adm")
    base.adm64(config.model)
    config.diffusion.update(schedule="cosine_discrete(steps=1000)", loss="hybrid")
    config.optim.update(name="adamw", lr=3e-4, warmup=0, clip=0.0)
    config.ema.update(warmup=False)
    config.train.update(steps=540_000, batch_size=2048)
    config.sampling.update(sampler="ancestral(variance='learned')", steps=250, grid="uniform")
    return base.tiny(config) if word.tiny else config
