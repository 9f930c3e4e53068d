"""Alt texts and captions: how is a figure shown to the reader, with its texts?

As HTML: a picture with an alt text and a caption under it. The PNG output of a notebook cannot
carry an alt text that its exporters keep, HTML can.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Final

from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, Stroke
from matplotlib.text import Text
from PIL import Image, ImageChops

from wsdemo.drawing.style import NOTE, PAGE_DPI, Picture, house

COLOURS = 192
"""A notebook with its pictures must stay small; flat colours need no more than these."""
CUT: Final[list[AbstractPathEffect]] = [Stroke(linewidth=3.5, foreground="black")]


def to_png(fig: Figure) -> bytes:
    """Return the figure as a small PNG with a transparent ground. The same figure gives the same
    bytes.
    """
    with house():
        image = _raster(fig)
    out = io.BytesIO()
    small = image.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _raster(fig: Figure) -> Image.Image:
    """Draw the figure, and the texts of its plots with a halo of nothing: there the page shows.

    A halo of any colour would stand out on a white page or on a dark one.
    """
    notes = [text for text in fig.findobj(Text) if text.get_gid() == NOTE and text.get_visible()]
    for text in notes:
        text.set_visible(False)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()  # type: ignore[no-untyped-call]
    for text in notes:
        text.set_visible(True)
    image = _image(canvas, canvas.get_width_height())
    cut = _alone(fig, notes, CUT).getchannel("A")
    image.putalpha(ImageChops.multiply(image.getchannel("A"), ImageChops.invert(cut)))
    return Image.alpha_composite(image, _alone(fig, notes, []))


def _alone(fig: Figure, texts: Sequence[Text], effects: list[AbstractPathEffect]) -> Image.Image:
    """Draw some texts of a figure, and nothing else."""
    size = FigureCanvasAgg(fig).get_width_height()
    renderer = RendererAgg(*size, fig.dpi)  # type: ignore[no-untyped-call]
    for text in texts:
        usual = text.get_path_effects()
        text.set_path_effects(effects)
        text.draw(renderer)
        text.set_path_effects(usual)
    return _image(renderer, size)


def _image(drawn: FigureCanvasAgg | RendererAgg, size: tuple[int, int]) -> Image.Image:
    pixels = bytes(drawn.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.frombytes("RGBA", size, pixels)


def to_html(fig: Figure) -> str:
    """Return the figure as a `<figure>` with the picture in it, its alt text and its caption."""
    alt = fig.wsdemo_alt if isinstance(fig, Picture) else ""
    caption = fig.wsdemo_caption if isinstance(fig, Picture) else ""
    data = base64.b64encode(to_png(fig)).decode("ascii")
    width_px = round(fig.get_figwidth() * PAGE_DPI)
    return (
        '<figure style="margin:0.5em 0">'
        f'<img alt="{html.escape(alt, quote=True)}" width="{width_px}" style="max-width:100%"'
        f' src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def show(fig: Figure) -> None:
    """Display the figure in a cell, with caption and alt text."""
    from IPython.display import HTML, display

    display(HTML(to_html(fig)))  # type: ignore[no-untyped-call]
