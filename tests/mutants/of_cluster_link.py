"""Mistakes in the link to a cluster: slots, lanes, and the links to its servers."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

FAKE: Final = "tests/redis/test_cluster_link.py::test_"
EVERYTHING: Final = f"{FAKE}whatever_happens_each_command_is_executed_once_in_order_or_fails"
MOVES: Final = f"{FAKE}a_slot_that_moves_in_the_middle_of_a_pipeline_keeps_its_order"


def _slots(claim: str) -> tuple[str, ...]:
    return (f"tests/redis/test_slots.py::test_{claim}",)


IN_CLUSTER_LINK: Final[tuple[Mutant, ...]] = (
    # --- the map -----------------------------------------------------------------------------
    Mutant(
        "an older claim replaces a newer one",
        "redis/slots.py",
        "        if claim.epoch < self._epochs[slot]:\n            return False\n",
        "",
        (
            *_slots("an_older_claim_does_not_replace_a_newer_one"),
            "tests/redis/test_cluster_simulated.py::test_a_server_with_an_old_map_moves_nobody",
        ),
    ),
    Mutant(
        "a claim of the same epoch does not count",
        "redis/slots.py",
        "if claim.epoch < self._epochs[slot]:",
        "if claim.epoch <= self._epochs[slot]:",
        _slots("the_newest_claim_of_each_slot_counts_in_whatever_order_they_come"),
    ),
    Mutant(
        "a replica's line is a claim",
        "redis/slots.py",
        "if member.is_primary and member.ranges",
        "if True",
        _slots("claims_are_those_of_primaries_that_have_slots"),
    ),
    Mutant(
        "a redirection without a host leads to nowhere",
        "redis/slots.py",
        'if host in {"", "?"}:',
        "if False:",
        _slots("a_redirection_names_an_address"),
    ),
    # --- lanes -------------------------------------------------------------------------------
    Mutant(
        "a refused command is sent again before the others are answered",
        "redis/lanes.py",
        "if lane.unanswered > 0 or lane.pauses",
        "if lane.pauses",
        (EVERYTHING,),
    ),
    Mutant(
        "a lane forgets the order in which commands were sent",
        "redis/lanes.py",
        "insort(lane.parcels, parcel, key=_number)",
        "lane.parcels.insert(0, parcel)",
        (MOVES,),
    ),
    Mutant(
        "what was moved is sent again at once, when nobody is subscribed yet",
        "redis/lanes.py",
        "return SETTLE_S if refusal.code == ELSEWHERE else PAUSE_S",
        "return 0.0 if refusal.code == ELSEWHERE else PAUSE_S",
        (f"{FAKE}what_was_moved_is_sent_again_after_the_subscribers_have_moved_too",),
    ),
    Mutant(
        "a command that was overtaken is sent again",
        "redis/lanes.py",
        "late = parcel.number < number and _of_whole_slot(parcel.refusal)",
        "late = False",
        (f"{FAKE}a_refused_command_that_was_overtaken_fails",),
    ),
    Mutant(
        "a refusal of one key fails when another key's command is executed",
        "redis/lanes.py",
        "return refusal is not None and refusal.code not in OF_ONE_KEY",
        "return refusal is not None",
        (f"{FAKE}a_key_that_has_moved_ahead_of_its_slot_is_asked_for_where_it_is",),
    ),
    Mutant(
        "a new owner gets commands before the old one has answered",
        "redis/lanes.py",
        "if slot not in self.open and self._unanswered(slot):",
        "if False:",
        (
            f"{FAKE}a_new_map_lets_no_command_overtake_what_the_old_owner_has_still_to_answer",
            EVERYTHING,
        ),
    ),
    Mutant(
        "a command in a lane has no deadline",
        "redis/lanes.py",
        "late = [parcel for parcel in lane.parcels if parcel.deadline <= now]",
        "late: list[Parcel] = []",
        (f"{FAKE}what_no_server_takes_before_its_deadline_fails_as_not_sent",),
    ),
    Mutant(
        "a cluster that is down is told as a refusal of the command",
        "redis/lanes.py",
        "settle(parcel.callback, LinkDown(reason))",
        "settle(parcel.callback, parcel.refusal or LinkDown(reason))",
        (f"{FAKE}what_no_server_takes_before_its_deadline_fails_as_not_sent",),
    ),
    Mutant(
        "lanes have no bound",
        "redis/lanes.py",
        "if self.waiting >= self._most:",
        "if False:",
        (f"{FAKE}the_commands_that_wait_in_lanes_are_bounded",),
    ),
    Mutant(
        "ASK is obeyed without ASKING",
        "redis/lanes.py",
        "asking=bool(parcel.target)",
        "asking=False",
        (f"{FAKE}a_key_that_has_moved_ahead_of_its_slot_is_asked_for_where_it_is",),
    ),
    # --- the servers -------------------------------------------------------------------------
    Mutant(
        "a lane is not told that a connection was lost",
        "redis/node_link.py",
        "        super()._broken(why)\n        self._host.lanes.recount()\n",
        "        super()._broken(why)\n",
        (f"{FAKE}a_server_that_is_lost_while_a_lane_waits_for_it_lets_the_lane_go_on",),
    ),
    Mutant(
        "what got no answer is sent again",
        "redis/node_link.py",
        "        super()._broken(why)\n",
        "        from wsdemo.redis.outcome import CommandError as Lost\n"
        "        waiting, _ = list(self._pending), self._pending.clear()\n"
        "        for entry in waiting:\n"
        "            if entry[4] >= 0:\n"
        '                self._refused(entry, Lost("CLUSTERDOWN lost"))\n'
        "        super()._broken(why)\n",
        (f"{FAKE}what_got_no_answer_is_never_sent_again", EVERYTHING),
    ),
    Mutant(
        "a deadline on the clock of one server goes to another one",
        "redis/node_link.py",
        "        in_time = bool(note & IN_TIME)\n",
        "        in_time = False\n",
        (f"{FAKE}each_server_gets_a_deadline_on_its_own_clock",),
    ),
    Mutant(
        "commands wait in full for a server that has lost its slots",
        "redis/cluster_link.py",
        "                node.reset()\n",
        "                pass\n",
        (f"{FAKE}a_frozen_server_is_left_as_soon_as_another_has_its_slots",),
    ),
    Mutant(
        "without any server, none is tried again",
        "redis/cluster_link.py",
        "        if not nodes:\n",
        "        if False:\n",
        (f"{FAKE}when_all_known_servers_are_gone_those_of_the_address_are_asked_again",),
    ),
    Mutant(
        "the key of a script is taken for its name",
        "redis/cluster_link.py",
        'if words[0] in (b"EVAL", b"EVALSHA"):',
        "if False:",
        (
            f"{FAKE}the_key_of_a_command_is_found_in_its_words_and_in_its_bytes",
            f"{FAKE}the_key_of_a_packed_script_is_found",
        ),
    ),
)
