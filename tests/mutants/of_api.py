"""Mistakes in wsdemo/gateway/api, and in what it needs of the rest."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant


def _in(file: str, *claims: str) -> tuple[str, ...]:
    """Return tests of one file as arguments of pytest."""
    return tuple(f"tests/{file}.py::test_{claim}" for claim in claims)


_API: Final = "gateway/test_api"
_BAD: Final = "bad_input/test_server_api"
_HTTP: Final = "gateway/api/http.py"
_ACTIONS: Final = "gateway/api/actions.py"
_LISTENER: Final = "gateway/api/listener.py"

IN_API: Final = (
    Mutant(
        "a stranger is answered at once",
        _HTTP,
        "self._arm(self._services.delay_s, self._say_no)",
        "self._arm(0.0, self._say_no)",
        _in(_API, "every_stranger_waits_as_long"),
    ),
    Mutant(
        "of two keys, one may be wrong",
        _HTTP,
        "if len(shown) == 1 and",
        "if shown and",
        _in(_API, "a_stranger_learns_nothing"),
    ),
    Mutant(
        "a part of the key is enough",
        _HTTP,
        "hmac.compare_digest(offered[len(BEARER) :], self.key)",
        "self.key.startswith(offered[len(BEARER) :])",
        _in(_API, "a_stranger_learns_nothing"),
    ),
    Mutant(
        "who sends a head that cannot be read is told so",
        _HTTP,
        "            if self._request is None:\n",
        "            if self._is_over:\n",
        _in(_BAD, "a_head_that_cannot_be_read_has_shown_no_key"),
    ),
    Mutant(
        "a body in chunks is read",
        _HTTP,
        'if b"transfer-encoding" in headers:',
        'if b"no-such-header" in headers:',
        _in(_BAD, "a_body_in_chunks_is_not_read"),
    ),
    Mutant(
        "a body may have any length",
        _HTTP,
        "> MAX_BODY_BYTES:",
        "> 2**60:",
        _in(_BAD, "a_large_body_is_refused_by_its_length"),
    ),
    Mutant(
        "the head of a second request has no deadline",
        _HTTP,
        "        if self._is_idle and data:\n",
        "        if self._is_over:\n",
        _in(_API, "a_second_head_that_does_not_come_is_not_waited_for"),
    ),
    Mutant(
        "any number of connections may be open",
        _HTTP,
        "if len(services.connections) >= MAX_CONNECTIONS or services.closing:",
        "if services.closing:",
        _in(_API, "connections_have_a_limit"),
    ),
    Mutant(
        "a stranger that has sent its last byte gets no answer",
        _HTTP,
        "        return True  # What is under way is answered first.\n",
        "        return False\n",
        _in(_API, "a_stranger_that_sends_no_more_gets_the_usual_answer"),
    ),
    Mutant(
        "requests cost nothing",
        _LISTENER,
        "        self._paid_until = paid_until\n",
        "",
        _in(_API, "too_many_requests_are_refused_for_a_while"),
    ),
    Mutant(
        "a message that was not sent is no error",
        _ACTIONS,
        "    if status == Status.BUSY:\n",
        "    if status == Status.STORED:\n",
        _in(_API, "while_redis_is_away_the_answer_is_503"),
    ),
    Mutant(
        "a durable message is sent as a plain one",
        _ACTIONS,
        "self._durable().store if body.durable else self.delivery.submit",
        "self.delivery.submit",
        _in(_API, "what_is_off_is_said_and_nothing_is_sent"),
    ),
    Mutant(
        "a disconnect ends every device",
        _ACTIONS,
        "if body.device in (None, entry.device)]",
        "if entry]",
        _in(_API, "one_device_of_a_user_is_ended_or_all_of_them"),
    ),
    Mutant(
        "a foreign entry is shown as a session",
        _ACTIONS,
        "[entry for entry in found if _is_ours(entry)]",
        "list(found)",
        _in(_API, "a_foreign_entry_is_offline"),
    ),
    Mutant(
        "a list of users has names that nobody can have",
        _ACTIONS,
        "[user for user in found if self.user_ids.possible(user)]",
        "found",
        _in(_API, "users_are_listed_page_by_page"),
    ),
    Mutant(
        "a kick ends whichever session the user has",
        "gateway/delivery.py",
        "session = self._registry.by_conn(kick.connId)",
        "session = self._registry.by_user(kick.user)",
        _in(_API, "a_newer_session_is_not_ended"),
    ),
    Mutant(
        "a kick may have any code",
        "gateway/delivery.py",
        "if kick.code in KICK_CODES and",
        "if kick.code and",
        _in(_API, "a_kick_that_no_operator_can_send_is_a_usual_one"),
    ),
    Mutant(
        "a user may be called like a backend",
        "user_ids.py",
        "|__.*__|@.*",
        "|__.*__",
        _in("bad_input/test_fields", "reserved_user_id_is_closed_with_4513"),
    ),
)
