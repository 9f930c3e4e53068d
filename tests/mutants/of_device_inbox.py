"""Mistakes in the inbox of a user with several devices."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_CLAIMS: Final = "tests/inbox/test_device_claims.py"
_PROJECTION: Final = "tests/inbox/test_projection.py"
_RANDOM: Final = "tests/inbox/test_random_devices.py"
_GATEWAY: Final = "tests/gateway/test_device_inbox.py"


def _lua(name: str, script: str, piece: str, replacement: str) -> Mutant:
    file = f"inbox/devices_{script}.lua"
    return Mutant(f"devices: {name}", file, piece, replacement, (_CLAIMS, _PROJECTION, _RANDOM))


def _python(name: str, file: str, piece: str, replacement: str) -> Mutant:
    return Mutant(f"devices: {name}", file, piece, replacement, (_GATEWAY,))


_HINT: Final = (
    _lua(
        "one device is told",
        "hint",
        "local place = holders == 0 and 4 or 6 + 2 * holders",
        "if holders > 0 then break end\n    local place = 4",
    ),
    _lua("a gateway gets a hint of its own", "hint", "gateway == ARGV[10]", "false"),
    _lua("nobody is told", "hint", "gateway == ARGV[10]\n        or", "true or"),
    _lua("a hint to one stands for all", "hint", "are_told and is_heard", "true"),
    _lua(
        "who has read is not told of more", "read", "redis.call('HSET', KEYS[3], 'told', '0')", ""
    ),
    _lua("all are told", "hint", "gateway ~= 'broadcast' and ", ""),
    _lua(
        "foreign text becomes part of a channel",
        "hint",
        "string.find(gateway, '^[%w%._%-]+$') and ",
        "",
    ),
    _lua(
        "foreign text becomes part of JSON", "hint", " and string.find(conn, '^[%w%._:%-]+$')", ""
    ),
)

_CURSORS: Final = (
    _lua(
        "the number of an offset is enough",
        "cursors",
        "return #redis.call('XRANGE', KEYS[2], offset, offset) == 1 end",
        "return true end",
    ),
    _lua(
        "a gap is not noticed",
        "cursors",
        "return place(offset) == low - 1 and (",
        "return true or (",
    ),
    _lua(
        "the place before the oldest message is known by its number",
        "cursors",
        "(offset == '0-0' or",
        "(true or",
    ),
    _lua("what is trimmed has no mark", "cursors", " or offset == meta.trimmed\n", "\n"),
    _lua("what all have has no mark", "cursors", "offset == meta.acked or ", "false or "),
    _lua("a cursor has no mark", "cursors", "own ~= nil and offset == own.offset", "false"),
    _lua("who is connected may be forgotten", "cursors", "if cursor.is_here or", "if"),
    _lua(
        "who is away holds nothing",
        "cursors",
        "is_here = live[name] ~= nil,",
        "is_here = true,",
    ),
    _lua("any number of devices holds messages", "cursors", "#kept < most and ", ""),
    _lua("one too many holds messages", "cursors", "#kept < most", "#kept <= most"),
    _lua("a device holds messages for ever", "cursors", " and cursor.seen + hold_ms > now_ms", ""),
    _lua(
        "who was here last is forgotten first",
        "cursors",
        "return one.seen > other.seen",
        "return one.seen < other.seen",
    ),
    _lua(
        "who is connected comes last",
        "cursors",
        "then return one.is_here end",
        "then return other.is_here end",
    ),
    _lua("a new cursor is not counted", "cursors", "  if not own then most = most - 1 end\n", ""),
    _lua("what is forgotten stays", "cursors", "'acked:' .. cursor.name, ", ""),
)

_READ: Final = (
    _lua("who comes without a position is always right", "read", "own.epoch == epoch\n", "true\n"),
    _lua("a first contact is no gap", "read", "own ~= nil and own", "own == nil or own"),
    _lua(
        "a new device begins with the oldest message", "read", "if meta.furthest and", "if nil and"
    ),
    _lua(
        "a new device begins at the last message",
        "read",
        "local start = meta.acked or '0-0'",
        "local start = last",
    ),
    _lua("what is read is not held", "read", "if not own or held ~=", "if own and held ~="),
    _lua(
        "who goes back is held nothing",
        "read",
        "  if place(since) < place(held) then held = since end\n",
        "",
    ),
    _lua(
        "what was only sent counts as taken",
        "read",
        "  if place(since) < place(held) then held = since end\n",
        "  if not own or place(since) < place(held) then held = since end\n",
    ),
    _lua(
        "a replaced session reads on",
        "read",
        "if owner and owner.conn ~= ARGV[1] and",
        "if nil and",
    ),
    _lua(
        "an older session ends a newer one",
        "read",
        " and owner.token > tonumber(ARGV[2]) then",
        " then",
    ),
    _lua("a lost inbox keeps its cursors", "read", "redis.call('DEL', KEYS[2], KEYS[3])", ""),
    _lua("the epoch is not compared", "read", "ARGV[4], ARGV[3] == epoch\n", "ARGV[4], true\n"),
    _lua(
        "a page has no limit of bytes",
        "read",
        "if #rows > 0 and bytes > tonumber(ARGV[6])",
        "if nil",
    ),
    _lua(
        "who owns nothing holds messages",
        "read",
        "if owner and owner.conn == ARGV[1] then\n  forget",
        "if true then\n  forget",
    ),
    _lua(
        "who owns nothing makes others forgotten",
        "read",
        "local own = cursor_of(cursors, device)",
        "local own = cursor_of(cursors, device)\n"
        "forget_cursors(cursors, own, tonumber(ARGV[11]), tonumber(ARGV[12]))",
    ),
    _lua(
        "a reset that goes back counts as told",
        "read",
        "    redis.call('HDEL', KEYS[3], 'ackedin:' .. device)\n",
        "",
    ),
    _lua(
        "who reads is not seen",
        "read",
        "  redis.call('HSET', KEYS[3], 'seen:' .. device, text(now_ms))\n",
        "",
    ),
)

_ACK: Final = (
    _lua(
        "anybody may acknowledge",
        "ack",
        "live[device].conn ~= ARGV[1] or",
        "false or",
    ),
    _lua(
        "a session without a lease acknowledges",
        "ack",
        "not live[device] or live[device].conn ~= ARGV[1] or",
        "live[device] and live[device].conn ~= ARGV[1] or",
    ),
    _lua(
        "an acknowledgement of another epoch counts",
        "ack",
        "\n    or epoch ~= meta.birth .. '.' .. ARGV[4] then",
        " then",
    ),
    _lua(
        "a number is acknowledged, whichever message has it",
        "ack",
        "if not is_known(offset, low, own) and offset ~= text(low - 1) .. '-0' then",
        "if place(offset) > place(meta.last) then",
    ),
    _lua(
        "a place without a mark is not acknowledged",
        "ack",
        " and offset ~= text(low - 1) .. '-0' then",
        " then",
    ),
    _lua(
        "what one device has is taken from the others",
        "ack",
        "if place(cursor.offset) < place(behind.offset) then",
        "if false then",
    ),
    _lua(
        "the device that is furthest decides",
        "ack",
        "if place(cursor.offset) < place(behind.offset) then",
        "if place(cursor.offset) > place(behind.offset) then",
    ),
    _lua(
        "one too many is forgotten",
        "ack",
        "place(behind.offset) + 1))",
        "place(behind.offset) + 2))",
    ),
    _lua("one too few is forgotten", "ack", "place(behind.offset) + 1))", "place(behind.offset)))"),
    _lua(
        "nobody remembers which epoch was acknowledged",
        "ack",
        ", 'ackedin:' .. device, epoch,\n",
        ",\n",
    ),
    _lua(
        "the furthest acknowledgement goes back",
        "ack",
        "if not meta.furthest or place(offset) > place(meta.furthest) then",
        "if true then",
    ),
    _lua(
        "a gateway for one device goes on where the last acknowledgement was",
        "ack",
        "'acked', behind.offset,",
        "'acked', offset,",
    ),
    _lua(
        "a device that is far behind brings back what all have",
        "ack",
        "if place(behind.offset) < low - 1 then return 0 end\n",
        "",
    ),
)

_PYTHON: Final = (
    _python(
        "a full Redis is not read",
        "inbox/devices.py",
        '_WHEN_FULL: Final = "#!lua flags=allow-oom\\n"',
        '_WHEN_FULL: Final = "#!lua\\n"',
    )._replace(tests=(_CLAIMS,)),
    _python(
        "a device is held its messages from when it last read",
        "inbox/devices.py",
        "self.read_again_s = settings.retention_s * SEEN_STEP",
        "self.read_again_s = settings.retention_s",
    ),
    _python(
        "only one device at the gateway of the sender is told",
        "gateway/durable.py",
        "for gateway_id, conn_id in reply.others:",
        "for gateway_id, conn_id in ():",
    ),
    _python(
        "all devices acknowledge as one",
        "gateway/durable.py",
        "on_done, session.user, session.conn_id, position, session.device",
        "on_done, session.user, session.conn_id, position",
    ),
    _python(
        "all devices read as one",
        "gateway/durable.py",
        "claim.token, position, most, claim.device",
        "claim.token, position, most",
    ),
)

IN_DEVICE_INBOX: Final[tuple[Mutant, ...]] = (*_HINT, *_CURSORS, *_READ, *_ACK, *_PYTHON)
