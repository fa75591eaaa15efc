"""What main.py can do. Each mode takes the config and the flags."""

from modes.edit import edit
from modes.evaluate import evaluate
from modes.sample import sample
from modes.train import train

MODES = {"train": train, "sample": sample, "evaluate": evaluate, "edit": edit}
