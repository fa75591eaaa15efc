"""Emoji from their names, 'waving hand', at 32x32, 64x64 and 128x128: a cascade for one GPU, or a patient CPU.

    python main.py --config=configs/emoji.py:path=DIR/64 --workdir=runs/emoji32
    python main.py --config=configs/emoji.py:path=DIR/64,size=64,low=32 --workdir=runs/emoji64
    python main.py --config=configs/emoji.py:path=DIR/128,size=128,low=64 --workdir=runs/emoji128
    python main.py --mode=sample --config=configs/imagen.py:emoji --prompt="red heart" --num=8 --workdir=OUT

Each folder has train/ and test/, with images and a captions.jsonl of {"file": .., "captions": [..]} in both. The
stages of super-resolution are Efficient U-Nets, the last one trained on crops of 64 and without self-attention, as
Imagen's. Expected: docs/imagen.md.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="", size=32, low=0)
    config = base.get_config()
    config.task.update(name="text", drop=0.1, low_size=word.low, crop=64 if word.size > 64 else 0)
    config.data.update(name="folder", path=word.path, shape=(word.size, word.size, 3), captions=True)
    config.text.encoder = "bytes(length=64, width=128, layers=2, heads=4)"
    if word.low:
        config.model.update(
            name="efficient_unet", channels=32, multipliers=(1, 2, 4), level_blocks=(1, 2, 3), groups=8, num_heads=4
        )
        lowest = word.size // 8
        config.model.update(attention=() if config.task.crop else (lowest,), cross_attention=())
        config.model.cross_attention = (lowest,) if config.task.crop else ()
    else:
        config.model.update(channels=64, multipliers=(1, 2, 3), blocks=2, attention=(16, 8), num_heads=4, groups=16)
    config.model.update(convention="adm")
    config.diffusion.update(schedule="cosine", prediction="v")
    config.optim.update(lr=5e-4, warmup=500)
    config.ema.update(decays=(0.999,))
    config.train.update(steps=50_000, batch_size=64)
    config.log.update(every=100, samples_every=2500, validation_every=2500)
    config.sampling.update(steps=50, guidance=3.0, threshold="dynamic(quantile=0.995)")
    config.sampling.update(aug_level=0.1 if word.low else 0.0, batch_size=16)
    return base.tiny(config) if word.tiny else config
