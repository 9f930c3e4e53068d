"""Do the promises hold when a real network breaks between the servers of a cluster?

TCP goes on trying while its packets are dropped. The hosts are network namespaces, for which one
has to be root; see `namespaces`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Final

import pytest

ALONE: Final = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
"""What a command is started with, so that nothing of it is left when it has ended."""
WITHIN_S: Final = 120


def can_make_hosts() -> bool:
    """Whether this machine lets us make network namespaces, and cables between them."""
    cable = ("ip", "link", "add", "here", "type", "veth", "peer", "name", "there")
    try:
        return subprocess.run([*ALONE, *cable], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(WITHIN_S + 20),
    pytest.mark.skipif(not can_make_hosts(), reason="no right to make network namespaces"),
]


def seen_on(what: str) -> list[dict[str, Any]]:
    """Play it; while users talk, the promises are checked there."""
    done = subprocess.run(
        [*ALONE, sys.executable, "-m", "tests.scenarios.namespaces", what],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    for seen in found:
        print(seen)
        assert not seen["closed"]
        assert seen["told"]["routed"]
    return found


def test_a_primary_of_a_cluster_on_a_broken_network_is_replaced_and_nothing_comes_twice() -> None:
    """Told is heard, at most once and in order, and in the end all are registered. What the cut off
    primary confirmed is lost with it.
    """
    for seen in seen_on("cluster"):
        assert seen["refusedS"] < seen["partitionS"]
        assert seen["confirmed"] and seen["lost"]
        assert seen["told"]["routed"] > 0.8 * sum(seen["told"].values())


def test_gateways_leave_a_primary_that_its_sentinels_do_not_reach() -> None:
    """The same promises. The primary would go on for ever. One that needs its replica in order to
    write refuses before the gateways leave it.
    """
    free, bound = seen_on("sentinels")
    assert free["refusedS"] >= free["movedS"], "it refuses nothing by itself"
    assert bound["refusedS"] < bound["movedS"]
    assert free["lost"] and bound["lost"]
    assert free["told"]["routed"] > 0.8 * sum(free["told"].values())
    assert bound["told"]["busy"]
