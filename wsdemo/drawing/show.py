"""Alt texts and captions: how is a figure shown to the reader, with its texts?

As HTML: a picture with an alt text and a caption under it. The PNG output of a notebook cannot
carry an alt text that its exporters keep, HTML can.
"""

from __future__ import annotations

import base64
import html
import io

from matplotlib.figure import Figure
from PIL import Image

from wsdemo.drawing.style import Picture, house

COLOURS = 128
"""A notebook with its pictures must stay small; flat colours need no more than these."""


def to_png(fig: Figure) -> bytes:
    """Return the figure as a small PNG. The same figure gives the same bytes."""
    raw = io.BytesIO()
    with house():
        fig.savefig(raw, format="png", dpi=fig.dpi, metadata={"Software": None})
    raw.seek(0)
    with Image.open(raw) as image:
        flat = Image.new("RGB", image.size, "white")
        rgba = image.convert("RGBA")
        flat.paste(rgba, mask=rgba.getchannel("A"))
    out = io.BytesIO()
    small = flat.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    small.save(out, format="PNG", optimize=True)
    return out.getvalue()


def to_html(fig: Figure) -> str:
    """Return the figure as a `<figure>` with the picture in it, its alt text and its caption."""
    alt = fig.wsdemo_alt if isinstance(fig, Picture) else ""
    caption = fig.wsdemo_caption if isinstance(fig, Picture) else ""
    data = base64.b64encode(to_png(fig)).decode("ascii")
    width_px = round(fig.get_figwidth() * fig.dpi)
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
