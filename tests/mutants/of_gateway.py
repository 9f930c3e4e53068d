"""Mistakes in wsdemo/gateway."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant


def _in(file: str, *claims: str) -> tuple[str, ...]:
    """Return tests of one file as arguments of pytest; the whole file when none is named."""
    path = f"tests/{file}.py"
    return tuple(f"{path}::test_{claim}" for claim in claims) or (path,)


_SESSION: Final = "gateway/session.py"
_SOCKET: Final = "gateway/socket.py"
_OUTBOX: Final = "gateway/outbox.py"
_DELIVERY: Final = "gateway/delivery.py"
_HEALTH: Final = "gateway/health.py"
_DOOR: Final = "gateway/access_control.py"
_FORWARDED: Final = "gateway/forwarded.py"
_HANDSHAKE: Final = "gateway/handshake.py"
_PROXY_HEADER: Final = "gateway/proxy_header.py"
_ANNOUNCED: Final = "gateway/proxy_acceptor.py"
_SERVER: Final = "gateway/server.py"
_LISTENING: Final = "gateway/listening.py"
_SIGNALS: Final = "gateway/signals.py"
_RATE: Final = "gateway/rate.py"
_AUTH: Final = "gateway/auth.py"
_REGISTRY: Final = "gateway/registry.py"
_LOG: Final = "gateway/log.py"
_COUNTERS: Final = "gateway/counters.py"
_PROMETHEUS: Final = "gateway/prometheus.py"

_SESSIONS: Final = (
    Mutant(
        "who has gone while its number was drawn is registered all the same",
        _SESSION,
        "        if not self._socket.open:\n            return  # Only the fence",
        "        if self._socket is None:\n            return  # Only the fence",
        _in("gateway/test_registers", "a_client_that_leaves_while_it_registers_leaves_nothing"),
    ),
    Mutant(
        "who has gone while Redis registered it counts as registered",
        _SESSION,
        "            elif self._socket.open:\n",
        "            else:\n",
        _in("gateway/test_registers", "a_client_that_leaves_while_it_registers_leaves_nothing"),
    ),
    Mutant(
        "a register keeps its turn for ever",
        _SESSION,
        "            services.backlog.admission.release()\n",
        "",
        _in(
            "gateway/test_registers",
            "an_exception_in_a_register_frees_its_slot_and_releases_its_entry",
        ),
    ),
    Mutant(
        "those who wait for their turn are counted up and never down",
        _SESSION,
        "            self._queueing = None\n            services.backlog.waiting -= 1\n",
        "            self._queueing = None\n",
        _in(
            "gateway/test_registers",
            "the_register_queue_is_empty_after_its_timeouts",
        ),
    ),
    Mutant(
        "who waits too long for its turn is told nothing",
        _SESSION,
        "        self._come_back_later()\n        return False\n",
        "        return False\n",
        _in(
            "gateway/test_limits",
            "a_client_that_waits_too_long_in_the_register_queue_is_closed_with_1013",
        ),
    ),
    Mutant(
        "who hangs up keeps its place in the queue",
        _SESSION,
        "            self._queueing.cancel()\n",
        "            pass\n",
        _in("gateway/test_registers", "a_client_that_leaves_the_register_queue_frees_its_place"),
    ),
    Mutant(
        "a register of unknown outcome is not taken back",
        _SESSION,
        "        owns = True\n",
        "        owns = False\n",
        _in(
            "gateway/test_wires",
            "p7_a_register_of_unknown_outcome_is_released_when_redis_is_back",
        ),
    ),
    Mutant(
        "who was refused as stale releases what it never had",
        _SESSION,
        "                owns = False\n                self._rejected",
        "                self._rejected",
        _in(
            "gateway/test_registers", "a_register_overtaken_by_a_newer_session_is_closed_with_4010"
        ),
    ),
    Mutant(
        "who was overtaken is told that it was replaced",
        _SESSION,
        "        self.end(Code.STALE)\n",
        "        self.end(Code.REPLACED)\n",
        _in(
            "gateway/test_registers", "a_register_overtaken_by_a_newer_session_is_closed_with_4010"
        ),
    ),
    Mutant(
        "who only writes shows no life",
        _SESSION,
        "                self.last_life = now\n",
        "",
        _in("gateway/test_registers", "a_client_that_only_sends_messages_keeps_its_lease"),
    ),
    Mutant(
        "a ping is no sign of life",
        _SESSION,
        "            self.last_life = self._services.clock()\n            self._services.observer",
        "            self._services.observer",
        _in("gateway/test_health", "a_frame_during_a_renewal_causes_another_renewal"),
    ),
    Mutant(
        "of the refused messages with an id only some are answered",
        _SESSION,
        "        if msg_id is not None:\n            self.send(ack_text(msg_id, Status.BUSY))\n",
        "        if msg_id is not None and now - excess.told_at >= RATE_NOTICE_S:\n"
        "            excess.told_at = now\n            self.send(ack_text(msg_id, Status.BUSY))\n",
        _in("bad_input/test_rate_and_auth", "messages_to_unknown_users_count_for_the_rate"),
    ),
    Mutant(
        "an excess is never over",
        _SESSION,
        "            self._excess = None\n        return False\n",
        "            pass\n        return False\n",
        _in("gateway/test_registers", "two_bursts_with_a_pause_between_them_are_not_closed"),
    ),
    Mutant(
        "each message above the rate begins the excess anew",
        _SESSION,
        "            if self._excess is None:\n"
        "                self._excess = _Excess(now, -math.inf)\n",
        "            self._excess = _Excess(now, -math.inf)\n",
        _in(
            "bad_input/test_rate_and_auth",
            "a_client_above_its_rate_is_warned_and_then_closed_with_4008",
        ),
    ),
    Mutant(
        "what is said behind a register is kept without a bound",
        _SESSION,
        "limits.held_frames:\n            self._socket.pause_reading()\n",
        "limits.held_frames:\n            pass\n",
        _in("gateway/test_limits", "reading_is_paused_while_a_client_registers"),
    ),
    Mutant(
        "who was read no further behind its register is never read again",
        _SESSION,
        "limits.in_flight:\n            self._socket.resume_reading()\n\n    def _rejected",
        "limits.in_flight:\n            pass\n\n    def _rejected",
        _in("gateway/test_limits", "reading_is_paused_while_a_client_registers"),
    ),
    Mutant(
        "what was said behind a register is read on above the bound of what is under way",
        _SESSION,
        "        if held and self.in_flight < self._services.settings.limits.in_flight:\n",
        "        if held:\n",
        _in(
            "gateway/test_registers",
            "messages_sent_during_a_register_count_against_the_pending_limit",
        ),
    ),
    Mutant(
        "messages under way are counted up and never down",
        _DELIVERY,
        "        sender.in_flight -= 1\n",
        "",
        _in("gateway/test_limits", "reading_is_paused_while_too_many_messages_wait_for_redis"),
    ),
    Mutant(
        "the quick judgement of a rate knows no burst",
        _SESSION,
        "        if paid_until - now <= rate.burst_s and self._excess is None:\n",
        "        if self._excess is None:\n",
        _in("bad_input/test_rate_and_auth"),
    ),
    Mutant(
        "a message that arrives before registered is lost",
        _SESSION,
        "                self._waiting.append(payload)\n",
        "                pass\n",
        _in("gateway/test_registers", "deliveries_before_registered_wait_for_it_up_to_a_bound"),
    ),
    Mutant(
        "what arrives before registered is kept without a bound",
        _SESSION,
        "            if len(self._waiting) < self._services.settings.limits.outbox_messages:\n",
        "            if True:\n",
        _in("gateway/test_registers", "deliveries_before_registered_wait_for_it_up_to_a_bound"),
    ),
    Mutant(
        "messages that waited overtake registered",
        _SESSION,
        "        self._say_registered()\n        waiting, self._waiting = self._waiting, None\n"
        "        for payload in waiting or ():\n            self._socket.send(payload)\n",
        "        waiting, self._waiting = self._waiting, None\n"
        "        for payload in waiting or ():\n            self._socket.send(payload)\n"
        "        self._say_registered()\n",
        _in("gateway/test_registers", "deliveries_before_registered_wait_for_it_up_to_a_bound"),
    ),
    Mutant(
        "one malformed message too many is forgiven",
        _SESSION,
        "len(self._malformed) > limits.max_malformed",
        "len(self._malformed) > limits.max_malformed + 1",
        _in("bad_input/test_json", "too_many_invalid_messages_end_the_connection"),
    ),
    Mutant(
        "malformed messages are never forgotten",
        _SESSION,
        "for t in self._malformed or () if now - t < limits.malformed_window_s]",
        "for t in self._malformed or ()]",
        _in("bad_input/test_json", "old_invalid_messages_do_not_count"),
    ),
    Mutant(
        "a new token does not prolong a session",
        _SESSION,
        '            self.expires_at = float(self.claims["exp"])',
        '            float(self.claims["exp"])',
        _in("gateway/test_auth", "a_new_token_on_the_same_connection_extends_the_session"),
    ),
    Mutant(
        "the notice to a replaced session names the newcomer",
        _SESSION,
        "services.delivery.kick(previous, claim.token)",
        "services.delivery.kick(claim, claim.token)",
        _in("gateway/test_conversations", "a_second_login_elsewhere_kicks_the_first"),
    ),
    Mutant(
        "the deadline of the register goes on behind it",
        _SESSION,
        "        self._socket.no_deadline()\n",
        "",
        _in("bad_input/test_rate_and_auth", "a_client_that_does_not_register_is_closed_with_4001"),
    ),
    Mutant(
        "a release that Redis did not answer is not owed",
        _SESSION,
        "        if may_work_later(problem) and len(owed)",
        '        if type(problem).__name__ == "LinkDown" and len(owed)',
        _in(
            "gateway/test_registers",
            "a_release_without_a_reply_is_sent_again_when_redis_is_back",
        ),
    ),
    Mutant(
        "a release that found no entry counts as a rejected one",
        _SESSION,
        "            counters.releases_no_entry += 1",
        "            counters.releases_other_owner += 1",
        _in(
            "gateway/test_registers",
            "a_release_says_whether_it_met_another_session_or_no_entry",
        ),
    ),
    Mutant(
        "the client is told its heartbeat in seconds",
        _SESSION,
        "round(settings.timing.heartbeat_s * 1000)",
        "round(settings.timing.heartbeat_s)",
        _in("gateway/test_conversations", "a_register_is_answered_with_gateway_and_connection"),
    ),
    Mutant(
        "who has registered still counts as unregistered",
        _SESSION,
        "            self._socket.slot.mark_registered()\n",
        "            pass\n",
        _in(
            "gateway/test_drains",
            "a_client_that_registers_and_leaves_is_subtracted_once_from_the_unregistered",
        ),
    ),
    Mutant(
        "the answer to a failed authentication waits in milliseconds",
        _SESSION,
        "max(0.0, limits.auth_delay_s - late_s)",
        "max(0.0, limits.auth_delay_s / 1000 - late_s)",
        _in("bad_input/test_rate_and_auth", "every_bad_token_gets_the_same_answer"),
    ),
)

_SOCKETS: Final = (
    Mutant(
        "a message may have one fragment less",
        _SOCKET,
        "        if len(self._fragments) > self._services.limits.max_fragments:",
        "        if len(self._fragments) >= self._services.limits.max_fragments:",
        _in("gateway/test_writing", "a_message_may_have_256_fragments_and_no_more"),
    ),
    Mutant(
        "the fragments of a message stay when it is whole",
        _SOCKET,
        '            text, self._fragments = b"".join(self._fragments), None\n',
        '            text = b"".join(self._fragments)\n',
        _in("gateway/test_writing", "nothing_of_a_fragmented_message_is_kept_after_it"),
    ),
    Mutant(
        "pongs that nobody reads pile up without a bound",
        _SOCKET,
        "            self._services.counters.slow_consumers += 1\n            self.abort()\n",
        "            self._services.counters.slow_consumers += 1\n",
        _in("gateway/test_writing", "unread_pongs_are_bounded"),
    ),
    Mutant(
        "a timer goes on when the connection is lost",
        _SOCKET,
        "        self._fragments = None\n        self._disarm()\n",
        "        self._fragments = None\n",
        _in(
            "gateway/test_losses",
            "a_connection_lost_at_any_step_leaves_nothing_and_affects_nobody",
        ),
    ),
    Mutant(
        "a timer is set for a connection that is gone",
        _SOCKET,
        "        self._disarm()\n        if self._ws is not OVER:\n",
        "        self._disarm()\n        if self._ws is not None:\n",
        _in("gateway/test_writing", "no_write_deadline_is_set_for_a_lost_connection"),
    ),
    Mutant(
        "a new timer leaves the one before running",
        _SOCKET,
        "        self._disarm()\n        if self._ws is not OVER:\n",
        "        if self._ws is not OVER:\n",
        _in(
            "gateway/test_losses",
            "a_connection_lost_at_any_step_leaves_nothing_and_affects_nobody",
        ),
    ),
    Mutant(
        "nobody hears that the last connection has gone",
        _SOCKET,
        "            services.idle.set()\n",
        "            pass\n",
        _in("gateway/test_drains", "a_drain_ends_at_once_when_the_last_client_has_left"),
    ),
    Mutant(
        "a gateway that was idle once is taken to be so for ever",
        _SOCKET,
        "        services.idle.clear()\n",
        "",
        _in("gateway/test_drains", "a_drain_ends_at_once_when_the_last_client_has_left"),
    ),
    Mutant(
        "who has left counts on against its address",
        _SOCKET,
        "            self.slot.release()\n",
        "            pass\n",
        _in(
            "gateway/test_drains",
            "a_client_that_registers_and_leaves_is_subtracted_once_from_the_unregistered",
        ),
    ),
    Mutant(
        "an answer to a ping is not taken for one",
        _SOCKET,
        "        self.last_read = self._services.clock()\n        self.pinged_at = 0.0\n",
        "        self.last_read = self._services.clock()\n",
        _in("bad_input/test_rate_and_auth", "a_client_that_answers_no_ping_is_closed_with_4009"),
    ),
    Mutant(
        "a whole frame that is short is left to wait for a byte more",
        _SOCKET,
        "            if end > size:\n",
        "            if end > size + 1:\n",
        _in("bad_input/test_fuzz", "valid_frames_get_the_same_answer_in_any_pieces"),
    ),
    Mutant(
        "the short way is taken although the parser holds bytes back",
        _SOCKET,
        "            and _between_frames(ws)\n",
        "",
        _in("gateway/test_writing", "a_payload_that_looks_like_a_frame_is_payload"),
    ),
    Mutant(
        "control frames are not counted",
        _SOCKET,
        "            self._control_paid_until = paid_until\n",
        "            pass\n",
        _in("bad_input/test_frames", "a_flood_of_control_frames_is_closed_with_4008"),
    ),
    Mutant(
        "who is over-run at the door is armed and kept",
        _SOCKET,
        "            services.counters.connections_refused += 1\n            self.abort()\n"
        "            return\n",
        "            services.counters.connections_refused += 1\n            return\n",
        _in("gateway/test_limits", "connections_before_the_handshake_are_bounded"),
    ),
    Mutant(
        "whom a goodbye was said to counts as present until it hangs up",
        _SOCKET,
        "            self.outbox.close()\n            if self._handler is not None:\n"
        "                self._handler.on_closing()\n        said",
        "            self.outbox.close()\n        said",
        _in(
            "gateway/test_conversations",
            "a_client_that_was_sent_a_close_frame_is_offline",
        ),
    ),
    Mutant(
        "pings behind a goodbye are answered",
        _SOCKET,
        "        if words and not self._said_goodbye:",
        "        if words:",
        _in("gateway/test_writing", "a_client_that_does_not_answer_a_close_is_cut_off"),
    ),
    Mutant(
        "who does not answer a goodbye is waited for without an end",
        _SOCKET,
        "        self.resume_reading()  # To see the client's close frame.\n"
        "        self._arm(self._services.limits.close_timeout_s, self.abort)\n",
        "        self.resume_reading()  # To see the client's close frame.\n",
        _in("gateway/test_writing", "a_client_that_does_not_answer_a_close_is_cut_off"),
    ),
    Mutant(
        "a text of 65536 bytes is written with a length of two bytes",
        _SOCKET,
        "    if length < 65536:\n",
        "    if length <= 65536:\n",
        _in("gateway/test_writing", "a_text_of_any_length_is_written_as_a_frame"),
    ),
    Mutant(
        "a goodbye amid fragments is called a broken message",
        _SOCKET,
        "            self.current_size = None\n",
        "            pass\n",
        _in("bad_input/test_autobahn", "group_7_a_close_frame_is_answered_with_its_own_code"),
    ),
    Mutant(
        "a connection that is lost is told to read on",
        _SOCKET,
        "            if not self._is_lost:\n                self._transport.resume_reading()\n",
        "            self._transport.resume_reading()\n",
        _in("gateway/test_writing", "reading_is_not_resumed_on_a_lost_connection"),
    ),
    Mutant(
        "the kernel is told its patience in seconds instead of milliseconds",
        _SOCKET,
        "round(1000 * seconds)",
        "round(seconds)",
        _in("gateway/test_limits", "the_kernel_is_given_a_timeout_for_unacknowledged_data"),
    ),
    Mutant(
        "who takes no byte is written a goodbye, and waited for",
        _SOCKET,
        "        if why is Stuck.DEADLINE:",
        "        if why is Stuck.OVERFLOW:",
        _in("gateway/test_writing", "a_client_that_reads_nothing_is_gone_by_the_write_deadline"),
    ),
    Mutant(
        "the bytes of what was written stay counted",
        _OUTBOX,
        "        frames.clear()\n        self._bytes = 0\n",
        "        frames.clear()\n",
        _in("gateway/test_writing", "a_client_that_falls_behind_and_catches_up_is_not_closed"),
    ),
    Mutant(
        "one frame too many may wait",
        _OUTBOX,
        "len(frames) >= limits.outbox_messages",
        "len(frames) > limits.outbox_messages",
        _in("gateway/test_outbox", "the_outbox_holds_at_most_its_limit_of_frames"),
    ),
    Mutant(
        "an outbox overflows only when it has too many frames and too many bytes",
        _OUTBOX,
        "limits.outbox_messages or self._bytes",
        "limits.outbox_messages and self._bytes",
        _in("gateway/test_outbox", "the_outbox_holds_at_most_its_limit_of_bytes"),
    ),
    Mutant(
        "a deadline that was met goes on",
        _OUTBOX,
        "        self.paused = False\n        self._stop_deadline()\n",
        "        self.paused = False\n",
        _in("gateway/test_writing", "a_met_write_deadline_is_cancelled"),
    ),
    Mutant(
        "what is written to a full transport hides what its reader takes",
        _OUTBOX,
        "            self._left += len(data)\n",
        "            pass\n",
        _in("gateway/test_outbox", "reading_less_than_is_written_counts_as_progress"),
    ),
    Mutant(
        "who takes nothing has one look more than the deadline",
        _OUTBOX,
        "            self._look_again(LOOKS - 1)\n",
        "            self._look_again(LOOKS)\n",
        _in(
            "gateway/test_outbox",
            "a_reader_that_stops_is_given_up_within_the_deadline",
        ),
    ),
    Mutant(
        "the last look is one too late",
        _OUTBOX,
        "        elif self._looks > 1:\n",
        "        elif self._looks >= 1:\n",
        _in("gateway/test_outbox", "a_reader_that_takes_nothing_is_given_up_at_the_last_check"),
    ),
    Mutant(
        "who takes nothing counts as somebody who does",
        _OUTBOX,
        "        if self._left < left:\n",
        "        if self._left <= left:\n",
        _in("gateway/test_writing", "a_client_that_reads_nothing_is_gone_by_the_write_deadline"),
    ),
    Mutant(
        "what the kernel has still to deliver is not looked at",
        _OUTBOX,
        "            left += unconfirmed[0]\n",
        "            pass\n",
        _in("gateway/test_writing", "bytes_in_the_kernels_buffer_count_as_not_taken"),
    ),
    Mutant(
        "a full transport is written to",
        _OUTBOX,
        "        if not frames or self.paused:\n",
        "        if not frames:\n",
        _in("gateway/test_limits", "the_outbox_is_bounded_in_frames_and_in_bytes"),
    ),
    Mutant(
        "something is written behind the end",
        _OUTBOX,
        "        self._ended = True\n",
        "",
        _in("gateway/test_writing", "nothing_is_written_after_the_close_frame"),
    ),
    Mutant(
        "a deadline begins when nobody waits for it any more",
        _OUTBOX,
        "        if self._on_stuck is not None:\n            self._left",
        "        if self._limits is not None:\n            self._left",
        _in("gateway/test_outbox", "after_the_close_frame_there_is_no_write_deadline"),
    ),
    Mutant(
        "a reader is given up without a word to its socket",
        _OUTBOX,
        "        on_stuck = self._on_stuck\n        self.close()\n",
        "        self.close()\n        on_stuck = self._on_stuck\n",
        _in(
            "gateway/test_limits",
            "a_client_that_reads_nothing_is_disconnected_at_the_write_deadline",
        ),
    ),
    Mutant(
        "a flush that fails ends the turn of those behind it",
        _OUTBOX,
        "                outbox.fail(problem)\n",
        "                outbox.fail(problem)\n                return\n",
        _in("gateway/test_failures", "a_failed_flush_does_not_stop_the_flushes_after_it"),
    ),
)

_DELIVERIES: Final = (
    Mutant(
        "every third ack is lost",
        _DELIVERY,
        "            if msg_id is not None:\n"
        "                sender.send(ack_text(msg_id, status))\n            # The",
        "            if msg_id is not None and self._counters.routes_routed % 3:\n"
        "                sender.send(ack_text(msg_id, status))\n            # The",
        _in("gateway/test_deliveries", "each_message_with_an_id_has_its_ack"),
    ),
    Mutant(
        "a message without an answer counts as under way for ever",
        _DELIVERY,
        "        sender.in_flight -= 1\n",
        "        if not isinstance(reply, Exception):\n            sender.in_flight -= 1\n",
        _in(
            "gateway/test_deliveries", "a_sender_is_read_again_after_all_of_its_messages_timed_out"
        ),
    ),
    Mutant(
        "a message of unknown outcome is said to be refused",
        _DELIVERY,
        "                return Status.UNKNOWN\n",
        "                return Status.BUSY\n",
        _in(
            "gateway/test_deliveries", "a_sender_is_read_again_after_all_of_its_messages_timed_out"
        ),
    ),
    Mutant(
        "who may be present is said to be absent when Redis has lost its data",
        _DELIVERY,
        "        elif self._router.leases_may_lapse:\n",
        "        elif False:\n",
        _in("scenarios/test_redis_refuses", "users_stay_connected_while_redis_refuses_writes"),
    ),
    Mutant(
        "a message goes to whoever has the connection that it names",
        _DELIVERY,
        "        if session is None or session.user != to:\n",
        "        if session is None:\n",
        _in(
            "gateway/test_deliveries", "a_late_message_or_notice_reaches_only_the_session_it_names"
        ),
    ),
    Mutant(
        "a message goes to whichever session the user has here",
        _DELIVERY,
        "registry.by_conn(conn_id) if conn_id else registry.by_user(to)",
        "registry.by_user(to)",
        _in(
            "gateway/test_deliveries", "a_late_message_or_notice_reaches_only_the_session_it_names"
        ),
    ),
    Mutant(
        "an entry that was repaired counts as under repair",
        _DELIVERY,
        "            self._repairing.discard(found.conn_id)\n",
        "            pass\n",
        _in("gateway/test_deliveries", "a_stale_entry_is_removed_however_many_were_before_it"),
    ),
    Mutant(
        "a repair is tried with the name of the sender",
        _DELIVERY,
        "self._repair_soon(Claim(to, conn_id",
        "self._repair_soon(Claim(envelope.sender, conn_id",
        _in(
            "gateway/test_conversations",
            "a_message_for_an_ended_session_is_unreachable_and_removes_its_entry",
        ),
    ),
    Mutant(
        "a bounce goes to the connection that does not exist",
        _DELIVERY,
        "Bounce(fromConn=envelope.fromConn,",
        "Bounce(fromConn=envelope.toConn,",
        _in(
            "gateway/test_conversations",
            "a_message_for_an_ended_session_is_unreachable_and_removes_its_entry",
        ),
    ),
    Mutant(
        "a notice ends the session of another user",
        _DELIVERY,
        "        if session is not None and session.user == kick.user:\n",
        "        if session is not None:\n",
        _in(
            "gateway/test_deliveries", "a_late_message_or_notice_reaches_only_the_session_it_names"
        ),
    ),
    Mutant(
        "who was replaced elsewhere is told that it was overtaken",
        _DELIVERY,
        "            session.end(Code.REPLACED)\n",
        "            session.end(Code.STALE)\n",
        _in("gateway/test_conversations", "a_second_login_elsewhere_kicks_the_first"),
    ),
    Mutant(
        "a message with an id is answered twice",
        _DELIVERY,
        "            sender.send(ack_text(msg_id, status))\n            return\n",
        "            sender.send(ack_text(msg_id, status))\n",
        _in("gateway/test_conversations", "each_ack_says_what_became_of_the_message"),
    ),
    Mutant(
        "a message to a user of this gateway is not counted as delivered",
        _DELIVERY,
        "        counters.messages_delivered += 1\n        recipient",
        "        recipient",
        _in("gateway/test_deliveries", "messages_within_one_gateway_are_counted"),
    ),
    Mutant(
        "a message that was refused at once counts as under way for ever",
        _DELIVERY,
        "            self._counters.routes_busy += 1\n            return\n",
        "            self._counters.routes_busy += 1\n",
        _in(
            "gateway/test_deliveries",
            "a_message_beyond_the_redis_queue_is_busy_at_once",
        ),
    ),
    Mutant(
        "a link that has no room for a message more is a bug of the session",
        _DELIVERY,
        "        except (LinkDown, LinkBusy):\n",
        "        except LinkDown:\n",
        _in(
            "gateway/test_deliveries",
            "a_message_beyond_the_redis_queue_is_busy_at_once",
        ),
    ),
)

_LEASES: Final = (
    Mutant(
        "a sign of life while a lease is renewed is lost",
        _HEALTH,
        "            session.last_refresh = life\n",
        "            session.last_refresh = self._services.clock()\n",
        _in("gateway/test_health", "a_frame_during_a_renewal_causes_another_renewal"),
    ),
    Mutant(
        "a lease counts from the moment when it is written",
        _HEALTH,
        "ttl_s - (now - session.last_life)",
        "ttl_s",
        _in("gateway/test_health", "a_lease_counts_from_the_last_frame_of_the_client"),
    ),
    Mutant(
        "a lease is renewed for as many milliseconds as it should have seconds",
        _HEALTH,
        "max(1, round(1000 * left_s))",
        "max(1, round(left_s))",
        _in("gateway/test_health", "a_lease_counts_from_the_last_frame_of_the_client"),
    ),
    Mutant(
        "a lease is renewed without a sign of life",
        _HEALTH,
        "session.last_life > session.last_refresh and now",
        "session.last_life > session.last_refresh or now",
        _in("gateway/test_registry", "a_lease_is_due_only_after_a_new_frame"),
    ),
    Mutant(
        "after a stall nobody is given time to be read",
        _HEALTH,
        "        self._grace_until = now + timing.ws_ping_timeout_s\n",
        "",
        _in("gateway/test_health", "a_client_that_sends_soon_after_a_stall_is_not_dropped"),
    ),
    Mutant(
        "pings from before a stall are awaited as if nothing had been",
        _HEALTH,
        "            session.socket.pinged_at = 0.0\n",
        "            pass\n",
        _in(
            "gateway/test_health",
            "a_ping_from_before_a_stall_is_sent_again_before_a_client_is_dropped",
        ),
    ),
    Mutant(
        "after a stall of half a lease nobody asks who has our users",
        _HEALTH,
        "        if late_s > timing.presence_ttl_s / 2:\n",
        "        if late_s > timing.presence_ttl_s * 2:\n",
        _in("gateway/test_health", "after_a_stall_of_half_a_ttl_all_leases_are_refreshed_at_once"),
    ),
    Mutant(
        "who finds its session closed in Redis is told that it was replaced",
        _HEALTH,
        "                session.end(Code.STALE)\n",
        "                session.end(Code.REPLACED)\n",
        _in("gateway/test_health", "a_session_that_is_closed_in_redis_is_closed_with_4010"),
    ),
    Mutant(
        "a single refusal of a renewal ends a session",
        _HEALTH,
        "        elif lost_s > self._timing.presence_ttl_s:\n",
        "        else:\n",
        _in(
            "gateway/test_health",
            "a_client_whose_renewals_are_refused_for_a_ttl_is_closed_with_4012",
        ),
    ),
    Mutant(
        "a Redis that refuses everybody ends the sessions of all",
        _HEALTH,
        "        if may_work_later(problem):\n",
        "        if False:\n",
        _in("gateway/test_health", "a_single_refused_renewal_ends_no_session"),
    ),
    Mutant(
        "the answer for a session that has ended meanwhile is taken all the same",
        _HEALTH,
        "        if session.state is not SessionState.REGISTERED or session.claim is not "
        "renewal.claim:\n",
        "        if session.claim is not renewal.claim:\n",
        _in(
            "gateway/test_health",
            "a_reply_for_a_session_that_has_ended_is_ignored",
        ),
    ),
    Mutant(
        "a resync renews leases of sessions that have ended",
        _HEALTH,
        "                s for s in sessions[start : start + step] if s.state is "
        "SessionState.REGISTERED\n",
        "                s for s in sessions[start : start + step]\n",
        _in("gateway/test_health", "a_resync_skips_users_who_have_left"),
    ),
    Mutant(
        "what was released stays owed",
        _HEALTH,
        "        owed = list(services.backlog.owed.values())\n"
        "        services.backlog.owed.clear()\n",
        "        owed = list(services.backlog.owed.values())\n",
        _in("gateway/test_registers", "a_release_that_redis_refused_for_a_moment_is_sent_again"),
    ),
    Mutant(
        "who is stale is ended with the code of a slow reader",
        _HEALTH,
        "        session.end(Code.HEARTBEAT_TIMEOUT)\n",
        "        session.end(Code.SLOW_CONSUMER)\n",
        _in("gateway/test_conversations", "a_silent_client_is_forgotten_by_gateway_and_redis"),
    ),
    Mutant(
        "a ping that was not answered is sent again instead of counted",
        _HEALTH,
        "        elif now - socket.last_read > interval_s:\n",
        "        if now - socket.last_read > interval_s:\n",
        _in(
            "gateway/test_registry",
            "a_silent_client_is_pinged_once_and_then_dropped",
        ),
    ),
    Mutant(
        "a health loop ends with its first bad round",
        _HEALTH,
        '"exception": problem}\n                )\n\n    async def _sleep',
        '"exception": problem}\n                )\n                return\n\n    async def _sleep',
        _in("gateway/test_failures", "the_health_loop_goes_on_after_a_failed_round"),
    ),
)

_ENTRANCES: Final = (
    Mutant(
        "one connection more than an address may have is let in",
        _DOOR,
        "            self.present.of(slot.address) > limits.connections_per_ip\n            or",
        "            self.present.of(slot.address) > limits.connections_per_ip + 1\n            or",
        _in("gateway/test_door", "connections_of_one_address_are_bounded"),
    ),
    Mutant(
        "the last connection that may do without a register is refused",
        _DOOR,
        "self.unregistered.of(slot.address) > limits.unregistered_per_ip",
        "self.unregistered.of(slot.address) >= limits.unregistered_per_ip",
        _in(
            "gateway/test_door",
            "unregistered_connections_of_one_address_are_bounded",
        ),
    ),
    Mutant(
        "who registers and leaves is taken off the unregistered twice",
        _DOOR,
        "        if not self._registered:\n",
        "        if self._access is not None:\n",
        _in(
            "gateway/test_drains",
            "a_client_that_registers_and_leaves_is_subtracted_once_from_the_unregistered",
        ),
    ),
    Mutant(
        "who leaves without a register counts as unregistered for ever",
        _DOOR,
        "        self.mark_registered()\n",
        "",
        _in(
            "gateway/test_door",
            "unregistered_connections_of_one_address_are_bounded",
        ),
    ),
    Mutant(
        "addresses that are gone are kept with a count of nothing",
        _DOOR,
        "        if self[address] <= 0:\n",
        "        if self[address] < 0:\n",
        _in("gateway/test_door"),
    ),
    Mutant(
        "a page of our own is a stranger's when it is not on the list",
        _DOOR,
        "            or is_own_page(origin, host)\n",
        "",
        _in("gateway/test_door", "an_origin_equal_to_the_host_header_is_allowed"),
    ),
    Mutant(
        "a client that says it is local is exempt on any machine",
        _DOOR,
        "        if self._is_exempt(client) and self._is_exempt(peer):\n",
        "        if self._is_exempt(client):\n",
        _in(
            "gateway/test_door",
            "a_forwarded_loopback_address_is_exempt_only_behind_a_local_proxy",
        ),
    ),
    Mutant(
        "the hop that is farthest is believed first",
        _FORWARDED,
        "    for part in reversed(parts):\n",
        "    for part in parts:\n",
        _in(
            "gateway/test_door",
            "behind_trusted_proxies_the_nearest_untrusted_address_counts",
        ),
    ),
    Mutant(
        "a hop that cannot be read is passed over",
        _FORWARDED,
        "        if not ((hop.address is not None or hop.is_local) and is_proxy(hop.address)):\n",
        "        if hop.address is not None and not is_proxy(hop.address):\n",
        _in(
            "gateway/test_forwarded",
            "an_invalid_address_ends_the_search",
        ),
    ),
    Mutant(
        "one proxy more is looked at than should be",
        _FORWARDED,
        "        if seen == MAX_HOPS:\n",
        "        if seen > MAX_HOPS:\n",
        _in("gateway/test_forwarded"),
    ),
    Mutant(
        "a header that stands twice counts with its last value",
        _HANDSHAKE,
        "        and len(headers) == len(lines) <= MAX_NUM_HEADERS\n",
        "        and len(lines) <= MAX_NUM_HEADERS\n",
        _in("gateway/test_handshake", "an_unusual_request_is_left_to_the_general_parser"),
    ),
    Mutant(
        "a page of another port of our host is our own",
        _HANDSHAKE,
        "    return page[2].lower() == here[1].lower() and (page[3] or default) == port\n",
        "    return page[2].lower() == here[1].lower() or (page[3] or default) == port\n",
        _in("gateway/test_door", "an_origin_equal_to_the_host_header_is_allowed"),
    ),
    Mutant(
        "a subprotocol is chosen that nobody knows",
        _HANDSHAKE,
        "if offer == SUBPROTOCOL or offer in known",
        "if offer",
        _in("gateway/test_browsers"),
    ),
    Mutant(
        "an address of version 2 is cut one byte short",
        _PROXY_HEADER,
        "ipaddress.IPv6Address(data[16:32])",
        "ipaddress.IPv6Address(data[16:31])",
        _in("gateway/test_proxy_header", "a_header_is_read_to_its_last_byte_and_no_further"),
    ),
    Mutant(
        "a line of the PROXY protocol is read one byte too far",
        _PROXY_HEADER,
        '    return 2 * fields + data.endswith(b" ") + 2\n',
        '    return 2 * fields + data.endswith(b" ") + 3\n',
        _in("gateway/test_proxy_header", "a_header_is_read_to_its_last_byte_and_no_further"),
    ),
    Mutant(
        "a block of the PROXY protocol that is too long is waited for",
        _PROXY_HEADER,
        "    if length > MAX_BLOCK_BYTES:\n",
        "    if length > MAX_BLOCK_BYTES * 1000:\n",
        _in("gateway/test_proxy_header", "a_malformed_proxy_header_is_refused"),
    ),
    Mutant(
        "who was announced is still hung up on as too late",
        _ANNOUNCED,
        "        if self._timer is not None:\n            self._timer.cancel()\n"
        "            self._timer = None\n"
        "        if header is not None:\n",
        "        self._timer = None\n        if header is not None:\n",
        _in("gateway/test_announced", "the_deadline_of_a_header_ends_when_the_header_is_read"),
    ),
    Mutant(
        "connections that have become sockets are still counted as waiting",
        _ANNOUNCED,
        "        self._acceptor.waiting.discard(self)\n",
        "",
        _in("gateway/test_announced"),
    ),
    Mutant(
        "a connection that is lost before TLS begins is waited for",
        _ANNOUNCED,
        "            if self._is_lost or transport.is_closing():\n",
        "            if transport is None:\n",
        _in("gateway/test_announced", "tls_does_not_begin_on_a_lost_connection"),
    ),
)

_LIVES: Final = (
    Mutant(
        "releases that are owed wait for the next outage",
        _SERVER,
        "if up and (self._session_services.backlog.owed or (len(self.registry) and not was_up)):\n",
        "if up and not was_up and (self._session_services.backlog.owed or len(self.registry)):\n",
        _in("gateway/test_registers", "a_release_that_redis_refused_for_a_moment_is_sent_again"),
    ),
    Mutant(
        "a resync that becomes due during another one is forgotten",
        _SERVER,
        "        while self._resync_due:\n"
        "            due, self._resync_due = self._resync_due, set()\n"
        "            await self._health.resync(due)\n",
        "        await self._health.resync(self._resync_due)\n        self._resync_due = set()\n",
        _in("gateway/test_health", "resyncs_run_one_at_a_time_and_none_is_lost"),
    ),
    Mutant(
        "two resyncs run at a time",
        _SERVER,
        "        if self._resyncing is None or self._resyncing.done():\n",
        "        if self._resync_due:\n",
        _in("gateway/test_health", "resyncs_run_one_at_a_time_and_none_is_lost"),
    ),
    Mutant(
        "a gateway whose subscription is deaf calls itself ready",
        _SERVER,
        '            "subscription is down or deaf": not self._router.ready,\n',
        "",
        _in(
            "gateway/test_conversations",
            "a_gateway_is_ready_only_after_its_subscription_received_a_probe",
        ),
    ),
    Mutant(
        "who stops a gateway a second time does not wait for its end",
        _SERVER,
        "            await asyncio.shield(self._stopped)\n            return\n",
        "            return\n",
        _in(
            "gateway/test_drains",
            "a_second_stop_waits_for_the_end_of_the_first",
        ),
    ),
    Mutant(
        "a gateway that is replaced goes on with its notice",
        _SERVER,
        "        self.replaced.set()\n        self.hurry()\n",
        "        self.replaced.set()\n",
        _in("scenarios/test_life", "a_takeover_of_a_gateway_on_notice_ends_the_notice"),
    ),
    Mutant(
        "a start that fails leaves its link to Redis",
        _SERVER,
        "            await self._leave_redis()\n            raise\n",
        "            await self._router.stop()\n            raise\n",
        _in("gateway/test_drains", "a_failed_start_leaves_nothing"),
    ),
    Mutant(
        "on notice newcomers are served as if nothing were",
        _SERVER,
        "        if self._on_notice:\n            session.end",
        "        if self._access.draining:\n            session.end",
        _in("gateway/test_bye", "on_notice_the_answer_to_the_handshake_comes_first"),
    ),
    Mutant(
        "tasks that have ended are kept",
        _SERVER,
        "        self._tasks.discard(task)\n",
        "",
        _in("gateway/test_registers", "a_gateway_forgets_tasks_that_have_ended"),
    ),
    Mutant(
        "a page can be posted to",
        _SERVER,
        '        if request.method not in {"GET", "HEAD"}:\n',
        '        if request.method == "PUT":\n',
        _in("bad_input/test_handshake", "a_page_answers_get_and_head_and_405_to_other_methods"),
    ),
    Mutant(
        "the last drop of a draining gateway is a code that says never",
        _SERVER,
        "lambda socket: socket.close(Code.RESTART, ",
        "lambda socket: socket.close(Code.HEARTBEAT_TIMEOUT, ",
        _in("gateway/test_bye", "a_client_that_has_not_registered_gets_a_bye_too"),
    ),
    Mutant(
        "the file of another process is removed",
        _LISTENING,
        "                if _identity(self.path) == made:\n",
        "                if _identity(self.path):\n",
        _in(
            "scenarios/test_listening",
            "the_socket_file_of_a_successor_is_not_removed",
        ),
    ),
    Mutant(
        "the socket of a dead process stays in the way",
        _LISTENING,
        "        with contextlib.suppress(FileNotFoundError):\n"
        "            Path(path).unlink()\n        return\n",
        "        return\n",
        _in(
            "scenarios/test_listening",
            "the_unix_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not",
        ),
    ),
    Mutant(
        "an address that others can reach counts as local beside one that they cannot",
        _LISTENING,
        "all(_is_loopback(end) for end in self.sockets)",
        "any(_is_loopback(end) for end in self.sockets)",
        _in("gateway/test_bound_addresses", "an_address_is_local_only_if_all_of_its_sockets_are"),
    ),
    Mutant(
        "a name gets another port on each of its addresses",
        _LISTENING,
        "                port = end.getsockname()[1]\n",
        "",
        _in("scenarios/test_listening", "a_name_with_two_addresses_gets_one_port_on_both"),
    ),
    Mutant(
        "all addresses of IPv6 are of IPv6 alone",
        _LISTENING,
        "socket.IPV6_V6ONLY, not both_families)",
        "socket.IPV6_V6ONLY, True)",
        _in(
            "scenarios/test_listening",
            "a_gateway_is_reached_at_its_logged_address_and_at_all_others",
        ),
    ),
    Mutant(
        "what was bound stays open when the next address cannot be had",
        _LISTENING,
        "        close_all(bound)\n        raise\n    return bound",
        "        raise\n    return bound",
        _in(
            "scenarios/test_listening",
            "a_failed_start_closes_the_addresses_already_bound",
        ),
    ),
    Mutant(
        "a hang-up hurries like any other signal",
        _SIGNALS,
        "(number == HANG_UP or now - last < ONE_REQUEST_S)",
        "(number == HANG_UP and now - last < ONE_REQUEST_S)",
        _in("scenarios/test_life", "sighup_drains_and_never_shortens_a_drain"),
    ),
    Mutant(
        "a signal that comes twice at once is two requests",
        _SIGNALS,
        "        self._last = now\n",
        "",
        _in("scenarios/test_life", "two_signals_at_the_same_moment_count_as_one"),
    ),
    Mutant(
        "nohup is not obeyed",
        _SIGNALS,
        "HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:",
        "HANG_UP is not None:",
        _in("scenarios/test_life", "an_ignored_sighup_stays_ignored"),
    ),
)

_REST: Final = (
    Mutant(
        "the last message of a burst is refused",
        _RATE,
        "paid_until - now <= self.burst_s else None",
        "paid_until - now < self.burst_s - self.interval_s else None",
        _in("gateway/test_rate", "at_most_a_whole_burst_passes_at_once"),
    ),
    Mutant(
        "who paused may save up for a longer burst",
        _RATE,
        "(paid_until if paid_until > now else now) + self.interval_s",
        "(paid_until or now) + self.interval_s",
        _in("gateway/test_rate"),
    ),
    Mutant(
        "who is still at the bound has calmed down",
        _RATE,
        "paid_until - now <= self.burst_s / 2",
        "paid_until - now <= self.burst_s",
        _in("gateway/test_rate", "only_a_pause_ends_the_excess"),
    ),
    Mutant(
        "a token of another user is as good as one's own",
        _AUTH,
        '    if claims["sub"] != user:\n',
        '    if not claims["sub"]:\n',
        _in("gateway/test_auth", "a_bad_token_is_refused"),
    ),
    Mutant(
        "a token that ends now is still good",
        _AUTH,
        "not now < expires_at < END_OF_TIME:",
        "not now <= expires_at < END_OF_TIME:",
        _in("gateway/test_auth", "a_bad_token_is_refused"),
    ),
    Mutant(
        "the connection of an earlier session is found although it was replaced",
        _REGISTRY,
        "            self._by_conn.pop(earlier.conn_id, None)\n",
        "            pass\n",
        _in("gateway/test_registry_machine"),
    ),
    Mutant(
        "the end of an old session takes the newer one away",
        _REGISTRY,
        "        if self._by_user.get(session.user) is session:\n",
        "        if session.user in self._by_user:\n",
        _in("gateway/test_registry", "the_end_of_an_old_session_does_not_remove_the_newer_one"),
    ),
    Mutant(
        "a register that has failed is expected for ever",
        _REGISTRY,
        "            del self._by_conn[session.conn_id]\n",
        "            pass\n",
        _in("gateway/test_registry_machine"),
    ),
    Mutant(
        "the failure of one is the end of the round",
        _REGISTRY,
        "            connection.fail(problem)\n",
        "            connection.fail(problem)\n            return\n",
        _in("gateway/test_failures", "each_calls_the_function_for_all_although_one_fails"),
    ),
    Mutant(
        "a user breaks the line in which she leaves",
        _LOG,
        "return entry if entry.isprintable() else _escaped(entry)",
        "return entry",
        _in("gateway/test_log", "no_user_id_breaks_a_log_line"),
    ),
    Mutant(
        "all lines of messages have the time of the first",
        _LOG,
        "            stamp = self._stamp = self._stamp_of(now)\n",
        "            stamp = self._stamp = self._stamp_of(self._stamp[0] or now)\n",
        _in("gateway/test_log", "the_line_of_a_message_equals_the_general_one_byte_for_byte"),
    ),
    Mutant(
        "a clock that is set back leaves the time of a line in the future",
        _LOG,
        "        if not stamp[0] <= now < stamp[1]:\n",
        "        if not now < stamp[1]:\n",
        _in("gateway/test_log", "the_line_of_a_message_equals_the_general_one_byte_for_byte"),
    ),
    Mutant(
        "at the level of info no line of a message is written",
        _LOG,
        "[self._level] > logging.INFO",
        "[self._level] >= logging.INFO",
        _in(
            "gateway/test_log", "every_log_line_is_written_in_order_and_none_holds_message_content"
        ),
    ),
    Mutant(
        "a stack is not told",
        _LOG,
        "        parts.append(record.stack_info)\n",
        "        pass\n",
        _in("gateway/test_log", "a_record_with_a_stack_is_logged_with_it"),
    ),
    Mutant(
        "PyJWT is imported when the first user comes",
        _SERVER,
        "        if settings.auth_secret is not None:\n            auth.prepare()\n",
        "",
        _in(
            "gateway/test_imports",
            "a_gateway_that_asks_for_tokens_has_loaded_pyjwt_before_the_first_user",
        ),
    ),
    Mutant(
        "a duration at a bound counts as longer",
        _COUNTERS,
        "bisect.bisect_left(",
        "bisect.bisect_right(",
        _in("gateway/test_pages", "metrics_agree_with_stats"),
    ),
    Mutant(
        "a bucket counts only what fell into it",
        _COUNTERS,
        "itertools.accumulate(self.counts)",
        "self.counts",
        _in("gateway/test_pages", "metrics_agree_with_stats"),
    ),
    Mutant(
        "all values of a label are one",
        _PROMETHEUS,
        "            family.add_metric([label_value], value)\n",
        "            family.add_metric([label], value)\n",
        _in("gateway/test_pages", "metrics_agree_with_stats"),
    ),
)

IN_GATEWAY: Final[tuple[Mutant, ...]] = (
    *_SESSIONS,
    *_SOCKETS,
    *_DELIVERIES,
    *_LEASES,
    *_ENTRANCES,
    *_LIVES,
    *_REST,
)
EQUIVALENT_IN_GATEWAY: Final[tuple[Equivalent, ...]] = (
    Equivalent(
        Mutant(
            "messages behind one that ends the connection are read on the short way",
            _SOCKET,
            "            if not self._at_boundary:\n                break  # The session",
            "            if self._handler is None:\n                break  # The session",
            _in("bad_input/test_frames", "frames_after_a_close_frame_are_ignored"),
        ),
        "Whatever closes a socket tells its session in the same call, and a session that has ended "
        "hears nothing. What is left of the data is read and dropped, the one way or the other.",
    ),
    Equivalent(
        Mutant(
            "an empty frame is left to the general parser",
            _SOCKET,
            "        while size - start >= 6 and",
            "        while size - start > 6 and",
            _in("bad_input/test_fuzz"),
        ),
        "An empty text is no JSON. The short way is there for speed, and both ways are held "
        "together byte for byte.",
    ),
    Equivalent(
        Mutant(
            "a drain does not let a turn of the loop pass before it looks for releases",
            _SERVER,
            "        await asyncio.sleep(0)\n        others",
            "        others",
            _in("gateway/test_drains"),
        ),
        "To abort a socket ends its session in the same call, which begins the release: it is "
        "among the tasks already. The turn is for a session that hears of its end later.",
    ),
    Equivalent(
        Mutant(
            "the deadline of the handshake is not taken back when it is done",
            _SOCKET,
            "        self._services.counters.connections_accepted += 1\n        self._disarm()\n",
            "        self._services.counters.connections_accepted += 1\n",
            _in(
                "bad_input/test_rate_and_auth",
                "a_client_that_does_not_register_is_closed_with_4001",
            ),
        ),
        "A session begins with a deadline of its own, in the same call, and a socket has one timer "
        "only: the new one takes the place of the old one.",
    ),
    Equivalent(
        Mutant(
            "a frame is read the short way amid the fragments of another message",
            _SOCKET,
            "            and self._fragments is None\n",
            "",
            _in("gateway/test_writing", "a_message_between_the_fragments_of_another_is_refused"),
        ),
        "The parser of the library keeps the size of a message that is not finished, and "
        "`_between_frames` says no as long as there is one: the two agree at every frame.",
    ),
)
