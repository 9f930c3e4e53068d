"""Lesson 03: which connection is removed first, and whose entry does a clean-up delete?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from wsdemo.gateway.registry import Registry
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "Alice shuts her laptop without a goodbye. Who forgets her first?",
    {
        "the gateway": "It asks after 20 s of silence, waits 20 s for an answer, and then "
        "releases her record itself.",
        "Redis": "Its lease runs for 90 s. The gateway asks much earlier, and releases the "
        "record when nobody answers.",
        "both at once": "One of them has to tell the other: the release follows the drop.",
        "nobody": "Right for the socket by itself: without traffic TCP notices nothing. That is "
        "why there are pings.",
    },
)

WITHOUT_PINGS: Final = Question(
    "The gateway sends no pings now: it drops whom it has not heard for 90 s, and looks each 60 s. "
    "Who forgets a shut laptop first?",
    {
        "Redis": "Both count 90 s from the last heartbeat. The lease ends at that moment; the "
        "gateway finds out at its next look.",
        "the gateway": "Without a question it learns nothing from silence. It counts the same 90 s "
        "as the lease, and then it still has to look.",
        "either": "It does not depend on luck: both count from the same heartbeat, and only the "
        "gateway has to wait for its next look.",
    },
)

STORIES: Final = 200
STEPS: Final = 12

Cleanup = Callable[[str, dict[str, str], dict[str, str]], Any]


@dataclass(frozen=True)
class _Session:
    user: str
    conn_id: str


def judge_cleanup(cleanup: Cleanup, seed: int | None = None) -> Judgement:
    """Play random stories of connections on the reader's maps and on the real registry."""
    if not callable(cleanup):
        raise NotJudged(f"cleanup must be a function, not {type(cleanup).__name__}.")
    rng = random.Random(seed)
    for _ in range(STORIES):
        story: list[str] = []
        hint = _play(cleanup, rng, story)
        if hint:
            return Judgement(False, hint, "\n".join(story))
    return Judgement(True, f"{STORIES} stories, as the real gateway's registry tells them.")


def _play(cleanup: Cleanup, rng: random.Random, story: list[str]) -> str:
    """Play one story and describe it; return a hint when the maps become wrong."""
    registry: Registry[_Session] = Registry()
    user_to_conn: dict[str, str] = {}
    conn_to_user: dict[str, str] = {}
    sessions: list[_Session] = []
    for step in range(STEPS):
        if sessions and rng.random() < 0.5:
            session = rng.choice(sessions)
            again = registry.by_conn(session.conn_id) is None
            newer = registry.by_user(session.user)
            registry.remove(session)
            story.append(f"{session.conn_id} of {session.user} ends")
            try:
                cleanup(session.conn_id, user_to_conn, conn_to_user)
            except NotImplementedError:
                raise
            except Exception as problem:
                times = "a second time for the same connection" if again else "for a connection"
                return f"Called {times} that had ended, it raised {type(problem).__name__}."
            hint = _compare(registry, user_to_conn, conn_to_user, session, newer)
            if hint:
                return hint
        else:
            session = _Session(rng.choice(["alice", "bob", "carol"]), f"conn-{step}")
            earlier = registry.bind(session)
            if earlier is not None:
                conn_to_user.pop(earlier.conn_id, None)
                # Its connection has not ended yet, and its clean-up comes later.
            user_to_conn[session.user] = session.conn_id
            conn_to_user[session.conn_id] = session.user
            sessions.append(session)
            story.append(f"{session.user} registers on {session.conn_id}")
            if rng.random() < 0.5 and earlier is not None:
                # As in the demo: the gateway does not notice at once that the old one has ended.
                conn_to_user[earlier.conn_id] = earlier.user
    return ""


def _compare(
    registry: Registry[_Session],
    user_to_conn: dict[str, str],
    conn_to_user: dict[str, str],
    ended: _Session,
    newer: _Session | None,
) -> str:
    expected = {session.user: session.conn_id for session in registry}
    if newer is not None and newer is not ended and user_to_conn.get(ended.user) != newer.conn_id:
        return (
            "A connection ended that had been replaced, and the user's newer one was forgotten. "
            "Whose place in the map was it?"
        )
    if ended.conn_id in conn_to_user:
        return "The connection that ended is still listed among the connections."
    if user_to_conn.get(ended.user) == ended.conn_id:
        return "The user's only connection ended, and she is still listed as being here."
    if user_to_conn != expected:
        return "Somebody else, whose connection had not ended, was changed."
    for user, conn in expected.items():
        if conn_to_user.get(conn) != user:
            return "Somebody else, whose connection had not ended, was changed."
    return ""
