"""Mutants of the inbox: which mistakes in SEND, READ, ACK and the pump must be noticed?

Most are mistakes that look right, and some were made on the way.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from wsdemo.proof.checker.machines.inbox.scenarios import (
    CALM,
    DEATH,
    DEVICES,
    EVICTION,
    FAILOVER,
    FAILOVER_OF_TWO,
    FEW,
    LOSS,
    OF_SEVERAL,
    OF_SEVERAL_AND_FEW,
    OF_SEVERAL_AND_RESTART,
    OF_SEVERAL_AND_SECRET,
    PAGES,
    RESTART,
    RESTART_AND_DEATH,
    SECRET_AND_FULL,
    SECRET_OF_TWO,
    SMALL,
    TWO,
    WINDOW,
)
from wsdemo.proof.checker.machines.inbox.states import PUMP, InboxScenario
from wsdemo.proof.checker.mutants import Change, Equivalent, Mutant


def _one(
    script: str, name: str, breaks: str, scenario: InboxScenario, piece: str, replacement: str = ""
) -> Mutant:
    return Mutant(f"{script}: {name}", breaks, (Change(script, piece, replacement),), scenario)


_send, _read, _ack, _pump = (partial(_one, name) for name in ("send", "read", "ack", PUMP))

_KNOWN: Final = "if known and string.sub(known, 1, #birth + 1) == birth .. ':' then"
_NEW_IN_SEND: Final = "birth, last, bytes = ARGV[3], '0-0', 0\n  redis.call('DEL', KEYS[2])"
_NEW_IN_READ: Final = "nil, nil\n  redis.call('DEL', KEYS[2])"
_OURS: Final = (
    "n == low - 1 and (since == acked or since == trimmed or since == last or since == '0-0')"
)
_LEFT_OVER: Final = "since = number(last) == low - 1 and last\n"
_NEWER: Final = " and (tonumber(owner[2] or 0) or 0) > tonumber(ARGV[2])"
_ANSWER: Final = "return {same and ours and 'recovered' or 'reset', epoch, since, last, rows}"
_NOTE: Final = "redis.call('HSET', KEYS[3], 'acked', ARGV[3], 'ackedin', ARGV[2])"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # Is it too late?
    _send("nothing is ever too late", "I7", CALM, "if sent_ms >", "if false and sent_ms >"),
    _send(
        "what is late is stored all the same",
        "I7",
        CALM,
        "then return {'expired'} end",
        "then redis.call('SET', KEYS[4], ARGV[3] .. ':1-1', 'PX', ARGV[8]) return {'expired'} end",
    ),
    # Is it in the inbox already?
    _send("ids are not remembered", "I2", CALM, "if known and", "if false and"),
    _send("an id is believed after a loss", "I2", EVICTION, _KNOWN, "if known then"),
    _send(
        "an id is not written",
        "C2",
        CALM,
        "redis.call('SET', KEYS[4], birth .. ':' .. offset, 'PX', ARGV[8])",
    ),
    _send("an id is kept for ever", "I5", CALM, ", 'PX', ARGV[8])", ")"),
    _send(
        "a duplicate says the newest offset", "I2", CALM, "string.sub(known, #birth + 2)", "last"
    ),
    _send(
        "a new inbox keeps an old stream",
        "I0",
        EVICTION,
        _NEW_IN_SEND,
        "birth, last, bytes = ARGV[3], '0-0', 0",
    ),
    # Is there room?
    _send("trimming is not recorded", "Q5", FEW, "if trimmed then redis", "if false then redis"),
    _send(
        "an emptied inbox forgets where it ended",
        "Q5",
        EVICTION,
        "count == 0 and last ~= '0-0' and last ~= meta[5] and last or nil",
        "nil",
    ),
    _send("no limit of messages", "I4", FEW, "(count >= most or bytes", "(bytes"),
    _send("no limit of bytes", "I4", SMALL, " or bytes + size - before > room"),
    _send(
        "one message more than allowed",
        "I4",
        FEW,
        "while count > 0 and (count >= most",
        "while count > 0 and (count > most",
    ),
    _send(
        "the bytes before an entry count its own",
        "I4",
        SMALL,
        "'c', string.format('%.0f', bytes))",
        "'c', string.format('%.0f', bytes + size))",
    ),
    _send(
        "the newest goes, not the oldest",
        "I3",
        FEW,
        "local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]",
        "local first = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]",
    ),
    _send(
        "it is not looked up what was before the oldest",
        *("I4", SMALL, "before = tonumber(first[2][4])\n", "before = before\n"),
    ),
    # Is it written, for long enough, and told?
    _send("the newest offset is not noted", "I1", CALM, "'last', offset,\n", "'last', last,\n"),
    _send(
        "the inbox is kept for ever",
        *("I5", CALM, "redis.call('PEXPIRE', KEYS[2], ARGV[7] + HINT_MS)"),
    ),
    _send("its state is kept for ever", "I5", CALM, "redis.call('PEXPIRE', KEYS[3], 2 * ARGV[7])"),
    _send("numbers have holes", "I1", PAGES, "'^%d+')) + 1)", "'^%d+')) + 2)"),
    _send(
        "nobody is told",
        "I6",
        CALM,
        "if gateway and conn and gateway ~= 'broadcast'",
        "if false and gateway ~= 'broadcast'",
    ),
    _send(
        "who was told is told again", "I6", CALM, "count > 0 and sent_ms <", "false and sent_ms <"
    ),
    _send("a lost stream gets no new life", "I5", EVICTION, "count > 0 and sent_ms <", "sent_ms <"),
    _read(
        "who has read is not told of more",
        *("I8", CALM, "redis.call('HSET', KEYS[3], 'told', '0')", ""),
    ),
    _read(
        "a device that has read is not told of more",
        *("I8", OF_SEVERAL, "redis.call('HSET', KEYS[3], 'told', '0')", ""),
    ),
    _send(
        "the hint has the offset before",
        *("I6", CALM, ".. offset .. '\"}') > 0", ".. last .. '\"}') > 0"),
    ),
    # May it be called recovered?
    _read(
        "the number of an offset is enough",
        "Q1",
        SECRET_OF_TWO,
        "ours = #redis.call('XRANGE', KEYS[2], since, since) == 1",
        "ours = true",
    ),
    _read("a gap is not noticed", "Q3", FEW, f"ours = {_OURS}", "ours = true"),
    _read(
        "the epoch is not compared",
        "Q2",
        RESTART,
        "since, same = ARGV[4], ARGV[3] == epoch",
        "since, same = ARGV[4], true",
    ),
    _read(
        "who comes without a position is always right",
        "Q4",
        TWO,
        "acked and meta[4] == epoch",
        "true",
    ),
    _read(
        "an acknowledgement counts in any epoch",
        "Q4",
        RESTART_AND_DEATH,
        "acked and meta[4] == epoch",
        "acked",
    ),
    _read(
        "a read counts as told",
        "Q0",
        DEATH,
        "local rows, bytes = {}, 0",
        "if ARGV[3] == '' and not same then "
        "redis.call('HSET', KEYS[3], 'acked', since, 'ackedin', epoch) end\n"
        "local rows, bytes = {}, 0",
    ),
    _read("a lost inbox keeps its old stream", "Q0", EVICTION, _NEW_IN_READ, "nil, nil"),
    _read(
        "the birth is not written",
        "E3",
        CALM,
        "redis.call('HSET', KEYS[3], 'birth', birth, 'last', last)\n",
    ),
    # Is a reset necessary?
    _read("what was trimmed is forgotten", "Q5", FEW, "since == trimmed or "),
    _read("what was acknowledged is forgotten", "Q5", TWO, "since == acked or "),
    _read("the newest offset is no position", "Q5", EVICTION, "since == last or "),
    _read("the start is no position", "Q5", CALM, " or since == '0-0')", ")"),
    _read("the oldest message is no position", "Q5", PAGES, "if n >= low then", "if n > low then"),
    _read("always a reset", "Q5", CALM, "same and ours and 'recovered' or 'reset'", "'reset'"),
    # Is the page right?
    _read("the position is read again", "Q6", PAGES, "'(' .. since", "since"),
    _read("a reset skips what is left", "E1", FEW, _LEFT_OVER, "since = last\n"),
    _read(
        "a page is called the last",
        "Q6",
        PAGES,
        _ANSWER,
        _ANSWER.replace(" last, rows", " since, rows"),
    ),
    _read(
        "the state of an inbox is not kept",
        "I5",
        CALM,
        "redis.call('PEXPIRE', KEYS[3], 2 * ARGV[9])\n",
    ),
    _read("nobody is superseded", "Q7", TWO, "return {'superseded'}\nend", "end"),
    _read("a newer session is superseded by an older one", "Q7", FAILOVER_OF_TWO, _NEWER, ""),
    # Does an acknowledgement count?
    _ack(
        "anybody may acknowledge",
        "K1",
        DEVICES,
        "redis.call('HGET', KEYS[1], 'connId') ~= ARGV[1] or ",
    ),
    _ack(
        "acknowledged by number",
        "E1",
        SECRET_OF_TWO,
        "if #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 0 then",
        "if false then",
    ),
    _ack(
        "acknowledged in any epoch",
        "K3",
        RESTART,
        "\n    or ARGV[2] ~= meta[1] .. '.' .. ARGV[4]",
        "",
    ),
    _ack("one too many is trimmed", "K2", PAGES, "number(ARGV[3]) + 1))", "number(ARGV[3]) + 2))"),
    _ack("one too few is trimmed", "K2", CALM, "number(ARGV[3]) + 1))", "number(ARGV[3])))"),
    _ack("nothing is noted", "K4", CALM, _NOTE),
    _ack("the epoch is not noted", "K4", CALM, ", 'ackedin', ARGV[2])", ")"),
    _ack(
        "the start does not count",
        "E3",
        CALM,
        "if not is_ours or number(ARGV[3]) + 1 ~= "
        "(first and number(first[1]) or number(meta[2]) + 1) then",
        "if true then",
    ),
    _ack("the place before the oldest by number", "K3", SECRET_AND_FULL, "not is_ours or "),
    Mutant(
        "send, read, ack: the run of the server is no part of the epoch",
        "I1",
        (
            Change("send", "local epoch = birth .. '.' .. ARGV[4]", "local epoch = birth .. '.'"),
            Change("send", "{'duplicate', birth .. '.' .. ARGV[4]", "{'duplicate', birth .. '.'"),
            Change("read", "birth .. '.' .. ARGV[8]", "birth .. '.'"),
            Change("ack", "meta[1] .. '.' .. ARGV[4]", "meta[1] .. '.'"),
        ),
        FAILOVER,
    ),
    # Does the pump say and do what it was told?
    _pump(
        *("a page without its first message", "C1", CALM),
        *("for offset, head in page.rows:", "for offset, head in page.rows[1:]:"),
    ),
    _pump(
        "a reset in the middle is not told",
        "E2",
        LOSS,
        "if not page.recovered or not self._started:",
        "if not self._started:",
    ),
    _pump(
        "every reset is called recovered", "C3", LOSS, "Resumed(page.recovered, ", "Resumed(True, "
    ),
    _pump(
        "the window is not respected",
        "C4",
        WINDOW,
        "self._window - (number(self.sent) - self.acked)",
        "self._window",
    ),
    _pump(
        "a reset need not be confirmed",
        "C5",
        DEATH,
        "self._untold, self.to_ack = True, None\n",
        "self._untold, self.to_ack = False, (page.epoch, page.since)\n",
    ),
    _pump(
        "what is written counts as taken",
        "C5",
        DEATH,
        "if self.automatic:\n            self.acked, self.to_ack",
        "if True:\n            self.acked, self.to_ack",
    ),
    _pump(
        "a confirmed reset is not passed on", "E3", CALM, " or (n == self.acked and self._untold)"
    ),
    _pump(
        "an acknowledgement is passed on as the newest",
        "C5",
        TWO,
        "n, (epoch, offset), False",
        "n, (epoch, self.sent), False",
    ),
    _pump(
        "goes on from its own position after a reset",
        "E2",
        LOSS,
        "True, page.epoch, page.since\n",
        "True, page.epoch, self.sent\n",
    ),
    # The scripts for several devices.
    _send(
        "the gateways of devices are not told",
        *("I6", OF_SEVERAL, "gateway == ARGV[10]\n        or", "true or"),
    ),
    _read(
        "what was only sent to a device counts as taken",
        "E1",  # This was so, and only this machine has found it.
        OF_SEVERAL_AND_SECRET,
        "if place(since) < place(held) then",
        "if not own or place(since) < place(held) then",
    ),
    _read(
        "the number of a device's offset is enough",
        "Q1",
        OF_SEVERAL_AND_SECRET,
        "return #redis.call('XRANGE', KEYS[2], offset, offset) == 1",
        "return true",
    ),
    _read(
        "a gap of a device is not noticed",
        *("Q3", OF_SEVERAL_AND_FEW, "return place(offset) == low - 1 and (", "return true or ("),
    ),
    _read(
        "the epoch of a device is not compared",
        *("Q2", OF_SEVERAL_AND_RESTART, "same = ARGV[4], ARGV[3] == epoch", "same = ARGV[4], true"),
    ),
    _ack(
        "any session speaks for a device",
        *("K1", OF_SEVERAL, "live[device].conn ~= ARGV[1] or ", "false or "),
    ),
    _ack(
        "one too many goes from the inbox of a device",
        *("K2", OF_SEVERAL, "place(behind.offset) + 1))", "place(behind.offset) + 2))"),
    ),
    _ack(
        "a device acknowledges what is of another run",
        *("K3", OF_SEVERAL_AND_RESTART, "\n    or epoch ~= meta.birth .. '.' .. ARGV[4] then"),
        " then",
    ),
)


EQUIVALENT: Final = (
    Equivalent(
        "pump: an acknowledgement of another epoch counts",
        "the script asks for the epoch as well, and refuses it",
        Change(PUMP, "self.automatic or epoch != self.epoch or n", "self.automatic or n"),
        RESTART,
    ),
)
"""These pieces stay on purpose, although one of two checks would be enough."""
