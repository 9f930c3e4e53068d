"""Mistakes in buckets, ears and the router of a cluster, and the tests that have to notice them."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

_EARS = "redis/cluster_ears.py"
_STEP = "tests/redis/test_cluster_ears_step.py"
_HEARS = "tests/redis/test_cluster_ears.py"
_LIVES = "tests/redis/test_cluster_simulated.py"
_FAULTS = "tests/scenarios/test_redis_cluster.py"
_STARTS = "tests/scenarios/test_cluster_starts.py"
_NAMES = "tests/test_buckets.py"


def _at(file: str, name: str) -> tuple[str, ...]:
    return (f"{file}::test_{name}",)


IN_CLUSTER: Final[tuple[Mutant, ...]] = (
    Mutant(
        "a channel is joined at the new server before it is left at the old one",
        _EARS,
        "            elif channel not in at.leaving:\n                at.leave(channel)\n",
        "            elif channel not in at.leaving:\n"
        "                joins.setdefault(owner, []).append(channel)\n",
        _at(_STEP, "a_channel_is_left_at_the_old_server_before_it_is_joined_at_the_new_one"),
    ),
    Mutant(
        "a second goodbye removes the new subscription",
        _EARS,
        "            if self._at.get(channel) is ear:\n",
        "            if channel in self._at:\n",
        _at(_STEP, "a_second_goodbye_of_the_old_server_changes_nothing"),
    ),
    Mutant(
        "a server that has sent a channel away is asked for it at once",
        _EARS,
        "        elif owner and not (sent_away_by == owner and now - when < LEAVE_S):\n",
        "        elif owner:\n",
        _at(_STEP, "who_has_sent_a_channel_away_is_asked_for_the_map_and_not_for_the_channel"),
    ),
    Mutant(
        "a frozen server that has lost its slots is never hung up on",
        _EARS,
        "                silent.add(at)  # It may",
        "                pass  # It may",
        _at(_STEP, "a_server_that_has_lost_the_slot_and_is_silent_is_hung_up_on"),
    ),
    Mutant(
        "a server that is slow is hung up on, although it has its slots",
        _EARS,
        "            if going.address != owner and now - going.progress > LEAVE_S:\n",
        "            if now - going.progress > LEAVE_S:\n",
        _at(_STEP, "a_server_that_is_silent_and_has_the_slot_is_not_hung_up_on"),
    ),
    Mutant(
        "a server that became a replica before it was asked for a channel is believed",
        _EARS,
        "            if trouble is not None:\n                self.reset(trouble)\n        elif",
        "            if False:\n                pass\n        elif",
        _at(_LIVES, "a_server_that_becomes_a_replica_while_it_is_asked_is_left_at_once"),
    ),
    Mutant(
        "broadcasts are lost with the ear that heard them",
        _EARS,
        "        if self._classic_at is ear:\n            self._classic_at = None\n",
        "",
        _at(_HEARS, "broadcasts_move_to_another_ear_when_theirs_is_lost"),
    ),
    Mutant(
        "a channel that was added is forgotten with its connection",
        _EARS,
        "                    self._unsettled.add(channel)\n",
        "                    if channel in self._own: self._unsettled.add(channel)\n",
        _at(_HEARS, "channels_come_and_go"),
    ),
    Mutant(
        "a gap is counted when a channel is heard for the first time",
        _EARS,
        "        if channel in self._seen:\n",
        "        if True:\n",
        _at(_HEARS, "a_killed_primary_costs_one_gap_for_each_of_its_buckets"),
    ),
    Mutant(
        "what a server has only passed on is heard as well",
        "redis/origin.py",
        "    return data[ORIGIN_BYTES:] if is_from_here else None\n",
        "    return data[ORIGIN_BYTES:]\n",
        _at(_LIVES, "whatever_happens_what_is_told_is_heard_once_and_in_order"),
    ),
    Mutant(
        "the next process of a server publishes with the origin of the one before it",
        "redis/node_link.py",
        "        self._origin = bulk(origin_of(reply))\n",
        "        if self._origin == bulk(ANYWHERE): self._origin = bulk(origin_of(reply))\n",
        _at(_LIVES, "whatever_happens_what_is_told_is_heard_once_and_in_order"),
    ),
    Mutant(
        "a command that is sent again keeps the origin of the server that has refused it",
        "redis/node_link.py",
        "ADDED_BYTES: Final = len(NO_DEADLINE) + ARGUMENT_BYTES",
        "ADDED_BYTES: Final = len(NO_DEADLINE)",
        _at(_LIVES, "slots_that_move_at_once_cost_no_message"),
    ),
    Mutant(
        "one deaf shard makes a gateway unready",
        _EARS,
        "2 * len(self.deaf) < len(self._own)",
        "not self.deaf",
        _at(_FAULTS, "one_dead_shard_is_listed_and_leaves_the_gateway_ready"),
    ),
    Mutant(
        "kicks go by the first bucket",
        "router.py",
        "return keyspace.publish, keyspace.gateway_channel(gateway_id, keyspace.bucket(user))",
        "return keyspace.publish, f'{keyspace.gateway_channel(gateway_id, 0)}?'",
        _at(_FAULTS, "a_newer_session_on_another_gateway_ends_the_older_one"),
    ),
    Mutant(
        "the number of buckets is not agreed on",
        "redis/cluster_fitness.py",
        " - {keyspace.buckets}):",
        " & set()):",
        _at(_STARTS, "another_number_of_buckets_is_refused"),
    ),
    Mutant(
        "the number of buckets is written down once",
        "redis/cluster_fitness.py",
        "COPIES: Final = 16",
        "COPIES: Final = 1",
        _at(
            _STARTS,
            "another_number_of_buckets_is_refused_whichever_shard_is_away_or_came_back_empty",
        ),
    ),
    Mutant(
        "a server that is away stops a gateway from starting",
        "redis/cluster_link.py",
        "if len(problems) == len(replies) or",
        "if problems or",
        _at(_STARTS, "it_starts_while_one_of_three_shards_is_away"),
    ),
    Mutant(
        "the last gateway says how many buckets there are",
        "redis/cluster_fitness.py",
        "'HSETNX'",
        "'HSET'",
        _at(_STARTS, "another_number_of_buckets_is_refused"),
    ),
    Mutant(
        "the time of another server is asked",
        "redis/cluster_link.py",
        "        self.submit_at(slot_of(key), callback, _pack(args))\n\n    def submit_script(",
        "        self.submit(callback, *args)\n\n    def submit_script(",
        _at(_STARTS, "durable_messages_rooms_and_watching_work_on_a_cluster"),
    ),
    Mutant(
        "a script publishes to any slot of its server",
        "redis/scripts.py",
        'text if text.startswith("#!") else script.in_cluster + text',
        "text",
        _at(_NAMES, "in_a_cluster_every_script_publishes_on_sharded_channels"),
    ),
    Mutant(
        "a full server does not route in a cluster",
        "router.py",
        'ROUTE = Script.read("wsdemo", "route", in_cluster=WHEN_FULL, in_time=True)',
        'ROUTE = Script.read("wsdemo", "route", in_time=True)',
        _at(_NAMES, "a_full_server_routes_in_a_cluster_too"),
    ),
    Mutant(
        "tags are bare numbers",
        "buckets.py",
        'tag = f"{bucket}.{number}"\n        if _slot(tag) * buckets // SLOTS == bucket:',
        'tag = f"{bucket}"\n        if True:',
        _at(_NAMES, "the_tags_are_those_that_running_clusters_have"),
    ),
    Mutant(
        "a prefix may say which server has the keys",
        "settings.py",
        'if self.buckets and "{" in self.prefix:',
        "if False:",
        _at(_NAMES, "a_prefix_with_a_brace_is_refused_in_a_cluster"),
    ),
)
