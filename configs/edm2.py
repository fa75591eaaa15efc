"""EDM2 (Karras et al. 2024) on ImageNet-64 in pixels: networks that keep magnitudes, and averages by powers of time.

    python main.py --config=configs/edm2.py:s --workdir=runs/edm2 --config.data.path=SHARDS
    python -m tools.posthoc_ema --workdir=runs/edm2 --sigma_rel=0.075      # any other width of average, afterwards

| word | parameters | training images | published FID, 63 network calls, no guidance |
| xs | 124,710,821 | 1,074M | |
| s (default) | 280,209,253 | 1,074M | 1.58 |
| m | 497,803,045 | 2,147M | 1.43 |
| l | 777,492,197 | 1,074M | 1.33 |
| xl | 1,119,276,709 | 671M | 1.33 |

That is without the features of the level, drawn once and not trained. Guided by a smaller network (autoguidance) `s`
gave 1.01. One difference: the learned weight of each level starts at 1 here, and its layer is not normalised.
SHARDS: `python -m tools.pack --size=64 --preprocess=adm`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base

# channels, learning rate, dropout, images in units of 2^20
SIZES = {
    "xs": (128, 0.0120, 0.0, 1024),
    "s": (192, 0.0100, 0.0, 1024),
    "m": (256, 0.0090, 0.1, 2048),
    "l": (320, 0.0080, 0.1, 1024),
    "xl": (384, 0.0070, 0.1, 640),
}


def get_config(arg=""):
    word = base.words(arg, tiny=False, **dict.fromkeys(SIZES, False))
    channels, lr, dropout, images = SIZES[base.one_of(word, SIZES, "s")]
    config = base.get_config()
    config.task.update(name="class")
    config.data.update(name="arrayrecord", shape=(64, 64, 3), classes=1000, preprocess="adm")
    config.model.update(name="edm2_unet", channels=channels, multipliers=(1, 2, 3, 4), blocks=3, attention=(16, 8))
    config.model.update(head_channels=64, dropout=dropout, dtype="bfloat16")  # float16 there
    config.diffusion.update(
        schedule="edm",
        prediction="edm(sigma_data=0.5)",
        weighting="edm(sigma_data=0.5)",
        times="log_normal(mean=-0.8, std=1.6)",
        uncertainty=True,
    )
    eps = base.summed_eps(config.data.shape)
    config.optim.update(lr=lr, warmup=4883, root_from=35_000, b2=0.99, eps=eps, clip=0.0)
    config.ema.update(decays=(), warmup=False, sigma_rels=(0.05, 0.1), snapshot_every=4096)
    config.train.update(steps=images * 512, batch_size=2048)
    config.sampling.update(sampler="heun", grid="karras", steps=32, threshold="none")
    return base.tiny(config) if word.tiny else config
