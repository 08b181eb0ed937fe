"""A matplotlib figure as SVG that may stand in a page with a strict content policy, light and dark.

No style sheet, no style attribute, no metadata, no link: styles become attributes, and the colours of ``LIGHT`` become
the page's variables.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

NAMESPACE, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
KEPT = {"svg", "g", "path", "defs", "use", "text", "tspan", "clipPath", "rect", "image", "circle", "line", "polygon"}
LIGHT = {
    "ink": "#1f2a37",
    "soft": "#5b6675",
    "grid": "#e3e7ec",
    "s0": "#1d5fd1",
    "s1": "#c2570c",
    "s2": "#0b7a5b",
    "s3": "#7a3fc9",
    "s4": "#c0263f",
    "s5": "#0f7490",
    "s6": "#a3267a",
    "s7": "#7a5c0a",
    "s8": "#4b5a2a",
    "s9": "#64748c",
}
SERIES = tuple(LIGHT[f"s{k}"] for k in range(10))
_VARIABLE = {value: f"var(--{name})" for name, value in LIGHT.items()}
_DROPPED = {"font", "font-family", "-webkit-user-select"}


def svg_text(figure: Any) -> str:
    """Return the whole SVG file of a figure, whose layout is fixed from then on.

    The canvas is asked itself, since ``figure.savefig`` draws a figure with a layout twice.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(file, metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")
    return file.getvalue()


def write_png(figure: Any, path: Path) -> None:
    """Write a figure as PNG on white, 150 dots per inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set(dpi=150, facecolor="white")
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(path)


def inline(svg: str, prefix: str) -> str:
    """Return the ``<svg>`` element for a page; ``prefix`` keeps the ids of several figures apart."""
    ElementTree.register_namespace("", NAMESPACE)
    root = ElementTree.fromstring(svg)
    _clean(root, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")  # the figure around it carries the text
    root.set("focusable", "false")
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(f' xmlns="{NAMESPACE}"', "").replace("xlink:href", "href")


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if _name(child.tag) not in KEPT or (_name(child.tag) == "defs" and not len(child)):
            element.remove(child)
            continue
        _clean(child, prefix)
    attributes = dict[str, str]()
    for name, value in element.attrib.items():
        if name == "style":
            attributes |= _attributes(value)
        elif _name(name) == "href":
            attributes["href"] = value.replace("#", f"#{prefix}", 1) if value.startswith("#") else value
        elif name == "id":
            attributes["id"] = f"{prefix}{value}"
        elif name not in ("version", "space"):
            attributes[_name(name)] = _local(value, prefix)
    element.attrib.clear()
    element.attrib.update(attributes)
    element.tag = _name(element.tag)
    for tail in (child for child in element if _name(child.tag) == "defs" and not len(child)):
        element.remove(tail)


def _attributes(style: str) -> dict[str, str]:
    """Return ``fill: #fff; stroke-width: 2`` as attributes; fonts are the page's, but for their size."""
    attributes = dict[str, str]()
    for part in style.split(";"):
        name, colon, value = part.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font" and (size := re.search(r"([\d.]+)px", value)):
            attributes["font-size"] = size[1]
        elif colon and name not in _DROPPED:
            attributes[name] = _VARIABLE.get(value.lower(), value)
    return attributes


def _local(value: str, prefix: str) -> str:
    return _VARIABLE.get(value.lower(), value.replace("url(#", f"url(#{prefix}"))


def _name(tag: str) -> str:
    return tag.rpartition("}")[2]
