"""A trained run in Python, in a notebook for instance.

    import langevin
    model = langevin.load("runs/digits")
    images = model.sample(16, label=7)
    filled = model.inpaint(images, hidden)          # hidden [h w], true where the image is to be made up

Images are uint8 [n h w c]; image i of a call has seed + i, or the i-th of an array of seeds. A condition is a label, a
label for each image, or a dict of rows by name; None is no condition, where the model was at times trained without.
"""

from modes.model import Model, load

__all__ = ["Model", "load"]
