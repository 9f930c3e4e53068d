"""Mistakes in all that is not the gateway: Redis, router, presence, client, vocabulary."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Equivalent, Mutant


def _tests(file: str, *claims: str) -> tuple[str, ...]:
    """Return the tests of a file that have to notice; without claims, the file."""
    path = f"tests/{file}.py"
    return tuple(f"{path}::test_{claim}" for claim in claims) or (path,)


_LINK: Final = (
    Mutant(
        "held commands do not count against the bound",
        "redis/link.py",
        "if len(pending) + len(self._held) >= self._max_pending",
        "if len(pending) >= self._max_pending",
        _tests("redis/test_link", "held_commands_count_against_the_bound"),
    ),
    Mutant(
        "one command more than the bound waits",
        "redis/link.py",
        ">= self._max_pending",
        "> self._max_pending",
        _tests("redis/test_link", "the_queue_for_a_stalled_server_is_bounded"),
    ),
    Mutant(
        "held commands are forgotten when the link breaks",
        "redis/link.py",
        "entries = [*self._missing, *self._pending, *self._held]",
        "entries = [*self._missing, *self._pending]",
        _tests("redis/test_link", "held_commands_are_answered_when_the_link_breaks"),
    ),
    Mutant(
        "scripts to be sent again are forgotten when the link breaks",
        "redis/link.py",
        "entries = [*self._missing, *self._pending, *self._held]",
        "entries = [*self._pending, *self._held]",
        _tests("redis/test_link", "held_commands_are_answered_when_the_link_breaks"),
    ),
    Mutant(
        "a pause of writing outlives its connection",
        "redis/link.py",
        "self._write_paused = False\n        self._trying",
        "self._trying",
        _tests(
            "redis/test_link",
            "after_a_break_while_writing_was_paused_the_new_connection_writes",
        ),
    ),
    Mutant(
        "what was not sent leaves on the next connection",
        "redis/link.py",
        "        self._out.clear()\n        self._write_paused",
        "        self._write_paused",
        _tests("redis/test_link", "unsent_commands_do_not_reach_the_next_connection"),
    ),
    Mutant(
        "held commands leave before the script that they waited for",
        "redis/link.py",
        "        for deadline, callback, script, command, note in missing:\n",
        "        for entry in held:\n            self._send(entry)\n        held = []\n"
        "        for deadline, callback, script, command, note in missing:\n",
        _tests("redis/test_link", "commands_after_a_forgotten_script_keep_their_order"),
    ),
    Mutant(
        "a forgotten script is sent again behind what was sent after it",
        "redis/link.py",
        "if self._missing and not self._pending:",
        "if self._missing:",
        _tests("redis/test_link", "commands_after_a_forgotten_script_keep_their_order"),
    ),
    Mutant(
        "commands are not held while a script is to be sent again",
        "redis/link.py",
        "        if self._missing:\n            self._held.append((deadline, callback",
        "        if self._missing and not pending:\n"
        "            self._held.append((deadline, callback",
        _tests("redis/test_link", "commands_after_a_forgotten_script_keep_their_order"),
    ),
    Mutant(
        "the time that our own loop stood still counts against Redis",
        "redis/link.py",
        "        if now - due > STALL_S:\n            deadline = max(deadline, now + STALL_S)\n",
        "",
        _tests("redis/test_link", "a_stall_of_our_own_loop_does_not_count_as_a_redis_timeout"),
    ),
    Mutant(
        "a deadline of a command is in milliseconds",
        "redis/link.py",
        "deadline = loop.time() + self._timeout_s\n",
        "deadline = loop.time() + self._timeout_s * 1000\n",
        _tests("redis/test_link", "a_frozen_server_costs_one_timeout"),
    ),
    Mutant(
        "the deadline is looked at once and never again",
        "redis/link.py",
        "            self._arm(deadline)\n            return\n",
        "            return\n",
        _tests("redis/test_link", "a_frozen_server_costs_one_timeout"),
    ),
    Mutant(
        "a server is left before it has answered",
        "redis/link.py",
        "if self._pending or self._held:\n            # Whatever",
        "if self._held:\n            # Whatever",
        _tests("redis/test_states", "commands_sent_before_leaving_a_replica_get_their_replies"),
    ),
    Mutant(
        "a replica is taken for a primary",
        "redis/link.py",
        'reply[0] in (b"slave", b"sentinel")',
        'reply[0] in (b"sentinel",)',
        _tests("redis/test_states", "a_subscription_to_a_replica_is_not_up"),
    ),
    Mutant(
        "a server that refuses us in its greeting is up",
        "redis/link.py",
        "greeting.set_result(trouble)",
        "greeting.set_result(None)",
        _tests("redis/test_states", "a_new_connection_to_a_server_that_refuses_writes_is_not_up"),
    ),
    Mutant(
        "what was refused in a short outage is never made good",
        "redis/link.py",
        "            if self.up and was_refused:\n",
        "            if not self.up and was_refused:\n",
        _tests(
            "redis/test_states",
            "after_a_very_short_outage_refused_commands_can_be_repeated",
        ),
    ),
    Mutant(
        "how long a server has refused is counted from the first connection",
        "redis/link.py",
        "        if self.up:\n            self._refusing_since = now\n",
        "",
        _tests(
            "redis/test_states",
            "a_server_that_begins_to_refuse_writes_is_tried_again_before_a_new_dial",
        ),
    ),
    Mutant(
        "a server that refuses writes is not asked again",
        "redis/link.py",
        "            self._become(True, trouble)\n            self._try_later()\n",
        "            self._become(True, trouble)\n",
        _tests("redis/test_states", "a_link_is_not_up_while_its_server_refuses_writes"),
    ),
    Mutant(
        "a refused command is no reason to ask",
        "redis/link.py",
        "            self._was_refused = True\n            self._doubt()\n",
        "            self._was_refused = True\n",
        _tests("redis/test_states", "a_refused_command_starts_a_check_at_once"),
    ),
)

_CONNECTION: Final = (
    Mutant(
        "pauses do not grow",
        "redis/connection.py",
        "min(2 * self._size_s, BACKOFF_CAP_S)",
        "min(self._size_s, BACKOFF_CAP_S)",
        _tests("redis/test_link", "pauses_between_attempts_grow_to_a_cap_and_differ"),
    ),
    Mutant(
        "pauses have no cap",
        "redis/connection.py",
        "min(2 * self._size_s, BACKOFF_CAP_S)",
        "2 * self._size_s",
        _tests("redis/test_link", "pauses_between_attempts_grow_to_a_cap_and_differ"),
    ),
    Mutant(
        "pauses are the same for everybody",
        "redis/connection.py",
        "return self._rng.uniform(size_s / 4, size_s)",
        "return size_s",
        _tests("redis/test_link", "pauses_between_attempts_grow_to_a_cap_and_differ"),
    ),
    Mutant(
        "pauses are short again before the server has taken us",
        "redis/connection.py",
        "        self._hurry.clear()\n        try:\n",
        "        self._hurry.clear()\n        self._backoff.reset()\n        try:\n",
        _tests(
            "redis/test_link",
            "a_refusing_server_is_dialled_with_growing_pauses",
        ),
    ),
    Mutant(
        "a connection that broke while it was greeted is up",
        "redis/connection.py",
        "        if self._lost.is_set():\n"
        '            raise ConnectionError("the connection broke at once")\n',
        "",
        _tests("redis/test_link", "a_connection_that_breaks_during_its_set_up_is_not_up"),
    ),
    Mutant(
        "who hears of a break may still send",
        "redis/connection.py",
        "        if self.open:\n"
        "            self._become(False, trouble)  # First, so that nobody uses it any more.\n"
        "        self._disconnect(trouble.words)\n",
        "        self._disconnect(trouble.words)\n"
        "        if self.open:\n"
        "            self._become(False, trouble)\n",
        _tests("redis/test_link", "a_command_sent_during_the_break_gets_link_down"),
    ),
    Mutant(
        "the reason of an outage is not told when it was that of the one before",
        "redis/connection.py",
        "            self._told.clear()\n",
        "",
        _tests("redis/test_link", "a_reason_is_logged_once_for_each_outage"),
    ),
    Mutant(
        "reasons are told without a bound",
        "redis/connection.py",
        "trouble not in self._told and len(self._told) < MAX_TOLD",
        "trouble not in self._told",
        _tests("redis/test_link", "changing_error_texts_do_not_fill_the_log"),
    ),
    Mutant(
        "what a server says before it is asked is not looked at",
        "redis/connection.py",
        "        if early:\n            self._reader.feed(early)\n"
        "            raise unasked(self._reader.gets())\n",
        "",
        _tests("redis/test_states", "a_full_server_is_reported_with_its_own_words"),
    ),
    Mutant(
        "a start waits although nobody is there",
        "redis/connection.py",
        "if not self._passes(trouble) or loop.time() >= gives_up_at:",
        "if not self._passes(trouble) and loop.time() >= gives_up_at:",
        _tests("redis/test_link", "a_start_fails_at_once_when_nobody_listens"),
    ),
)

_SUBSCRIPTION: Final = (
    Mutant(
        "a subscription is up with one of its channels",
        "redis/subscription.py",
        "if self._waiting or self._due:",
        "if self._due:",
        _tests("redis/test_link", "a_subscription_is_up_only_when_all_its_channels_are_confirmed"),
    ),
    Mutant(
        "the first renewed subscription is no gap",
        "redis/subscription.py",
        "if self.rounds > 1:",
        "if self.rounds > 2:",
        _tests("redis/test_link", "a_renewed_subscription_is_reported_as_a_gap"),
    ),
    Mutant(
        "who may not unsubscribe waits for an answer that does not come",
        "redis/subscription.py",
        "            self._left()  # Who may not unsubscribe has said goodbye as well as it can.\n",
        "",
        _tests("redis/test_link", "a_gateway_without_the_right_to_unsubscribe_still_stops"),
    ),
    Mutant(
        "the last message before the end is not waited for",
        "redis/subscription.py",
        "        await asyncio.wait([unsubscribed], timeout=self._limits.redis_timeout_s)\n",
        "",
        _tests("redis/test_link", "messages_published_before_unsubscribing_are_received"),
    ),
    Mutant(
        "a subscription asks for the role and swallows the answer",
        "redis/subscription.py",
        "            if trouble is not None:\n                self._refused(trouble)\n",
        "",
        _tests("redis/test_states", "a_subscription_to_a_replica_is_not_up"),
    ),
    Mutant(
        "a renewed subscription is told before its added channels are confirmed",
        "redis/subscription.py",
        "if self._waiting or self._due:",
        "if self._waiting:",
        _tests(
            "redis/test_channels",
            "added_channels_are_heard_again_when_the_connection_is_renewed",
        ),
    ),
    Mutant(
        "the confirmation before a removal is taken for the one after it",
        "redis/subscription.py",
        "if channel in self._more and channel not in self._asked:",
        "if channel in self._more:",
        _tests(
            "redis/test_channels",
            "the_confirmation_before_a_removal_is_not_taken_for_the_one_after_it",
        ),
    ),
    Mutant(
        "a channel counts as heard while there is no connection",
        "redis/subscription.py",
        "        self._more = dict.fromkeys(self._more, False)\n",
        "",
        _tests(
            "redis/test_channels",
            "a_channel_added_while_there_is_no_connection_is_confirmed_by_the_next_one",
        ),
    ),
    Mutant(
        "a refused channel is asked for again and again",
        "redis/subscription.py",
        "            del self._more[channel]\n",
        "",
        _tests("redis/test_channels", "a_refused_channel_fails_and_takes_no_other_with_it"),
    ),
    Mutant(
        "a channel that may not be heard any more is forgotten in silence",
        "redis/subscription.py",
        "            self._refused(trouble_of(problem))\n\n    async def stop",
        "            pass\n\n    async def stop",
        _tests(
            "redis/test_channels",
            "a_subscription_that_may_no_longer_hear_what_it_heard_is_not_up",
        ),
    ),
    Mutant(
        "what was published before the end of listening counts as malformed",
        "router.py",
        "            return  # Without a taker, it was on its way when we ceased to listen.\n",
        "                return\n",
        _tests(
            "test_router",
            "a_listener_gets_what_is_published_on_its_channel_and_nothing_else",
        ),
    ),
)

_OUTCOME: Final = (
    Mutant(
        "a server that loads its data is waited for on the same connection",
        "redis/outcome.py",
        "Outcome.LOADING: Cure.DIAL",
        "Outcome.LOADING: Cure.WAIT",
        _tests("redis/test_manual", "the_manual_has_a_row_with_a_remedy_for_each_outcome"),
    ),
    Mutant(
        "a cause that was not named by whoever raised is not looked at",
        "redis/outcome.py",
        "problem = problem.__cause__ or problem.__context__",
        "problem = problem.__cause__",
        _tests("redis/test_seam", "an_error_of_the_system_is_reported_in_its_short_form"),
    ),
    Mutant(
        "words of a server that are not known are nobody's fault",
        "redis/outcome.py",
        "Trouble(Outcome.UNFIT if outcome is Outcome.OWN else outcome, words)",
        "Trouble(outcome, words)",
        _tests("redis/test_states", "an_unknown_refusal_of_the_trial_is_an_outage"),
    ),
    Mutant(
        "a start waits for a server that does not believe our password",
        "redis/outcome.py",
        "        Outcome.NOAUTH,\n        Outcome.WRONGPASS,\n        Outcome.UNKNOWN_COMMAND,\n"
        "        Outcome.TOO_OLD,\n        Outcome.OTHER_SLOT,\n",
        "        Outcome.NOAUTH,\n        Outcome.UNKNOWN_COMMAND,\n"
        "        Outcome.TOO_OLD,\n        Outcome.OTHER_SLOT,\n",
        _tests(
            "redis/test_states", "a_start_does_not_wait_for_a_mistake_that_a_person_must_correct"
        ),
    ),
    Mutant(
        "the oldest version that is new enough is too old",
        "redis/fitness.py",
        "version[0] < OLDEST_VERSION",
        "version[0] <= OLDEST_VERSION",
        _tests("scenarios/test_faults", "a_redis_that_is_too_old_is_refused_at_the_start"),
    ),
    Mutant(
        "a server that keeps its settings to itself is warned of",
        "redis/fitness.py",
        "        return SAFE_POLICY  # A managed",
        '        return "unknown"  # A managed',
        _tests("scenarios/test_faults", "a_redis_that_forbids_info_and_config_is_accepted"),
    ),
)

_ROUTER: Final = (
    Mutant(
        "an old probe makes a deaf gateway ready",
        "router.py",
        "if n == self._sent and not self._hears:",
        "if not self._hears:",
        _tests("test_router", "a_probe_from_before_the_failure_does_not_make_a_gateway_ready"),
    ),
    Mutant(
        "a gateway leaves its channels without a word",
        "router.py",
        "        if self._subscription.up:\n            await self._subscription.unsubscribe()\n",
        "",
        _tests("test_router", "messages_published_before_unsubscribing_are_received"),
    ),
    Mutant(
        "a probe that nobody counts is no deafness",
        "router.py",
        "self._deaf()  # We listen",
        "pass  # We listen",
        _tests("test_router", "a_probe_with_no_counted_subscriber_fails_at_once"),
    ),
    Mutant(
        "two gateways that start at once share one id",
        "router.py",
        "await self._listeners() <= 1:",
        "await self._listeners() <= 2:",
        _tests("test_router", "of_two_gateways_with_one_id_that_start_together_one_refuses"),
    ),
    Mutant(
        "a deaf gateway stays ready",
        "router.py",
        "        self.probes_lost += 1\n        self._hears = False\n",
        "        self.probes_lost += 1\n",
        _tests("test_router", "a_probe_from_before_the_failure_does_not_make_a_gateway_ready"),
    ),
    Mutant(
        "a deaf gateway does not listen anew",
        "router.py",
        "            self._subscription.reset(DEAF)\n",
        "            pass\n",
        _tests("test_router", "a_probe_from_before_the_failure_does_not_make_a_gateway_ready"),
    ),
    Mutant(
        "a takeover stops the gateway that has asked for it",
        "router.py",
        "if boot != self._boot_id:\n                    self._on_replaced()",
        "if boot == self._boot_id:\n                    self._on_replaced()",
        _tests("scenarios/test_cluster", "a_takeover_stops_the_gateway_that_it_replaces"),
    ),
    Mutant(
        "a notice goes to whatever stands in an entry",
        "router.py",
        "        if not GATEWAY_ID.fullmatch(gateway_id):\n            return\n        publish",
        "        publish",
        _tests("test_router", "a_notice_is_published_only_to_valid_gateway_ids"),
    ),
    Mutant(
        "a renewed subscription is not counted as a gap",
        "router.py",
        "        self.gaps += 1\n",
        "",
        _tests("test_router", "a_probe_from_before_the_failure_does_not_make_a_gateway_ready"),
    ),
)

_STORE: Final = (
    Mutant(
        "each refresh renews for the whole life, however old its evidence is",
        "presence/store.py",
        "*self._write(claim, ttl_ms))\n\n    async def release",
        "*self._write(claim, self._ttl_ms))\n\n    async def release",
        _tests("presence/test_claims", "a_refresh_sets_the_given_lease"),
    ),
    Mutant(
        "a released fence lives no longer than a lease",
        "presence/store.py",
        "claim.conn_id, claim.token, self._fence_ttl_ms,",
        "claim.conn_id, claim.token, self._ttl_ms,",
        _tests("presence/test_claims", "every_command_renews_the_ttl_of_the_fence"),
    ),
    Mutant(
        "a minted token is forgotten with the lease",
        "presence/store.py",
        "[self._keyspace.fence(user)], self._fence_ttl_ms)",
        "[self._keyspace.fence(user)], self._ttl_ms)",
        _tests("presence/test_claims", "every_command_renews_the_ttl_of_the_fence"),
    ),
    Mutant(
        "the number of an attempt is not written",
        "presence/store.py",
        "            claim.att,\n",
        "            0,\n",
        _tests("presence/test_claims", "an_earlier_attempt_of_one_client_loses_to_its_later_one"),
    ),
    Mutant(
        "a page of SCAN without keys is taken for its end",
        "presence/store.py",
        'if cursor == "0":',
        "if not users:",
        _tests("presence/test_claims", "scan_lists_every_online_user_once"),
    ),
    Mutant(
        "SCAN takes a prefix for a pattern",
        "presence/store.py",
        'pattern = f"{_escape(self._keyspace.presences)}*"',
        'pattern = f"{self._keyspace.presences}*"',
        _tests("presence/test_claims", "glob_characters_in_a_prefix_are_matched_literally"),
    ),
    Mutant(
        "one refresh that fails fails all of its batch",
        "presence/store.py",
        "asyncio.gather(*futures, return_exceptions=True)",
        "asyncio.gather(*futures)",
        _tests("presence/test_claims", "a_failed_renewal_does_not_stop_the_other_renewals"),
    ),
    Mutant(
        "half an entry names somebody",
        "presence/store.py",
        "if not gateway_id or not conn_id:",
        "if not gateway_id and not conn_id:",
        _tests("presence/test_claims", "an_incomplete_entry_means_offline"),
    ),
)

_CLIENT: Final = (
    Mutant(
        "a heartbeat is waited for until the next one",
        "client/connection.py",
        "now >= self._asked_at + patience_s:",
        "now >= self._asked_at + heartbeat_s:",
        _tests(
            "client/test_client", "an_unanswered_heartbeat_does_not_count_on_the_next_connection"
        ),
    ),
    Mutant(
        "each heartbeat forgets that the one before has no answer",
        "client/connection.py",
        "        if self._asked_at is None:\n            self._asked_at = now\n        self._ob",
        "        self._asked_at = now\n        self._ob",
        _tests("client/test_client", "a_pong_timeout_longer_than_the_interval_still_expires"),
    ),
    Mutant(
        "an answer does not end the wait for one",
        "client/connection.py",
        "                self._asked_at = None\n                self._observe(Kind.PONG)",
        "                self._observe(Kind.PONG)",
        _tests("client/test_client", "a_pong_resets_the_pong_timeout"),
    ),
    Mutant(
        "a heartbeat of the last connection is waited for on the next one",
        "client/connection.py",
        "        self._asked_at = None\n        self._observe(Kind.REGISTERED)",
        "        self._observe(Kind.REGISTERED)",
        _tests(
            "client/test_client", "an_unanswered_heartbeat_does_not_count_on_the_next_connection"
        ),
    ),
    Mutant(
        "pauses stay long after a success",
        "client/connection.py",
        "failures = 0 if ended.registered else failures + 1",
        "failures += 1",
        _tests("client/test_client", "only_registered_resets_the_reconnect_pause"),
    ),
    Mutant(
        "the gateway's advice when to come back is ignored",
        "client/connection.py",
        "return (advice_s or 0.0) + self._rng.uniform(0, ceiling_s)",
        "return self._rng.uniform(0, ceiling_s)",
        _tests("client/test_client", "the_reconnect_pause_is_at_least_the_gateways_advice"),
    ),
    Mutant(
        "the pauses of a client have no cap",
        "client/connection.py",
        "min(settings.backoff_cap_s, settings.backoff_base_s * 2 ** min(failures, 64))",
        "settings.backoff_base_s * 2 ** min(failures, 64)",
        _tests("client/test_client", "only_registered_resets_the_reconnect_pause"),
    ),
    Mutant(
        "a client that has failed for long gives up",
        "client/connection.py",
        "2 ** min(failures, 64)",
        "2.0**failures",
        _tests(
            "client/test_client", "the_reconnect_pause_has_a_bound_after_any_number_of_failures"
        ),
    ),
    Mutant(
        "the same gateway is dialled again and again",
        "client/connection.py",
        "            if ended.url:\n                self._turn += 1\n",
        "",
        _tests("client/test_client", "a_start_skips_unreachable_gateways"),
    ),
    Mutant(
        "the gateway behind one that is left out loses its turn",
        "client/connection.py",
        "        self._turn = self._turn % len(self._gateways) - 1\n",
        "",
        _tests(
            "client/test_client",
            "a_gateway_that_refuses_for_good_is_skipped",
        ),
    ),
    Mutant(
        "a message is without an answer for ever when its connection breaks",
        "client/connection.py",
        '        self._let_go("the connection broke")\n',
        "",
        _tests(
            "client/test_client",
            "a_message_whose_connection_breaks_is_unknown_and_not_sent_again",
        ),
    ),
    Mutant(
        "who takes a message tells nobody that there is room",
        "client/items.py",
        "        self._has_room.set()\n        return",
        "        return",
        _tests("client/test_client", "a_full_inbox_holds_the_gateway_back_and_loses_nothing"),
    ),
    Mutant(
        "an inbox takes one message more than it has room for",
        "client/items.py",
        "return len(self._items) >= self._most",
        "return len(self._items) > self._most",
        _tests("client/test_client", "a_full_inbox_holds_the_gateway_back_and_loses_nothing"),
    ),
    Mutant(
        "a first token that is refused is asked for again",
        "client/connection.py",
        "(settings.token_patience_s if self._known else 0.0)",
        "settings.token_patience_s",
        _tests("client/test_tokens", "a_refused_token_is_final_when_there_is_no_other"),
    ),
    Mutant(
        "a bye of the last connection ends the next one",
        "client/connection.py",
        "        self._bye = None\n        self._shown = token\n        try:\n            try:",
        "        self._shown = token\n        try:\n            try:",
        _tests("client/test_bye", "the_last_bye_counts_and_only_for_its_own_connection"),
    ),
    Mutant(
        "a bye counts more than the code that came",
        "client/connection.py",
        "if bye is not None and code in UNCLEAR:",
        "if bye is not None:",
        _tests("client/test_bye", "a_received_close_code_overrides_the_bye"),
    ),
    Mutant(
        "a bye before registered is not heard",
        "client/connection.py",
        "                    self._take_bye(answer)\n",
        "                    pass\n",
        _tests("client/test_bye", "a_bye_before_registered_is_accepted"),
    ),
    Mutant(
        "a client remembers all that it ever sent",
        "client/receipts.py",
        "        if len(self.recent) > RECENT:\n            self.recent.popitem(last=False)\n",
        "",
        _tests("client/test_strangers", "the_memory_of_sent_messages_is_bounded"),
    ),
    Mutant(
        "the newest receipt is forgotten instead of the oldest",
        "client/receipts.py",
        "self.recent.popitem(last=False)",
        "self.recent.popitem()",
        _tests("client/test_strangers", "the_memory_of_sent_messages_is_bounded"),
    ),
    Mutant(
        "a source of tokens is asked without a pause at the end",
        "client/connection.py",
        "return max(TOKEN_PACE_S, 0.75 * left_s * spread)",
        "return 0.75 * left_s * spread",
        _tests(
            "client/test_tokens", "the_renewal_delay_follows_the_remaining_lifetime_and_is_bounded"
        ),
    ),
    Mutant(
        "refused tokens are counted over the whole life of a client",
        "client/connection.py",
        "        self._refusals = 0\n        self._asked_at",
        "        self._asked_at",
        _tests("client/test_tokens", "a_client_whose_new_tokens_are_refused_backs_off"),
    ),
    Mutant(
        "a process that stood still takes its own sleep for silence",
        "client/connection.py",
        "                self._asked_at, beat_at = None, now\n",
        "                beat_at = now\n",
        _tests(
            "client/test_strangers",
            "after_a_stall_the_client_pings_again_before_it_gives_up",
        ),
    ),
    Mutant(
        "all attempts of a client have one number",
        "client/connection.py",
        "        self.attempts += 1\n",
        "        self.attempts = 1\n",
        _tests("client/test_client", "each_register_carries_the_number_of_its_attempt"),
    ),
    Mutant(
        "a token that ends at the same time is shown as a fresh one",
        "client/tokens.py",
        "fresh_end > old_end",
        "fresh_end >= old_end",
        _tests("client/test_tokens", "only_a_token_that_expires_later_is_sent"),
    ),
    Mutant(
        "a file with a token is read once",
        "client/tokens.py",
        "        if not again:\n",
        "        if again:\n",
        _tests("client/test_tokens", "a_token_file_is_read_again_each_time"),
    ),
    Mutant(
        "a token goes wherever a redirect leads",
        "client/dial.py",
        "        return exc\n",
        "        return super().process_redirect(exc)\n",
        _tests("client/test_strangers", "a_redirect_is_not_followed_and_gets_no_token"),
    ),
    Mutant(
        "a busy gateway is left out for ever",
        "client/dial.py",
        "frozenset({408, 425, 429, *range(500, 600)})",
        "frozenset({408, 425, *range(501, 600)})",
        _tests("client/test_strangers", "a_server_error_is_tried_again"),
    ),
)

_VOCABULARY: Final = (
    Mutant(
        "a slow consumer does not come back",
        "protocol.py",
        'ClosePolicy("slow consumer", True)',
        'ClosePolicy("slow consumer", False)',
        _tests("test_protocol", "every_close_code_says_whether_to_come_back"),
    ),
    Mutant(
        "the last of the codes that forbid a reconnect invites one",
        "protocol.py",
        "return not 4500 <= (code or 0) <= 4999",
        "return not 4500 <= (code or 0) < 4999",
        _tests("test_protocol", "every_close_code_says_whether_to_come_back"),
    ),
    Mutant(
        "the advice in a close frame is in seconds",
        "protocol.py",
        "return int(number) / 1000",
        "return int(number) * 1.0",
        _tests("test_protocol", "the_retry_advice_fits_into_a_close_frame_and_can_be_read_again"),
    ),
    Mutant(
        "the length of a content is counted in characters",
        "protocol.py",
        "if len(content.encode()) > max_content_bytes:",
        "if len(content) > max_content_bytes:",
        _tests("test_protocol", "the_bound_of_a_content_is_in_bytes"),
    ),
    Mutant(
        "the short way knows no bound of a content",
        "protocol.py",
        "    if len(content) > max_content_bytes:\n        return NOT_PLAIN\n",
        "",
        _tests("test_protocol", "the_bound_of_a_content_is_in_bytes"),
    ),
    Mutant(
        "the short way counts colons of escapes as if they were written",
        "protocol.py",
        'if ":" in message.to and data.count(b"\\\\") != content.count(b"\\\\"):',
        'if False and data.count(b"\\\\") != content.count(b"\\\\"):',
        _tests("test_user_ids", "both_parsers_agree_on_recipients_with_colons"),
    ),
    Mutant(
        "an empty id is one",
        "protocol.py",
        "return isinstance(msg_id, str) and 0 < len(msg_id) <= MAX_ID_CHARS",
        "return isinstance(msg_id, str) and len(msg_id) <= MAX_ID_CHARS",
        _tests("test_protocol", "the_id_of_a_message_has_1_to_64_characters"),
    ),
    Mutant(
        "an object may have one key too many",
        "protocol.py",
        "len(keys) > MAX_KEYS",
        "len(keys) > MAX_KEYS + 1",
        _tests("bad_input/test_json", "too_many_keys_are_answered_with_invalid"),
    ),
)

_SETTINGS: Final = (
    Mutant(
        "one lost heartbeat may take a live user offline",
        "settings.py",
        "2 * self.heartbeat_s < self.presence_ttl_s,",
        "self.heartbeat_s < self.presence_ttl_s,",
        _tests(
            "test_settings", "timings_that_contradict_each_other_are_refused_with_their_numbers"
        ),
    ),
    Mutant(
        "a fence may end before the lease that it guards",
        "settings.py",
        "self.fence_ttl_s >= 2 * self.presence_ttl_s,",
        "2 * self.fence_ttl_s >= self.presence_ttl_s,",
        _tests(
            "test_settings", "timings_that_contradict_each_other_are_refused_with_their_numbers"
        ),
    ),
    Mutant(
        "the life of the fence is scaled as well",
        "settings.py",
        'kept = {"scale", "fence_ttl_s"}',
        'kept = {"scale"}',
        _tests("test_settings", "scaled_timings_keep_their_relations_and_the_ttl_of_the_fence"),
    ),
    Mutant(
        "the life of a lease is told to Redis in seconds",
        "settings.py",
        "round(self.presence_ttl_s * 1000)",
        "round(self.presence_ttl_s)",
        _tests("test_settings", "ttls_for_redis_are_in_milliseconds"),
    ),
    Mutant(
        "all databases share the broadcast",
        "settings.py",
        'return f"{self.channel_prefix}gateway:broadcast"',
        'return f"{self.prefix}gateway:broadcast"',
        _tests(
            "test_settings",
            "channels_of_two_databases_are_never_equal",
        ),
    ),
    Mutant(
        "a client that asks slowly waits less than a machine needs",
        "settings.py",
        "return max(self.pong_within_heartbeats * heartbeat_s, self.pong_within_at_least_s)",
        "return min(self.pong_within_heartbeats * heartbeat_s, self.pong_within_at_least_s)",
        _tests("client/test_client", "answered_heartbeats_keep_a_connection"),
    ),
    Mutant(
        "a notice of no length is refused",
        "ranges.py",
        "(item.name in or_zero and value == 0):",
        "(item.name in or_zero and value < 0):",
        _tests("test_settings", "the_notice_may_be_0_but_no_other_drain_time"),
    ),
    Mutant(
        "port 65536 is one of Redis'",
        "addresses.py",
        "not 1 <= int(port) <= 65535",
        "not 1 <= int(port) <= 65536",
        _tests("test_settings", "an_invalid_address_is_refused"),
    ),
    Mutant(
        "a secret option is shown when it is well written",
        "addresses.py",
        "if option is None or option.secret or not option.fits",
        "if option is None or not option.fits",
        _tests("test_secrets", "a_redacted_address_still_names_host_port_and_path"),
    ),
    Mutant(
        "options without effect reach the library",
        "addresses.py",
        "if item[0] not in unused)",
        "if item[0])",
        _tests("test_addresses", "options_without_effect_do_not_reach_the_library"),
    ),
    Mutant(
        "a sentinel gets the password of the server",
        "addresses.py",
        """password=options.get("sentinel_password", ""),""",
        "password=self.password,",
        _tests("test_addresses", "an_address_with_several_hosts_keeps_all_parts"),
    ),
    Mutant(
        "an option of another form is ignored",
        "addresses.py",
        "    if wanted is not form:\n",
        "    if False:\n",
        _tests("test_addresses", "an_option_of_another_form_is_refused"),
    ),
    Mutant(
        "a host may be named twice",
        "addresses.py",
        "        if endpoint in found:\n",
        "        if False:\n",
        _tests("test_addresses", "an_impossible_address_is_refused"),
    ),
    Mutant(
        "an option may be given twice",
        "addresses.py",
        "        if name in found:\n"
        """            raise SettingsError(f"Redis address has the option {name!r} twice")\n""",
        "",
        _tests("test_addresses"),
    ),
    Mutant(
        "a pattern may let in a name with a brace",
        "user_ids.py",
        "return len(user) <= max_chars and _is_fit(user) and matches(user) is not None",
        "return len(user) <= max_chars and matches(user) is not None",
        _tests("test_user_ids", "no_pattern_allows_characters_that_break_a_key_or_a_line"),
    ),
    Mutant(
        "a user may be called like a gateway",
        "user_ids.py",
        "return bool(self.possible(user)) and RESERVED_USER_ID.fullmatch(user) is None",
        "return bool(self.possible(user))",
        _tests("test_settings", "names_that_are_not_allowed"),
    ),
    Mutant(
        "a name of the usual pattern may be one character too long",
        "user_ids.py",
        "{{1,{max_chars}}}",
        "{{1,{max_chars + 1}}}",
        _tests("test_settings", "names_that_are_not_allowed"),
    ),
)

_TERMINAL: Final = (
    Mutant(
        "lines that found no room are not told",
        "streams.py",
        "        self._untold += lost\n",
        "",
        _tests("test_streams", "a_pipe_with_a_new_reader_gets_the_number_of_missing_lines"),
    ),
    Mutant(
        "a line of several parts counts as one that is missing",
        "streams.py",
        'lines = line.count("\\n") + 1',
        "lines = 1",
        _tests("test_streams"),
    ),
    Mutant(
        "after a gap no line is added quickly again",
        "streams.py",
        "            gap, self._gap = self._gap, 0\n            self._limit = self._bound // 2\n",
        "            gap, self._gap = self._gap, 0\n",
        _tests("test_streams", "after_a_gap_a_line_needs_no_lock_again"),
    ),
    Mutant(
        "a line is continued by the next one after a failure",
        "streams.py",
        """            head = b"\\n" + head\n""",
        "            pass\n",
        _tests("test_streams", "an_incomplete_line_is_not_continued_by_the_next_one"),
    ),
    Mutant(
        "each line that comes after a pause wakes the thread",
        "streams.py",
        "            if not is_busy:\n                self._sleep()\n",
        "            self._sleep()\n",
        _tests("test_streams", "while_lines_keep_coming_none_has_to_wake_the_thread"),
    ),
    Mutant(
        "the thread falls asleep without another look",
        "streams.py",
        "        self._asleep = True\n        if not self._has_work and not self._closing:\n"
        "            self._bell.wait()\n",
        "        self._asleep = True\n        self._bell.wait()\n",
        _tests("test_streams", "a_line_queued_while_the_thread_goes_to_sleep_is_written"),
    ),
    Mutant(
        "DEL reaches the terminal",
        "terminal.py",
        "((0x00, 0x1F), (0x7F, 0x9F))",
        "((0x00, 0x1F), (0x80, 0x9F))",
        _tests("test_terminal", "characters_that_control_a_terminal_are_escaped"),
    ),
    Mutant(
        "half of a pair stays in typed text",
        "terminal.py",
        'return _SURROGATES.sub("\\ufffd", text)',
        "return text",
        _tests("test_terminal", "invalid_bytes_become_replacement_characters"),
    ),
    Mutant(
        "a mistake repeats the password that was typed",
        "command_line.py",
        "        return redacted(value)\n    if len",
        "        return value\n    if len",
        _tests("test_secrets", "no_error_of_the_command_line_repeats_an_address"),
    ),
    Mutant(
        "zero is a positive number",
        "command_line.py",
        "if not 1 <= number <= 10**9:",
        "if not 0 <= number <= 10**9:",
        _tests("test_command_line", "a_mistake_is_one_line_that_names_it"),
    ),
)

IN_OTHERS: Final[tuple[Mutant, ...]] = (
    *_LINK,
    *_CONNECTION,
    *_SUBSCRIPTION,
    *_OUTCOME,
    *_ROUTER,
    *_STORE,
    *_CLIENT,
    *_VOCABULARY,
    *_SETTINGS,
    *_TERMINAL,
)
EQUIVALENT_IN_OTHERS: Final[tuple[Equivalent, ...]] = (
    Equivalent(
        Mutant(
            "it is written although the transport has enough",
            "redis/link.py",
            "if self._out and not self._write_paused and self._transport",
            "if self._out and self._transport",
            _tests("redis/test_link"),
        ),
        "The same bytes wait in the transport in place of our own list, and leave in the same "
        "order; the number of commands that wait bounds both, and a break empties both.",
    ),
)
