"""Mistakes in the inbox and in what a gateway does with it."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_CLAIMS: Final = "tests/inbox/test_claims.py"
_RANDOM: Final = "tests/inbox/test_random.py"
_PUMP: Final = "tests/gateway/test_pump.py"
_GATEWAY: Final = "tests/gateway/test_durable.py"
_BAD: Final = "tests/bad_input/test_durable.py"


def _scripts(name: str, script: str, piece: str, replacement: str) -> Mutant:
    return Mutant(name, f"inbox/{script}.lua", piece, replacement, (_CLAIMS, _RANDOM))


_SEND: Final = (
    _scripts("ids are not remembered", "send", "if known and", "if false and"),
    _scripts(
        "an id is believed after a loss",
        "send",
        "if known and string.sub(known, 1, #birth + 1) == birth .. ':' then",
        "if known then",
    ),
    _scripts(
        "a new inbox keeps an old stream by sending", "send", "  redis.call('DEL', KEYS[2])\n", ""
    ),
    _scripts("trimming is not recorded", "send", "if trimmed then redis", "if false then redis"),
    _scripts("there is no limit of messages", "send", "> 0 and (count >= most or ", "> 0 and ("),
    _scripts("there is no limit of bytes", "send", " or bytes + size - before > room", ""),
    _scripts(
        "what was acknowledged counts as bytes of the inbox",
        "send",
        "  before = tonumber(first[2][4])\n",
        "",
    ),
    _scripts(
        "an inbox never ends", "send", "redis.call('PEXPIRE', KEYS[2], ARGV[7] + HINT_MS)\n", ""
    ),
    _scripts("an id is remembered for ever", "send", ", 'PX', ARGV[8])", ")"),
    _scripts(
        "the run of Redis is no part of the epoch",
        "send_hint",
        "local epoch = birth .. '.' .. ARGV[4]",
        "local epoch = birth .. '.'",
    ),
    _scripts("a gateway gets a hint of its own", "send_hint", "gateway == ARGV[10]", "false"),
    _scripts(
        "who was told is told again", "send", "count > 0 and sent_ms <", "false and sent_ms <"
    ),
    _scripts("a hint stands for ever", "send", "count > 0 and sent_ms <", "count > 0 and 0 <"),
    _scripts("a lost stream gets no new life", "send", "count > 0 and sent_ms <", "sent_ms <"),
    _scripts("a hint stands that nobody has heard", "send_hint", ") > 0\n", ") >= 0\n"),
    _scripts(
        "foreign text becomes part of a channel",
        "send_hint",
        " and string.find(gateway, '^[%w%._%-]+$')",
        "",
    ),
    _scripts(
        "foreign text becomes part of JSON",
        "send_hint",
        " and string.find(conn, '^[%w%._:%-]+$')",
        "",
    ),
)

_READ: Final = (
    _scripts(
        "a replaced session reads on",
        "read",
        "if owner[1] and owner[1] ~= ARGV[1] and",
        "if false and",
    ),
    _scripts(
        "an older session ends a newer one",
        "read",
        " and (tonumber(owner[2] or 0) or 0) > tonumber(ARGV[2]) then",
        " then",
    ),
    _scripts("a lost inbox keeps its old stream", "read", "  redis.call('DEL', KEYS[2])\n", ""),
    _scripts(
        "the number of an offset is enough",
        "read",
        "ours = #redis.call('XRANGE', KEYS[2], since, since) == 1",
        "ours = true",
    ),
    _scripts(
        "a gap is not noticed",
        "read",
        "ours = n == low - 1 and",
        "ours = true or",
    ),
    _scripts(
        "the place before the oldest message is known by its number",
        "read",
        "(since == acked or since == trimmed or since == last or since == '0-0')",
        "true",
    ),
    _scripts(
        "the epoch is not compared",
        "read",
        "local since, same = ARGV[4], ARGV[3] == epoch",
        "local since, same = ARGV[4], true",
    ),
    _scripts(
        "who comes without a position is always right", "read", "acked and meta[4] == epoch", "true"
    ),
    _scripts(
        "a read counts as told",
        "read",
        "local rows, bytes = {}, 0",
        "if ARGV[3] == '' and not same then\n"
        "  redis.call('HSET', KEYS[3], 'acked', since, 'ackedin', epoch)\nend\n"
        "local rows, bytes = {}, 0",
    ),
    _scripts(
        "a page has no limit of bytes",
        "read",
        "if #rows > 0 and bytes > tonumber(ARGV[6])",
        "if false",
    ),
    _scripts(
        "a message larger than a page is never read", "read", "if #rows > 0 and bytes", "if bytes"
    ),
    _scripts(
        "what is known of an inbox ends while its user is here",
        "read",
        "redis.call('PEXPIRE', KEYS[3], 2 * ARGV[9])\n",
        "",
    ),
    _scripts(
        "who has read is not told of more", "read", "redis.call('HSET', KEYS[3], 'told', '0')", ""
    ),
    _scripts("a full Redis is not read", "read", "#!lua flags=allow-oom", "#!lua"),
)

_ACK: Final = (
    _scripts(
        "anybody may acknowledge", "ack", "redis.call('HGET', KEYS[1], 'connId') ~= ARGV[1] or ", ""
    ),
    _scripts(
        "an acknowledgement of another epoch counts",
        "ack",
        "\n    or ARGV[2] ~= meta[1] .. '.' .. ARGV[4] then",
        " then",
    ),
    _scripts(
        "a number is acknowledged, whichever message has it",
        "ack",
        "if #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 0 then",
        "if false then",
    ),
    _scripts("one too many is forgotten", "ack", "number(ARGV[3]) + 1))", "number(ARGV[3]) + 2))"),
    _scripts("one too few is forgotten", "ack", "number(ARGV[3]) + 1))", "number(ARGV[3])))"),
    _scripts(
        "nobody remembers what was acknowledged",
        "ack",
        "redis.call('HSET', KEYS[3], 'acked', ARGV[3], 'ackedin', ARGV[2])\n",
        "",
    ),
    _scripts("a full Redis is not emptied", "ack", "#!lua flags=allow-oom", "#!lua"),
)

_STORE: Final = (
    Mutant(
        "an id with a colon is that of another sender",
        "inbox/store.py",
        'text.replace("%", "%25").replace(":", "%3A")',
        "text",
        (_CLAIMS,),
    ),
    Mutant(
        "a percent sign stands for itself",
        "inbox/store.py",
        'text.replace("%", "%25").replace',
        "text.replace",
        (_CLAIMS,),
    ),
    Mutant(
        "the run of Redis is the first one that was seen",
        "inbox/store.py",
        "        self._run, self.refusal = None, refusal\n",
        "        if self._run:\n            return\n",
        (_GATEWAY,),
    ),
    Mutant(
        "what Redis loads on a new connection is not asked for its run",
        "redis/link.py",
        "            self._put(callback, None, args)\n",
        "            pass\n",
        (_GATEWAY,),
    ),
)


def _pump(name: str, piece: str, replacement: str, *tests: str) -> Mutant:
    return Mutant(name, "gateway/inbox.py", piece, replacement, tests or (_PUMP,))


_PUMPS: Final = (
    _pump(
        "a reset in the middle is not told",
        "if not page.recovered or not self._started:",
        "if not self._started:",
    ),
    _pump("a hint of a lower number is news", "n < sent or ", ""),
    _pump(
        "a hint of the same number is none",
        "n < sent or offset == self.sent",
        "n <= sent",
    ),
    _pump(
        "a hint of another epoch is compared by number",
        "if self._started and epoch == self.epoch:",
        "if self._started:",
    ),
    _pump(
        "a hint during a page is forgotten",
        "if hinted is not None and self._is_news(*hinted):",
        "if False:",
    ),
    _pump(
        "each hint during a page leads to another page",
        "if hinted is not None and self._is_news(*hinted):",
        "if hinted is not None:",
    ),
    _pump(
        "of two hints during a page the first one counts",
        "hinted is None or (epoch == hinted[0] and number(offset) > number(hinted[1]))",
        "hinted is None",
    ),
    _pump(
        "of two hints during a page the last one counts",
        "hinted is None or (epoch == hinted[0] and number(offset) > number(hinted[1]))",
        "True",
    ),
    _pump(
        "two pages are read at a time",
        "if self.behind and not self._reading and",
        "if self.behind and",
    ),
    _pump("the window is never full", "(number(self.sent) - self.acked)", "0"),
    _pump("a full wire is not noticed", "self.ended or not self._port.has_room()", "self.ended"),
    _pump("after its end it goes on", "self.ended or not self._port", "not self._port"),
    _pump("a page is the last one", "if page.rows and self.sent != page.last:", "if False:"),
    _pump(
        "a page that failed is not read again",
        "self._reading, self.behind = False, True",
        "self._reading = False",
    ),
    _pump("what was never sent is acknowledged", " or n > number(self.sent):", ":"),
    _pump(
        "an acknowledgement goes back",
        "if n > self.acked or (n == self.acked and self._untold):",
        "if True:",
    ),
    _pump(
        "a reset counts as told when it was sent",
        "self._untold, self.to_ack = True, None",
        "self._untold, self.to_ack = False, (page.epoch, page.since)",
    ),
    _pump(
        "what Redis says at a refresh is compared while a page is read",
        "if self._started and not self._reading and last",
        "if self._started and last",
    ),
    _pump("a lost hint is never noticed", " and last != self.sent:", " and False:"),
    _pump(
        "the window is closed for who knows nothing of it",
        "            self.acked, self.to_ack = number(self.sent), (self.epoch, self.sent)\n",
        "            self.to_ack = (self.epoch, self.sent)\n",
    ),
    _pump("missing messages are counted over two inboxes", "same_birth and missed", "missed"),
)


def _durable(name: str, piece: str, replacement: str, *tests: str) -> Mutant:
    return Mutant(name, "gateway/durable.py", piece, replacement, tests or (_GATEWAY,))


_FEATURE: Final = (
    _durable(
        "a message of the same gateway waits for a refresh",
        "if is_new and reply",
        "if reply.trimmed_by_bytes and reply",
    ),
    _durable("a timeout is a refusal", "status = Status.UNKNOWN\n", "status = Status.BUSY\n"),
    _durable("nobody is held back", "        session.in_flight += 1\n", ""),
    _durable(
        "who was held back is not read again",
        "        if session.in_flight == self._max_in_flight // 2:\n            session.resume()\n",
        "",
    ),
    _durable(
        "the last acknowledgement comes too late",
        "        self._acknowledge(reader)  # After",
        "        asyncio.get_running_loop().call_later(0.05, self._acknowledge, reader)  # After",
    ),
    _durable(
        "when the wire has room, nobody reads on",
        "        session.socket.outbox.on_room = reader.pump.pump\n",
        "",
    ),
    Mutant(
        "an outbox does not say that it has room",
        "gateway/outbox.py",
        "if self.on_room is not None and not self.paused:",
        "if False:",
        (_GATEWAY,),
    ),
    _durable("a replaced session reads for ever", "reader.session.end(Code.REPLACED)", "pass"),
    _durable(
        "a page that failed waits for a hint",
        "        self._failed[reader.session.conn_id] = reader\n",
        "",
    ),
    _durable(
        "a renewed subscription changes nothing",
        "    def gap(self) -> None:\n        self._look_at_all()",
        "    def gap(self) -> None:\n        pass",
    ),
    _durable(
        "a renewed link changes nothing",
        "    def link_is_back(self) -> None:\n        self._look_at_all()",
        "    def link_is_back(self) -> None:\n        pass",
    ),
    _durable(
        "who knows nothing of offsets is told them",
        'b"%b}" % head if reader.pump.automatic else',
        'b"%b}" % head if False else',
    ),
    _durable(
        "who knows nothing of resets is told them", "if not reader.pump.automatic:", "if True:"
    ),
    _durable("an id is not needed", "        if msg_id is None:\n", "        if False:\n", _BAD),
    _durable(
        "any text is an offset",
        "not OFFSET.fullmatch(offset):\n        raise ProtocolError(Say.I",
        "False:\n        raise ProtocolError(Say.I",
        _BAD,
    ),
    _durable("any text is a hint", " or not OFFSET.fullmatch(hint.offset)", "", _BAD),
    _durable("what is no message is sent", "not head.startswith(MESSAGE_START)", "False", _BAD),
    _durable(
        "acknowledgements are told one by one",
        "            self._owed[reader.session.conn_id] = reader\n",
        "            self._acknowledge(reader)\n",
    ),
    Mutant(
        "a session that has failed begins to read",
        "gateway/session.py",
        "            if self.state is REGISTERED:  # Its connection may have failed just now.\n",
        "            if True:\n",
        (_GATEWAY,),
    ),
    Mutant(
        "leases are renewed without a look at the inbox",
        "gateway/health.py",
        "            feature.refreshing(sessions)\n",
        "            pass\n",
        (_GATEWAY,),
    ),
)

IN_INBOX: Final[tuple[Mutant, ...]] = (
    *_SEND,
    *_READ,
    *_ACK,
    *_STORE,
    *_PUMPS,
    *_FEATURE,
)
