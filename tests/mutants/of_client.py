"""Mistakes in what a client says and hears: durable messages, positions, rooms, presence."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant


def _tests(file: str, *claims: str) -> tuple[str, ...]:
    return tuple(f"tests/client/{file}.py::test_{claim}" for claim in claims)


def _durable(*claims: str) -> tuple[str, ...]:
    return _tests("test_durable", *claims)


_INBOX: Final = (
    Mutant(
        "a message counts as a double by the number of its offset alone",
        "client/inbox.py",
        "        key = (self._arrived.birth, offset)\n",
        '        key = (self._arrived.birth, offset.partition("-")[0])\n',
        _durable("a_reset_that_goes_back_brings_no_message_twice"),
    ),
    Mutant(
        "a message of another inbox counts as a double",
        "client/inbox.py",
        "        key = (self._arrived.birth, offset)\n",
        '        key = ("", offset)\n',
        _durable("a_new_inbox_brings_messages_with_old_offsets"),
    ),
    Mutant(
        "a message is a double only in the same run of Redis",
        "client/inbox.py",
        "        key = (self._arrived.birth, offset)\n",
        "        key = (self._arrived.epoch, offset)\n",
        _durable("a_reset_that_goes_back_brings_no_message_twice"),
    ),
    Mutant(
        "a message that comes again is given again",
        "client/inbox.py",
        "Arrived(None if is_double else message, self._arrived)",
        "Arrived(message, self._arrived)",
        _durable("a_repeated_message_is_dropped_and_its_position_counts"),
    ),
    Mutant(
        "a client remembers all messages that it ever had",
        "client/inbox.py",
        "        if len(self._known) > REMEMBERED:\n"
        "            del self._known[next(iter(self._known))]\n",
        "",
        _durable("the_memory_of_messages_is_bounded"),
    ),
    Mutant(
        "a gap is not told",
        "client/inbox.py",
        'if document.get("recovered") is not True:',
        'if document.get("recovered") is None:',
        _durable("a_first_contact_is_told_as_a_gap_and_then_everything_comes_in_order"),
    ),
    Mutant(
        "a gap is acknowledged before the application knows of it",
        "client/inbox.py",
        '            count = document.get("missed")\n',
        '            self.finished = here\n            count = document.get("missed")\n',
        _durable("a_gap_is_acknowledged_only_when_the_application_knows_of_it"),
    ),
    Mutant(
        "a resume that is recovered is never confirmed",
        "client/inbox.py",
        "            self.finished = here  # On from",
        "            pass  # On from",
        _durable("a_resume_that_is_recovered_is_acknowledged_at_once"),
    ),
    Mutant(
        "what was finished in an old epoch is acknowledged in the new one",
        "client/inbox.py",
        "not self._is_resumed or finished.epoch != self._arrived.epoch or finished",
        "not self._is_resumed or finished",
        _durable("what_was_finished_in_another_epoch_is_not_acknowledged_in_this_one"),
    ),
    Mutant(
        "a reconnect resumes after what is finished instead of what has arrived",
        "client/inbox.py",
        '{"epoch": self._arrived.epoch, "offset": self._arrived.offset}',
        '{"epoch": self.finished.epoch, "offset": self.finished.offset}',
        _durable("after_a_reconnect_it_goes_on_after_what_has_arrived"),
    ),
    Mutant(
        "each message is acknowledged by itself",
        "client/inbox.py",
        "return self._unacked >= ACK_AFTER_MESSAGES",
        "return True",
        _durable("many_messages_are_acknowledged_together"),
    ),
    Mutant(
        "a message is finished as soon as it is given",
        "client/client.py",
        "            self._given = arrived.position\n",
        "            self._given = arrived.position\n            self._finish_item()\n",
        _durable("a_message_is_acknowledged_when_the_next_is_asked_for_and_not_before"),
    ),
    Mutant(
        "an exception in the block finishes the last message",
        "client/client.py",
        "        if kind is None:\n            self._finish_item()\n",
        "        self._finish_item()\n",
        _durable("the_end_of_the_block_finishes_the_last_message_unless_it_is_an_exception"),
    ),
    Mutant(
        "the end of the block does not finish the last message",
        "client/client.py",
        "        if kind is None:\n            self._finish_item()\n",
        "",
        _durable("the_end_of_the_block_finishes_the_last_message_unless_it_is_an_exception"),
    ),
    Mutant(
        "receive overlooks a gap",
        "client/client.py",
        "                if isinstance(item, Missed):\n"
        "                    raise MessagesMissed(item.count)\n",
        "",
        _durable("receive_raises_once_where_the_gap_is"),
    ),
    Mutant(
        "a gateway that stores nothing is good enough",
        "client/client.py",
        'return self._progress is None or registered.get("durable") is True',
        "return True",
        _durable("a_gateway_that_stores_nothing_is_refused_with_a_clear_exception"),
    ),
)

_POSITIONS: Final = (
    Mutant(
        "what could not be saved is acknowledged",
        "client/client.py",
        "        if problem is not None:\n            return problem\n        self._told",
        "        self._told",
        _durable("without_a_saved_position_nothing_is_acknowledged"),
    ),
    Mutant(
        "nobody hears that a position could not be saved",
        "client/client.py",
        "                    self._save_trouble, self._told_trouble = problem, str(problem)\n",
        "                    pass\n",
        _durable("a_position_that_cannot_be_saved_is_told_with_the_next_item"),
    ),
    Mutant(
        "a position that could not be saved is not tried again",
        "client/client.py",
        "                self._finished.set()  # Try again, after a pause.\n",
        "",
        _durable("a_position_that_could_not_be_saved_is_tried_again"),
    ),
    Mutant(
        "a position of another user is taken",
        "client/positions.py",
        "if position.user and theirs != ours:",
        "if False:",
        _durable("a_position_of_somebody_else_is_refused"),
    ),
    Mutant(
        "a position is written over the last one",
        "client/positions.py",
        "            _write_whole(beside, msgspec.json.encode(position))\n"
        "            beside.replace(self.path)\n",
        "            _write_whole(self.path, msgspec.json.encode(position))\n",
        _tests("test_positions", "a_save_that_fails_leaves_the_last_position"),
    ),
    Mutant(
        "a file that is no position counts as no file",
        "client/positions.py",
        '            raise PositionError(f"{what}; delete it to start without one") from None',
        "            return None",
        _tests("test_positions", "a_file_that_is_no_position_is_a_clear_error"),
    ),
)

_SENDING: Final = (
    Mutant(
        "each repetition of a durable message has an id of its own",
        "client/client.py",
        "            await self._send(receipt, document, min(left_s, settings.ack_timeout_s))\n",
        '            receipt.id += "+"\n'
        '            document = {**document, "id": receipt.id}\n'
        "            await self._send(receipt, document, min(left_s, settings.ack_timeout_s))\n",
        _durable("a_durable_message_keeps_its_id_over_reconnects_until_it_is_stored"),
    ),
    Mutant(
        "a durable message is given up when a gateway is busy",
        "client/receipts.py",
        "FINAL: Final = frozenset(Status) - {Status.BUSY, Status.UNKNOWN}",
        "FINAL: Final = frozenset(Status) - {Status.UNKNOWN}",
        _durable("a_durable_message_keeps_its_id_over_reconnects_until_it_is_stored"),
    ),
    Mutant(
        "a durable message that an old gateway has sent is sent again",
        "client/receipts.py",
        "FINAL: Final = frozenset(Status) - {Status.BUSY, Status.UNKNOWN}",
        "FINAL: Final = frozenset({Status.STORED, Status.DUPLICATE, Status.REFUSED})",
        _durable("a_final_answer_ends_a_durable_send"),
    ),
    Mutant(
        "the answer to a repetition takes a stored message back",
        "client/receipts.py",
        "if receipt.status in (Status.STORED, Status.DUPLICATE):",
        "if False:",
        _durable("a_late_answer_to_a_repetition_changes_nothing"),
    ),
    Mutant(
        "one id may name messages to two users",
        "client/receipts.py",
        "if msg_id in self.pending or (known is not None and known.to != to):",
        "if msg_id in self.pending:",
        _durable("an_id_of_the_application_names_one_message_to_one_recipient"),
    ),
)

_ROOMS: Final = (
    Mutant(
        "who is put out of a room believes to be in it",
        "client/client.py",
        "        if (item := self._wishes.put_out(document, self.user)) is not None:\n",
        "        if (item := None) is not None:\n",
        _tests("test_rooms_and_presence", "who_is_put_out_of_a_room_unasked_is_told_so"),
    ),
    Mutant(
        "a join goes on after the room was left",
        "client/rooms.py",
        '            self._take_back("join", room)\n',
        "",
        _tests("test_rooms_and_presence", "a_join_ends_when_the_room_is_left_before_its_answer"),
    ),
    Mutant(
        "a join that has no connection yet goes on after the room was left",
        "client/client.py",
        "                if not self._wishes.wants(asked):\n",
        "                if False:\n",
        _tests("test_rooms_and_presence", "a_join_ends_when_the_room_is_left_before_its_answer"),
    ),
    Mutant(
        "a join that was taken back leaves the room that was joined anew",
        "client/client.py",
        "            if is_new and not is_taken_back(problem):  # Its answer",
        "            if is_new:  # Its answer",
        _tests("test_rooms_and_presence", "a_join_ends_when_the_room_is_left_before_its_answer"),
    ),
    Mutant(
        "rooms are not joined again after a reconnect",
        "client/client.py",
        "        if self._wishes.again():\n",
        "        if False:\n",
        _tests(
            "test_rooms_and_presence",
            "after_a_reconnect_rooms_are_joined_and_users_watched_again",
            "a_list_after_a_reconnect_is_told_as_the_difference",
        ),
    ),
    Mutant(
        "who left while nobody told us stays in the room",
        "client/rooms.py",
        "for user in sorted(before - now)]",
        "for user in sorted(now - now)]",
        _tests("test_rooms_and_presence", "a_list_after_a_reconnect_is_told_as_the_difference"),
    ),
    Mutant(
        "a state that was told is told again",
        "client/rooms.py",
        "if user not in self._watched or self._watched[user] == state:",
        "if user not in self._watched:",
        _tests("test_rooms_and_presence", "a_state_is_told_once_however_often_it_is_said"),
    ),
    Mutant(
        "a room that refuses us is asked again for ever",
        "client/client.py",
        "if problem.code not in RETRYABLE:",
        "if not problem.code:",
        _tests("test_rooms_and_presence", "a_refused_rejoin_is_tried_again_or_told"),
    ),
    Mutant(
        "a hole in the history of a room is not told",
        "client/rooms.py",
        "[Missed(lost, message.room), message] if lost > 0 else [message]",
        "[message]",
        _tests(
            "test_rooms_and_presence",
            "a_room_with_history_goes_on_after_the_last_message_or_tells_of_a_gap",
        ),
    ),
    Mutant(
        "after a reconnect a room is asked for the same history again",
        "client/rooms.py",
        "        return history.wish() if history is not None else {}",
        "        return {}",
        _tests(
            "test_rooms_and_presence",
            "a_room_with_history_goes_on_after_the_last_message_or_tells_of_a_gap",
        ),
    ),
    Mutant(
        "a message for a room does not wait until we are in it again",
        "client/rooms.py",
        "            entered.clear()\n",
        "            pass\n",
        _tests("test_rooms_and_presence", "a_publish_after_a_reconnect_waits_for_the_room"),
    ),
    Mutant(
        "after a reconnect a room is not watched again",
        "client/rooms.py",
        "        asked += [watch_of(room) for room in seen]\n",
        "",
        _tests("test_watched_rooms", "after_a_reconnect_a_room_is_watched_again"),
    ),
    Mutant(
        "a change of presence answers the watch of a room",
        "client/rooms.py",
        '["type"] == "watch" and not request.room',
        '["type"] == "watch"',
        _tests("test_watched_rooms", "a_watch_that_is_refused_after_a_reconnect_is_told"),
    ),
    Mutant(
        "a list counts for the watch of a room, and not for its member",
        "client/rooms.py",
        "if mine is answered or mine[room] is not None:",
        "if mine is answered:",
        _tests("test_watched_rooms", "a_list_counts_for_the_watch_and_for_the_membership"),
    ),
    Mutant(
        "a join without an answer is wanted for ever",
        "client/client.py",
        "                self._wishes.want_no_room(room)\n"
        '                await self._say({"type": "leave", "room": room})\n',
        "                pass\n",
        _tests("test_rooms_and_presence", "a_join_without_an_answer_is_given_up"),
    ),
)

IN_CLIENT: Final[tuple[Mutant, ...]] = (*_INBOX, *_POSITIONS, *_SENDING, *_ROOMS)
