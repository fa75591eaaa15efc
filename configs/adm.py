"""ADM (Dhariwal and Nichol 2021) at 128, 256 and 512 pixels, class-conditional, and its upsamplers. 64: imagenet64.py.

    python main.py --config=configs/adm.py:256 --workdir=runs/adm256 --config.data.path=SHARDS
    python main.py --config=configs/adm.py:up256 --workdir=runs/adm_up256 --config.data.path=SHARDS

| word | parameters | steps of batch 256 | training images | published FID, 250 steps |
| 128 | 421,529,606 | 4,360k | 1,116M | 5.91; 2.97 guided by a classifier |
| 256 (default) | 553,838,086 | 1,980k | 507M | 10.94; 4.59 |
| 512 | 558,997,638 | 1,940k | 497M | 23.24; 7.72 |
| up256, from 64 | 311,795,910 | 500k | 128M | 7.49; 3.94 guided, up from 64 |
| up512, from 128 | 308,835,270 | 1,050k | 269M | 3.85 guided, up from 128 |

`guided` drops 10% of the labels, for classifier-free guidance, which the paper had not. Its upsamplers knew no level of
augmentation; here they are told one, which adds two layers. Theirs shrank images by areas and enlarged them bilinearly,
here both are bicubic. SHARDS: `python -m tools.pack --size=256 --preprocess=adm`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests.
"""

from configs import base

DEEP = (1, 1, 2, 2, 4, 4)
PER_HEAD = dict(head_channels=64)
SIZES = {
    "128": dict(multipliers=(1, 1, 2, 3, 4), num_heads=4),
    "256": dict(multipliers=DEEP, **PER_HEAD),
    "512": dict(multipliers=(0.5, *DEEP), **PER_HEAD),
    "up256": dict(multipliers=DEEP, num_heads=4, channels=192),
    "up512": dict(multipliers=DEEP, num_heads=4, channels=192, attention=(32, 16)),
}
STEPS = {"128": 4_360_000, "256": 1_980_000, "512": 1_940_000, "up256": 500_000, "up512": 1_050_000}


def get_config(arg=""):
    word = base.words(arg, tiny=False, guided=False, **dict.fromkeys(SIZES, False))
    which = base.one_of(word, SIZES, "256")
    size = int(which.removeprefix("up"))
    config = base.get_config()
    config.task.update(name="class", drop=0.1 if word.guided else 0.0, flip=True)
    config.task.low_size = size // 4 if which.startswith("up") else 0
    config.data.update(name="arrayrecord", shape=(size, size, 3), classes=1000, preprocess="adm")
    config.model.update(channels=256, blocks=2, attention=(32, 16, 8), scale_shift=True, resample="block")
    config.model.update(convention="adm", dtype="bfloat16", **SIZES[which])
    config.diffusion.update(schedule="linear(steps=1000)", loss="hybrid")
    config.optim.update(name="adamw", lr=1e-4, warmup=0, clip=0.0)
    config.ema.update(warmup=False)
    config.train.update(steps=STEPS[which], batch_size=256)
    config.sampling.update(sampler="ancestral(variance='learned')", steps=250, grid="uniform", batch_size=16)
    return base.tiny(config) if word.tiny else config
