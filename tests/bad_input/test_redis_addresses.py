"""Addresses of several hosts: what does a gateway say when it is given one that cannot be?

One line on stderr, exit code 2, before any connection, and without the password.
"""

from __future__ import annotations

from tests.bad_input.conftest import inputs
from tests.programs import said_by
from wsdemo.gateway import __main__ as gateway_program

SECRET = "s3cr3t"
SENTINELS = f"redis+sentinel://u:{SECRET}@"
CLUSTER = f"redis+cluster://u:{SECRET}@"


def refused(address: str, says: str) -> None:
    line = said_by(gateway_program.main, "-id", "g", "-port", "0", "-redis", address)
    assert line.startswith("wsdemo.gateway: Redis address") and says in line
    assert SECRET not in line and len(line.splitlines()) == 1


@inputs(
    {
        "no service": SENTINELS + "s1,s2",
        "a slash and no service": SENTINELS + "s1,s2/",
        "a database and no service": SENTINELS + "s1/0",
        "a service with a space": SENTINELS + "s1/my%20master",
        "a database that is no number": SENTINELS + "s1/mymaster/zero",
        "a path of three parts": SENTINELS + "s1/mymaster/0/1",
    }
)
def test_sentinels_without_the_name_of_the_service_are_refused(case: str) -> None:
    """The line says how such an address is written (bad input 230)."""
    refused(case, "redis+sentinel://host/mymaster/0")


@inputs(
    {
        "no host at all": SENTINELS + "/mymaster",
        "a comma at the end": SENTINELS + "s1,/mymaster",
        "two commas": CLUSTER + "h1,,h2",
        "a port without a host": CLUSTER + "h1,:7000",
        "a port that is a word": CLUSTER + "h1:redis,h2",
        "half an IPv6 address": SENTINELS + "[::1,s2/mymaster",
        "a login for one host": SENTINELS + f"s1,u:{SECRET}@s2?x@y/mymaster",
    }
)
def test_a_list_of_hosts_that_cannot_be_read_is_refused(case: str) -> None:
    """Nothing of it is repeated: a password may be a part of it (bad input 231)."""
    refused(case, "cannot be read")


@inputs(
    {
        "a host twice": (SENTINELS + "s1,s1:26379/mymaster", "twice"),
        "port 0": (CLUSTER + "h1,h2:0", "not between 1 and 65535"),
        "port 70000": (CLUSTER + "h1:70000", "not between 1 and 65535"),
        "an impossible host": (CLUSTER + "h1,a..b", "no valid host"),
    }
)
def test_an_impossible_host_or_port_among_several_is_refused(case: tuple[str, str]) -> None:
    """As it is when it stands alone (bad input 232)."""
    refused(*case)


@inputs(
    {
        "a database as path": CLUSTER + "h1,h2/0",
        "a service": CLUSTER + "h1,h2/mymaster",
        "a database as option": CLUSTER + "h1?db=0",
    }
)
def test_a_cluster_with_a_database_is_refused(case: str) -> None:
    """A cluster has none (bad input 233)."""
    refused(case, "a cluster has no databases")


@inputs(
    {
        "buckets of sentinels": (SENTINELS + "s1/m?buckets=64", "needs redis+cluster://"),
        "buckets of a server": ("redis://h?buckets=64", "needs redis+cluster://"),
        "no buckets": (CLUSTER + "h1?buckets=0", "from 1 to"),
        "too many buckets": (CLUSTER + "h1?buckets=100000", "from 1 to"),
        "a fraction of a bucket": (CLUSTER + "h1?buckets=1.5", "from 1 to"),
        "buckets twice": (CLUSTER + "h1?buckets=8&buckets=8", "twice"),
        "a password for sentinels of a cluster": (
            CLUSTER + f"h1?sentinel_password={SECRET}",
            "needs redis+sentinel://",
        ),
        "a password for sentinels of a server": (
            f"redis://h?sentinel_password={SECRET}",
            "needs redis+sentinel://",
        ),
        "certificates without TLS": (SENTINELS + "s1/m?ssl_ca_certs=/x", "needs rediss"),
    }
)
def test_an_option_that_belongs_to_another_form_of_address_is_refused(
    case: tuple[str, str],
) -> None:
    """It would have no effect, and nobody would notice (bad input 234)."""
    refused(*case)
