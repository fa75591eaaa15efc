"""DiT (Peebles and Xie 2023), class-conditional: S, B, L and XL, with patches of 2, 4 or 8.

    python main.py --config=configs/dit.py:xl --workdir=runs/dit --config.data.path=SHARDS

| word | parameters with patch=2 |
| s | 32,865,056 |
| b | 130,315,808 |
| l | 457,840,672 |
| xl (default) | 674,834,720 |

Without the positions, which are fixed. Published: XL/2 on latents of 256x256 images FID 9.62, guided by 1.5 2.27, in
250 steps, after 7M steps of batch 256, 1,792M images.
Not trained here: built, counted, and the tiny variant, in the tests; a network like it on digits: docs/recipes.md.
"""

from configs import base

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}  # width, depth, heads


def get_config(arg=""):
    word = base.words(arg, tiny=False, patch=2, size=32, **dict.fromkeys(SIZES, False))
    width, depth, heads = SIZES[base.one_of(word, SIZES, "xl")]
    config = base.get_config()
    config.task.update(name="class", drop=0.1, flip=True)
    config.data.update(name="arrayrecord", shape=(word.size, word.size, 3), classes=1000, preprocess="adm")
    config.model.update(name="dit", channels=width, blocks=depth, num_heads=heads, patch=word.patch, dtype="bfloat16")
    config.diffusion.update(schedule="linear(steps=1000)", loss="hybrid")
    config.optim.update(name="adamw", lr=1e-4, warmup=0, clip=0.0)
    config.ema.update(warmup=False)
    config.train.update(steps=7_000_000, batch_size=256)
    config.sampling.update(sampler="ancestral(variance='learned')", steps=250, grid="uniform", guidance=1.5)
    return base.tiny(config) if word.tiny else config
