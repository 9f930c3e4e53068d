"""Durable messages: does the application get each one once, or is it told of a gap?

Against a gateway in memory, so that every answer can be chosen. `test_durable_gateways.py` has the
same promises on real ones.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from tests.client.fake_inbox import FakeInbox, number, serving
from tests.client.fakes import FAST, fake_gateway, hear_nothing, tell, welcome
from tests.waiting import until
from wsdemo.client import (
    Client,
    ClientClosed,
    ConnectFailed,
    Message,
    MessagesMissed,
    Missed,
    NotDurable,
    Position,
    PositionError,
    State,
)
from wsdemo.client import inbox as module
from wsdemo.protocol import Status
from wsdemo.settings import ClientSettings


class Kept:
    """A position in memory, with all that was saved."""

    def __init__(self, position: Position | None = None) -> None:
        self.position = position
        self.saved: list[Position] = []
        self.trouble: Exception | None = None

    def load(self) -> Position | None:
        return self.position

    def save(self, position: Position) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.position = position
        self.saved.append(position)


def bob(url: str, position: Kept | None = None, **options: Any) -> Client:
    return Client("bob", [url], durable=True, position=position, settings=FAST, **options)


# --- what arrives ----------------------------------------------------------------------------


async def test_a_first_contact_is_told_as_a_gap_and_then_everything_comes_in_order() -> None:
    """Nobody can know what was before; what is there now comes with its offset."""
    inbox = FakeInbox()
    first, second = inbox.store("one"), inbox.store("two")
    async with serving(inbox) as url, bob(url) as client:
        assert inbox.resumes == [{"epoch": "", "offset": "0-0"}]
        assert await client.next_item(5) == Missed(None)
        assert await client.next_item(5) == Message("ann", "one", offset=first)
        assert await client.next_item(5) == Message("ann", "two", offset=second)


async def test_receive_raises_once_where_the_gap_is() -> None:
    """It cannot be overlooked; the next call goes on behind it. So does an iteration."""
    inbox = FakeInbox()
    inbox.store("one")
    inbox.resumed_with = {"recovered": False, "offset": "0-0", "missed": 3}
    async with serving(inbox) as url, bob(url) as client:
        with pytest.raises(MessagesMissed, match=r"^3 durable messages may be missing$") as gap:
            await client.receive(5)
        assert gap.value.count == 3
        assert (await client.receive(5)).content == "one"
        await inbox.say_resumed(recovered=False, offset="1-7")
        with pytest.raises(MessagesMissed, match="unknown number"):
            async for _ in client:
                pass


async def test_a_message_is_acknowledged_when_the_next_is_asked_for_and_not_before() -> None:
    """An application that fails over a message finds it again."""
    inbox = FakeInbox()
    first, second = inbox.store("one"), inbox.store("two")
    async with serving(inbox) as url, bob(url) as client:
        await client.next_item(5)
        assert (await client.receive(5)).content == "one"
        await inbox.acked("0-0")
        assert (await client.receive(5)).content == "two"
        await inbox.acked(first)
        await client.close()
        assert (inbox.epoch, second) not in inbox.acks
    assert [text for _, text in inbox.rows] == ["two"]


async def test_the_end_of_the_block_finishes_the_last_message_unless_it_is_an_exception() -> None:
    """An application that fails over a message finds it again; one that is through does not."""
    inbox = FakeInbox()
    for word in ("one", "two"):
        inbox.store(word)
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url:
        with pytest.raises(ZeroDivisionError):
            async with bob(url) as client:
                assert (await client.receive(5)).content == "one"
                raise ZeroDivisionError
        inbox.resumed_with = {"recovered": True, "offset": "0-0"}
        async with bob(url) as client:
            assert (await client.receive(5)).content == "one"
            assert (await client.receive(5)).content == "two"
        await inbox.acked(inbox.last)
    assert inbox.rows == []


async def test_done_acknowledges_the_last_message_at_once() -> None:
    """For an application that does not ask for the next one yet."""
    inbox = FakeInbox()
    offset = inbox.store("one")
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url, bob(url, kept := Kept()) as client:
        await client.receive(5)
        await client.done()
        assert kept.position == Position(inbox.epoch, offset, "bob")
        await inbox.acked(offset)


async def test_many_messages_are_acknowledged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 32 of them, or after a second; never one frame for each."""
    monkeypatch.setattr("wsdemo.client.client.ACK_AFTER_S", 3600.0)
    inbox = FakeInbox()
    offsets = [inbox.store(str(n)) for n in range(70)]
    async with serving(inbox) as url, bob(url) as client:
        for _ in range(1 + 70):
            await client.next_item(5)
            await asyncio.sleep(0)
        await until("two acks", lambda: len(inbox.acks) >= 2)
        assert [number(offset) for _, offset in inbox.acks] == pytest.approx([32, 64], abs=4)
        await client.done()
        await inbox.acked(offsets[-1])
        assert len(inbox.acks) <= 4


async def test_a_resume_that_is_recovered_is_acknowledged_at_once() -> None:
    """Before that, the gateway does not know that we know where we are."""
    inbox = FakeInbox()
    inbox.resumed_with = {"recovered": True, "offset": "4-9"}
    async with serving(inbox) as url, bob(url):
        await inbox.acked("4-9")


async def test_a_gap_is_acknowledged_only_when_the_application_knows_of_it() -> None:
    """A gateway tells it again until then: a process may end between the two."""
    inbox = FakeInbox()
    async with serving(inbox) as url, bob(url) as client:
        await until("it is resumed", lambda: client._items._items)
        await client.close()
    assert inbox.acks == []


# --- after a reconnect -----------------------------------------------------------------------


async def test_after_a_reconnect_it_goes_on_after_what_has_arrived() -> None:
    """What waits in the client does not come again, and nothing is left out."""
    inbox = FakeInbox()
    for word in ("one", "two"):
        inbox.store(word)
    async with serving(inbox) as url, bob(url) as client:
        await client.next_item(5)
        assert (await client.receive(5)).content == "one"
        await until("two has arrived", lambda: client._items._items)
        client.abort()
        inbox.store("three")
        await until("it is resumed", lambda: len(inbox.resumes) == 2)
        assert [(await client.receive(5)).content for _ in range(2)] == ["two", "three"]
        assert inbox.resumes[1] == {"epoch": inbox.epoch, "offset": "2-7"}
        await client.done()
        await inbox.acked(inbox.last)


async def test_a_reset_that_goes_back_brings_no_message_twice() -> None:
    """D3: doubles are known by the birth of the inbox and the whole offset, in any run of Redis."""
    inbox = FakeInbox()
    for word in ("one", "two"):
        inbox.store(word)
    async with serving(inbox) as url, bob(url) as client:
        await client.next_item(5)
        assert [(await client.receive(5)).content for _ in range(2)] == ["one", "two"]
        inbox.epoch, inbox.rows = "b1.r2", [("1-7", "one"), ("2-8", "other"), ("3-7", "three")]
        client.abort()
        assert await client.next_item(5) == Missed(None)
        # "two" was lost, and its number was given again: only the mark shows it.
        assert [(await client.receive(5)).content for _ in range(2)] == ["other", "three"]
        await client.done()
        await inbox.acked("3-7")


async def test_a_new_inbox_brings_messages_with_old_offsets() -> None:
    """Another birth: the same offset is another message."""
    inbox = FakeInbox()
    inbox.store("one")
    async with serving(inbox) as url, bob(url) as client:
        await client.next_item(5)
        await client.receive(5)
        inbox.epoch, inbox.rows = "b2.r1", [("1-7", "another one")]
        client.abort()
        assert await client.next_item(5) == Missed(None)
        assert (await client.receive(5)).content == "another one"


async def test_a_repeated_message_is_dropped_and_its_position_counts() -> None:
    """Two paths may bring the same message."""
    inbox = FakeInbox()
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url, bob(url) as client:
        for offset, text in (("1-7", "a"), ("1-7", "a"), ("2-7", "b"), ("1-7", "a"), ("3-7", "c")):
            await inbox.say(offset, text)
        assert [(await client.receive(5)).content for _ in range(3)] == ["a", "b", "c"]


async def test_the_memory_of_messages_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten first."""
    monkeypatch.setattr(module, "REMEMBERED", 3)
    progress = module.InboxProgress("bob", "", None)
    progress.resume()
    progress.resumed({"recovered": True, "epoch": "b.r", "offset": "0-0"})
    for n in range(1, 10):
        assert progress.arrived(Message("ann", "x", offset=f"{n}-7")).item is not None
    progress.resumed({"recovered": False, "epoch": "b.r", "offset": "6-7"})
    came = [progress.arrived(Message("ann", "x", offset=f"{n}-7")).item for n in range(7, 10)]
    assert came == [None, None, None]
    progress.resumed({"recovered": False, "epoch": "b.r", "offset": "5-7"})
    assert progress.arrived(Message("ann", "x", offset="6-7")).item is not None
    assert len(progress._known) == 3


async def test_what_was_finished_in_another_epoch_is_not_acknowledged_in_this_one() -> None:
    """A gateway would take it for a place in the new history."""
    inbox = FakeInbox()
    inbox.store("one")
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url, bob(url) as client:
        await until("one has arrived", lambda: client._items._items)
        await inbox.acked("0-0")
        inbox.epoch, inbox.rows, inbox.acks = "b1.r2", [], []
        await inbox.say_resumed(recovered=False, offset="0-0")
        await until("the gap has arrived", lambda: len(client._items._items) == 2)
        assert (await client.receive(5)).content == "one"
        await client.done()
        await client.send("ann", "an answer means that the gateway has read all before it")
        assert inbox.acks == []
        assert await client.next_item(5) == Missed(None)
        await client.done()
        await inbox.acked("0-0")
    assert {epoch for epoch, _ in inbox.acks} == {"b1.r2"}


@pytest.mark.parametrize(
    "document",
    [
        {"recovered": True, "epoch": 7, "offset": "1-1"},
        {"recovered": True, "epoch": "b.r", "offset": None},
        {"recovered": True, "epoch": "b.r", "offset": "1"},
        {"recovered": True, "epoch": "", "offset": "1-1"},
        {},
    ],
)
async def test_a_resumed_that_breaks_the_protocol_changes_nothing(document: dict[str, Any]) -> None:
    """Whatever a gateway says, the client goes on."""
    inbox = FakeInbox()
    async with serving(inbox) as url, bob(url) as client:
        await client.next_item(5)
        assert inbox.connection is not None
        await tell(inbox.connection, type="resumed", **document)
        await inbox.say("1-7", "hello")
        assert (await client.receive(5)).content == "hello"
        await client.done()
        await inbox.acked("1-7")


async def test_plain_messages_and_durable_ones_share_the_queue() -> None:
    """A plain message has no offset, and is not acknowledged."""
    inbox = FakeInbox()
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url, bob(url) as client:
        assert inbox.connection is not None
        await tell(inbox.connection, type="message", content="plain", **{"from": "ann"})
        await inbox.say("1-7", "durable")
        assert [await client.receive(5) for _ in range(2)] == [
            Message("ann", "plain"),
            Message("ann", "durable", offset="1-7"),
        ]


# --- positions -------------------------------------------------------------------------------


async def test_the_position_is_saved_before_the_acknowledgement() -> None:
    """What is acknowledged is deleted: an older position would look like a gap."""
    inbox = FakeInbox()
    order: list[str] = []

    class Watched(Kept):
        def save(self, position: Position) -> None:
            super().save(position)
            order.append(f"{position.offset} with {len(inbox.acks)} acks")

    first, second = inbox.store("one"), inbox.store("two")
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    async with serving(inbox) as url, bob(url, Watched()) as client:
        await inbox.acked("0-0")
        for offset in (first, second):
            await client.receive(5)
            await client.done()
            await inbox.acked(offset)
    assert order == ["0-0 with 0 acks", f"{first} with 1 acks", f"{second} with 2 acks"]


async def test_a_new_process_goes_on_from_its_position() -> None:
    """Also behind messages that were acknowledged by nobody."""
    inbox = FakeInbox()
    for word in ("one", "two"):
        inbox.store(word)
    kept = Kept(Position(inbox.epoch, "1-7", "bob"))
    async with serving(inbox) as url, bob(url, kept) as client:
        assert inbox.resumes == [{"epoch": inbox.epoch, "offset": "1-7"}]
        assert (await client.receive(5)).content == "two"


async def test_without_a_saved_position_nothing_is_acknowledged() -> None:
    """The application is told with the next item; what is saved later is acknowledged later."""
    inbox = FakeInbox()
    offset = inbox.store("one")
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    kept = Kept()
    async with serving(inbox) as url, bob(url, kept) as client:
        await inbox.acked("0-0")
        kept.trouble = PositionError("no space left")
        await client.receive(5)
        with pytest.raises(PositionError, match="no space left"):
            await client.done()
        await client.send("ann", "an answer means that the gateway has read all before it")
        assert inbox.acks == [(inbox.epoch, "0-0")]
        kept.trouble = OSError("no database")
        with pytest.raises(PositionError, match="position: OSError: no database"):
            await client.done()
        kept.trouble = None
        await client.done()
        await inbox.acked(offset)


async def test_a_position_that_cannot_be_saved_is_told_with_the_next_item() -> None:
    """Otherwise nobody would know why the gateway sends nothing more."""
    inbox = FakeInbox()
    kept = Kept()
    kept.trouble = PositionError("no space left")
    async with serving(inbox) as url, bob(url, kept) as client:
        await client.next_item(5)
        with pytest.raises(TimeoutError):
            await client.next_item(0.01)
        await until("it was tried", lambda: client._save_trouble is not None)
        with pytest.raises(PositionError, match="no space left"):
            await client.next_item(5)
        with pytest.raises(TimeoutError):
            await client.next_item(0.01)  # It is told once.


async def test_a_position_that_could_not_be_saved_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when no other message comes: the gateway may wait for this very acknowledgement."""
    monkeypatch.setattr("wsdemo.client.client.ACK_AFTER_S", 0.05)
    inbox = FakeInbox()
    kept = Kept()
    kept.trouble = PositionError("no space left")
    async with serving(inbox) as url, bob(url, kept) as client:
        await client.next_item(5)
        with pytest.raises(TimeoutError):
            await client.next_item(0.01)
        await until("it was tried", lambda: client._save_trouble is not None)
        kept.trouble = None
        await inbox.acked("0-0")


async def test_a_start_that_fails_saves_nothing() -> None:
    """There is no position yet."""
    kept = Kept()
    with pytest.raises(ConnectFailed):
        await bob("ws://127.0.0.1:1/ws", kept).start(timeout_s=0.2)
    assert kept.saved == []


async def test_the_position_of_the_current_item_can_be_saved_together_with_its_effect() -> None:
    """D3: in one transaction of the application; `save` has nothing to do then."""

    class Transactions(Kept):
        def save(self, position: Position) -> None:
            pass

    inbox = FakeInbox()
    for word in ("one", "two", "three"):
        inbox.store(word)
    inbox.resumed_with = {"recovered": True, "offset": "0-0"}
    database = Transactions()
    done: list[str] = []
    async with serving(inbox) as url:
        for count in (2, 1):
            client = bob(url, database)
            await client.start()
            for _ in range(count):
                done.append((await client.receive(5)).content)
                database.position = client.position
            await client.close()  # As if it was killed: nothing says that the last one is done.
        assert Client("ann", [url]).position is None
    assert done == ["one", "two", "three"]
    assert database.position == Position(inbox.epoch, "3-7", "bob")


@pytest.mark.parametrize(
    ("position", "why"),
    [
        (Position("b1.r1", "1-7", "ann"), "this is the position of 'ann', not of 'bob'"),
        (Position("b1.r1", "1-7", "bob", "phone"), "of 'bob' on device 'phone', not of 'bob'"),
        (Position("b1.r1", "1", "bob"), "is not a position"),
        (Position("b1 r1", "1-1", "bob"), "is not a position"),
    ],
)
async def test_a_position_of_somebody_else_is_refused(position: Position, why: str) -> None:
    """It would skip messages of ours, or ask for those of a stranger."""
    inbox = FakeInbox()
    async with serving(inbox) as url:
        client = bob(url, Kept(position))
        with pytest.raises(PositionError, match=why):
            await client.start()
        assert inbox.resumes == [] and client._keeper is None


async def test_only_a_durable_client_has_a_position() -> None:
    """A plain client would never save it."""
    with pytest.raises(ValueError, match="only a durable client"):
        Client("bob", ["ws://localhost/ws"], position=Kept())


# --- gateways without an inbox ---------------------------------------------------------------


async def test_a_gateway_that_stores_nothing_is_refused_with_a_clear_exception() -> None:
    """It would look as if there were no messages."""
    inbox = FakeInbox()
    inbox.is_durable = False
    async with serving(inbox) as url:
        with pytest.raises(NotDurable, match="this gateway stores no messages"):
            await bob(url).start()


async def test_a_gateway_that_stores_nothing_is_skipped_for_one_that_does() -> None:
    """As one that does not exist."""
    plain, durable = FakeInbox(), FakeInbox()
    plain.is_durable = False
    async with (
        serving(plain) as first,
        serving(durable) as second,
        Client("bob", [first, second], durable=True, settings=FAST) as client,
    ):
        assert client.gateway == second and client.state is State.REGISTERED


async def test_a_plain_client_ignores_what_is_about_an_inbox() -> None:
    """It did not ask for it."""
    inbox = FakeInbox()
    async with serving(inbox) as url, Client("bob", [url]) as client:
        await inbox.say_resumed(recovered=False, offset="0-0")
        await inbox.say("1-7", "hello")
        assert await client.receive(5) == Message("ann", "hello", offset="1-7")
    assert inbox.acks == [] and inbox.resumes == []


# --- sending ---------------------------------------------------------------------------------


async def test_a_durable_message_keeps_its_id_over_reconnects_until_it_is_stored() -> None:
    """No answer, a broken connection and `busy` all mean: again."""
    inbox = FakeInbox()
    inbox.on_message = ""
    impatient = ClientSettings(ack_timeout_s=0.1, backoff_base_s=0.01, backoff_cap_s=0.02)
    async with serving(inbox) as url, Client("ann", [url], settings=impatient) as client:
        send = asyncio.create_task(client.send("bob", "hi", durable=True))
        await until("it is sent twice", lambda: len(inbox.said) >= 2)
        client.abort()
        await until("it is sent again", lambda: client.attempts == 2 and len(inbox.said) >= 3)
        inbox.on_message = "busy"
        before = len(inbox.said)
        await until("it is sent once more", lambda: len(inbox.said) > before + 1)
        inbox.on_message = "duplicate"
        receipt = await send
    assert receipt.status is Status.DUPLICATE and receipt.latency_s > 0
    assert len({json.dumps(document) for document in inbox.said}) == 1
    assert inbox.said[0] == {
        "type": "message", "to": "bob", "content": "hi", "id": receipt.id, "durable": True,
    }  # fmt: skip


async def test_a_durable_message_is_unknown_only_after_its_timeout() -> None:
    """Until then it is sent again."""
    inbox = FakeInbox()
    inbox.on_message = "unknown"
    async with serving(inbox) as url, Client("ann", [url], settings=FAST) as client:
        receipt = await client.send("bob", "hi", durable=True, id="o-1", timeout_s=1.5)
    assert receipt.status is Status.UNKNOWN and receipt.id == "o-1" and len(inbox.said) > 1


async def test_a_durable_message_that_was_never_sent_is_busy() -> None:
    """Then it is certain that it is not stored."""
    client = Client("ann", ["ws://127.0.0.1:1/ws"], settings=FAST)
    start = asyncio.create_task(client.start(timeout_s=20))
    await until("an attempt", lambda: client.attempts > 0)
    receipt = await client.send("bob", "hi", durable=True, timeout_s=0.1)
    assert receipt.status is Status.BUSY
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


async def test_closing_ends_a_durable_send() -> None:
    """It does not wait for its timeout."""
    inbox = FakeInbox()
    inbox.on_message = ""
    async with serving(inbox) as url, Client("ann", [url], settings=FAST) as client:
        send = asyncio.create_task(client.send("bob", "hi", durable=True))
        await until("it is sent", lambda: inbox.said)
        await client.close()
        async with asyncio.timeout(5):
            assert (await send).status is Status.UNKNOWN


@pytest.mark.parametrize("answer", ["stored", "offline", "routed", "unreachable"])
async def test_a_final_answer_ends_a_durable_send(answer: str) -> None:
    """Also that of an old gateway, which has sent it as a plain message."""
    inbox = FakeInbox()
    inbox.on_message = answer
    async with serving(inbox) as url, Client("ann", [url], settings=FAST) as client:
        assert (await client.send("bob", "hi", durable=True)).status == answer
    assert len(inbox.said) == 1


async def test_a_durable_message_that_breaks_a_rule_is_refused_at_once() -> None:
    """Or sent to a gateway that stores nothing: the receipt has its words."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        said = json.loads(await connection.recv())
        await tell(connection, type="error", error="no", code="not_durable", id=said["id"])
        await hear_nothing(connection)

    async with fake_gateway(behave) as url, Client("ann", [url]) as client:
        receipt = await client.send("bob", "hi", durable=True)
        assert (receipt.status, receipt.error) == (Status.REFUSED, "no")


async def test_a_late_answer_to_a_repetition_changes_nothing() -> None:
    """`stored` is the truth, whatever comes after it."""

    async def behave(connection: ServerConnection, attempt: int) -> None:
        await welcome(connection)
        said = json.loads(await connection.recv())
        for status in ("stored", "busy", "unknown"):
            await tell(connection, type="ack", id=said["id"], status=status)
        await tell(connection, type="message", content="end", **{"from": "ann"})
        await hear_nothing(connection)

    async with fake_gateway(behave) as url, Client("ann", [url]) as client:
        receipt = await client.send("bob", "hi", durable=True)
        await client.receive(5)
        assert receipt.status is Status.STORED


async def test_an_id_of_the_application_names_one_message_to_one_recipient() -> None:
    """An answer names nothing but the id."""
    inbox = FakeInbox()
    async with serving(inbox) as url, Client("ann", [url], settings=FAST) as client:
        assert (await client.send("bob", "hi", durable=True, id="o-1")).status is Status.STORED
        assert (await client.send("bob", "hi", durable=True, id="o-1")).status is Status.STORED
        with pytest.raises(ValueError, match="another message with the id 'o-1'"):
            await client.send("carol", "hi", durable=True, id="o-1")
        inbox.on_message = ""
        send = asyncio.create_task(client.send("bob", "hi", durable=True, id="o-2"))
        await until("it is sent", lambda: len(inbox.said) == 3)
        with pytest.raises(ValueError, match="another message with the id 'o-2'"):
            await client.send("bob", "hi", id="o-2")
        await client.close()
        await send


async def test_items_end_when_the_client_is_closed_for_good() -> None:
    """After all that has arrived."""
    inbox = FakeInbox()
    inbox.store("one")
    async with serving(inbox) as url, bob(url) as client:
        await until("both have arrived", lambda: len(client._items._items) == 2)
        await client.close()
        assert [item async for item in client.items()] == [
            Missed(None),
            Message("ann", "one", offset="1-7"),
        ]
        with pytest.raises(ClientClosed):
            await client.next_item()
