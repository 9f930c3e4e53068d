"""Addresses and secrets: what does an address mean, and which parts of it may be printed?

An address of Redis is parsed, its parts are checked and changed, and it is put together again;
text is never replaced within text. Every option of an address is either used, or reported to have
no effect, or refused: none is ignored silently.

This is also the one place that knows how secrets are written. `redacted` returns what may be
printed of an address, `without_secrets` what may be printed of any other text. A password that was
not percent-encoded may end up in any part of an address, so an address that cannot be parsed is not
repeated at all.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

REDIS_PORT: Final = 6379
HIDDEN: Final = "***"
"""What stands in place of a secret."""
ENCODE: Final = "a password must be percent-encoded (@ is %40, / is %2F, # is %23, ? is %3F)"

_PLAIN: Final = "/:,;!$'()*"
"""Characters that the value of an option may have without encoding; not @, see `_NET`."""
_SUB_DELIMS: Final = "!$&'()*+,;="
"""Characters that user and password may have without encoding (RFC 3986, section 3.2.1)."""


class SettingsError(ValueError):
    """A setting, or a relation between settings, that cannot work.

    The text says what is wrong with an address, and repeats no part that may be secret.
    """


# --- the parts of any address ------------------------------------------------------------------


class _Parts(NamedTuple):
    """An address, split; nothing is decoded. `login` is None when there is none."""

    scheme: str
    login: str | None
    host: str
    port: str
    path: str
    query: str | None
    fragment: str | None


# No part after the login may have an @: it would be a sign of a password that was not encoded and
# was cut in two. The path of a unix socket may, since there is no host and it begins with a slash.
_NET: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://|(?!.*://))"
    r"(?:(?P<login>[^/?#]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[^/?#@:\[\]\s]*)"
    r"(?::(?P<port>[0-9]*))?"
    r"(?P<path>/(?!/)[^?#@]*)?"
    r"(?:\?(?P<query>[^#@]*))?"
    r"(?:\#(?P<fragment>[^@]*))?"
)
_UNIX: Final = re.compile(
    r"(?P<scheme>unix)://(?:(?P<login>[^/?#]*)@)?(?P<host>)(?P<port>)"
    r"(?P<path>/(?![^?#]*:[^?#]*@)[^?#]*)(?:\?(?P<query>[^#@]*))?(?P<fragment>(?!))?",
    re.IGNORECASE,
)


def _split(address: str) -> _Parts | None:
    """Return the parts of an address; None when it cannot be read without guessing."""
    address = address.strip()
    if not address.isprintable():
        return None
    is_unix = address[:7].lower() == "unix://"
    found = (_UNIX if is_unix else _NET).fullmatch(address)
    if found is None:
        return None
    parts = found.groupdict()
    return _Parts(
        (parts["scheme"] or "").lower(),
        parts["login"],
        parts["host"],
        parts["port"] or "",
        parts["path"] or "",
        parts["query"],
        parts["fragment"],
    )


# --- what may be printed -----------------------------------------------------------------------


def redacted(address: str) -> str:
    """Return what may be printed of an address of any kind: all but its secrets.

    Of an address that cannot be parsed without guessing, only a known scheme is left.
    """
    parts = _split(address)
    if parts is None or not (parts.host or parts.scheme == "unix"):
        scheme, _, rest = address.strip().lower().partition("://")
        if scheme in _SCHEMES and not rest:
            return address.strip()
        return f"{scheme}://{HIDDEN}" if scheme in _SCHEMES else HIDDEN
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    port = f":{parts.port}" if parts.port else ""
    path = parts.path
    if parts.scheme in _NET_SCHEMES and not re.fullmatch(r"/?[0-9]*/?", path):
        path = f"/{HIDDEN}"
    fragment = "" if parts.fragment is None else f"#{HIDDEN}"
    return f"{scheme}{_shown_login(parts.login)}{parts.host}{port}{path}{_shown(parts)}{fragment}"


def _shown_login(login: str | None) -> str:
    """Show the user, but only before a password: without one, it may be the password itself."""
    if login is None:
        return ""
    user, colon, _ = login.partition(":")
    return f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"


def _shown(parts: _Parts) -> str:
    """Show the options of a Redis address up to the first one that is secret, or may be a part of
    a secret; none of other addresses, where any option may be a token.
    """
    if parts.query is None:
        return ""
    if parts.scheme not in (*_NET_SCHEMES, "unix"):
        return f"?{HIDDEN}"
    told: list[str] = []
    for item in parts.query.split("&"):
        name, _, value = item.partition("=")
        option = OPTIONS.get(name)
        if option is None or option.secret or not option.fits(unquote(value)):
            told.append(HIDDEN if option is None else f"{name}={HIDDEN}")
            break
        told.append(item)
    return f"?{'&'.join(told)}"


_NAME: Final = (
    r"[\w-]*(?:passw(?:or)?d|passphrase|secret|token|api_?key|credentials?|username)[\w-]*"
)
_VALUE: Final = r"""(?:"[^"]*"|'[^']*'|\S+)"""
_SPELLINGS: Final[Sequence[tuple[re.Pattern[str], str]]] = (
    # A login in a URL: up to the last @ of the line before a host, since any of them may end it.
    (re.compile(r"://[^\n]*@(?=\S)"), f"://{HIDDEN}@"),
    # The options of a URL: any of them can be a token.
    (re.compile(r"(://[^\s?#]*)[?#]\S*"), rf"\1?{HIDDEN}"),
    # An assignment, a member of JSON, an HTTP header.
    (re.compile(rf"(?i)({_NAME}\s*=\s*){_VALUE}"), rf"\1{HIDDEN}"),
    (re.compile(rf"""(?i)((["']){_NAME}\2\s*:\s*){_VALUE}"""), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*)[^\n]+"), rf"\1{HIDDEN}"),
    # A token as a header or a subprotocol carries it; and a JSON Web Token wherever it stands.
    (re.compile(r"(?i)\b(bearer[ .]+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (re.compile(r"eyJ[\w-]*\.[\w-]+(?:\.[\w-]*)?"), HIDDEN),
)
_SIGNS: Final = (
    *("://", "eyj", "bearer", "passw", "passphrase", "secret", "token", "apikey", "api_key"),
    *("authorization", "credential", "username"),
)
"""In small letters. No spelling is without one of them."""


def without_secrets(text: str) -> str:
    """Return a text that may be printed: whatever looks like a secret in it is hidden.

    For lines whose parts come from elsewhere, such as the text of an exception. It hides too much
    rather than too little, also quotation marks: call it before the text becomes JSON. A text
    without a sign of a secret, as nearly all are, costs a microsecond.
    """
    small = text.lower()
    for sign in _SIGNS:
        if sign in small:
            for pattern, instead in _SPELLINGS:
                text = pattern.sub(instead, text)
            return text
    return text


# --- an address of Redis -----------------------------------------------------------------------


class Option(NamedTuple):
    """What may follow the ? of a Redis address."""

    fits: Callable[[str], object]
    wants: str
    unused: str = ""
    """Why it has no effect here; '' when it has one."""
    secret: bool = False


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _is_seconds(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is not None


def _is_yes_or_no(text: str) -> bool:
    return text.lower() in {"1", "0", "t", "f", "true", "false", "y", "n", "yes", "no"}


def _number(unused: str = "") -> Option:
    return Option(_is_number, "a whole number", unused)


def _yes_or_no(unused: str = "") -> Option:
    return Option(_is_yes_or_no, "true or false", unused)


def _text(unused: str = "", secret: bool = False) -> Option:
    return Option(str.isprintable, "text", unused, secret)


def _one_of(*words: str, unused: str = "") -> Option:
    return Option(frozenset(words).__contains__, " or ".join(words), unused)


def _are_flags_of_certificates(text: str) -> bool:
    return all(flag.strip() in ssl.VerifyFlags.__members__ for flag in text.strip("[]").split(","))


_CERTIFICATE_FLAGS: Final = Option(_are_flags_of_certificates, "such as VERIFY_X509_STRICT")
_NO_POOL: Final = "there is no pool of connections"
_OUR_TIMEOUTS: Final = "timeouts are settings of the program (--redis-timeout-s)"
_NO_RETRY: Final = "no command is ever sent a second time"
_OUR_REPLIES: Final = "replies are read in a way of our own"
_OUR_PROBES: Final = "whether a connection is alive is found out in a way of our own"

OPTIONS: Final[dict[str, Option]] = {
    "db": _number(),
    "username": _text(secret=True),
    "password": _text(secret=True),
    "client_name": Option(re.compile(r"[!-~]+").fullmatch, "a name without spaces"),
    "socket_keepalive": _yes_or_no(),
    "ssl_cert_reqs": _one_of("required", "optional", "none"),
    "ssl_check_hostname": _yes_or_no(),
    "ssl_ca_certs": _text(),
    "ssl_ca_path": _text(),
    "ssl_ca_data": _text(),
    "ssl_certfile": _text(),
    "ssl_keyfile": _text(),
    "ssl_password": _text(secret=True),
    "ssl_ciphers": _text(),
    "ssl_min_version": _one_of("771", "772"),
    "ssl_include_verify_flags": _CERTIFICATE_FLAGS,
    "ssl_exclude_verify_flags": _CERTIFICATE_FLAGS,
    "max_connections": _number(_NO_POOL),
    "timeout": Option(_is_seconds, "a number of seconds", _NO_POOL),
    "socket_timeout": Option(_is_seconds, "a number of seconds", _OUR_TIMEOUTS),
    "socket_connect_timeout": Option(_is_seconds, "a number of seconds", _OUR_TIMEOUTS),
    "socket_read_size": _number(_OUR_REPLIES),
    "health_check_interval": Option(_is_seconds, "a number of seconds", _OUR_PROBES),
    "retry_on_timeout": _yes_or_no(_NO_RETRY),
    "decode_responses": _yes_or_no(_OUR_REPLIES),
    "legacy_responses": _yes_or_no(_OUR_REPLIES),
    "protocol": _one_of("2", "3", unused=_OUR_REPLIES),
    "encoding": _text(_OUR_REPLIES),
    "encoding_errors": _text(_OUR_REPLIES),
}
"""The options of an address of Redis, as redis-py names them."""

_NET_SCHEMES: Final = ("redis", "rediss")
_SCHEMES: Final = frozenset({*_NET_SCHEMES, "unix", "ws", "wss", "http", "https"})
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
MAX_HOST_CHARS: Final = 253


def is_host(host: str) -> bool:
    """Say whether this is an IP address (without brackets), or may be the name of a host."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return len(host) <= MAX_HOST_CHARS and _HOST_NAME.fullmatch(host) is not None
    return True


@dataclass(frozen=True, slots=True, repr=False)
class RedisAddress:
    """The address of a Redis, part by part, all of it decoded.

    Its `repr` and `str` contain no secret; `url` does.
    """

    scheme: str
    """redis, rediss (with TLS) or unix."""
    host: str = ""
    """A name or an IP address, without brackets; '' for a Unix socket."""
    port: int = REDIS_PORT
    path: str = ""
    """Of a Unix socket."""
    database: int | None = None
    """As the path of the URL says; an option `db` may say it as well."""
    user: str = ""
    password: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """In their order, names and values."""

    @classmethod
    def parse(cls, address: str) -> RedisAddress:
        """Read `host`, `host:port` or a URL.

        Raises:
            SettingsError: it cannot be read, or asks for something that cannot be.
        """
        address = _as_url(address)
        parts = _split(address)
        if parts is None:
            raise _unreadable(address)
        if parts.scheme not in (*_NET_SCHEMES, "unix"):
            raise SettingsError("Redis address must start with redis://, rediss:// or unix://")
        if parts.fragment is not None:
            raise SettingsError(f"Redis address has a #; {ENCODE}")
        user, _, password = (parts.login or "").partition(":")
        options = _options(parts)
        shared: dict[str, Any] = {
            "scheme": parts.scheme,
            "user": _decoded(user),
            "password": _decoded(password),
            "options": options,
        }
        if parts.scheme == "unix":
            if len(parts.path) < 2:
                raise SettingsError("Redis address needs a path: unix:///run/redis.sock")
            return cls(path=_decoded(parts.path), **shared)
        database = _database(parts.path)
        if database is not None and any(name == "db" for name, _ in options):
            raise SettingsError(
                "Redis address names the database twice, as path and as option 'db'"
            )
        return cls(host=_host(parts.host), port=_port(parts.port), database=database, **shared)

    @property
    def url(self) -> str:
        """All of it, as a URL; with the secrets."""
        login = quote(self.user, safe=_SUB_DELIMS)
        if self.password:
            login += f":{quote(self.password, safe=_SUB_DELIMS + ':')}"
        query = "&".join(f"{name}={quote(value, safe=_PLAIN)}" for name, value in self.options)
        mark = "?" if query else ""
        return f"{self.scheme}://{login}{'@' if login else ''}{self.place}{mark}{query}"

    @property
    def place(self) -> str:
        """Where it is, without the login: host, port and database, or a path."""
        if self.scheme == "unix":
            return quote(self.path, safe="/@:" + _SUB_DELIMS)
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        database = "" if self.database is None else f"/{self.database}"
        return f"{host}:{self.port}{database}"

    @property
    def number(self) -> int:
        """The number of the database that it selects."""
        return int(dict(self.options).get("db", self.database or 0))

    def effective(self) -> RedisAddress:
        """Return the address without the options that have no effect: what a library is given."""
        options = tuple(item for item in self.options if not OPTIONS[item[0]].unused)
        return replace(self, options=options)

    def without_effect(self) -> list[str]:
        """Return warnings about options that have no effect; usually none."""
        return [
            f"the option {name} of the address has no effect: {OPTIONS[name].unused}"
            for name, _ in self.options
            if OPTIONS[name].unused
        ]

    def __repr__(self) -> str:
        return f"<RedisAddress {redacted(self.url)}>"

    __str__ = __repr__


def _as_url(address: str) -> str:
    address = address.strip()
    if "://" in address:
        return address
    try:
        # An IPv6 address without brackets, as people write it, has no port.
        return f"redis://[{ipaddress.IPv6Address(address)}]"
    except ValueError:
        return f"redis://{address}"


def _unreadable(address: str) -> SettingsError:
    """Say what is wrong without a guess at where which part ends."""
    scheme, _, rest = address.partition("://")
    if not address.isprintable():
        why = "it has characters that cannot be printed"
    elif scheme.lower() == "unix":
        why = "it is not unix:///path/of/the/socket"
    elif "@" in re.sub(r"^[^/?#]*", "", rest):
        why = "there is an @ behind the host"
    else:
        why = "host or port is not valid"
    return SettingsError(f"Redis address cannot be read: {why}; {ENCODE}")


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise SettingsError("Redis address has a %-escape that is not UTF-8") from None


def _host(host: str) -> str:
    bare = host.removeprefix("[").removesuffix("]")
    if host.startswith("["):
        # The zone of a link-local address is written behind a %25 (RFC 6874), or as it is.
        bare = bare.replace("%25", "%", 1)
    if not is_host(bare) or host.startswith("[") is not (":" in bare):
        raise SettingsError(f"Redis address names no valid host; {ENCODE}")
    return bare


def _port(port: str) -> int:
    if not port:
        return REDIS_PORT
    if len(port) > 5 or not 1 <= int(port) <= 65535:
        raise SettingsError("Redis address: the port is not between 1 and 65535")
    return int(port)


def _database(path: str) -> int | None:
    found = re.fullmatch(r"/?([0-9]{0,9})/?", path)
    if found is None:
        raise SettingsError(
            f"Redis address: the database, behind the /, must be a number; {ENCODE}"
        )
    return int(found[1]) if found[1] else None


def _options(parts: _Parts) -> tuple[tuple[str, str], ...]:
    """Read the options, and refuse what is none.

    A name that is not known is repeated, so that a slip is found; unless it does not look like a
    name, or follows a password in the query, of which it may be a part.
    """
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query or "", keep_blank_values=True):
        option = OPTIONS.get(name)
        if option is None:
            hidden = any(OPTIONS[known].secret for known in found)
            if hidden or not re.fullmatch(r"[a-z_]{1,40}", name):
                raise SettingsError(f"Redis address has an option that is not known; {ENCODE}")
            hint = "; TLS is asked for with rediss://" if name in {"ssl", "tls"} else ""
            raise SettingsError(f"Redis address: there is no option {name!r}{hint}")
        if name in found:
            raise SettingsError(f"Redis address has the option {name!r} twice")
        if not value or not option.fits(value):
            raise SettingsError(f"Redis address: the option {name!r} must be {option.wants}")
        if name.startswith("ssl_") and parts.scheme != "rediss":
            raise SettingsError(f"Redis address: the option {name!r} needs rediss://")
        if name == "socket_keepalive" and parts.scheme == "unix":
            raise SettingsError(f"Redis address: the option {name!r} needs a host")
        found[name] = value
    return tuple(found.items())


def redis_url(address: str) -> str:
    """Return the URL of a Redis address: `host`, `host:port` or a URL; it always has a port.

    Raises:
        SettingsError: it cannot be read, or asks for something that cannot be.
    """
    return RedisAddress.parse(address).url
