"""Imagen whole: text to 64x64, to 256x256, to 1024x1024, from the workdirs of three trainings.

    python main.py --mode=sample --config=configs/imagen.py --prompts=FILE --workdir=OUT
    python main.py --mode=sample --config=configs/imagen.py:digits --prompt="a seven" --num=16 --workdir=OUT

`digits`, `mnist` and `emoji` are small cascades that one machine trains (docs/imagen.md). runs=DIR is where the
workdirs lie. Each stage samples as its own config says; --config.stages.STAGE.KEY=VALUE changes that here.
"""

from configs import base

CASCADES = {
    "digits": dict(base4="digits_text4", sr8="digits_text8"),
    "mnist": dict(base14="mnist14", sr28="mnist28"),
    "emoji": dict(base32="emoji32", sr64="emoji64"),
}
IMAGEN = dict(base64="imagen_base64", sr256="imagen_sr256", sr1024="imagen_sr1024")


def get_config(arg=""):
    word = base.words(arg, runs="runs", **dict.fromkeys(CASCADES, False))
    workdirs = next((found for name, found in CASCADES.items() if word[name]), IMAGEN)
    return base.stages(**{name: f"{word.runs}/{workdir}" for name, workdir in workdirs.items()})
