"""Replay: which state does a board reach that hears these batches from the first one?

Written once more, in another way than `wsdemo.lab.classroom.state`, so that a mistake there is not
one here too; and a third time by the model of the browser, where Node is there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from wsdemo.lab.classroom.bundle import STATIC

NODE: Final = shutil.which("node")
NO_NODE: Final = "Node.js is not installed"

STATUS: Final = {
    "ready": "up",
    "thaw": "up",
    "drain": "draining",
    "stopped": "stopped",
    "crash": "crashed",
    "freeze": "frozen",
}


class Replayed(NamedTuple):
    """What a board knows at the end."""

    gateways: dict[str, str]
    sockets: dict[str, tuple[str, str]]
    """Connection -> user and gateway."""
    entries: dict[str, tuple[str, str]]
    """User -> gateway and connection, as Redis says."""
    redis: str
    held: list[Any]
    messages: int
    question: str | None
    voted: int
    answer: str | None
    students: dict[str, str]


def events_of(texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield all events in order, and each other part of a batch as one of kind "b" or "held"."""
    for batch in map(json.loads, texts):
        yield from batch.get("e", ())
        for user, gateway, connection, _ in batch.get("b", ()):
            yield {"k": "b", "u": user, "g": gateway, "c": connection}
        if "held" in batch:
            yield {"k": "held", "held": batch["held"]}
        yield {"k": "n", "n": batch.get("n", 0)}


def last(events: Sequence[dict[str, Any]], *kinds: str) -> dict[str, Any]:
    """Return the last event of these kinds; an empty one when there is none."""
    return next((event for event in reversed(events) if event["k"] in kinds), {})


def replay(texts: Sequence[str]) -> Replayed:
    """Return the state after all batches: of each thing, what was said of it last."""
    events = list(events_of(texts))
    gateways: dict[str, str] = {}
    sockets: dict[str, tuple[str, str]] = {}
    entries: dict[str, tuple[str, str]] = {}
    for event in events:
        match event:
            case {"k": "freeze" | "thaw", "g": "redis"}:
                pass
            case {"k": "unready", "g": name}:
                status = gateways.get(name, "down")
                gateways[name] = "unready" if status == "up" else status
            case {"k": kind, "g": name} if kind in STATUS:
                gateways[name] = STATUS[kind]
                if kind in ("stopped", "crash"):
                    sockets = {c: (u, g) for c, (u, g) in sockets.items() if g != name}
            case {"k": "set", "u": user, "g": name, "c": connection}:
                sockets[connection] = (user, name)
                entries[user] = (name, connection)
            case {"k": "close", "c": connection}:
                sockets.pop(connection, None)
            case {"k": "del", "u": user} | {"k": "b", "u": user, "g": ""}:
                entries.pop(user, None)
            case {"k": "b", "u": user, "g": name, "c": connection}:
                entries[user] = (name, connection)
            case {"k": "reclaim", "u": user, "g": name, "c": connection} if user in entries:
                entries[user] = (name, connection)
            case {"k": "redis_down" | "redis_up" | "beliefs_unknown"}:
                entries = {}
    return Replayed(
        gateways=gateways,
        sockets=sockets,
        entries=entries,
        redis=redis_of(events),
        held=last(events, "held").get("held", []),
        messages=last(events, "n").get("n", 0),
        **question_of(events),
        students={event["u"]: event["n"] for event in events if event["k"] == "seat"},
    )


def redis_of(events: Sequence[dict[str, Any]]) -> str:
    """Return the state of Redis."""
    of_redis = [e for e in events if e["k"].startswith("redis") or e.get("g") == "redis"]
    kind = last(of_redis, "redis_down", "redis_up", "freeze", "thaw").get("k")
    return {"redis_down": "down", "freeze": "frozen"}.get(kind or "", "up")


def question_of(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the question, how many have answered it, and what was measured."""
    asked = max((i for i, event in enumerate(events) if event["k"] == "ask"), default=0)
    question, later = last(events, "ask"), events[asked:]
    return {
        "question": question.get("q"),
        "voted": last(later, "vote").get("n", 0),
        "answer": last(later, "reveal").get("a"),
    }


MODEL: Final = """
const { Run } = await import(process.argv[1]);
let text = "";
for await (const part of process.stdin) text += part;
console.log(JSON.stringify(JSON.parse(text).map((batches) => {
  const run = new Run();
  for (const batch of batches) run.add(batch);
  return run.head;
})));
"""


def replay_by_model(runs: Sequence[Sequence[str]]) -> list[Replayed]:
    """Return the states that the browser's model reaches."""
    assert NODE is not None
    told = subprocess.run(
        [NODE, "--input-type=module", "-e", MODEL, (STATIC / "model.js").as_uri()],
        input=json.dumps([[json.loads(text) for text in texts] for texts in runs]),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return [by_model(state) for state in json.loads(told.stdout)]


def by_model(state: dict[str, Any]) -> Replayed:
    """Return a state of the browser's model in our words."""
    return Replayed(
        gateways={
            name: one if isinstance(one, str) else one["status"]
            for name, one in state["gateways"].items()
        },
        sockets={c: (user, gateway) for c, (user, gateway) in state["conns"].items()},
        entries={user: (g, c) for user, (g, c, _) in state["belief"].items()},
        redis=state["redis"],
        held=state["held"],
        messages=state["messages"],
        question=(state["question"] or {}).get("text"),
        voted=state["voted"],
        answer=state["answer"],
        students={u: one["name"] for u, one in state["users"].items() if one["kind"] == "student"},
    )
