"""What all pictures share: each is described once, as SVG by hand, and drawn as PNG from that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moeplan.errors import MissingExtra, SpecError
from moeplan.report.layout import printable

COLORS = (
    *("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#999999", "#F0E442"),
    *("#332288", "#882255", "#44AA99", "#DDCC77"),
)
"""Told apart by the colour-blind: Okabe and Ito (2008), then Paul Tol's muted scheme (2021)."""
# By name too: what draws the PNG knows no generic families where Arial is missing.
_FONTS = "system-ui, Arial, Helvetica, 'Liberation Sans', 'DejaVu Sans', 'Noto Sans', sans-serif"
_ZOOM = 2.0
"""Pixels of a PNG per unit of its SVG: sharp on the screens of today."""


def document(parts: Iterable[str], width: int, height: int) -> str:
    """The SVG document of ``parts`` on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="{_FONTS}">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(
    x: float,
    y: float,
    words: str,
    size: int = 11,
    *,
    anchor: str = "start",
    bold: bool = False,
    color: str = "#222222",
) -> str:
    """``words`` with their base line at ``y``; ``anchor`` is start, middle or end."""
    weight = ' font-weight="bold"' if bold else ""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{color}"{weight}'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def escape(words: str) -> str:
    """``words`` as they stand between tags."""
    return printable(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ── the file ────────────────────────────────────────────────────────────────────────────────────


def check_name(path: str, option: str = "--plot") -> None:
    """Raise where ``path`` is no picture that can be drawn here: another suffix, PNG without its package."""
    if path.lower().endswith(".png"):
        _renderer()
    elif not path.lower().endswith(".svg"):
        raise SpecError(f"{option}: expected a file name that ends in .svg or .png; got {path[:80]!r}")


def content(path: str, svg: str) -> str | bytes:
    """What the file ``path`` is to hold: ``svg`` itself, or the PNG of it."""
    return to_png(svg) if path.lower().endswith(".png") else svg


def to_png(svg: str) -> bytes:
    """``svg`` as PNG. MissingExtra without resvg-py; SpecError where this machine has no font."""
    render = _renderer().svg_to_bytes
    if render(document([text(0, 16, "M", 16)], 16, 16)) == render(document([], 16, 16)):
        raise SpecError("a PNG needs one of the usual fonts (Arial, DejaVu Sans ...)", hint="or ask for .svg")
    return bytes(render(svg, zoom=_ZOOM))


def _renderer() -> Any:
    try:
        import resvg_py
    except ImportError:
        raise MissingExtra("resvg-py", "plot") from None
    return resvg_py
