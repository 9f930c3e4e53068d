"""Baseline, the plain port: what a good tutorial would write.

websockets' asyncio server, redis-py's asyncio client, the json module; one task a connection, two
awaited round trips a message, as in the Go demo that it ports: HGETALL, then PUBLISH. It keeps the
demo's guarantees, which are fewer than ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import time
import uuid
from typing import Any

import redis.asyncio as redis
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

REGISTER = """
local ts = redis.call('HGET', KEYS[1], 'ts')
if ts and tonumber(ts) > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], 'gwId', ARGV[1], 'connId', ARGV[2], 'ts', ARGV[3])
redis.call('EXPIRE', KEYS[1], 90)
return 1
"""


class PlainGateway:
    """The demo's gateway in a hundred lines of ordinary Python."""

    def __init__(self, gateway_id: str, url: str) -> None:
        self.gateway_id = gateway_id
        # The library's types do not know that `decode_responses` makes answers text.
        self.redis: Any = redis.from_url(url, decode_responses=True, max_connections=10_000)
        self.users: dict[str, ServerConnection] = {}

    async def handle(self, connection: ServerConnection) -> None:
        user = ""
        try:
            async for text in connection:
                message = json.loads(text)
                match message.get("type"):
                    case "register":
                        user = message["userId"]
                        await self.register(user, connection)
                    case "ping":
                        await self.redis.hset(f"presence:{user}", "ts", int(time.time()))
                        await self.redis.expire(f"presence:{user}", 90)
                        await connection.send(json.dumps({"type": "pong"}))
                    case "message":
                        await self.route(user, connection, message)
                    case _:
                        await self.say_error(connection, "Unknown message type")
        except ConnectionClosed:
            pass  # A connection that was lost is handled like a closed one.
        finally:
            if self.users.get(user) is connection:
                del self.users[user]
                await self.redis.delete(f"presence:{user}")

    async def register(self, user: str, connection: ServerConnection) -> None:
        self.users[user] = connection
        await self.redis.eval(
            REGISTER, 1, f"presence:{user}", self.gateway_id, str(uuid.uuid4()), int(time.time())
        )
        answer = {"type": "registered", "content": "Successfully registered"}
        await connection.send(json.dumps(answer))

    async def route(self, user: str, connection: ServerConnection, message: Any) -> None:
        entry = await self.redis.hgetall(f"presence:{message['to']}")
        if not entry:
            await self.say_error(connection, "User not found")
            return
        envelope = {
            "from": user,
            "to": message["to"],
            "content": message["content"],
            "type": "direct",
        }
        await self.redis.publish(f"gateway:{entry['gwId']}", json.dumps(envelope))

    async def say_error(self, connection: ServerConnection, text: str) -> None:
        await connection.send(json.dumps({"type": "error", "error": text}))

    async def deliver(self) -> None:
        async with self.redis.pubsub() as subscription:
            await subscription.subscribe(f"gateway:{self.gateway_id}")
            async for item in subscription.listen():
                if item["type"] != "message":
                    continue
                envelope = json.loads(item["data"])
                connection = self.users.get(envelope["to"])
                if connection is not None:
                    message = {
                        "type": "message",
                        "from": envelope["from"],
                        "content": envelope["content"],
                    }
                    await connection.send(json.dumps(message))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--redis", required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    gateway = PlainGateway(arguments.id, arguments.redis)
    async with serve(gateway.handle, "127.0.0.1", arguments.port, backlog=1024):
        await gateway.deliver()


if __name__ == "__main__":
    asyncio.run(main())
