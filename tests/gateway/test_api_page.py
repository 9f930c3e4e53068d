"""The page of the server API: does it say what the table of endpoints says?

Methods, paths, fields of requests and answers, statuses and codes: word for word.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any, Final, NamedTuple

import msgspec

from tests.pages import ROOT, table
from wsdemo.gateway.api.endpoints import ENDPOINTS, ApiEndpoint
from wsdemo.gateway.api.openapi import PATH, description

SOURCES: Final = ROOT / "wsdemo" / "gateway" / "api"


class PageRow(NamedTuple):
    """An endpoint, as the page or the code has it."""

    required: frozenset[str]
    optional: frozenset[str]
    answer: frozenset[str]


def quoted(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"`(\w+)`", text))


def documented(fields: str, answer: str) -> PageRow:
    """Return what a row of the page says."""
    required, _, optional = fields.partition("(+")
    return PageRow(quoted(required), quoted(optional), frozenset(re.findall(r'"(\w+)":', answer)))


def coded(endpoint: ApiEndpoint) -> PageRow:
    """Return what the table says: a field is required when it is so in one of the bodies."""
    kinds: tuple[Any, ...] = (*endpoint.bodies, *([endpoint.query] if endpoint.query else []))
    fields = [one for kind in kinds for one in msgspec.structs.fields(kind)]
    required = frozenset(one.encode_name for one in fields if one.required)
    answers = [one.encode_name for kind in endpoint.answers for one in msgspec.structs.fields(kind)]
    optional = frozenset(one.encode_name for one in fields) - required
    return PageRow(required, optional, frozenset(answers))


def test_the_table_of_requests_is_that_of_the_endpoints() -> None:
    """Methods, paths, and the fields of requests and answers; those after a `+` are optional."""
    rows = {
        request.strip("`"): documented(*rest)
        for request, *rest in table("request", "body or query", "answer")
    }
    assert rows.pop(f"GET {PATH}") == PageRow(frozenset(), frozenset(), frozenset())
    assert rows == {f"{one.method} {one.path}": coded(one) for one in ENDPOINTS}


def refusals_in_the_code() -> set[tuple[int, str]]:
    """Return status and code of each refusal that a module of the API makes."""
    found = set()
    for path in SOURCES.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refusal":
                status, code = (ast.literal_eval(word) for word in node.args[:2])
                found.add((int(status), str(code)))
    return found


def test_the_table_of_errors_is_that_of_the_refusals() -> None:
    """Each status with each of its codes; 401 is written before there is a request to refuse."""
    told = {
        (int(status), code)
        for status, codes, _ in table("status", "code", "what to do")
        for code in re.findall(r"`(\w+)`", codes)
    }
    assert told == refusals_in_the_code() | {(401, "unauthorized")}


def test_the_description_names_no_code_that_the_page_lacks() -> None:
    """Each status that an endpoint may answer with is in the table, with these codes."""
    page = {status: quoted(codes) for status, codes, _ in table("status", "code", "what to do")}
    for operations in json.loads(description())["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    assert set(response["description"].split(", ")) <= page[status]
