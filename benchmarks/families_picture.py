"""The picture of benchmarks/families.py: quality over time as lines with the spread of the seeds, and samples."""

import base64
import io

import numpy as np
from PIL import Image

from evaluation.charts import COLOURS, HEIGHT, WIDTH, Series, chart, text
from evaluation.images import make_grid

CURVES = {"frechet/ratio": "Frechet distance over that of real digits", "svc/agreement": "share read as their label"}
GRID = 2 * WIDTH / 4 - 20  # width of one family's samples


def picture(report: dict) -> str:
    """<svg> of two charts side by side, and below them what each family draws."""
    families = report["families"]
    charts = [
        chart([curve(name, each["runs"], key) for name, each in families.items()], "CPU seconds of training", title)
        for key, title in CURVES.items()
    ]
    parts = [nested(each, i * WIDTH) for i, each in enumerate(charts)]
    for i, (name, each) in enumerate(families.items()):
        left = i * (GRID + 20) + 10
        parts.append(text(left + GRID / 2, HEIGHT + 14, name, "middle", f' fill="{COLOURS[i]}" font-weight="bold"'))
        parts.append(samples(np.array(each["sampling"]["images"], np.uint8), left, HEIGHT + 22))
    size = 2 * WIDTH, HEIGHT + 22 + round(GRID / 5 * 2) + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def curve(name: str, runs: list[list[dict]], key: str) -> Series:
    """Means over the seeds, with their least and most."""
    values = np.array([[point[key] for point in points] for points in runs])
    means = zip([point["seconds"] for point in runs[0]], values.mean(axis=0).tolist())
    spread = zip(values.min(axis=0).tolist(), values.max(axis=0).tolist())
    return Series(name, list(means), spread=list(spread))


def nested(svg: str, left: float) -> str:
    return svg.replace("<svg ", f'<svg x="{left}" height="{HEIGHT}" ', 1)


def samples(images: np.ndarray, left: float, top: float) -> str:
    grid = make_grid(images[:10], columns=5)
    buffer = io.BytesIO()
    Image.fromarray(grid[..., 0]).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    height = GRID * grid.shape[0] / grid.shape[1]
    size = f'width="{GRID:.1f}" height="{height:.1f}"'
    return f'<image x="{left:.1f}" y="{top:.1f}" {size} href="data:image/png;base64,{data}"/>'
