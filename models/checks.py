"""What networks check of their fields before any compilation, and of the images that they are given."""

from models.layers import REMAT

CHOICES = {"remat": tuple(REMAT), "dtype": ("float32", "bfloat16")}


def check_values(net, choices=None, **least) -> None:
    """Raises ValueError for a field below the least that it may be, or outside its choices, or a dropout that is none.

    choices: of the net's own fields, beside remat and dtype where it has them.
    """
    for key, among in (CHOICES | (choices or {})).items():
        if hasattr(net, key) and getattr(net, key) not in among:
            raise ValueError(f"{key} is {getattr(net, key)!r}: choose from {among}")
    for key, value in least.items():
        if getattr(net, key) < value:
            raise ValueError(f"{key} is {getattr(net, key)}: give at least {value}")
    if not 0 <= getattr(net, "dropout", 0.0) < 1:
        raise ValueError(f"dropout is {net.dropout}: give a rate in [0, 1)")


def check_levels(net) -> None:
    """Raises ValueError where a net's size cannot be halved as often as it has levels, or attention is at none."""
    sizes = [size for size, _ in net.levels]
    if not sizes:
        raise ValueError("multipliers is empty: give one number a level")
    halvings = len(sizes) - 1
    if net.size % 2**halvings:
        raise ValueError(
            f"size is {net.size}, which {len(sizes)} multipliers halve {halvings} times: "
            f"give a multiple of {2**halvings}, or fewer multipliers"
        )
    if missing := sorted(set(net.attention) - set(sizes)):
        raise ValueError(f"attention is at {missing}, which is no level: choose from {sizes}")


def check_sides(net, x) -> None:
    """Raises ValueError for images [b h w c] that the levels cannot halve."""
    multiple = 2 ** (len(net.levels) - 1)
    b, h, w, c = x.shape
    if h % multiple or w % multiple:
        raise ValueError(
            f"images are {h} x {w}, which {len(net.levels)} multipliers cannot halve: "
            f"give sides that are multiples of {multiple}"
        )
