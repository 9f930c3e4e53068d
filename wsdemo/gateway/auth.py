"""Authentication: is this user who they say?

A token is a JSON Web Token, signed with a secret that all gateways of a cluster share: `sub` is
the user, `exp` its expiry. PyJWT reads and checks it; this module decides what must be in it. An
attacker must not learn why a token was refused: neither the answer nor the log gives a reason.

PyJWT is imported in the functions that use it. Where cryptography is installed, PyJWT imports it as
well, and most gateways ask for no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from wsdemo.settings import MIN_SECRET_BYTES, SettingsError
from wsdemo.user_ids import RULE, is_fit

ALGORITHM: Final = "HS256"
"""The only one that is accepted: a token does not choose how it is checked."""
MAX_SECRET_BYTES: Final = 4096
END_OF_TIME: Final = 2.0**53
"""No token may expire later (Unix seconds): a larger whole number may not fit into a float."""


class NotAuthentic(Exception):
    """The token does not prove that this is that user now."""


def read_secret(path: str) -> bytes:
    """Return the secret in a file, without white space around it.

    Raises:
        SettingsError: it cannot be read, or is too short or too long to be one.
    """
    try:
        with Path(path).open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).strip()
    except OSError as problem:
        raise SettingsError(f"secret file {path}: {problem.strerror or problem}") from None
    if not MIN_SECRET_BYTES <= len(secret) <= MAX_SECRET_BYTES:
        raise SettingsError(
            f"secret file {path} must hold {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes; "
            "make one with: python -m wsdemo.gateway secret FILE"
        )
    return secret


def prepare() -> None:
    """Import PyJWT now: otherwise the first user would wait for it, and the event loop as well."""
    import jwt  # noqa: F401


def mint_token(
    secret: bytes,
    user: str,
    expires_at: float,
    *,
    rooms: Sequence[str] = (),
    watch: Sequence[str] = (),
) -> str:
    """Return a token for a user, good until `expires_at` (Unix seconds).

    Args:
        rooms: patterns of the rooms that the user may join.
        watch: patterns of the users whom the user may watch.

    Raises:
        ValueError: nobody may be called that, or the time is none.
    """
    import jwt

    if not is_fit(user):  # The pattern of each gateway may allow fewer ids.
        raise ValueError(f"user id {user!r:.80} is not valid: {RULE}")
    if not 0 <= expires_at < END_OF_TIME:
        raise ValueError(f"a token cannot end at {expires_at!r}")
    claims: dict[str, Any] = {"sub": user, "exp": int(expires_at)}
    for name, patterns in (("rooms", rooms), ("watch", watch)):
        if patterns:
            claims[name] = list(patterns)
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def claims_of(secret: bytes, token: str, user: str, now: float) -> dict[str, Any]:
    """Return what a token of this user says; `now` is the time of day (Unix seconds).

    Of what it says, only `sub` and `exp` (Unix seconds, a number) have been checked.

    Raises:
        NotAuthentic: it is no token, not signed with this secret, another user's, or has ended.
    """
    import jwt

    try:
        # Its expiry is checked below, against the caller's clock.
        claims: dict[str, Any] = jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            options={"require": ["sub", "exp"], "verify_exp": False},
        )
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        raise NotAuthentic from None
    expires_at = claims["exp"]
    if type(expires_at) not in (int, float) or not now < expires_at < END_OF_TIME:
        raise NotAuthentic
    if claims["sub"] != user:
        raise NotAuthentic
    return claims
