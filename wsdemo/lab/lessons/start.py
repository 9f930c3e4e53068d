"""Lesson 00: how many hops does a message take, where is a user, and what may a backend ask?"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question
from wsdemo.terminal import say

API_TIMEOUT_S: Final = 5

QUESTION: Final = Question(
    "alice sits at gateway-01, bob at gateway-02. How many hops does a message take?",
    {
        1: "One hop would need a wire between alice and bob. Neither knows where the other is.",
        2: "Two would do if both sat at one gateway. Here one has to find the other.",
        4: "Four is what you see when both sit at different gateways: in through one, "
        "through Redis, out through the other.",
        5: "Five counts look-up and publish as two trips to Redis. The demo makes two; here "
        "one script does both, so nothing can move in between.",
        "depends": "Which users are where does matter, but here they were given: two "
        "different gateways.",
    },
)


def curl(lab: Lab, path: str, document: Mapping[str, str] | None = None) -> Any:
    """Ask the server API of gateway-01 as a backend does; print the command, return the answer.

    It runs `curl`, or asks from Python where there is none.
    """
    body = "" if document is None else json.dumps(document)
    data = f" --json '{body}'" if body else ""
    say(f'$ curl -s -H "Authorization: Bearer $KEY"{data} $API{path}')
    url, key = lab.api_url("gateway-01") + path, f"Authorization: Bearer {lab.api_key}"
    answer = _by_curl(url, key, body) if shutil.which("curl") else _by_python(url, key, body)
    say(answer)
    return json.loads(answer)


def _by_curl(url: str, key: str, body: str) -> str:
    # The key comes by stdin: everybody on this machine can read a command line.
    data = ["-H", "Content-Type: application/json", "-d", body] if body else []
    command = ["curl", "-s", "--noproxy", "*", "--max-time", str(API_TIMEOUT_S), "-H", "@-"]
    done = subprocess.run(
        [*command, *data, url], input=key, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _by_python(url: str, key: str, body: str) -> str:
    name, _, value = key.partition(": ")
    headers = {name: value, "Content-Type": "application/json"}
    request = urllib.request.Request(url, body.encode() or None, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=API_TIMEOUT_S) as answer:
        return str(answer.read().decode()).strip()


def judge_where_is(where_is: Callable[[dict[str, str]], str | None]) -> Judgement:
    """Compare the reader's `where_is(record)` with the sockets of 30 users on three gateways."""
    if not callable(where_is):
        raise NotJudged(f"where_is must be a function, not {type(where_is).__name__}.")
    known = asyncio.run(_records_of_thirty(seed=random.randrange(2**32)))
    return _compare(where_is, known)


async def _records_of_thirty(seed: int) -> list[tuple[dict[str, str], str | None]]:
    """Return records as Redis has them, with the gateway where the user's socket really is."""
    rng = random.Random(seed)
    async with Cluster(gateways=3, seed=seed) as cluster:
        names = [f"user{n:02}" for n in range(30)]
        clients = await asyncio.gather(
            *(cluster.connect(name, to=rng.choice(list(cluster.gateways))) for name in names)
        )
        places = {client.user: client.gateway_id for client in clients}
        gone = rng.choice(names)
        await cluster.disconnect(gone)
        await cluster.until(f"{gone} is offline", partial(_offline, cluster, gone))
        return [
            (await cluster.record(name), None if name == gone else places[name]) for name in names
        ]


async def _offline(cluster: Cluster, user: str) -> bool:
    return not await cluster.record(user)


def _compare(
    where_is: Callable[[dict[str, str]], str | None],
    known: list[tuple[dict[str, str], str | None]],
) -> Judgement:
    for record, truth in sorted(known, key=lambda pair: pair[1] is None):
        try:
            said = where_is(dict(record))
        except NotImplementedError:
            raise
        except Exception as problem:
            who = "a user who is online" if truth else "a user who is offline"
            hint = f"For {who} it raised {type(problem).__name__}. Look at that record first."
            return Judgement(False, hint, f"where_is({record})")
        if said == truth:
            continue
        evidence = f"where_is({record})  →  {said!r}"
        if truth is None:
            hint = "An offline user has an empty record. What should be returned for it?"
            return Judgement(False, hint, evidence)
        return Judgement(False, _hint_online(said, record), evidence)
    return Judgement(True, f"{len(known)} users on three gateways, one of them offline.")


def _hint_online(said: Any, record: dict[str, str]) -> str:
    if said is None:
        return "An online user was reported as offline. Which field of the record names a gateway?"
    if said == record.get("connId"):
        return "That names the connection. Where is the gateway named?"
    if not isinstance(said, str):
        return "It should return a text, the id of a gateway, or None."
    return "The gateway of an online user was wrong. Is it read from this very record?"
