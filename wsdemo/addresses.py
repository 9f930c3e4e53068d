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
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
BUCKETS: Final = 64
"""Into how many buckets the users of a cluster are divided, unless its address says so."""
MAX_BUCKETS: Final = 1024
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
    """An address, split; nothing is decoded. `login` is None when there is none.

    Of an address with several hosts, `host` has all of them with their ports, and `port` is ''.
    """

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
_ONE_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?\]|[^/?#@:,\[\]\s]+)(?::[0-9]*)?"
_HOSTS: Final = re.compile(
    r"(?P<scheme>rediss?\+(?:sentinel|cluster))://"
    r"(?:(?P<login>[^/?#]*)@)?"
    rf"(?P<host>{_ONE_HOST}(?:,{_ONE_HOST})*)(?P<port>)"
    r"(?P<path>/(?!/)[^?#@]*)?"
    r"(?:\?(?P<query>[^#@]*))?"
    r"(?:\#(?P<fragment>[^@]*))?",
    re.IGNORECASE,
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
    scheme = address.partition("://")[0].lower()
    pattern = _UNIX if scheme == "unix" else _HOSTS if scheme in _HOSTS_SCHEMES else _NET
    found = pattern.fullmatch(address)
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
    shown = _PATHS_SHOWN.get(parts.scheme)
    if shown is not None and not shown.fullmatch(path):
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
    if parts.scheme not in _REDIS_SCHEMES:
        return f"?{HIDDEN}"
    told: list[str] = []
    for item in parts.query.split("&"):
        name, _, value = item.partition("=")
        option = _option(name)
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


class Form(StrEnum):
    """What an address of Redis names."""

    SERVER = "server"
    """One server, or an endpoint that leads to one."""
    SENTINEL = "sentinel"
    """Sentinels: they know which server is the primary."""
    CLUSTER = "cluster"
    """Nodes of a cluster: they know all the others."""


def _is_bucket_count(text: str) -> bool:
    return _is_number(text) and 1 <= int(text) <= MAX_BUCKETS


FORM_OPTIONS: Final[dict[str, tuple[Form, Option]]] = {
    "sentinel_username": (Form.SENTINEL, _text(secret=True)),
    "sentinel_password": (Form.SENTINEL, _text(secret=True)),
    "buckets": (Form.CLUSTER, Option(_is_bucket_count, f"a number from 1 to {MAX_BUCKETS}")),
}
"""The options of our own, each for one form of an address."""


def _option(name: str) -> Option | None:
    return OPTIONS.get(name) or FORM_OPTIONS.get(name, (None, None))[1]


_NET_SCHEMES: Final = ("redis", "rediss")
_HOSTS_SCHEMES: Final[dict[str, Form]] = {
    f"{scheme}+{form}": form for scheme in _NET_SCHEMES for form in (Form.SENTINEL, Form.CLUSTER)
}
_REDIS_SCHEMES: Final = frozenset({*_NET_SCHEMES, "unix", *_HOSTS_SCHEMES})
_SCHEMES: Final = _REDIS_SCHEMES | {"ws", "wss", "http", "https"}
_SERVICE_PATH: Final = re.compile(r"/(?![0-9]+(?:/|$))([A-Za-z0-9._-]{1,64})(/[0-9]{0,9})?/?")
"""The name of a service, and perhaps a database. A number alone would be a database whose service
was forgotten."""
_DATABASE_PATH: Final = re.compile(r"/?[0-9]*/?")
_PATHS_SHOWN: Final = {
    **dict.fromkeys(("redis", "rediss", "redis+cluster", "rediss+cluster"), _DATABASE_PATH),
    **dict.fromkeys(("redis+sentinel", "rediss+sentinel"), _SERVICE_PATH),
}
"""Which paths may be printed. Any other one may be a part of a password."""
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


class HostPort(NamedTuple):
    """Where one server listens: a name or an IP address (without brackets), and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class RedisAddress:
    """The address of a Redis, part by part, all of it decoded.

    Its `repr` and `str` contain no secret; `url` does.
    """

    scheme: str
    """redis, rediss (with TLS) or unix; redis+sentinel, rediss+sentinel, redis+cluster or
    rediss+cluster."""
    host: str = ""
    """Of one server: a name or an IP address, without brackets; '' for a Unix socket."""
    port: int = REDIS_PORT
    path: str = ""
    """Of a Unix socket."""
    seeds: tuple[HostPort, ...] = ()
    """The sentinels, or the nodes of a cluster, that are asked first. One that answers is enough.
    """
    service: str = ""
    """What the sentinels call the primary."""
    database: int | None = None
    """As the path of the URL says; an option `db` may say it as well."""
    user: str = ""
    password: str = ""
    """The login at each server that has data. That of sentinels is in their options."""
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
        if parts.scheme not in _REDIS_SCHEMES:
            raise SettingsError(
                "Redis address must start with redis://, rediss://, unix://, redis+sentinel:// "
                "or redis+cluster://"
            )
        if parts.fragment is not None:
            raise SettingsError(f"Redis address has a #; {ENCODE}")
        user, _, password = (parts.login or "").partition(":")
        found = cls(
            scheme=parts.scheme,
            user=_decoded(user),
            password=_decoded(password),
            options=_options(parts),
            **_place(parts),
        )
        if found.database is not None and any(name == "db" for name, _ in found.options):
            raise SettingsError(
                "Redis address names the database twice, as path and as option 'db'"
            )
        return found

    @property
    def form(self) -> Form:
        """What it names: a server, sentinels or a cluster."""
        return _HOSTS_SCHEMES.get(self.scheme, Form.SERVER)

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
        """Where it is, without the login: hosts, ports, service and database, or a path."""
        if self.scheme == "unix":
            return quote(self.path, safe="/@:" + _SUB_DELIMS)
        service = f"/{self.service}" if self.service else ""
        database = "" if self.database is None else f"/{self.database}"
        return f"{self.hosts}{service}{database}"

    @property
    def hosts(self) -> str:
        """The hosts that it names, with their ports."""
        return ",".join(map(str, self.seeds or (HostPort(self.host, self.port),)))

    @property
    def number(self) -> int:
        """The number of the database that it selects."""
        return int(dict(self.options).get("db", self.database or 0))

    @property
    def buckets(self) -> int:
        """Into how many buckets the users of a cluster are divided; 0 when it is no cluster."""
        if self.form is not Form.CLUSTER:
            return 0
        return int(dict(self.options).get("buckets", BUCKETS))

    def server_at(self, endpoint: HostPort) -> RedisAddress:
        """Return the address of one server of a cluster, or of one that sentinels have named: with
        the login, the database and the options of this address.
        """
        return RedisAddress(
            scheme=self.scheme.partition("+")[0],
            host=endpoint.host,
            port=endpoint.port,
            database=self.database,
            user=self.user,
            password=self.password,
            options=tuple(item for item in self.options if item[0] not in FORM_OPTIONS),
        )

    def sentinel_at(self, endpoint: HostPort) -> RedisAddress:
        """Return the address of one sentinel: with the login that is for sentinels."""
        options = dict(self.options)
        unfit = {*FORM_OPTIONS, "db", "username", "password"}
        return RedisAddress(
            scheme=self.scheme.partition("+")[0],
            host=endpoint.host,
            port=endpoint.port,
            user=options.get("sentinel_username", ""),
            password=options.get("sentinel_password", ""),
            options=tuple(item for item in self.options if item[0] not in unfit),
        )

    def effective(self) -> RedisAddress:
        """Return the address without the options that have no effect: what a library is given."""
        unused = {name for name, option in OPTIONS.items() if option.unused}
        return replace(self, options=tuple(item for item in self.options if item[0] not in unused))

    def without_effect(self) -> list[str]:
        """Return warnings about options that have no effect; usually none."""
        return [
            f"the option {name} of the address has no effect: {OPTIONS[name].unused}"
            for name, _ in self.options
            if name in OPTIONS and OPTIONS[name].unused
        ]

    def __repr__(self) -> str:
        return f"<RedisAddress {redacted(self.url)}>"

    __str__ = __repr__


def _place(parts: _Parts) -> dict[str, Any]:
    """Return the fields of an address that say where it is."""
    if parts.scheme == "unix":
        if len(parts.path) < 2:
            raise SettingsError("Redis address needs a path: unix:///run/redis.sock")
        return {"path": _decoded(parts.path)}
    form = _HOSTS_SCHEMES.get(parts.scheme)
    if form is Form.SENTINEL:
        service, database = _service(parts.path)
        return {"seeds": _seeds(parts, SENTINEL_PORT), "service": service, "database": database}
    if form is Form.CLUSTER:
        if parts.path not in ("", "/"):
            raise SettingsError("Redis address: a cluster has no databases, so nothing behind a /")
        return {"seeds": _seeds(parts, REDIS_PORT)}
    database = _database(parts.path)
    return {"host": _host(parts.host), "port": _port(parts.port), "database": database}


def _seeds(parts: _Parts, usual_port: int) -> tuple[HostPort, ...]:
    found: list[HostPort] = []
    for item in parts.host.split(","):
        host, _, port = item.rpartition(":") if re.search(r":[0-9]*$", item) else (item, "", "")
        endpoint = HostPort(_host(host), _port(port, usual_port))
        if endpoint in found:
            raise SettingsError("Redis address names a host and port twice")
        found.append(endpoint)
    return tuple(found)


def _service(path: str) -> tuple[str, int | None]:
    found = _SERVICE_PATH.fullmatch(path)
    if found is None:
        raise SettingsError(
            "Redis address: sentinels need the name of the service, and may have a database: "
            "redis+sentinel://host/mymaster/0"
        )
    return found[1], _database(found[2] or "")


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


def _port(port: str, usual: int = REDIS_PORT) -> int:
    if not port:
        return usual
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
        option = _option(name)
        if option is None:
            hidden = any(_is_secret(known) for known in found)
            if hidden or not re.fullmatch(r"[a-z_]{1,40}", name):
                raise SettingsError(f"Redis address has an option that is not known; {ENCODE}")
            hint = "; TLS is asked for with rediss://" if name in {"ssl", "tls"} else ""
            raise SettingsError(f"Redis address: there is no option {name!r}{hint}")
        if name in found:
            raise SettingsError(f"Redis address has the option {name!r} twice")
        if not value or not option.fits(value):
            raise SettingsError(f"Redis address: the option {name!r} must be {option.wants}")
        if name.startswith("ssl_") and not parts.scheme.startswith("rediss"):
            raise SettingsError(f"Redis address: the option {name!r} needs rediss://")
        if name == "socket_keepalive" and parts.scheme == "unix":
            raise SettingsError(f"Redis address: the option {name!r} needs a host")
        _require_form(name, _HOSTS_SCHEMES.get(parts.scheme, Form.SERVER))
        found[name] = value
    return tuple(found.items())


def _is_secret(name: str) -> bool:
    option = _option(name)
    return option is not None and option.secret


def _require_form(name: str, form: Form) -> None:
    wanted = FORM_OPTIONS[name][0] if name in FORM_OPTIONS else form
    if wanted is not form:
        raise SettingsError(f"Redis address: the option {name!r} needs redis+{wanted}://")
    if name == "db" and form is Form.CLUSTER:
        raise SettingsError("Redis address: a cluster has no databases, so no option 'db'")


def redis_url(address: str) -> str:
    """Return the URL of a Redis address: `host`, `host:port` or a URL; it always has a port.

    Raises:
        SettingsError: it cannot be read, or asks for something that cannot be.
    """
    return RedisAddress.parse(address).url
