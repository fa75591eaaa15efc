"""Imagen's base model, text to 64x64 (Saharia et al. 2022): a trunk of 2,098M parameters, and text layers.

    python main.py --config=configs/imagen_base64.py:t5=DIR --workdir=runs/imagen_base64 --config.data.path=SHARDS

DIR is the folder of T5-XXL v1.1's encoder, SHARDS record shards of captioned images (docs/imagen.md: both, and
`embeddings=DIR` for embeddings made once). `1b`, `500m` and `300m` are the paper's smaller trunks: 1,180M, 525M, 295M.
Published: FID 7.27 on COCO, zero-shot, with the 64 -> 256 stage, after 2.5M steps of batch 2048 on 860M pairs, at
guidance 1.35. Not trained here: built and counted, and its tiny variant trained for two steps, in the tests.
"""

from configs import base

WIDTHS = {"1b": 384, "500m": 256, "300m": 192}


def get_config(arg=""):
    word = base.words(arg, tiny=False, t5="t5-v1_1-xxl", embeddings="", **dict.fromkeys(WIDTHS, False))
    width = next((width for size, width in WIDTHS.items() if word[size]), 512)
    config = base.get_config()
    config.task.update(name="text", drop=0.1)
    config.data.update(name="arrayrecord", shape=(64, 64, 3), captions=True)
    config.text.update(encoder=f"t5(path={word.t5!r}, length=128)", embeddings=word.embeddings)
    config.model.update(
        channels=width,
        multipliers=(1, 2, 3, 4),
        blocks=3,
        attention=(32, 16, 8),
        head_channels=64,
        scale_shift=True,
        resample="block",
        convention="adm",
        dtype="bfloat16",
    )
    config.diffusion.update(schedule="cosine")
    # The paper's printed schedule ends at a rate of 2,500,000, its number of steps: a misprint. Constant here.
    config.optim.update(name="adafactor", lr=1e-4, warmup=10_000)
    config.train.update(steps=2_500_000, batch_size=2048)
    config.sampling.update(
        sampler="ancestral(variance='interpolated', exponent=0.3)",
        steps=256,
        guidance=5.0,
        threshold="dynamic(quantile=0.995)",
    )
    return base.tiny(config) if word.tiny else config
