"""Durable messages on real gateways: does a user get each one once, whatever happens on the way?"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client.fakes import FAST
from tests.client.test_prompt import START_S, Piped
from tests.waiting import until
from wsdemo import Gateway, GatewaySettings
from wsdemo.client import Client, FilePosition, Message, Missed, NotDurable, Position
from wsdemo.features import InboxSettings
from wsdemo.protocol import Status
from wsdemo.redis.server import BundledServer
from wsdemo.settings import Keyspace, Limits


@pytest.fixture
async def durable(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that store messages."""
    first, second = (
        Gateway(
            GatewaySettings(
                gateway_id=f"gateway-0{n}",
                port=0,
                redis_url=shared_server.url,
                keyspace=keyspace,
                limits=Limits(retry_after_s=0.05),
                inbox=InboxSettings(ack_every_s=0.05),
            )
        )
        for n in (1, 2)
    )
    async with first, second:
        yield first, second


def client_of(user: str, *gateways: Gateway, durable: bool = True) -> Client:
    return Client(user, [gateway.url for gateway in gateways], durable=durable, settings=FAST)


async def words(client: Client, count: int) -> list[str]:
    """Take so many messages; a gap fails."""
    return [(await client.receive(10)).content for _ in range(count)]


async def test_what_is_stored_while_a_user_is_away_is_read_later(
    durable: tuple[Gateway, Gateway],
) -> None:
    """From whichever gateway she comes to, in the order in which it was stored."""
    first, second = durable
    async with Client("alice", [first.url]) as alice:
        receipts = [await alice.send("bob", f"{n}", durable=True) for n in range(3)]
        assert {receipt.status for receipt in receipts} == {Status.STORED}
        async with client_of("bob", second) as bob:
            assert await bob.next_item(5) == Missed(None)
            assert await words(bob, 3) == ["0", "1", "2"]
        again = await alice.send("bob", "2", durable=True, id=receipts[2].id)
        assert again.status is Status.DUPLICATE
        await alice.send("bob", "3", durable=True)
    async with client_of("bob", first) as bob:
        assert await words(bob, 1) == ["3"]


async def test_nothing_is_lost_or_doubled_while_the_reader_moves_and_breaks(
    durable: tuple[Gateway, Gateway],
) -> None:
    """D2, D3: the sender goes on meanwhile; every message comes once, in order, without a gap."""
    first, second = durable
    many = 120
    async with client_of("bob", first, second) as bob, Client("alice", [second.url]) as alice:
        assert await bob.next_item(5) == Missed(None)

        async def send() -> None:
            for n in range(many):
                receipt = await alice.send("bob", str(n), durable=True)
                assert receipt.status in (Status.STORED, Status.DUPLICATE)

        async def disturb() -> None:
            for n in range(6):
                await asyncio.sleep(0.02)
                if n % 2:
                    await bob.move((first, second)[n // 2 % 2].url)
                else:
                    bob.abort()
                    alice.abort()

        async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            tasks.create_task(disturb())
            assert await words(bob, many) == [str(n) for n in range(many)]


async def test_a_gateway_may_stop_while_it_reads_for_a_user(
    durable: tuple[Gateway, Gateway],
) -> None:
    """The next gateway goes on where this one stopped."""
    first, second = durable
    async with client_of("bob", first, second) as bob, Client("alice", [second.url]) as alice:
        assert await bob.next_item(5) == Missed(None)
        await alice.send("bob", "one", durable=True)
        assert await words(bob, 1) == ["one"]
        stop = asyncio.create_task(first.stop())
        for word in ("two", "three"):
            await alice.send("bob", word, durable=True)
        assert await words(bob, 2) == ["two", "three"]
        await stop
        assert bob.gateway_id == "gateway-02"


async def test_a_message_that_was_not_finished_comes_again_in_the_next_process(
    durable: tuple[Gateway, Gateway],
) -> None:
    """What was finished does not."""
    first, second = durable
    async with Client("alice", [first.url]) as alice:
        for word in ("one", "two", "three"):
            await alice.send("bob", word, durable=True)
        bob = client_of("bob", first)
        await bob.start()
        assert await bob.next_item(5) == Missed(None)
        assert await words(bob, 2) == ["one", "two"]
        await bob.close()
        async with client_of("bob", second) as bob:
            assert await words(bob, 2) == ["two", "three"]


async def test_a_plain_client_and_a_durable_one_can_both_read(
    durable: tuple[Gateway, Gateway],
) -> None:
    """A plain client gets what is stored as plain messages; plain messages stay plain."""
    first, second = durable
    async with Client("alice", [first.url]) as alice:
        await alice.send("bob", "stored", durable=True)
        async with client_of("bob", second, durable=False) as bob:
            message = await bob.receive(5)
            assert (message.content, message.offset) == ("stored", "")
            assert (await alice.send("bob", "plain")).status is Status.ROUTED
            message = await bob.receive(5)
            assert message == Message("alice", "plain", message.id)


async def test_a_gateway_without_the_feature_is_refused(
    gateways: tuple[Gateway, Gateway],
) -> None:
    """By a durable client at its start; by a durable send with a receipt that says why."""
    with pytest.raises(NotDurable):
        await client_of("bob", *gateways).start()
    async with Client("alice", [gateways[0].url]) as alice:
        receipt = await alice.send("bob", "hi", durable=True)
        assert receipt.status is Status.REFUSED
        assert receipt.error == "This gateway stores no messages"


# --- several devices -------------------------------------------------------------------------


@pytest.fixture
async def for_devices(
    shared_server: BundledServer, keyspace: Keyspace
) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """Two gateways that store messages for users with two devices."""
    first, second = (
        Gateway(
            GatewaySettings(
                gateway_id=f"gateway-0{n}",
                port=0,
                redis_url=shared_server.url,
                keyspace=keyspace,
                devices=2,
                limits=Limits(retry_after_s=0.05),
                inbox=InboxSettings(ack_every_s=0.05),
            )
        )
        for n in (1, 2)
    )
    async with first, second:
        yield first, second


async def test_each_device_gets_everything_and_keeps_its_own_position(
    for_devices: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    """The laptop reads while the phone is away; the next process of the phone misses nothing."""
    urls = [gateway.url for gateway in for_devices]
    files = {name: FilePosition(tmp_path / name) for name in ("phone", "laptop")}

    def device(name: str) -> Client:
        file = files[name]
        return Client("bob", urls, durable=True, position=file, device=name, settings=FAST)

    async with Client("alice", urls) as alice, device("laptop") as laptop:
        async with device("phone") as phone:
            for client in (phone, laptop):
                assert await client.next_item(5) == Missed(None)
            await alice.send("bob", "one", durable=True)
            for client in (phone, laptop):
                assert await words(client, 1) == ["one"]
        for word in ("two", "three"):
            await alice.send("bob", word, durable=True)
        assert await words(laptop, 2) == ["two", "three"]
        laptop.abort()
        async with device("phone") as phone:
            assert await words(phone, 2) == ["two", "three"]
            await alice.send("bob", "four", durable=True)
            for client in (phone, laptop):
                assert await words(client, 1) == ["four"]
    saved = {name: file.load() for name, file in files.items()}
    assert [place.device for place in saved.values() if place] == ["phone", "laptop"]


async def test_nothing_is_lost_or_doubled_while_two_devices_move_and_break(
    for_devices: tuple[Gateway, Gateway],
) -> None:
    """Every message comes once to each of them, in order, without a gap."""
    first, second = for_devices
    many = 80

    def device(name: str) -> Client:
        urls = [first.url, second.url]
        return Client("bob", urls, durable=True, device=name, settings=FAST)

    async with device("phone") as phone, device("laptop") as laptop:
        async with Client("alice", [second.url]) as alice:
            for client in (phone, laptop):
                assert await client.next_item(5) == Missed(None)

            async def send() -> None:
                for n in range(many):
                    receipt = await alice.send("bob", str(n), durable=True)
                    assert receipt.status in (Status.STORED, Status.DUPLICATE)

            async def disturb(client: Client) -> None:
                for n in range(6):
                    await asyncio.sleep(0.02)
                    if n % 2:
                        await client.move((first, second)[n // 2 % 2].url)
                    else:
                        client.abort()

            async with asyncio.timeout(40), asyncio.TaskGroup() as tasks:
                tasks.create_task(send())
                heard = [tasks.create_task(words(client, many)) for client in (phone, laptop)]
                for client in (phone, laptop):
                    tasks.create_task(disturb(client))
    for task in heard:
        assert task.result() == [str(n) for n in range(many)]


# --- processes that are killed ---------------------------------------------------------------

READER = """
import asyncio, sys
from wsdemo.client import Client, FilePosition, Message, MessagesMissed

async def main(url, file):
    async with Client("bob", [url], durable=True, position=FilePosition(file)) as bob:
        async for item in bob.items():
            print(item.content if isinstance(item, Message) else "gap", flush=True)
            await asyncio.sleep(0.002)

asyncio.run(main(*sys.argv[1:]))
"""


async def read_until(url: str, file: Path, enough: int) -> list[str]:
    """Run a reader, kill it after so many lines, and return all that it has printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", READER, url, str(file)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(START_S):
            while len(lines) < enough and (line := await process.stdout.readline()):
                lines.append(line.decode().strip())
    finally:
        process.send_signal(signal.SIGKILL)
        rest, _ = await process.communicate()
    return lines + rest.decode().split()


async def test_a_process_that_is_killed_loses_nothing_and_hears_of_no_gap(
    durable: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    """Killed at any moment between reading and acknowledging, it goes on at its position: it gets
    again what it had not finished, and perhaps the last few that it had, and nothing is left out.
    """
    first, second = durable
    file, many = tmp_path / "bob", 150
    async with Client("alice", [first.url]) as alice:
        for n in range(many):
            await alice.send("bob", str(n), durable=True)
    heard: list[list[str]] = []
    for enough, gateway in ((40, first), (37, second), (33, first), (10, second)):
        heard.append(await read_until(gateway.url, file, enough))
    heard.append([])
    async with asyncio.timeout(20):
        bob = Client("bob", [first.url], durable=True, position=FilePosition(file))
        async with bob:
            while str(many - 1) not in heard[-1]:
                heard[-1].append((await bob.receive(10)).content)
    assert heard[0].pop(0) == "gap"  # The first contact, and no other.
    reached = -1
    for run in heard:
        numbers = [int(word) for word in run]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert numbers[0] <= reached + 1, "messages were left out"
        reached = max(reached, numbers[-1])
    assert reached == many - 1
    await until("its position is saved", lambda: FilePosition(file).load() is not None)


# --- at the prompt ---------------------------------------------------------------------------


async def test_the_prompt_shows_what_was_stored_while_it_was_away(
    durable: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    """Once: the next prompt goes on where this one stopped, by a file of the user."""
    first, second = durable
    state = {"XDG_STATE_HOME": str(tmp_path)}
    flags = ("-gateway", first.url, "-gateway", second.url, "--durable")
    async with Piped("-user", "alice", *flags, **state) as alice:
        alice.type("send bob one")
        await alice.prints("[Client] stored for bob")
        async with Piped("-user", "bob", *flags, **state) as bob:
            await bob.prints("[Client] earlier messages may be missing here")
            await bob.prints("[Message] alice: one")
            bob.type("quit")
            assert await bob.ended() == 0
        alice.type("/send bob two")
        await until("two are stored", lambda: alice.output.count("stored for bob") == 2)
        async with Piped("-user", "bob", *flags, **state) as bob:
            await bob.prints("[Message] alice: two")
            assert "one" not in bob.output and "missing" not in bob.output
            bob.type("quit")
            assert await bob.ended() == 0
    assert list((tmp_path / "wsdemo").glob("*.json"))


async def test_a_prompt_that_is_killed_goes_on_where_it_stopped(
    durable: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    """It loses no message, and hears of no gap; the file may be chosen."""
    file = str(tmp_path / "position")
    flags = ("-user", "bob", "-gateway", durable[0].url, "--durable", "--position", file)
    async with Client("alice", [durable[1].url]) as alice:
        async with Piped(*flags) as bob:
            await alice.send("bob", "one", durable=True)
            await bob.prints("[Message] alice: one")
            await until("its position is saved", lambda: FilePosition(file).load() is not None)
        await alice.send("bob", "two", durable=True)
        async with Piped(*flags) as bob:
            await bob.prints(f"[Client] how far you have read is kept in {file}")
            await bob.prints("[Message] alice: two")
            assert "missing" not in bob.output


async def test_a_position_of_another_user_ends_the_prompt_with_one_line(
    durable: tuple[Gateway, Gateway], tmp_path: Path
) -> None:
    """So does one that cannot be read, a gateway that stores nothing, and a flag alone."""
    file = tmp_path / "position"
    FilePosition(file).save(Position("b.r", "1-1", "alice"))
    flags = ("-user", "bob", "-gateway", durable[0].url, "--position", str(file))
    async with Piped(*flags, "--durable") as bob:
        assert await bob.ended(START_S) == 2
    assert "this is the position of 'alice', not of 'bob'" in bob.output
    async with Piped(*flags) as bob:
        assert await bob.ended(START_S) == 2
    assert "--position is for --durable" in bob.output
    file.write_bytes(b"garbage")
    async with Piped(*flags, "--durable") as bob:
        assert await bob.ended(START_S) == 2
    assert len(bob.output.splitlines()) == 1 and "is not a position" in bob.output
