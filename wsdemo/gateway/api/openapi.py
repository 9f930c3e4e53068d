"""OpenAPI: how does the server API describe itself, for people and for tools?

The description is made from the table of endpoints and from the documents that they check with, so
it cannot say anything else than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec

from wsdemo import __version__
from wsdemo.gateway.api.documents import JSON, ErrorAnswer, Name, schemas
from wsdemo.gateway.api.endpoints import ENDPOINTS, ApiEndpoint

PATH: Final = "/openapi.json"
_EVERYWHERE: Final = {
    400: "bad_target, bad_json, bad_body, invalid",
    401: "unauthorized",
    408: "too_slow",
    429: "rate_limited",
    500: "internal",
    503: "unavailable",
}
"""Refusals that every endpoint has: status to codes."""


@cache
def description() -> bytes:
    """Return the description, as JSON."""
    return msgspec.json.encode(describe(ENDPOINTS))


def describe(table: Sequence[ApiEndpoint]) -> dict[str, Any]:
    """Return the description of these endpoints (OpenAPI 3.1)."""
    types = list[Any](
        dict.fromkeys(
            kind
            for endpoint in table
            for kind in (*endpoint.bodies, *endpoint.answers, *_some(endpoint.query))
        )
    )
    references, components = schemas([*types, ErrorAnswer])
    reference_of = dict(zip([*types, ErrorAnswer], references, strict=True))
    paths: dict[str, Any] = {}
    for endpoint in table:
        operation = _operation(endpoint, reference_of, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "wsdemo server API", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _some(kind: Any) -> tuple[Any, ...]:
    return () if kind is None else (kind,)


def _operation(
    endpoint: ApiEndpoint, reference_of: dict[Any, Any], components: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "operationId": endpoint.act.__name__,
        "parameters": _parameters(endpoint, components),
        "responses": {"200": _content("the answer", [reference_of[k] for k in endpoint.answers])},
    }
    if endpoint.bodies:
        body = _content("", [reference_of[kind] for kind in endpoint.bodies])
        operation["requestBody"] = {"required": True, "content": body["content"]}
    for status, codes in sorted({**_EVERYWHERE, **endpoint.refusals}.items()):
        operation["responses"][str(status)] = _content(codes, [reference_of[ErrorAnswer]])
    return operation


def _content(text: str, kinds: list[Any]) -> dict[str, Any]:
    schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return {"description": text, "content": {JSON: {"schema": schema}}}


def _parameters(endpoint: ApiEndpoint, components: dict[str, Any]) -> list[dict[str, Any]]:
    parameters = []
    if endpoint.name:
        schema = msgspec.json.schema(Name)
        parameters.append({"name": endpoint.name, "in": "path", "required": True, "schema": schema})
    if endpoint.query is not None:
        properties = components[endpoint.query.__name__]["properties"]
        parameters += [
            {"name": name, "in": "query", "required": False, "schema": schema}
            for name, schema in properties.items()
        ]
    return parameters
