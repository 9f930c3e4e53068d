"""HTTP client: how does somebody ask the server API from a terminal?

`python -m wsdemo.gateway api publish bob Hi` prints the answer, which is JSON. What goes wrong is
one line on stderr, and exit code 2. It asks no proxy of the environment: the key goes only to the
address that was given.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from wsdemo.command_line import Parser
from wsdemo.gateway.auth import read_secret
from wsdemo.settings import SettingsError

DEFAULT_URL: Final = "http://127.0.0.1:8090"
TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
Question = tuple[str, str, Any]
"""Method, target and body (None: without one)."""


def command_line() -> Parser:
    """Return the command line."""
    result = Parser("wsdemo.gateway api", description="Ask the server API of a running gateway.")
    add = result.add_argument
    add("--api", default=DEFAULT_URL, metavar="URL", help="where it listens (%(default)s)")
    add("--api-key-file", required=True, metavar="FILE", help="that of the gateway")
    add("--room", action="store_true", help="publish: NAME is a room")
    add("--durable", action="store_true", help="publish: keep the message until it is read")
    add("--id", default=None, help="publish: the id of the message")
    add("--reason", default="", help="disconnect: what the client is told")
    add("--cursor", default="0", help="presence: where to go on, for a list (%(default)s)")
    add("verb", choices=list(_QUESTIONS), help="what is asked for")
    add("name", nargs="?", default="", help="of a user, or of a room")
    add("content", nargs="?", default=None, help="publish: the text of the message")
    return result


def _publish(told: Any) -> Question:
    more: dict[str, Any] = {"durable": True} if told.durable else {}
    if told.id is not None:
        more["id"] = told.id
    where = {"room" if told.room else "to": told.name}
    return "POST", "/api/publish", {**where, "content": told.content, **more}


def _disconnect(told: Any) -> Question:
    return "POST", "/api/disconnect", {"user": told.name, "reason": told.reason}


def _presence(told: Any) -> Question:
    if told.name:
        return "GET", f"/api/presence/{quote(told.name, safe='')}", None
    return "GET", f"/api/presence?{urlencode({'cursor': told.cursor})}", None


_QUESTIONS: Final[dict[str, Callable[[Any], Question]]] = {
    "publish": _publish,
    "disconnect": _disconnect,
    "presence": _presence,
    "room": lambda told: ("GET", f"/api/rooms/{quote(told.name, safe='')}", None),
    "inbox": lambda told: ("GET", f"/api/inbox/{quote(told.name, safe='')}", None),
}


def main(argv: Sequence[str]) -> None:
    """Carry out `api VERB ...`."""
    command = command_line()
    told = command.read(argv, intermixed=True)
    if not told.name and told.verb != "presence":
        command.fail(f"{told.verb} needs a name")
    if (told.content is None) == (told.verb == "publish"):
        command.fail("publish needs the text of a message, and nothing else takes one")
    try:
        key = read_secret(told.api_key_file).decode("ascii")
        status, answer = ask(told.api, key, *_QUESTIONS[told.verb](told))
    except (SettingsError, UnicodeError) as problem:
        command.fail(f"the key cannot be used: {problem}")
    except (OSError, http.client.HTTPException, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem or type(problem).__name__
        command.fail(f"no answer from {told.api}: {why}")
    if status != 200:
        command.fail(f"the server API answers {status} {answer.get('code')}: {answer.get('error')}")
    command.tell(json.dumps(answer))


def ask(
    url: str, key: str, method: str, target: str, body: Any, timeout_s: float = TIMEOUT_S
) -> tuple[int, dict[str, Any]]:
    """Ask, and return the status and the answer.

    Raises:
        OSError, http.client.HTTPException, ValueError: there is no answer, or it is none of ours.
    """
    where = urlsplit(url)
    if where.scheme not in {"http", "https"} or not where.hostname:
        raise ValueError("the address is no http:// or https:// URL")
    kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
    connection = kind(where.hostname, where.port, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {key}"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        text = None if body is None else json.dumps(body).encode()
        connection.request(method, f"{where.path.rstrip('/')}{target}", text, headers)
        response = connection.getresponse()
        answer = json.loads(response.read(MAX_ANSWER_BYTES))
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    return response.status, answer
