"""DiT (Peebles and Xie 2023), class-conditional, on latents: S, B, L and XL, with patches of 2, 4 or 8.

    python main.py --config=configs/dit.py:xl,vae=DIR --workdir=runs/dit --config.data.path=SHARDS

| word | parameters with patch=2 |
| s | 32,865,056 |
| b | 130,315,808 |
| l | 457,840,672 |
| xl (default) | 674,834,720 |

Without the positions, which are fixed. DIR is a folder of stabilityai/sd-vae-ft-mse, frozen, whose latents are scaled
by .18215; size=512 is of larger images; `pixels,size=32` is without an autoencoder. Published: XL/2 at 256 FID 9.62,
guided by 1.5 2.27, after 7M steps of batch 256, 1,792M images; at 512 12.03 and 3.04, after 3M.
SHARDS: `python -m tools.pack --size=256 --preprocess=adm`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}  # width, depth, heads


def get_config(arg=""):
    sizes = dict.fromkeys(SIZES, False)
    word = base.words(arg, tiny=False, pixels=False, patch=2, size=256, vae="sd-vae-ft-mse", **sizes)
    width, depth, heads = SIZES[base.one_of(word, SIZES, "xl")]
    config = base.get_config()
    config.task.update(name="class", drop=0.1, flip=True)
    config.data.update(name="arrayrecord", shape=(word.size, word.size, 3), classes=1000, preprocess="adm")
    config.model.update(name="dit", channels=width, blocks=depth, num_heads=heads, patch=word.patch, dtype="bfloat16")
    config.diffusion.update(schedule="linear(steps=1000)", loss="hybrid")
    config.optim.update(name="adamw", lr=1e-4, warmup=0, clip=0.0)
    config.ema.update(warmup=False)
    config.train.update(steps=3_000_000 if word.size == 512 else 7_000_000, batch_size=256)
    config.sampling.update(sampler="ancestral(variance='learned')", steps=250, grid="uniform", guidance=1.5)
    if not word.pixels:
        config.latent.update(encoder=f"diffusers(path={word.vae!r})", mean=(0.0,) * 4, std=(1 / 0.18215,) * 4)
        # Its code guides the first three of four channels, and clips none.
        config.sampling.update(guidance_channels=3, threshold="none")
    return base.tiny(config) if word.tiny else config
