# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "14 · A class on the wire"
#     question: "The users are you. A gateway crashes: what does each of you see, and what does Redis believe?"
#     able: "read a board that shows connections beside what Redis says; tell from a close code what happened to a gateway; compute for how long Redis was wrong about each user"
#     minutes: {read: 12, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you. Phones are welcome, and not needed"
#     failure: "a crash with a phone asleep, a restart, a drain"
#     level: "L2 measured: counts, close codes and orders are asserted, seconds are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Until now the users were Alice and Bob. Today they are you. Each phone in this room is a user of a real
# gateway. In the middle of the lesson **gateway-02** crashes. A third of you lose the connection, and
# Edsger does not notice it: his phone is locked, in his pocket. A board shows what no phone and no gateway can
# see alone: where each connection is, and where [Redis](../docs/glossary.md#redis) believes that it is.
#
# Are you alone? Then six scripted students take the seats. Each goes the whole way of a phone.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# gateway-02 [crashes](../docs/glossary.md#crash) under its students. Each browser reports a
# [close code](../docs/glossary.md#close-code)
# when a connection ends. **Which one do the students of gateway-02 see?** The options are `1000`,
# `1001`, `1006`, `1012` and `4009`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q14", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q14", 1012)

# %% [markdown]
# ## Run
#
# One line opens a class room. The cell shows how to join: an address, a QR code, and a code to type. With
# `PHONES = True` it is open to the network that this machine is in, and time passes only six times faster
# than in production, so that people can follow.

# %%
from wsdemo.lab.pace import pace

PHONES = False
lab = Lab(gateways=3, scale=6 if PHONES else pace(at_most=30).scale)
room = lab.classroom(host="lan" if PHONES else "127.0.0.1")
room

# %%
students = room.invite(6)  # scripted ones; they share the class with whoever has a phone
students

# %% [markdown]
# Everybody writes to a neighbour, and one of them to a name that nobody has. `routed` means: handed on to the
# other's gateway. It does not mean: read.

# %%
neighbours = [*students[1:], students[0]]
print([one.send(other.name, "hello") for one, other in zip(students, neighbours, strict=True)])
print(students[0].send("nobody-of-this-name", "hello"))

# %% [markdown]
# The prediction goes to the room. Students vote on their pages; the scripted ones choose by chance.

# %%
room.ask("q14")
lab.wait_until("the scripted students have voted", lambda: len(room.votes) >= len(students))
print(len(room.votes), "votes")

# %% [markdown]
# Now Edsger locks his phone, and gateway-02 crashes. His page sends no
# [heartbeat](../docs/glossary.md#heartbeat) any more, so his [lease](../docs/glossary.md#lease) runs out.

# %%
sleeper = [one for one in students if one.gateway == "gateway-02"][-1]
others = [one for one in students if one is not sleeper]
sleeper.lock()
lab.crash("gateway-02")
lab.wait_until("the others are back", lambda: all(one.gateway for one in others))
lab.wait_until("Redis forgets", lambda: not lab.record(sleeper.name), timeout_s=120 / lab.scale)
print({one.name: one.gateway or "nowhere" for one in students})

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# The board, one second after the crash. Those who had it open on a projector saw it happen.

# %%
room.picture(
    after_s=1,
    title="{after_s} s after the {fault}, Redis still places {wrong_users} there, "
    "who is connected to nobody",
)

# %%
from wsdemo.lab.learn import reveal

codes = {one.closed[-1].code for one in others if one.closed}
code = codes.pop()
reveal("q14", code)
expect("a crash sends no close frame: 1006", code == 1006 and not codes, seen=(code, codes))
expect("a locked phone does not come back by itself", not sleeper.gateway, seen=sleeper)

# %%
room.reveal(code)

# %% [markdown]
# ## Explain
#
# **1006 never travels.** A close code is two bytes in a close frame. A gateway that crashes sends no
# frame; the operating system ends the connection, and the browser writes down "1006: no close frame
# came". So 1006 tells you one thing only: nobody said goodbye.
#
# | what happens to a gateway | what its students see | what Redis says |
# |---|---|---|
# | crash | 1006, at once | its name, until each is back, or the lease has run out |
# | [drain](../docs/glossary.md#drain) | 1012, and when to come back | nobody, within milliseconds: it releases each entry as it says goodbye |
# | it hears nothing of a phone | 4009, when the phone wakes up | nobody: the lease ran out before |
# | the same student in another tab | 4509, and no return without a click | the newer tab |
#
# Those who noticed came back in a moment. Their *register* wrote a new gateway over the old one. Edsger did
# not notice, so nobody wrote anything: for the rest of his lease Redis was wrong about him, a
# [ghost](../docs/glossary.md#ghost). Then the lease ended, and nobody had to clean up.
#
# Now he takes out his phone. What does his page say, how long was he away?

# %%
sleeper.unlock()
lab.wait_until("he is back", lambda: sleeper.gateway != "")
print("his page says:", sleeper.closed[-1])

# %% [markdown]
# Hardly at all! A page that sleeps measures nothing. It saw the end of its connection when it woke up. The
# board knows better, because a gateway and Redis were asked. When reports do not agree, ask who was awake.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1000**: a normal close. It takes two who say goodbye.
# * **1001**, "going away": servers say it when they stop in order. A crash has no time.
# * **1012**, "service restart": what a drain says. Try it below.
# * **4009**: a gateway says it to a client that is silent. Here the gateway was the silent one.
# </details>
#
# **The live board.** The same board lives in the next cell, as long as the kernel runs: pause it, step, go back
# to the crash. Without a kernel you see a picture of it. The buttons are real: *Crash* crashes.

# %%
lab.board()

# %% [markdown]
# ## Modify
#
# gateway-02 starts again. A question of your own for the room: how many students will it have a minute
# later? Say it first. What would have to happen for another answer?

# %%
room.ask(
    "mine",
    "gateway-02 is back. Which part of us will it have a minute later?",
    {
        "none of us": "Nobody loses a connection, so nobody has a reason to move.",
        "a third": "That is what a load balancer gives to new connections. Ours are old.",
        "all who were there": "A page remembers where it was, but it is served well where it is.",
    },
)
before = {one.name: one.gateway for one in students}
lab.start_gateway("gateway-02")
lab.let_pass(60)
moved = [one.name for one in students if one.gateway != before[one.name]]
print("moved:", moved or "nobody")

# %%
expect("a connection stays where it is", not moved, seen=moved)
room.reveal("none of us")

# %% [markdown]
# Next, gateway-03 is drained. Which code do its students see now, and for how long is Redis wrong about them?

# %%
drained = [one for one in students if one.gateway == "gateway-03"]
lab.drain("gateway-03")
lab.wait_until("all are back", lambda: all(one.gateway for one in students))
print({one.name: one.closed[-1].code for one in drained})
codes = {one.closed[-1].code for one in drained}
expect("a drain says goodbye, with 1012", codes == {1012}, seen=codes)

# %%
lab.let_pass(10)
room.picture(title="After the {fault}, Redis places {wrong} of {users} users where they are not")

# %% [markdown]
# **Take the hour home.** One file holds the whole run. It opens without a network and without Python, and plays
# the hour again. What people wrote to each other is not in it.

# %%
lab.save_html("a-class-on-the-wire.html")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# For how long was Redis wrong about each of you? The board is told everything; here it is as a list of
# moments:

# %%
from wsdemo.lab.lessons.classroom import moments_of

moments = moments_of(room.batches())
end = room.batches()[-1]["t"]
for moment in moments[:6]:
    print(moment)

# %% [markdown]
# | kind | fields | what it means |
# |---|---|---|
# | `registered` | user, gateway, connection | a gateway has this connection, and Redis names it |
# | `closed` | user, gateway, connection | the gateway has this connection no more |
# | `gone` | gateway | the whole gateway is gone, with all its connections |
# | `released` | user, gateway, connection | the entry was removed: Redis names nobody |
# | `says` | user, gateway | Redis names this gateway; with an empty one, nobody |
# | `unknown` | | Redis cannot be asked; what it names is not known, until it says so again |
#
# Write `belief_gap(moments, end)`. It returns a dict: for each user the seconds during which Redis **named a
# gateway that did not have a connection of this user**. Users with no such second may be left out. The record ends
# at `end`. The check makes 29 classes up, and compares. When it says ok, try `belief_gap(moments, end)` on your
# own class: which of your seconds come from the crash, from the locked phone, and from the drain?


# %% tags=["exercise"]
def belief_gap(moments, end):
    raise NotImplementedError


# %% tags=["solution"]
def belief_gap(moments, end):
    has = {}  # connection -> (user, gateway)
    says = {}  # user -> gateway
    gaps = {}
    before = 0.0
    for t, kind, user, gateway, connection in [*moments, (end, "end", "", "", "")]:
        for name, named in says.items():
            if named and (name, named) not in has.values():
                gaps[name] = gaps.get(name, 0.0) + t - before
        before = t
        if kind == "registered":
            has[connection] = (user, gateway)
            says[user] = gateway
        elif kind == "closed":
            has.pop(connection, None)
        elif kind == "gone":
            has = {c: place for c, place in has.items() if place[1] != gateway}
        elif kind == "released":
            says[user] = ""
        elif kind == "says":
            says[user] = gateway
        elif kind == "unknown":
            says.clear()
    return gaps


# %%
check("ex14", belief_gap)

# %% tags=["solution"]
{user: round(seconds, 3) for user, seconds in belief_gap(moments, end).items()}

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * 1006 is no message: it is the browser's word for "nobody said goodbye". 1012 was sent on purpose.
# * Whoever notices a crash repairs Redis by registering again. For whoever does not, the lease does it.
# * Draw the truth where it is measured: connections from gateways, entries from Redis. A page that
#   slept knows least.
#
# | one may think | but |
# |---|---|
# | the close code was sent by the server | 1006 was sent by nobody |
# | a gateway that is back gets its users back | living connections stay where they are |
# | `routed` means that it was read | it means that another gateway has taken it |
# | the page knows how long it was away | only from the moment when it woke up |
#
# Four questions, from memory: Who writes 1006? Until when was Redis wrong about the locked phone? What does a
# drain do for Redis that a crash cannot do? Who moves when a gateway comes back?
#
# <details><summary>The answers</summary>
#
# 1. The browser itself, because no close frame came.
# 2. Until its lease ran out: nobody wrote over the entry, since the phone did not register again.
# 3. It releases each entry as it says goodbye. So Redis is wrong for milliseconds, and not for a lease.
# 4. Nobody. Only new connections can go there.
# </details>
#
# In the code: `wsdemo/lab/classroom`. Begin with `room.py`; `relay.py` passes the bytes of a phone to a gateway and back,
# `static/model.js` is the board's memory.

# %%
lab.close()
expect("a closed laboratory leaves nothing behind", lab.leaks() == [], seen=lab.leaks())
