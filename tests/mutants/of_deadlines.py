"""Mistakes in the deadlines of commands, and in what scripts and gateways make of them."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_CLOCK: Final = "tests/redis/test_deadline.py"
_GATEWAY: Final = "tests/gateway/test_late_messages.py"


def _one(name: str, file: str, piece: str, replacement: str, claim: str = "") -> Mutant:
    return Mutant(name, file, piece, replacement, (f"{_CLOCK}::test_{claim}" if claim else _CLOCK,))


def _script(name: str, file: str, time: str = "now[1]") -> Mutant:
    return Mutant(name, f"{file}.lua", f"if {time}", f"if false and {time}", (_GATEWAY,))


IN_DEADLINES: Final[tuple[Mutant, ...]] = (
    _one(
        "a deadline may be late by a round trip",
        "redis/deadline.py",
        "deadline + self._low_s",
        "deadline + self._high_s",
        "a_deadline_is_never_late",
    ),
    _one(
        "a slow look at the clock takes the place of a quick one",
        "redis/deadline.py",
        "if low_s > self._high_s or high_s < self._low_s:",
        "if True:",
        "a_deadline_is_never_late",
    ),
    _one(
        "a clock that was set is not believed",
        "redis/deadline.py",
        "if low_s > self._high_s or high_s < self._low_s:",
        "if False:",
        "a_clock_that_was_set_is_believed_at_once",
    ),
    _one(
        "the clock of another server is remembered",
        "redis/deadline.py",
        "        self._low_s, self._high_s = -math.inf, math.inf\n",
        "        pass\n",
        "a_new_connection_forgets_the_clock_of_the_last",
    ),
    _one(
        "a deadline is counted from another moment",
        "redis/link.py",
        "self._until = self.until(deadline)",
        "self._until = self.until(deadline + 10)",
    ),
    _one(
        "one deadline is for all commands to come",
        "redis/link.py",
        "self._until_ends = deadline + STEP_S",
        "self._until_ends = math.inf",
    ),
    _one(
        "what came too late is taken for an answer",
        "redis/link.py",
        "if type(reply) is not list or reply[0] != EXPIRED:",
        "if True:",
    ),
    _one(
        "when a command came too late, the clock is not read anew",
        "redis/link.py",
        "        self._ask_time()\n        return LinkTimeout",
        "        return LinkTimeout",
        "a_clock_that_was_set_forward_costs_one_round_trip",
    ),
    _one(
        "a clock that was set back is never noticed",
        "redis/link.py",
        "        self._ask_time()\n        if self.up",
        "        if self.up",
        "a_clock_that_was_set_back_is_noticed_by_the_next_check",
    ),
    _one(
        "on a new connection nobody asks for the clock",
        "redis/link.py",
        "        if self._keeps_time:\n            self._put_time()\n",
        "",
    ),
    _one(
        "the clock is asked for once and never again",
        "redis/link.py",
        "        self._asks_time = False\n        self._clock.hear",
        "        self._clock.hear",
    ),
    _one(
        "a new look at the clock comes into effect later",
        "redis/link.py",
        "reply, self._now())\n        self._until_ends = -math.inf\n",
        "reply, self._now())\n",
        "a_clock_that_was_set_forward_costs_one_round_trip",
    ),
    _script("a message is never too late", "route"),
    _script("a message to several devices is never too late", "devices_route"),
    _script("a durable message is never too late", "inbox/send", "sent_ms"),
    _script("a message in a room is never too late", "rooms/room_publish"),
    _script("a message in a room with a history is never too late", "rooms/room_say"),
    Mutant(
        "a user to whom a message came too late is called offline",
        "gateway/delivery.py",
        "        reply = self._router.in_time(reply)\n",
        "",
        (_GATEWAY,),
    ),
    Mutant(
        "a second device whose message came too late is not noticed",
        "gateway/devices.py",
        "        self._router.in_time(reply)\n",
        "",
        (_GATEWAY,),
    ),
    Mutant(
        "a durable message that came too late breaks the connection",
        "inbox/store.py",
        "self._reply_of, self._link.in_time(reply))",
        "self._reply_of, reply)",
        (_GATEWAY,),
    ),
    Mutant(
        "a message in a room that came too late counts as published",
        "rooms/store.py",
        "on_reply(self._link.in_time(reply))",
        "on_reply(reply)",
        (_GATEWAY,),
    ),
)
