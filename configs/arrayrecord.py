"""DDPM on record shards that tools/pack.py wrote: the form for large sets and pods.

    python -m tools.pack --input=DIR --output=SHARDS --size=64
    python -m tools.pack --input=DIR --output=SHARDS --size=64 --split=test
    python main.py --config=configs/arrayrecord.py:path=SHARDS,size=64 --workdir=runs/mine

Run here: on shards packed by a test.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="", size="64", channels=3, classes=0)
    config = base.get_config()
    config.data.update(name="arrayrecord", path=word.path)
    base.images(config, word.size, word.channels, word.classes)
    return base.tiny(config) if word.tiny else config
