"""JSON lines: how is a history written to a file and read again?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from wsdemo.proof.history.records import Record

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Record)


def to_line(record: Record) -> str:
    """Return a record as one line of JSON."""
    return _encoder.encode(record).decode()


def to_jsonl(history: Iterable[Record]) -> str:
    """Return a history as text, one record per line."""
    return "".join(f"{to_line(record)}\n" for record in history)


def from_jsonl(text: str) -> list[Record]:
    """Read what `to_jsonl` wrote.

    Raises:
        ValueError: a line is not a record; the text says which line.
    """
    history: list[Record] = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            history.append(_decoder.decode(line))
        except msgspec.MsgspecError as problem:
            raise ValueError(f"line {number}: {problem}") from None
    return history
