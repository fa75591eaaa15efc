"""Imagen's first super-resolution model, 64x64 to 256x256 (Saharia et al. 2022): an Efficient U-Net of 593M parameters.

    python main.py --config=configs/imagen_sr256.py:t5=DIR --workdir=runs/imagen_sr256 --config.data.path=SHARDS

Text layers add 40M. DIR and SHARDS (of images of 256x256) as for configs/imagen_base64.py, and so is what was run.
Published: 600M parameters, Adam, 2.5M steps of batch 2048; guidance 8 and no augmentation at sampling for the FID.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, t5="t5-v1_1-xxl", embeddings="")
    config = base.get_config()
    config.task.update(name="text", drop=0.1, low_size=64)
    config.data.update(name="arrayrecord", shape=(256, 256, 3), captions=True)
    config.text.update(encoder=f"t5(path={word.t5!r}, length=128)", embeddings=word.embeddings)
    config.model.update(
        name="efficient_unet",
        channels=128,
        multipliers=(1, 2, 4, 8),
        level_blocks=(2, 4, 8, 8),
        attention=(16,),
        num_heads=8,
        convention="adm",
        dtype="bfloat16",
    )
    config.diffusion.update(schedule="cosine")
    config.optim.update(lr=1e-4, warmup=10_000)  # the printed end of 2,500,000 is a misprint, as in the base model
    config.train.update(steps=2_500_000, batch_size=2048)
    config.sampling.update(
        sampler="ancestral(variance='interpolated', exponent=0.3)",
        steps=128,
        guidance=8.0,
        threshold="dynamic(quantile=0.995)",
        aug_level=0.1,
        batch_size=32,
    )
    return base.tiny(config) if word.tiny else config
