"""One HTML file that holds an evaluation: numbers, pictures and charts inlined, so that it can be sent on its own."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

STYLE = """
body { font: 14px/1.45 sans-serif; margin: 2em auto; max-width: 68em; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse } td, th { border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left;
vertical-align: top } td.number { text-align: right; font-variant-numeric: tabular-nums }
td.small { color: #666; font-size: .85em; overflow-wrap: anywhere } img { max-width: 100%; image-rendering: pixelated }
"""


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole document; sections are (heading, HTML), those without content left out."""
    body = "".join(f"<h2>{escape(heading)}</h2>{content}" for heading, content in sections if content)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def picture(image: np.ndarray, caption: str = "") -> str:
    """A uint8 image [h w 1] or [h w 3] as an <img> with its PNG in it."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "png")
    data = base64.b64encode(buffer.getvalue()).decode()
    said = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">{said}</figure>'


def numbers(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Every number with what it depends on."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{escape(shown(result["value"]))}</td>'
        f'<td class="small">{escape(facts({k: v for k, v in result.items() if k != "value"}))}</td></tr>'
        for name, result in results.items()
    )
    return f"<table><tr><th>number</th><th>value</th><th>depends on</th></tr>{rows}</table>"


def settings(values: Mapping[str, Any]) -> str:
    """Names and values, nested ones in one line."""
    rows = "".join(f"<tr><td>{escape(k)}</td><td>{escape(fact(v))}</td></tr>" for k, v in values.items())
    return f"<table>{rows}</table>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f'<td class="number">{escape(shown(x))}</td>' for x in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def facts(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {fact(value)}" for key, value in values.items())


def fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({facts(value)})"
    return shown(value)
