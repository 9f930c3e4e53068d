"""Invitation: how does a class learn where to join?

An address, a code, and both together as a QR code, which a phone's camera opens.
"""

from __future__ import annotations

import html
import importlib
import importlib.util

QR_SCALE = 6
QR_BORDER = 2


def qr_svg(address: str) -> str:
    """Return an address as a QR code (SVG); empty where segno is not installed."""
    if importlib.util.find_spec("segno") is None:
        return ""
    code = importlib.import_module("segno").make(address, error="m")
    return str(code.svg_inline(scale=QR_SCALE, border=QR_BORDER, dark="#000", light="#fff"))


def spaced(code: str) -> str:
    """Return a code as it is read aloud: in two halves."""
    middle = len(code) // 2
    return f"{code[:middle]} {code[middle:]}"


def without_scheme(url: str) -> str:
    """Return an address as it is typed."""
    return url.partition("://")[2]


def invitation_html(url: str, code: str, join_url: str, board_url: str) -> str:
    """Return what a cell shows."""
    return (
        '<div style="display:flex;gap:24px;align-items:center;font-family:sans-serif">'
        '<div style="background:#fff" role="img" aria-label="QR code of the address">'
        f"{qr_svg(join_url)}</div>"
        '<div><div style="font-size:15px">Open in a browser:</div>'
        '<div style="font-size:26px;font-weight:700">'
        f"{html.escape(without_scheme(url))}</div>"
        '<div style="font-size:15px;margin-top:10px">Code of the class:</div>'
        '<div style="font-size:40px;font-weight:700;letter-spacing:.08em">'
        f"{html.escape(spaced(code))}</div>"
        f'<div style="margin-top:12px"><a href="{html.escape(board_url, quote=True)}" '
        'target="_blank" rel="noopener">Open the board</a> '
        "(this link works once, for ten minutes)</div></div></div>"
    )
