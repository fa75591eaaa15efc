"""Imagen's second super-resolution model, 256x256 to 1024x1024, trained on crops (Saharia et al. 2022).

    python main.py --config=configs/imagen_sr1024.py:t5=DIR --workdir=runs/imagen_sr1024 --config.data.path=SHARDS

An Efficient U-Net of 576M parameters without self-attention, so that a network of 64 -> 256 crops runs on
256 -> 1024; attention to the text adds 49M. Published: 400M, which the printed blocks exceed without any attention.
DIR and SHARDS (of images of 1024x1024) as for configs/imagen_base64.py, and so is what was run.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, t5="t5-v1_1-xxl", embeddings="")
    config = base.get_config()
    config.task.update(name="text", drop=0.1, low_size=256, crop=256)
    config.data.update(name="arrayrecord", shape=(1024, 1024, 3), captions=True)
    config.text.update(encoder=f"t5(path={word.t5!r}, length=128)", embeddings=word.embeddings)
    config.model.update(
        name="efficient_unet",
        channels=128,
        multipliers=(1, 2, 4, 8),
        level_blocks=(2, 4, 8, 8),
        attention=(),
        cross_attention=(64,),
        num_heads=8,
        convention="adm",
        dtype="bfloat16",
    )
    config.diffusion.update(schedule="vp")  # the linear table of 1000 steps, in continuous time
    config.optim.update(lr=1e-4, warmup=10_000)
    config.train.update(steps=2_500_000, batch_size=2048)
    config.sampling.update(
        sampler="ddim(eta=0.0)",
        steps=64,
        guidance=8.0,
        threshold="dynamic(quantile=0.995)",
        aug_level=0.1,
        batch_size=4,
        grid_images=4,
    )
    return base.tiny(config) if word.tiny else config
