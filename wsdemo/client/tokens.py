"""Tokens: where does a token come from, and when does it expire?

The client cannot check a token, only its gateway can. It reads one thing in it, its expiry, to
send a new one in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import math
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

MAX_TOKEN_BYTES: Final = 64 * 1024
"""No gateway accepts a longer one: it would not fit into a frame."""

TokenSource = Callable[[], str | Awaitable[str]]
"""Returns the token that is valid now, or raises any exception when there is none."""

_decode_claims: Final = msgspec.json.Decoder(dict[str, Any]).decode


class TokenUnavailable(Exception):
    """There is no token at the moment; the text says why, in one line."""


def expires_at(token: str) -> float | None:
    """Return when a JSON Web Token expires (Unix seconds).

    None when it does not say so, or is no such token: then there is nothing to renew.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = _decode_claims(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        # A whole number in JSON may be too large to be a float at all.
        end = float(claims["exp"]) if type(claims.get("exp")) in (int, float) else math.inf
    except (binascii.Error, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None
    return end if math.isfinite(end) else None


def outlives(fresh: str, old: str) -> bool:
    """Say whether a token may be sent while the old one is still valid: it must expire later.

    A token that is not better, or half a file, would end a live session.
    """
    old_end, fresh_end = expires_at(old), expires_at(fresh)
    return old_end is not None and fresh_end is not None and fresh_end > old_end


async def fetch(source: str | TokenSource, timeout_s: float) -> str:
    """Return the token that a source gives now.

    Raises:
        TokenUnavailable: it failed in any way, or took too long.
    """
    if isinstance(source, str):
        return source
    try:
        token = source()
        if inspect.isawaitable(token):
            async with asyncio.timeout(timeout_s):
                token = await token
    except TokenUnavailable:
        raise
    except TimeoutError as problem:
        text = str(problem) or f"no token within {timeout_s:g} s"
        raise TokenUnavailable(" ".join(text.split())) from problem
    except asyncio.CancelledError as problem:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise  # Our own task is cancelled.
        raise TokenUnavailable("the source of the token was cancelled") from problem
    except Exception as problem:  # A function of the application may raise anything.
        text = f"{type(problem).__name__}: {problem}"
        raise TokenUnavailable(" ".join(text.split())) from problem
    if not isinstance(token, str):
        raise TokenUnavailable(f"the source of the token gave a {type(token).__name__}")
    try:
        token.encode()
    except UnicodeEncodeError:
        raise TokenUnavailable("the source of the token gave half a character") from None
    return token


class TokenFile:
    """A file with a token in it, which may be replaced at any time: it is read at each call.

    A pipe can be read only once, so its token is kept.

    Raises:
        TokenUnavailable: at a call, when there is no token in the file now.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._kept = ""

    def __call__(self) -> str:
        if self._kept:
            return self._kept
        try:
            token, again = self._read()
        except OSError as problem:
            self._fail(problem.strerror or str(problem))
        except UnicodeDecodeError:
            self._fail("is not UTF-8 text")
        if not token:
            self._fail("is empty")
        if not again:
            self._kept = token
        return token

    def _read(self) -> tuple[str, bool]:
        """Return the token, and whether the file can be read again."""
        with Path(self.path).open("rb") as file:
            data = file.read(MAX_TOKEN_BYTES + 1)
            again = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        if len(data) > MAX_TOKEN_BYTES:
            self._fail(f"has more than {MAX_TOKEN_BYTES} bytes")
        return data.decode("utf-8-sig").strip(), again

    def _fail(self, why: str) -> NoReturn:
        raise TokenUnavailable(f"token file {self.path}: {why}")
