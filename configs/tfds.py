"""DDPM on any image data set of tensorflow-datasets, by name.

    python main.py --config=configs/tfds.py:name=cifar10 --workdir=runs/cifar10 [--config.data.path=DATA_DIR]
    python main.py --config=configs/tfds.py:name=cifar10,classes=10 --workdir=runs/cifar10_class

The set must have been prepared with file_format=array_record (README says how); it is then read without TensorFlow.
Run here: on a small set prepared by a test.
"""

from configs import base


def get_config(arg=""):
    word = base.words(arg, tiny=False, name="cifar10", size="32", channels=3, classes=0)
    config = base.get_config()
    config.data.update(name="tfds", dataset=word.name)
    base.images(config, word.size, word.channels, word.classes)
    return base.tiny(config) if word.tiny else config
