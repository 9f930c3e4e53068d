"""Addresses of Redis: is every part of an address read correctly?"""

from __future__ import annotations

import ipaddress
import ssl
import string
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from wsdemo.addresses import (
    BUCKETS,
    FORM_OPTIONS,
    OPTIONS,
    Form,
    HostPort,
    RedisAddress,
    SettingsError,
    redacted,
    redis_url,
)
from wsdemo.redis.connection import library_connection, library_url
from wsdemo.settings import GatewaySettings, Limits

# --- as people write it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("redis", "redis://redis:6379"),
        ("rediss", "redis://rediss:6379"),
        ("redis:7000", "redis://redis:7000"),
        ("redis://redis", "redis://redis:6379"),
        ("redis://redis/0", "redis://redis:6379/0"),
        ("redis://redis:6379/", "redis://redis:6379"),
        ("rediss://redis", "rediss://redis:6379"),
        ("rediss://rediss/1", "rediss://rediss:6379/1"),
        ("redis://di/1", "redis://di:6379/1"),
        ("rediss://di/1", "rediss://di:6379/1"),
        ("redis://s", "redis://s:6379"),
        ("redis://localhost:", "redis://localhost:6379"),
        ("REDIS://Host", "redis://Host:6379"),
        ("RedisS://h", "rediss://h:6379"),
        ("  redis://h/2 \n", "redis://h:6379/2"),
        ("::1", "redis://[::1]:6379"),
        ("[::1]", "redis://[::1]:6379"),
        ("[::1]:7000", "redis://[::1]:7000"),
        ("rediss://[2001:db8::1]/3", "rediss://[2001:db8::1]:6379/3"),
        ("redis://[fe80::1%25eth0]", "redis://[fe80::1%25eth0]:6379"),
        ("redis://[fe80::1%eth0]:1", "redis://[fe80::1%25eth0]:1"),
        ("me:pw@h", "redis://me:pw@h:6379"),
        ("redis://redis:redis@redis", "redis://redis:redis@redis:6379"),
        ("redis://:@h", "redis://h:6379"),
        ("redis://:p@ss:w[rd@h", "redis://:p%40ss:w%5Brd@h:6379"),
        ("redis://:a%2Fb%23c%3Fd@h", "redis://:a%2Fb%23c%3Fd@h:6379"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix://:pw@/run/redis.sock?db=1", "unix://:pw@/run/redis.sock?db=1"),
        ("unix:///run/redis@main/redis.sock", "unix:///run/redis@main/redis.sock"),
        ("redis://h?db=2&client_name=chat", "redis://h:6379?db=2&client_name=chat"),
        ("rediss://h?ssl_ca_certs=/etc/ca.pem", "rediss://h:6379?ssl_ca_certs=/etc/ca.pem"),
        ("redis+sentinel://s/mymaster", "redis+sentinel://s:26379/mymaster"),
        ("Redis+Sentinel://s1,s2:1,S3/m/0", "redis+sentinel://s1:26379,s2:1,S3:26379/m/0"),
        (
            "redis+sentinel://u:p@s/m/?sentinel_password=q",
            "redis+sentinel://u:p@s:26379/m?sentinel_password=q",
        ),
        ("rediss+sentinel://[::1],[::2]:7/m/3", "rediss+sentinel://[::1]:26379,[::2]:7/m/3"),
        ("redis+sentinel://s/my-master_1.a", "redis+sentinel://s:26379/my-master_1.a"),
        ("redis+cluster://h1,h2:7000", "redis+cluster://h1:6379,h2:7000"),
        ("redis+cluster://:p,w@h/?buckets=256", "redis+cluster://:p,w@h:6379?buckets=256"),
        ("rediss+cluster://h?ssl_ca_certs=/ca.pem", "rediss+cluster://h:6379?ssl_ca_certs=/ca.pem"),
    ],
)
def test_an_address_becomes_a_url_with_a_port(address: str, url: str) -> None:
    """Whatever the host is called, and however often its name occurs in the rest."""
    assert redis_url(address) == url
    assert redis_url(url) == url
    assert GatewaySettings(gateway_id="g", redis_url=address).redis_url == url


def test_rediss_is_never_changed_to_a_url_without_tls() -> None:
    """Wherever the host stands in the address."""
    for address in ("rediss://redis", "rediss://rediss", "RedisS://h/1", "rediss://[::1]"):
        options = parse_url(redis_url(address))
        assert options["connection_class"] is SSLConnection
        assert options["host"] != "localhost"


@pytest.mark.parametrize(
    "address",
    [
        *("", " ", ":6379", "redis://", "redis:///0", "redis://:pw@", "redis://@", "unix://"),
        *("host:port", "host:0", "host:70000", "host:-1", "host:+1", "host:1_0", "host:６３７９"),
        *("http://x", "redis:/x", "ftp://redis:6379", "a b", "a b:1", "h\n1", "h\udcff", "-x"),
        *("a..b", ".a", "x" * 64, ".".join(["x" * 60] * 5), "b\u00fccher", "h%41", "<h>"),
        *("redis://[::1", "redis://::1]", "redis://[::g]", "redis://[1.2.3.4]", "redis://[]"),
        *("redis://h/abc", "redis://h/-1", "redis://h/0/1", "redis://h/1.5", "redis://h/99999999999"),
        *("redis://h#x", "redis://h/1?db=2", "redis://h?db=1&db=1", "redis://h?db=", "redis://h?db"),
        *("unix://run/redis.sock", "unix:///", "unix://h/x", "unix:///a:b@/x"),
        *("redis://:a/b@h", "redis://:a?b@h", "redis://:a#b@h", "redis://:1/b@h", "redis://u:1?b@h"),
        *("redis://:%ff@h", "redis://h?client_name=a%20b", "redis://h?client_name=%0a"),
        *("redis+sentinel://s", "redis+sentinel://s/", "redis+sentinel://s/0", "redis+sentinel:///m"),
        *("redis+sentinel://s,/m", "redis+sentinel://,s/m", "redis+sentinel://s,,t/m"),
        *("redis+sentinel://s,s:26379/m", "redis+sentinel://s:0/m", "redis+sentinel://s:x/m"),
        *("redis+sentinel://s/a b", "redis+sentinel://s/m/x", "redis+sentinel://s/m/1/2"),
        *("redis+sentinel://s/m/1?db=1", "redis+sentinel://:a/b@s/m", "redis+sentinel://s,[::g]/m"),
        *("redis+cluster://", "redis+cluster://:pw@", "redis+cluster://h/0", "redis+cluster://h/m"),
        *("redis+cluster://h?db=0", "redis+cluster://h?buckets=0", "redis+cluster://h?buckets=1025"),
        *("redis+cluster://h#x", "redis+cluster://a b", "redis+other://h", "unix+sentinel:///x"),
    ],
)  # fmt: skip
def test_an_impossible_address_is_refused(address: str) -> None:
    """Before any connection, as a mistake in the settings, in one line."""
    with pytest.raises(SettingsError) as problem:
        redis_url(address)
    assert len(str(problem.value).splitlines()) == 1
    with pytest.raises(SettingsError):
        GatewaySettings(gateway_id="g", redis_url=address)


# --- any address -------------------------------------------------------------------------------

LABELS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=20)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=4).map(".".join),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"),
    st.sampled_from(["redis", "rediss", "unix", "di", "s", "localhost"]),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
NAMES = st.text(string.ascii_letters + string.digits + "-._~", min_size=1, max_size=20)
QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "client_name": NAMES,
        "socket_keepalive": st.sampled_from(["true", "false", "1", "0", "No"]),
        "max_connections": st.integers(0, 10**6).map(str),
        "decode_responses": st.sampled_from(["true", "false"]),
        "password": TEXT.filter(lambda text: text.isprintable() and text != ""),
    },
)


@given(
    scheme=st.sampled_from(["redis", "rediss", "Redis", "REDISS"]),
    user=TEXT,
    password=TEXT,
    host=HOSTS,
    port=st.none() | st.integers(1, 65535),
    database=st.none() | st.integers(0, 10**6),
    query=QUERIES,
)
def test_a_url_has_all_parts_of_its_address(
    scheme: str,
    user: str,
    password: str,
    host: str,
    port: int | None,
    database: int | None,
    query: dict[str, str],
) -> None:
    """Scheme, user, password, host, port, database and options: the same parts, and a port."""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    place = host if port is None else f"{host}:{port}"
    path = "" if database is None else f"/{database}"
    options = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    url = redis_url(f"{scheme}://{login}{place}{path}{'?' if options else ''}{options}")

    parts = urlsplit(url)
    assert parts.scheme == scheme.lower()
    assert parts.port == (port or 6379)
    found = parse_url(url)
    assert found.get("connection_class") is (SSLConnection if parts.scheme == "rediss" else None)
    assert found["host"] == host.strip("[]").lower()
    assert found["port"] == (port or 6379)
    assert found.get("db") == database
    assert found.get("username", "") == user
    assert found.get("password", "") == (password or query.get("password", ""))
    assert RedisAddress.parse(url).options == tuple(query.items())
    assert redis_url(url) == url
    given_to_the_library = parse_url(library_url(url))
    assert "max_connections" not in given_to_the_library
    assert given_to_the_library.get("client_name") == query.get("client_name")


@given(user=TEXT, password=TEXT, path=NAMES, database=st.none() | st.integers(0, 99))
def test_a_unix_socket_keeps_its_parts(
    user: str, password: str, path: str, database: int | None
) -> None:
    """The same without a host."""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    option = "" if database is None else f"?db={database}"
    found = parse_url(redis_url(f"unix://{login}/run/{path}{option}"))
    assert found["connection_class"] is UnixDomainSocketConnection
    assert found["path"] == f"/run/{path}"
    assert found.get("db") == database
    assert (found.get("username", ""), found.get("password", "")) == (user, password)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused_in_one_line(text: str) -> None:
    """And an accepted address is accepted by the library as well."""
    try:
        url = redis_url(text)
    except SettingsError as problem:
        assert len(str(problem).splitlines()) == 1
    else:
        parsed = RedisAddress.parse(url)
        for seed in parsed.seeds:
            assert parse_url(parsed.server_at(seed).url)
        assert parsed.seeds or parse_url(url)
        assert redis_url(url) == url
    assert len(redacted(text).splitlines()) <= 1


@given(st.ip_addresses(v=6))
def test_ipv6_needs_no_brackets_without_a_port(ip: ipaddress.IPv6Address) -> None:
    """As people write it."""
    assert RedisAddress.parse(str(ip)).host == str(ip)


# --- addresses with several hosts --------------------------------------------------------------

SEEDS = st.lists(
    st.tuples(HOSTS, st.none() | st.integers(1, 65535)),
    min_size=1,
    max_size=4,
    unique_by=lambda s: s,
)


@given(
    tls=st.booleans(),
    form=st.sampled_from([Form.SENTINEL, Form.CLUSTER]),
    user=TEXT,
    password=TEXT,
    sentinel_password=TEXT.filter(lambda text: text.isprintable() and text != ""),
    seeds=SEEDS,
    service=NAMES.filter(lambda text: "~" not in text and not text.isdigit()),
    database=st.none() | st.integers(0, 99),
)
def test_an_address_with_several_hosts_keeps_all_parts(
    tls: bool,
    form: Form,
    user: str,
    password: str,
    sentinel_password: str,
    seeds: list[tuple[str, int | None]],
    service: str,
    database: int | None,
) -> None:
    """Each server and each sentinel gets the login that is meant for it, and TLS or none."""
    sentinel = form is Form.SENTINEL
    usual = 26379 if sentinel else 6379
    named = [HostPort(host.strip("[]"), port or usual) for host, port in seeds]
    assume(len(set(named)) == len(named))
    login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""
    hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in seeds)
    path = f"/{service}" + ("" if database is None else f"/{database}")
    query = f"?sentinel_password={quote(sentinel_password, safe='')}"
    scheme = "rediss" if tls else "redis"
    text = f"{scheme}+{form}://{login}{hosts}{path + query if sentinel else ''}"

    address = RedisAddress.parse(text)
    assert RedisAddress.parse(address.url) == address
    assert address.form is form
    assert address.seeds == tuple(named)
    assert (address.user, address.password) == (user, password)
    assert address.service == (service if sentinel else "")
    assert address.number == ((database or 0) if sentinel else 0)
    assert address.buckets == (0 if sentinel else BUCKETS)
    for seed in address.seeds:
        server, asked = address.server_at(seed), address.sentinel_at(seed)
        assert server.scheme == asked.scheme == scheme
        assert (server.user, server.password, server.number) == (user, password, address.number)
        assert (asked.user, asked.number) == ("", 0)
        assert asked.password == (sentinel_password if sentinel else "")
        assert parse_url(server.url)["host"] == parse_url(asked.url)["host"] == seed.host.lower()


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("redis://h?buckets=64", "needs redis\\+cluster://"),
        ("redis+sentinel://h/m?buckets=64", "needs redis\\+cluster://"),
        ("redis+cluster://h?sentinel_password=x", "needs redis\\+sentinel://"),
        ("redis+cluster://h?ssl_ca_certs=/x", "needs rediss"),
        ("redis+cluster://h?buckets=many", "from 1 to"),
        ("redis+sentinel://h/0", "name of the service"),
    ],
)
def test_an_option_of_another_form_is_refused(query: str, says: str) -> None:
    """It would be ignored otherwise."""
    with pytest.raises(SettingsError, match=says):
        redis_url(query)


def test_what_is_printed_of_sentinels_is_all_but_the_secrets() -> None:
    """People look for the hosts and for the service in a log."""
    url = "redis+sentinel://me:pw@s1:1,s2/mymaster/2?sentinel_password=pw2"
    assert redacted(url) == "redis+sentinel://me:***@s1:1,s2/mymaster/2?sentinel_password=***"
    assert redacted("redis+cluster://pw@h1,h2?buckets=8") == "redis+cluster://***@h1,h2?buckets=8"
    assert redacted("redis+cluster://h1/part-of-a-password") == "redis+cluster://h1/***"
    assert not set(FORM_OPTIONS) & set(OPTIONS)


def test_only_the_address_of_a_server_is_given_to_the_library() -> None:
    """The others name who has to be asked first."""
    for url in ("redis+sentinel://s/m", "redis+cluster://h"):
        with pytest.raises(SettingsError, match="one server"):
            library_url(url)


# --- options -----------------------------------------------------------------------------------

SAMPLES = {
    "client_name": "chat",
    "ssl_cert_reqs": "optional",
    "ssl_min_version": "771",
    "ssl_include_verify_flags": "VERIFY_X509_STRICT,VERIFY_X509_PARTIAL_CHAIN",
    "ssl_exclude_verify_flags": "[VERIFY_X509_STRICT]",
    "ssl_ciphers": "ECDHE+AESGCM",
    "ssl_ca_certs": ssl.get_default_verify_paths().cafile or "/etc/ssl/cert.pem",
    "protocol": "3",
    "socket_keepalive": "false",
    "ssl_check_hostname": "true",
    "retry_on_timeout": "true",
    "decode_responses": "True",
    "legacy_responses": "no",
    "encoding": "latin-1",
    "encoding_errors": "replace",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_used_or_reported_as_without_effect(name: str) -> None:
    """None is ignored silently, and none reaches redis-py that it does not accept."""
    text = name not in SAMPLES and OPTIONS[name].wants == "text"
    value = SAMPLES.get(name) or ("some text" if text else "1")
    scheme = "rediss" if name.startswith("ssl_") else "redis"
    address = RedisAddress.parse(f"{scheme}://h?{name}={quote(value)}")
    told = address.without_effect()
    assert len(told) == (1 if OPTIONS[name].unused else 0)
    assert all(name in line for line in told)
    assert (name in parse_url(address.effective().url)) is not bool(told)
    library_connection(address.url, Limits())


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("nonsense=1", "nonsense"),
        ("retry_on_error=x", "retry_on_error"),
        ("sentinel_password=x", "sentinel_password"),
        ("ssl=true", "rediss://"),
        ("db=abc", "db"),
        ("db=-1", "db"),
        ("db=1.5", "db"),
        ("max_connections=ten", "max_connections"),
        ("health_check_interval=soon", "health_check_interval"),
        ("socket_keepalive=flase", "socket_keepalive"),
        ("decode_responses=on", "decode_responses"),
        ("protocol=4", "protocol"),
        ("timeout=-5", "timeout"),
        ("socket_timeout=nan", "socket_timeout"),
        ("client_name=", "client_name"),
        ("ssl_ca_certs=/x", "ssl_ca_certs"),
        ("db=1&db=2", "db"),
    ],
)
def test_an_invalid_option_is_refused_with_its_name(query: str, names: str) -> None:
    """A typing error is found before any connection."""
    with pytest.raises(SettingsError, match=names):
        redis_url(f"redis://h?{query}")


@pytest.mark.parametrize("query", ["ssl_cert_reqs=CERT_NONE", "ssl_include_verify_flags=STRICT"])
def test_options_of_tls_are_checked_too(query: str) -> None:
    """A misspelt requirement for certificates would have no effect."""
    with pytest.raises(SettingsError, match=query.partition("=")[0]):
        redis_url(f"rediss://h?{query}")


def test_options_of_tcp_are_refused_for_unix_sockets() -> None:
    """redis-py does not accept them there."""
    for query in ("socket_keepalive=true", "ssl_ca_certs=/x"):
        with pytest.raises(SettingsError, match=query.partition("=")[0]):
            redis_url(f"unix:///run/x?{query}")


def test_options_without_effect_do_not_reach_the_library() -> None:
    """Replies are bytes in RESP2, and no command is repeated, whatever an address asks for."""
    asked = "decode_responses=true&protocol=3&retry_on_timeout=true&encoding=latin-1&timeout=5"
    connection: Any = library_connection(f"redis://h?{asked}&client_name=chat", Limits())
    assert connection.protocol == 2
    assert connection.encoder.decode_responses is False
    assert connection.retry._retries == 0
    assert connection.client_name == "chat"
