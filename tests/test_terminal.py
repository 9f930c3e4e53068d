"""Can a stranger's words do more to a terminal than be read?"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.waiting import until
from wsdemo.redis.server import BundledServer
from wsdemo.terminal import ESCAPED, encodable, mended, printable, say

WRITTEN = {
    "Japanese": "こんにちは\u3000世界",
    "French": "Vraiment\u00a0? «\u202foui\u202f»",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "Persian": "می\u200cخواهم",
    "Hebrew": "שלום, C++\u200f!",
    "Arabic": "مرحبا \u061c1-2",
    "flag": "\U0001f1e9\U0001f1ea",
    "flag of England": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "variation": "\u2764\ufe0f",
    "soft hyphen": "Donau\u00addampf",
    "combining": "e\u0301 \u0e01\u0e33",
    "thin spaces": "1\u2009000\u200a\u2003\u205f\u1680",
    "word joiner": "a\u2060b\ufeffc\u200bd",
    "Mongolian": "\u182e\u1823\u180e\u1829",
    "private use": "\uf8ff",
    "an emoji that Python 3.11 does not know": "\U0001fae8",
    "backslash": r"C:\new \x1b",
}
"""Ordinary text of people, and where it has what `str.isprintable` refuses."""

OBEYED = {
    "escape sequence": ("\x1b[31mred", r"\x1b[31mred"),
    "C1 sequence": ("\x9b31mred", r"\x9b31mred"),
    "bell and backspace": ("\a\b", r"\x07\x08"),
    "delete": ("\x7f", r"\x7f"),
    "NUL": ("a\0b", r"a\x00b"),
    "line feed": ("a\n[Client] fake", r"a\n[Client] fake"),
    "carriage return": ("a\rb", r"a\rb"),
    "tab": ("a\tb", r"a\tb"),
    "next line": ("a\x85b", r"a\x85b"),
    "vertical tab": ("a\x0bb\x0cc", r"a\x0bb\x0cc"),
    "line separator": ("a\u2028b", r"a\u2028b"),
    "paragraph separator": ("a\u2029b", r"a\u2029b"),
    "override": ("\u202eevil", r"\u202eevil"),
    "embedding": ("\u202a\u202b\u202c\u202d", r"\u202a\u202b\u202c\u202d"),
    "isolates": ("\u2066\u2067\u2068\u2069", r"\u2066\u2067\u2068\u2069"),
    "deprecated": ("\u206a\u206f", r"\u206a\u206f"),
    "annotation": ("\ufff9a\ufffab\ufffb", r"\ufff9a\ufffab\ufffb"),
    "language tag": ("\U000e0001", r"\U000e0001"),
    "half a pair": ("\ud83d", r"\ud83d"),
    "a stray byte": ("\udcff", r"\udcff"),
    "noncharacter": ("\ufdd0\uffff\U0010ffff", r"\ufdd0\uffff\U0010ffff"),
}
"""What a terminal would obey, and what is shown in its place."""


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_text_in_every_script_is_shown_as_it_was_written(text: str) -> None:
    """Spaces of all widths, joiners, marks, private use and the emoji of next year are text."""
    assert printable(text) == text


@pytest.mark.parametrize(("text", "shown"), OBEYED.values(), ids=OBEYED)
def test_characters_that_control_a_terminal_are_escaped(text: str, shown: str) -> None:
    """Control characters, line separators, and marks that change the direction of text."""
    assert printable(text) == shown


def test_every_range_of_the_table_is_exact_at_both_ends() -> None:
    """An error of one is most likely at the ends of a range."""
    held = [pair for ranges in ESCAPED.values() for pair in ranges]
    inside = {point for first, last in held for point in (first, last)}
    for first, last in held:
        for point in (first, last):
            assert printable(chr(point)) == chr(point).encode("unicode_escape").decode()
        for point in (first - 1, last + 1):
            if 0 <= point < 0x110000 and point not in inside:
                assert printable(chr(point)) == chr(point), hex(point)


@pytest.mark.slow
def test_every_unicode_category_is_decided() -> None:
    """Of all code points: letters, marks, numbers, symbols and spaces are shown; controls, line
    separators and surrogates are not, nor the format characters that change the direction of
    text."""
    for point in range(0x110000):
        char = chr(point)
        category, shown = unicodedata.category(char), printable(char) == char
        if category in ("Cc", "Zl", "Zp", "Cs"):
            assert not shown, hex(point)
        elif category[0] in "LMNPSZ" or category == "Co":
            # The last two of the private planes are no characters.
            assert shown or point & 0xFFFE == 0xFFFE, hex(point)
        elif unicodedata.bidirectional(char) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF"),
            *("LRI", "RLI", "FSI", "PDI"),
        ):
            assert not shown, hex(point)


@given(st.text(st.characters(codec=None)))
def test_any_printed_text_is_one_line_without_control_characters(text: str) -> None:
    """For any text it never raises; applying it twice changes nothing more."""
    shown = printable(text)
    assert shown.splitlines() == ([shown] if shown else [])
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert printable(shown) == shown


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_letters_are_never_changed(text: str) -> None:
    """In no script and in no order."""
    assert printable(text) == text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "koi8-r", "shift_jis", "utf-8"])
@given(text=st.text(st.characters(codec=None)))
def test_text_is_encodable_for_every_terminal(encoding: str, text: str) -> None:
    """A character of the encoding is shown as it is, any other as an escape without control
    characters."""
    shown = encodable(printable(text), encoding)
    assert shown.encode(encoding) is not None
    assert "\x1b" not in shown and "\n" not in shown


def test_characters_of_the_encoding_are_kept() -> None:
    """A French terminal shows French."""
    assert encodable("déjà \U0001f600", "cp1252") == "déjà \\U0001f600"
    assert encodable("déjà", "ascii") == r"d\xe9j\xe0"


@given(st.lists(st.characters() | st.integers(0xD800, 0xDFFF).map(chr)).map("".join))
def test_repaired_text_can_be_encoded_as_utf8(text: str) -> None:
    """It contains no surrogate, and text without surrogates is unchanged."""
    sent = mended(text)
    assert sent.encode().decode() == sent
    assert sent == text or re.search("[\ud800-\udfff]", text)


@given(st.text(), st.sampled_from(["ascii", "utf-8"]))
def test_utf8_typed_at_an_ascii_terminal_is_decoded(text: str, encoding: str) -> None:
    """The bytes are those of the text, whatever encoding the terminal declares."""
    assert mended(text.encode().decode(encoding, "surrogateescape")) == text


def test_invalid_bytes_become_replacement_characters() -> None:
    """A byte of Latin-1, and half of a surrogate pair."""
    assert mended("caf\udce9") == "caf\ufffd"
    assert mended("\ud83d!") == "\ufffd!"


def test_say_never_raises_an_encoding_error(
    capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where stdout is strict: in a script of a user."""
    with os.fdopen(os.dup(1), "w", encoding="ascii") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        say("5 µs →")
    monkeypatch.setattr(sys, "stdout", None)
    say("nobody hears this")
    assert capfdbinary.readouterr().out == b"5 \\xb5s \\u2192\n"


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&-"])
async def test_no_socket_gets_the_descriptor_of_a_closed_stream(closed: str) -> None:
    """Otherwise the program would read commands from a connection."""
    code = (
        "import socket, sys; from wsdemo.streams import open_standard_streams as o; o();"
        "print(socket.socket().fileno(), file=sys.stderr)"
    )
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f'exec "$0" -c "{code}" {closed}', sys.executable),
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0 and int(errors) > 2, errors


# --- programs ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_the_demo_can_be_printed_on_every_terminal() -> None:
    """Its µs, too."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wsdemo.lab.demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    assert b"\\xb5s" in output


@pytest.mark.parametrize(
    "program",
    [
        *("wsdemo.client", "wsdemo.redis", "wsdemo.proof.checker", "wsdemo.proof.chaos"),
        *("wsdemo.proof.simulate", "tools.build_notebooks", "tools.evidence"),
    ],
)
def test_every_program_prints_without_encoding_errors(program: str) -> None:
    """Its `main` makes the streams tolerant before it prints anything; opening the streams does
    so as well."""
    path = Path(__file__).parents[1].joinpath(*program.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    body = path.read_text().partition("def main(")[2]
    before = re.split(r"never_refuse_text\(\)|open_standard_streams\(\)", body, maxsplit=1)[0]
    assert before != body and "print(" not in before and "_say(" not in before


async def test_values_from_redis_are_escaped_at_a_terminal(
    server: BundledServer, database: object
) -> None:
    """`--call` shows escapes at a terminal; a pipe gets the value."""
    pexpect = pytest.importorskip("pexpect")
    await database.set("key", "\x1b[31mred\u202e")  # type: ignore[attr-defined]
    arguments = ["-m", "wsdemo.redis", "--redis", server.url, "--call", "GET", "key"]
    terminal = pexpect.spawn(sys.executable, arguments, encoding="utf-8", timeout=20)
    try:
        await terminal.expect(pexpect.EOF, async_=True)
        assert terminal.before.strip() == r"\x1b[31mred\u202e"
        await until("the process ends", lambda: not terminal.isalive())
    finally:
        terminal.close(force=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode() == "\x1b[31mred\u202e\n"
