"""OpenAPI: does the server API do what its own description says?

schemathesis makes requests from the description, valid ones and others, and compares each answer
with what is promised for it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from tests.examples import examples
from tests.gateway.api import BEARER, api_gateway, head, once
from wsdemo.features import InboxSettings, RoomSettings
from wsdemo.gateway.api.endpoints import ENDPOINTS
from wsdemo.gateway.api.openapi import description
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace

CHECKS: list[Any] = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.ignored_auth,
]
FEATURES = {"inbox": InboxSettings(), "rooms": RoomSettings()}


def check(url: str, operation: Any, mode: GenerationMode, features: bool) -> int:
    """Ask for one endpoint again and again; return how many requests were made."""
    made = 0
    # Without the features, what is valid is refused as well.
    wanted = CHECKS if features else [c for c in CHECKS if c is not checks.positive_data_acceptance]

    @examples(60, deadline=None)
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        nonlocal made
        made += 1
        headers = {"Authorization": BEARER}
        case.call_and_validate(base_url=url, headers=headers, checks=wanted)

    ask()
    return made


@pytest.mark.timeout(180)
@pytest.mark.parametrize("features", [True, False], ids=["all features", "no other feature"])
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
async def test_every_endpoint_keeps_its_description(
    shared_server: BundledServer, keyspace: Keyspace, mode: GenerationMode, features: bool
) -> None:
    """Valid requests are answered, others are refused; each answer is as described."""
    schema = schemathesis.openapi.from_dict(json.loads(description()))
    made = 0
    async with api_gateway(
        shared_server,
        keyspace,
        settings=FEATURES if features else {},
        api_requests_per_s=1e6,
        api_burst=1_000_000,
    ) as running:
        for endpoint in ENDPOINTS:
            operation = schema[endpoint.path][endpoint.method]
            made += await asyncio.to_thread(check, running.api_url, operation, mode, features)
    assert made >= len(ENDPOINTS)


async def test_the_description_is_served_with_the_key(
    shared_server: BundledServer, keyspace: Keyspace
) -> None:
    """It is the same for every gateway, whatever it offers."""
    async with api_gateway(shared_server, keyspace) as running:
        reply = await once(running, head("GET /openapi.json"))
        assert (reply.status, reply.body) == (200, description())
        assert reply.document["openapi"] == "3.1.0"
        assert (await once(running, head("POST /openapi.json"))).told == (405, "method")


def test_the_description_has_every_endpoint_and_its_refusals() -> None:
    """One table makes both."""
    document = json.loads(description())
    found = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(found) == {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS}
    for endpoint in ENDPOINTS:
        responses = found[endpoint.method, endpoint.path]["responses"]
        assert {"200", "400", "401", "503", *map(str, endpoint.refusals)} <= {*responses}
    assert len({endpoint.act.__name__ for endpoint in ENDPOINTS}) == len(ENDPOINTS)
