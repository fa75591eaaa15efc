"""simple diffusion (Hoogeboom et al. 2023): one network for 128, 256 or 512 pixels, and a schedule shifted for them.

    python main.py --config=configs/simple_diffusion.py:256 --workdir=runs/simple256 --config.data.path=SHARDS

128 (default), 256, 512: U-ViTs of 2,077,385,475, 2,077,406,220 and 2,077,489,200 parameters. Their images, in patches
of 1, 2 and 4 pixels, are a transformer's at 16x16. Published (U-ViT-L, 2B, evaluation set): FID 3.23, 3.75 and 4.53;
guided 2.44 at 256 and 3.02 at 512. `unshifted` leaves the schedule as it is at 64 pixels, which cost a U-Net .4 at 128
and 3 at 256. No code was published. Widths, depths, heads, dropout, optimiser and steps (1,024M training images) are
those of the paper's appendix as a summary of it gives them; the blocks' insides are ours. Images are cut by wavelets
there, and the U-ViT's loss is that of v; here by patches, and eps', as in the text.
SHARDS: `python -m tools.pack --size=256`.
Not trained here: built, counted, and its tiny variant trained for two steps, in the tests. Small: docs/recipes.md.
"""

from configs import base

PATCHES = {"128": 1, "256": 2, "512": 4}


def get_config(arg=""):
    word = base.words(arg, tiny=False, unshifted=False, **dict.fromkeys(PATCHES, False))
    size = base.one_of(word, PATCHES, "128")
    config = base.get_config()
    config.task.update(name="class", drop=0.1, flip=True)
    config.data.update(name="arrayrecord", shape=(int(size), int(size), 3), classes=1000)
    config.model.update(name="u_vit", channels=128, multipliers=(1, 2, 4, 16), blocks=2, middle=36, num_heads=4)
    config.model.update(patch=PATCHES[size], dropout=0.2, remat="blocks", dtype="bfloat16")
    schedule = "cosine()" if word.unshifted else f"shifted(base=cosine(), resolution={size}, reference=64)"
    config.diffusion.update(schedule=schedule, prediction="v", weighting="simple")
    config.optim.update(lr=1e-4, warmup=10_000, b2=0.99, eps=1e-12)
    config.train.update(steps=500_000, batch_size=2048)
    config.sampling.update(sampler="ancestral(variance='interpolated', exponent=0.2)", steps=512, batch_size=16)
    return base.tiny(config) if word.tiny else config
