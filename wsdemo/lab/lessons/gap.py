"""Lesson 09: which messages are lost in a gap, and what does a position have to tell?"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from wsdemo.client import MessagesMissed, Position
from wsdemo.lab.handles import User
from wsdemo.lab.lab import Lab
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question, WrongAnswer
from wsdemo.lab.lessons.teaching_inbox import InboxReading, InboxReplica, NumberedInbox

QUESTION: Final = Question(
    "Alice sends 100 messages to Bob. During 20 of them Bob's gateway hears nothing from Redis; "
    "during 20 others Bob is away. Messages go by Pub/Sub, and nothing stores them. How many never "
    "reach Bob?",
    {
        0: "Somebody would have to keep them for him. Pub/Sub keeps nothing: it hands a message to "
        "those who listen at this moment, and forgets it.",
        20: "One of the two gaps is right. In the other one nobody listens for Bob either.",
        40: "Each message of both gaps is handed to nobody who could give it to Bob.",
        80: "After a gap the gateway subscribes again, and what is sent from then on arrives.",
    },
)

MESSAGES: Final = 100
DEAF: Final = range(21, 41)
"""While these are sent, Bob's gateway hears nothing from Redis."""
AWAY: Final = range(61, 81)
"""While these are sent, Bob is connected to no gateway."""
GAPS: Final = {"gateway-02 is deaf": DEAF, "Bob is away": AWAY}


# --- the experiment ----------------------------------------------------------------------------


class SentMessage(NamedTuple):
    """What became of one message."""

    number: int
    told: str
    """What its sender was told."""
    arrived_at: int | None
    """The number of the message that had been sent last when it arrived; None: it never did."""

    @property
    def lost(self) -> bool:
        return self.arrived_at is None

    @property
    def late(self) -> bool:
        return self.arrived_at is not None and self.arrived_at > self.number


class Post(Protocol):
    """A way to bring Alice's messages to Bob."""

    def send(self, number: int) -> str:
        """Send a message; return what Alice is told."""
        ...

    def take_until(self, number: int) -> list[int]:
        """Wait until this message arrives; return all that have arrived since the last call."""
        ...

    def leave(self) -> None: ...

    def come_back(self) -> None: ...


class PlainPost:
    """Pub/Sub alone: what the gateways do when nobody asks for more."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.alice = lab.connect("alice", to="gateway-01")
        self.bob = self._bob()

    def _bob(self) -> User:
        return self.lab.connect("bob", to="gateway-02")

    def send(self, number: int) -> str:
        return str(self.alice.send("bob", str(number)).status)

    def take_until(self, number: int) -> list[int]:
        taken = [self._take()]
        while taken[-1] != number:
            taken.append(self._take())
        return taken

    def _take(self) -> int:
        return int(self.bob.receive().content)

    def leave(self) -> None:
        self.bob.disconnect()
        self.lab.wait_until("Bob has left", lambda: self.lab.record("bob") == {})

    def come_back(self) -> None:
        self.bob = self._bob()


class NumberedPost(PlainPost):
    """A message is stored first, then its number goes to Bob as a hint; he reads the inbox."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self._inbox = NumberedInbox(lab, "bob")
        self._position = 0

    def send(self, number: int) -> str:
        self._inbox.store(str(number))
        super().send(number)
        return "stored"

    def take_until(self, number: int) -> list[int]:
        super().take_until(number)
        page = self._inbox.read(self._position)
        self._position = page.position
        return [int(text) for text in page.texts]


class DurablePost(PlainPost):
    """The product's own inbox: Alice asks for a durable message, and Bob's client reads it."""

    def _bob(self) -> User:
        return self.lab.connect("bob", to="gateway-02", durable=True)

    def send(self, number: int) -> str:
        return str(self.alice.send("bob", str(number), durable=True).status)

    def _take(self) -> int:
        try:
            return super()._take()
        except MessagesMissed:  # Nobody knows what was before the first contact.
            return super()._take()


class PositionInMemory:
    """Keeps a position for the next connection of a user; a file would keep it for a process."""

    def __init__(self) -> None:
        self._position: Position | None = None

    def load(self) -> Position | None:
        return self._position

    def save(self, position: Position) -> None:
        self._position = position


def fail_over_with_numbers(lab: Lab) -> InboxReading:
    """Let Bob read ten messages, fail over to a replica that has eight, and store three."""
    inbox = NumberedInbox(lab, "bob")
    for n in range(1, 9):
        inbox.store(f"old {n}")
    replica = InboxReplica(lab, "bob")
    inbox.store("old 9")
    inbox.store("old 10")
    position = inbox.read().position
    replica.take_over()
    for n in (9, 10, 11):
        inbox.store(f"new {n}")
    return inbox.read(position)


def fail_over_with_a_durable_inbox(lab: Lab) -> InboxReading:
    """Do the same with the product's inbox and Bob's client, which keeps his position."""
    alice, kept = lab.connect("alice"), PositionInMemory()

    def say(*texts: str) -> None:
        for text in texts:
            alice.send("bob", text, durable=True)

    bob = lab.connect("bob", durable=True, position=kept)
    say(*(f"old {n}" for n in range(1, 9)))
    _read_until(bob, "old 8")
    replica = InboxReplica(lab, "bob")
    say("old 9", "old 10")
    _read_until(bob, "old 10")
    bob.done()
    bob.disconnect()
    replica.take_over()
    say("new 9", "new 10", "new 11")
    bob = lab.connect("bob", durable=True, position=kept)
    told, texts = _read_until(bob, "new 11")
    return InboxReading("reset" if told else "recovered", 0, texts)


def after_failover(page: InboxReading) -> list[SentMessage]:
    """Return what became of the thirteen messages of a failover: ten old ones, all read, and three
    new ones.
    """
    new = ["new 9", "new 10", "new 11"]
    got = [11 + i if text in page.texts else None for i, text in enumerate(new)]
    old = [SentMessage(n, "stored", n) for n in range(1, 11)]
    return old + [SentMessage(11 + i, "stored", at) for i, at in enumerate(got)]


def _read_until(user: User, text: str) -> tuple[bool, list[str]]:
    """Return whether a gap was told, and what came up to this text."""
    told = False
    texts: list[str] = []
    while text not in texts:
        try:
            texts.append(user.receive().content)
        except MessagesMissed:
            told = True
    return told, texts


def send_a_hundred(lab: Lab, post: Post) -> list[SentMessage]:
    """Let Alice send a hundred messages through both gaps; the lab needs wires."""
    told: dict[int, str] = {}
    arrived: dict[int, int] = {}
    for number in range(1, MESSAGES + 1):
        _begin_or_end_a_gap(lab, post, number)
        told[number] = post.send(number)
        if number not in DEAF and number not in AWAY:
            for one in post.take_until(number):
                arrived.setdefault(one, number)
    return [SentMessage(n, said, arrived.get(n)) for n, said in told.items()]


def _begin_or_end_a_gap(lab: Lab, post: Post, number: int) -> None:
    wire = lab.wire("gateway-02", "redis")
    if number == DEAF.start:
        wire.drop("down")
    elif number == DEAF.stop:
        before = _subscription_gaps(lab)
        wire.cut()
        wire.release()
        lab.wait_until("gateway-02 listens again", lambda: _subscription_gaps(lab) > before)
    elif number == AWAY.start:
        post.leave()
    elif number == AWAY.stop:
        post.come_back()


def _subscription_gaps(lab: Lab) -> int:
    return int(lab.stats("gateway-02")["counters"]["subscription_gaps"])


# --- the exercise ------------------------------------------------------------------------------

Place = tuple[int, str]
"""The number of a message, and its mark."""
Entry = tuple[int, str, str]
"""Number, mark, text."""
ReadOn = Callable[[Place, Place, list[Entry]], Any]

STEPS: Final = 60
HISTORIES: Final = 40
WHY: Final = {
    "gone back": "The inbox went back to an earlier state, and Bob's place is beyond its end. Is "
    "nothing missing then?",
    "another message": "Bob's number is there, but another message has it: its mark is another "
    "one. Two messages have had the same number, and he has seen only one of them.",
    "too old": "Bob's place is older than everything that is left. Messages between were removed.",
    "before the oldest": "Bob stands exactly before the oldest entry, or the inbox is empty. "
    "Nothing is missing: he has what was removed. It is `recovered`.",
    "in it": "Bob's place is in the inbox, number and mark. Nothing is missing: it is `recovered`.",
}


class _PlaceCase(NamedTuple):
    """What the reader's function is asked, and the truth."""

    kind: str
    place: Place
    before: Place
    entries: list[Entry]
    recovered: bool
    texts: list[str]


def judge_read_on(read_on: ReadOn, seed: int | None = None) -> Judgement:
    """Ask the reader's function about places in inboxes with a history, and compare."""
    if not callable(read_on):
        raise NotJudged(f"read_on must be a function, not {type(read_on).__name__}.")
    cases = _cases(random.Random(seed))
    try:
        for case in cases:
            _examine(read_on, case)
    except WrongAnswer as wrong:
        return wrong.judgement
    return Judgement(True, f"{len(cases)} places in {HISTORIES} inboxes, with failovers.")


def _examine(read_on: ReadOn, case: _PlaceCase) -> None:
    entries = list(case.entries)
    try:
        said = read_on(case.place, case.before, entries)
    except NotImplementedError:
        raise
    except Exception as problem:
        raise WrongAnswer(
            f"It raised {type(problem).__name__}. {WHY[case.kind]}", _shown(case)
        ) from None
    if entries != case.entries:
        raise WrongAnswer("It changed the list of entries: only read it.", _shown(case))
    if not isinstance(said, tuple) or len(said) != 2 or said[0] not in ("recovered", "reset"):
        raise WrongAnswer(
            "Return two things: 'recovered' or 'reset', and a list of texts.", _shown(case, said)
        )
    answer, texts = said[0], list(said[1])
    if answer != ("recovered" if case.recovered else "reset"):
        raise WrongAnswer(WHY[case.kind], _shown(case, said))
    if texts != case.texts:
        raise WrongAnswer(_why_texts(case, texts), _shown(case, said))


def _why_texts(case: _PlaceCase, texts: Sequence[str]) -> str:
    if not case.recovered:
        return "After a reset Bob gets everything that is left: nobody knows what he has of it."
    if set(texts) > set(case.texts):
        return "Bob gets a message again that he has: he goes on *after* his place."
    return "Nothing is missing, so Bob gets what comes after his place: all of it, in order."


def _shown(case: _PlaceCase, said: object = None) -> str:
    rows = [f"  {number} {mark}  {text!r}" for number, mark, text in case.entries]
    lines = [
        f"Bob's place:       {case.place}",
        f"before the oldest: {case.before}",
        "entries:",
        *(rows or ["  (none)"]),
    ]
    return "\n".join([*lines, *([f"your answer: {said!r}"] if said is not None else [])])


def _cases(rng: random.Random) -> list[_PlaceCase]:
    """Return cases of every kind, the simple kinds first."""
    cases = [case for _ in range(HISTORIES) for case in _History(rng).cases()]
    order = ["in it", "before the oldest", "too old", "gone back", "another message"]
    return sorted(cases, key=lambda case: order.index(case.kind))


class _History:
    """An inbox in which things happen by chance: it stores, trims, and goes back in a failover."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._stored = 0
        self.before: Place = (0, "")
        self.entries: list[Entry] = []
        self.places: list[Place] = [self.before]
        """Where Bob may stand: every place that there has ever been."""
        self._replica = (self.before, list(self.entries))
        for step in range(STEPS):
            self._act(step)

    def _act(self, step: int) -> None:
        chance = self._rng.random()
        if chance < 0.6 or step < 4:
            self._store()
        elif chance < 0.8:
            self._trim()
        elif chance < 0.9:
            self._replica = (self.before, list(self.entries))
        else:
            self.before, self.entries = self._replica[0], list(self._replica[1])

    def _store(self) -> None:
        self._stored += 1
        number = (self.entries[-1][0] if self.entries else self.before[0]) + 1
        mark = f"{self._rng.randrange(16**6):06x}"
        self.entries.append((number, mark, f"text {self._stored}"))
        self.places.append((number, mark))

    def _trim(self) -> None:
        for number, mark, _ in self.entries[: self._rng.randint(1, 3)]:
            self.before = (number, mark)
        self.entries = [entry for entry in self.entries if entry[0] > self.before[0]]

    def cases(self) -> list[_PlaceCase]:
        empty = self.entries[-1][:2] if self.entries else self.before
        found = [self._case(place, self.before, self.entries) for place in self.places]
        return [*found, self._case(empty, empty, [])]

    @staticmethod
    def _case(place: Place, before: Place, entries: list[Entry]) -> _PlaceCase:
        kind = _kind(place, before, entries)
        recovered = kind in ("in it", "before the oldest")
        texts = [text for n, _, text in entries if not recovered or n > place[0]]
        return _PlaceCase(kind, place, before, list(entries), recovered, texts)


def _kind(place: Place, before: Place, entries: list[Entry]) -> str:
    marks = {number: mark for number, mark, _ in entries}
    if place == before:
        return "before the oldest"
    if marks.get(place[0]) == place[1]:
        return "in it"
    if place[0] in marks or place[0] == before[0]:
        return "another message"
    return "too old" if place[0] < before[0] else "gone back"
