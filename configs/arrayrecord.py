"""DDPM on record shards that tools/pack.py wrote: the form for large sets and pods.

    python -m tools.pack --input=DIR --output=SHARDS --size=64
    python main.py --config=configs/arrayrecord.py:path=SHARDS,size=64 --workdir=runs/mine

Run here: on shards packed by a test.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, path="", size=64, channels=3, classes=0)
    config = base.get_config()
    config.data.update(name="arrayrecord", path=word.path, classes=word.classes)
    config.data.update(shape=(word.size, word.size, word.channels))
    config.task.update(flip=True)
    if word.classes:
        config.task.update(name="class", drop=0.1)
    return base.tiny(config) if word.tiny else config
