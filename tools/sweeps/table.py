"""One table over all cells, best first: sweep.csv, and sweep.png that shows it."""

import csv
import io
import json
import math
import statistics
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tools.sweeps.cells import Cell, is_done
from training import ema
from training.metrics import write_atomic

DIRECTIONS = {"lower": 1, "higher": -1}
SEED = "seed"


class Row(NamedTuple):
    """A cell's result; mean and deviation are over the done cells that differ from it in their seed alone."""

    cell: Cell
    done: bool
    step: int
    value: float | None
    mean: float | None = None
    deviation: float | None = None
    seeds: int = 0


def rank(cells: list[Cell], metric: str, direction: str) -> list[Row]:
    """Rows by their mean over seeds, best first, then by their own value; what has no value is last."""
    rows = [read(cell, metric) for cell in cells]
    groups = {}
    for row in rows:
        if row.done and row.value is not None:
            groups.setdefault(group(row.cell), []).append(row.value)
    return sorted((over_seeds(row, groups) for row in rows), key=lambda row: order(row, DIRECTIONS[direction]))


def group(cell: Cell) -> str:
    return json.dumps({key: value for key, value in cell.overrides.items() if key != SEED}, sort_keys=True)


def over_seeds(row: Row, groups: dict[str, list[float]]) -> Row:
    values = groups.get(group(row.cell), [])
    if not values:
        return row
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return row._replace(mean=statistics.fmean(values), deviation=deviation, seeds=len(values))


def order(row: Row, sign: int) -> tuple:
    return tuple(math.inf if value is None else sign * value for value in (row.mean, row.value))


def read(cell: Cell, metric: str) -> Row:
    """The metric's last value in metrics.jsonl, or else in evaluation.json; None where it is in neither, or not finite.

    'validation_loss' is that of the cell's first average.
    """
    lines = metric_lines(cell)
    name = f"validation_loss/{ema.first_name(cell.config.ema)}" if metric == "validation_loss" else metric
    value = next((line[name] for line in reversed(lines) if line.get(name) is not None), None)
    evaluation = cell.folder / "evaluation.json"
    if value is None and evaluation.exists():
        value = json.loads(evaluation.read_text())["results"].get(metric, {}).get("value")
    return Row(cell, is_done(cell), lines[-1]["step"] if lines else 0, value)


def metric_lines(cell: Cell) -> list[dict]:
    """Whole lines alone: a running cell may be writing its last one."""
    path = cell.folder / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def write(rows: list[Row], workdir, metric: str, direction: str) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row.cell.overrides))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["rank", "cell", "status", "step", *keys, metric, "mean", "deviation", "seeds"])
    for i, row in enumerate(rows, 1):
        settings = [row.cell.overrides.get(key, "") for key in keys]
        numbers = [show(value) for value in (row.value, row.mean, row.deviation)]
        table.writerow([i, row.cell.name, status(row), row.step, *settings, *numbers, row.seeds])
    write_atomic(workdir / "sweep.csv", text.getvalue().encode())
    buffer = io.BytesIO()
    picture(rows, keys, metric, direction).save(buffer, "PNG")
    write_atomic(workdir / "sweep.png", buffer.getvalue())


def status(row: Row) -> str:
    return "done" if row.done else "unfinished" if row.step else "not started"


def show(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


SIZE, LINE, BAR, MARGIN = 15, 24, 360, 16  # pixels


def picture(rows: list[Row], keys: list[str], metric: str, direction: str) -> Image.Image:
    """The table, a bar of mean +- deviation and a dot for the cell's own value beside each row."""
    font = ImageFont.load_default(SIZE)
    title = f"{metric}, {direction} is better: {sum(row.done for row in rows)} of {len(rows)} cells done"
    head = ["", *(key.rpartition(".")[2] for key in keys), "value", "mean", "+-", "status"]
    body = [
        [
            str(i),
            *(str(row.cell.overrides.get(key, "")) for key in keys),
            *(show(value) for value in (row.value, row.mean, row.deviation)),
            status(row),
        ]
        for i, row in enumerate(rows, 1)
    ]
    widths = [max(font.getlength(line[i]) for line in (head, *body)) + MARGIN for i in range(len(head))]
    left = MARGIN + sum(widths)
    width = max(left + BAR, font.getlength(title) + MARGIN) + MARGIN
    image = Image.new("RGB", (round(width), LINE * (len(rows) + 2) + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, "black", font)
    place = scale(rows)
    for j, (line, row) in enumerate(zip((head, *body), (None, *rows), strict=True)):
        top, x = MARGIN + LINE * (j + 1), MARGIN
        for word, column in zip(line, widths, strict=True):
            draw.text((x, top), word, "black" if j else "gray", font)
            x += column
        if row and row.value is not None:
            draw_bar(draw, row, left, top + LINE // 2 - 2, place)
    return image


def scale(rows: list[Row]):
    """value -> share of the bar's width; values beyond twice the middle one are cut off at its end."""
    values = sorted(row.value for row in rows if row.value is not None) or [0.0]
    low, high = values[0], min(values[-1], 2 * abs(values[len(values) // 2]) + values[0])
    span = (high - low) or 1.0
    return lambda value: min(max((value - low) / span, 0.0), 1.0)


def draw_bar(draw: ImageDraw.ImageDraw, row: Row, left: float, middle: float, place) -> None:
    draw.line((left, middle, left + BAR, middle), "gainsboro")
    if row.mean is not None:
        spread = row.deviation or 0.0
        low, high = (left + BAR * place(row.mean + sign * spread) for sign in (-1, 1))
        draw.rectangle((low - 1, middle - 5, high + 1, middle + 5), "lightsteelblue")
    x = left + BAR * place(row.value)
    draw.ellipse((x - 4, middle - 4, x + 4, middle + 4), "midnightblue")
