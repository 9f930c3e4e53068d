"""Mistakes in what a gateway does with rooms. Those of the scripts are in `tests/rooms`."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.mutants.mutant import Mutant

_GATEWAY: Final = "tests/gateway/test_rooms.py"
_BAD: Final = "tests/bad_input/test_rooms.py"


def _one(file: str, name: str, piece: str, replacement: str, *claims: str) -> Mutant:
    tests = tuple(f"{_GATEWAY}::test_{claim}" for claim in claims)
    return Mutant(name, file, piece, replacement, tests or (_GATEWAY,))


_mutant, _list, _repair = (
    partial(_one, f"gateway/{name}.py") for name in ("rooms", "room_lists", "room_repair")
)


def _log(name: str, piece: str, replacement: str) -> Mutant:
    test = f"{_GATEWAY}::test_who_comes_back_hears_exactly_what_she_has_missed"
    return Mutant(name, "rooms/room_log.lua", piece, replacement, (test,))


IN_ROOMS: Final[tuple[Mutant, ...]] = (
    _mutant(
        "the fan-out goes over a map that changes",
        "each(list(sockets), lambda",
        "each(sockets, lambda",
        "a_member_that_does_not_read_is_given_up_alone",
    ),
    _list(
        "what comes between the list and its answer is lost",
        "            membership.held = []\n",
        "            pass\n",
        "what_comes_after_the_list_is_heard_after_joined",
    ),
    _list(
        "who comes after a list that all get anew is told before it",
        "        if look is None or not (look.anew and look.marked):\n",
        "        if True:\n",
        "who_comes_after_a_list_that_all_get_anew_is_told_after_it",
    ),
    _list(
        "who comes after a list that all get anew is not told",
        "(frame, *look.later)",
        "(frame,)",
        "who_comes_after_a_list_that_all_get_anew_is_told_after_it",
    ),
    _list(
        "too many have come after a list, and nobody is told",
        "        else:\n            room.anew = True\n        return True",
        "        return True",
        "when_too_many_come_after_a_list_there_is_another_one",
    ),
    _list(
        "a list for all that could not be asked for is forgotten",
        "            room.anew = look.anew\n            return",
        "            return",
        "a_list_for_all_that_could_not_be_read_is_read_later",
    ),
    _list(
        "a list for all whose answer was lost is forgotten",
        "                room.anew = room.anew or look.anew\n",
        "",
        "a_list_for_all_that_could_not_be_read_is_read_later",
    ),
    _list(
        "a list is told before its mark has come",
        "        if look.marked:\n            self._conclude(room, look)\n\n    def _not_listed",
        "        self._conclude(room, look)\n\n    def _not_listed",
        "a_list_is_told_when_its_mark_has_come",
    ),
    _list(
        "a list is never told when its mark comes last",
        "        if look.found is not None:\n",
        "        if False:\n",
        "a_list_is_told_when_its_mark_has_come",
    ),
    _mutant(
        "who joins once more hears nothing until the answer",
        "        if membership.present and not membership.waiting:\n",
        "        membership.room.sockets.pop(membership.session.socket, None)\n"
        "        if membership.present and not membership.waiting:\n",
        "who_joins_once_more_hears_all_messages_meanwhile",
    ),
    _mutant(
        "each of several joins is answered",
        "        if membership.present and not membership.waiting:\n",
        "        if membership.present:\n",
        "who_joins_once_more_hears_all_messages_meanwhile",
    ),
    _list(
        "who wants no events gets them after joined",
        "if membership.wants_members if is_member_event else not membership.only_watches:",
        "if True:",
        "who_wants_no_events_gets_none_of_those_that_were_held",
    ),
    _mutant(
        "who wants no events gets them",
        "sockets = room.curious if type(event) is MemberEvent else room.sockets",
        "sockets = room.sockets",
        "members_are_told_who_comes_and_goes",
    ),
    _mutant(
        "everybody may publish",
        "if membership is None or not membership.present:",
        "if False:",
        "who_has_left_hears_nothing_and_may_not_publish",
    ),
    _mutant(
        "who has left still hears",
        "        here.pop(session, None)\n        room.place(session)\n",
        "        here.pop(session, None)\n",
        "who_has_left_hears_nothing_and_may_not_publish",
    ),
    _mutant(
        "the end of a session leaves no room",
        "self._depart(membership, LAST_SEQ, reason)",
        "self._forget(membership)",
        "members_are_told_who_comes_and_goes",
    ),
    _mutant(
        "every session ends for the same reason",
        'end_of(session.claim.reason if session.claim is not None else "")',
        "LeaveReason.ENDED",
        "members_are_told_why_a_session_has_ended",
    ),
    _mutant(
        "tokens are not asked",
        'if not permits(session.claims, "rooms", name):\n            return',
        "if False:\n            return",
        "a_room_that_the_token_does_not_permit_is_refused",
    ),
    _mutant(
        "another token changes no watch",
        'if not permits(session.claims, "rooms", name):\n                self',
        "if False:\n                self",
        "another_token_ends_the_watch_of_a_room_that_it_does_not_permit",
    ),
    _mutant(
        "the end of a session ends no watch of a room",
        "        for watch in list(guest.watched.values()):\n            self._forget(watch)\n",
        "",
        "a_gateway_listens_no_more_to_a_room_that_nobody_watches",
    ),
    _mutant(
        "a watcher gets no list anew",
        "                self._lists.ask(known)\n",
        "                pass\n",
        "who_watches_a_room_is_told_who_comes_and_goes_and_nothing_else",
    ),
    Mutant(
        "a watcher hears messages",
        "gateway/room_members.py",
        "any(not one.only_watches for one in ready)",
        "any(ready)",
        (f"{_GATEWAY}::test_who_watches_a_room_is_told_who_comes_and_goes_and_nothing_else",),
    ),
    Mutant(
        "who leaves a room is not told of it any more as a watcher",
        "gateway/room_members.py",
        "        both = (self.members.get(session), self.watchers.get(session))\n",
        "        both = (self.members.get(session),)\n",
        (f"{_GATEWAY}::test_a_member_who_watches_goes_on_with_the_one_when_the_other_ends",),
    ),
    _list(
        "a watcher hears messages that were held",
        "not membership.only_watches:\n",
        "True:\n",
        "what_comes_after_the_list_is_heard_by_a_watcher_after_it",
    ),
    _mutant(
        "there may be one room too many",
        "and len(within) >= most",
        "and len(within) > most",
        "a_full_room_and_too_many_rooms_are_refused",
    ),
    _mutant(
        "publishing has no rate",
        "        guest.publishes_paid = paid\n",
        "",
        "rooms_have_rates_of_their_own",
    ),
    _mutant(
        "joining has no rate",
        "        guest.joins_paid = paid\n",
        "",
        "rooms_have_rates_of_their_own",
    ),
    _mutant(
        "a full room is entered",
        "if outcome in (Join.FULL, Join.STALE):",
        "if outcome is Join.STALE:",
        "a_full_room_and_too_many_rooms_are_refused",
    ),
    _list(
        "the lost are listed until they are swept",
        "if e.boot in live and e not in wrong",
        "if e not in wrong",
        "a_list_has_nobody_of_a_gateway_that_has_lapsed_swept_or_not",
    ),
    _list(
        "ghosts of its own are listed until they are repaired",
        "if e.boot in live and e not in wrong",
        "if e.boot in live",
        "a_ghost_of_a_live_gateway_is_repaired_by_that_gateway",
    ),
    _repair(
        "nobody sweeps at a beat",
        "        if fresh:\n",
        "        if False:\n",
        "after_the_death_of_a_gateway_delivery_goes_on_and_the_list_becomes_right",
    ),
    _repair(
        "who slept says nothing again",
        "        if boots.was_given_up:\n",
        "        if False:\n",
        "who_slept_says_again_who_is_there_without_waiting_for_a_repair",
    ),
    _repair(
        "a missing entry stays missing",
        "                    self._say_again(membership)\n            for entry",
        "                    pass\n            for entry",
        "an_entry_that_redis_has_lost_is_made_again",
    ),
    _repair(
        "after a loss nobody gets a whole list",
        "            membership.room.anew = True\n",
        "            pass\n",
        "who_leaves_after_a_loss_of_data_is_in_no_list_that_was_told",
    ),
    _repair(
        "a wrong entry stays",
        "                self.say_left(stay, LeaveReason.REPAIRED)\n",
        "                pass\n",
        "a_ghost_of_a_live_gateway_is_repaired_by_that_gateway",
    ),
    _repair(
        "a leave that did not reach Redis is forgotten",
        "            self._owe(stay, reason)\n\n    def _owe",
        "            pass\n\n    def _owe",
        "a_leave_while_redis_is_away_is_made_up_for",
    ),
    _list(
        "after a gap members keep the old list",
        "        room.anew = True\n        self.look(room)\n\n",
        "        self.look(room)\n\n",
        "after_a_gap_in_the_subscription_members_get_the_list_anew",
    ),
    _mutant(
        "a room without members is listened to for ever",
        "        self._router.unlisten(self._store.channel(room.name))\n",
        "",
        "a_gateway_listens_no_more_to_a_room_without_members",
    ),
    _mutant(
        "a room is closed although somebody has come again",
        "            room.linger.cancel()\n            room.linger = None\n        return room",
        "            pass\n        return room",
        "a_gateway_listens_no_more_to_a_room_without_members",
    ),
    _mutant(
        "a gateway that ends counts as lapsed",
        "                    await self._store.end()\n",
        "                    pass\n",
        "a_drained_gateway_takes_its_members_out_of_the_room_at_once",
    ),
    _list(
        "the number of members is read for nobody",
        "count = len(names) if look.whole else count",
        "count = len(names)",
        "members_are_told_who_comes_and_goes",
    ),
    _list(
        "what is in the history is told twice",
        "if not 0 < number <= heard:",
        "if True:",
        "what_is_said_between_the_list_and_the_history_is_told_once",
    ),
    _log("a position of another history is believed", "ARGV[1] == epoch\n", "true\n"),
    Mutant(
        "a restarted Redis is believed to have the whole history",
        "rooms/room_log.lua",
        "birth .. '.' .. ARGV[4]",
        "birth",
        (f"{_GATEWAY}::test_a_loss_of_history_that_nobody_has_seen_is_told",),
    ),
    _log(
        "an offset is believed although its message is gone",
        "#redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 1",
        "true",
    ),
    _log("who comes back hears the last message again", "'(' .. ARGV[2]", "ARGV[2]"),
    _log(
        "history is told backwards",
        "for i = #lately, 1, -1 do",
        "for i = 1, #lately do",
    ),
    Mutant(
        "a room keeps all that was ever said",
        "rooms/room_say.lua",
        "'MAXLEN', ARGV[4], ",
        "",
        (f"{_GATEWAY}::test_who_comes_back_hears_exactly_what_she_has_missed",),
    ),
    Mutant(
        "a token without the claim permits everything",
        "gateway/permissions.py",
        "    if not isinstance(patterns, list):\n        return False\n",
        "    if not isinstance(patterns, list):\n        return patterns is None\n",
        (f"{_GATEWAY}::test_a_claim_permits_what_its_patterns_match",),
    ),
    Mutant(
        "content that breaks a connection is handed on",
        "rooms/events.py",
        "            _string_decoder.decode(event.content)\n",
        "            pass\n",
        (f"{_BAD}::test_what_others_publish_for_a_room_breaks_nothing",),
    ),
    Mutant(
        "bytes that are no text are handed on in fields that nobody knows",
        "rooms/events.py",
        "        data.decode()  # The decoder leaves out what it does not know.\n",
        "",
        (f"{_BAD}::test_what_others_publish_for_a_room_breaks_nothing",),
    ),
)
