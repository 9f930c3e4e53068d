# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "16 · Break it"
#     question: "Five teams wrote a gateway, each with one mistake. Which schedule of faults shows it?"
#     able: "write a nemesis; name the invariant that a fault violates; find a mistake from outside and make the schedule short"
#     minutes: {read: 12, run: 1, exercise: 60}
#     needs: "Redis: a private one is started for you"
#     failure: "whatever you write: words that come late, a frozen Redis, a kill, a drain"
#     level: "L1 directed: the order of the faults is exact; times are measured"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Five teams have written a gateway: A, B, C, D and E. All five pass the tests of the others. Each has exactly one mistake, and
# no team knows it. In production it will come out, at night. You are the [nemesis](../docs/glossary.md#nemesis): you choose what goes wrong, and
# when, so that it comes out today. You never see their code.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# The best known nemesis kills processes. Alice is at gateway-01 and Bob at gateway-02. He writes to her, gateway-01 is killed, he
# writes again, she comes back at gateway-03, and he writes once more. **How many of the five mistakes does that
# expose?** The options are `0`, `1`, `3` and `5`.

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q16", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q16", 3)

# %% [markdown]
# ## Run
#
# A schedule is a list of steps. `unleash` plays it on three gateways of each team, and on those of a sixth gateway, which is sound.
# At its end everything goes on that was held, there is time for repairs, and six
# [invariants](../docs/glossary.md#invariant) are checked on what the *clients* have seen.

# %%
from wsdemo.lab.lessons.break_it import INVARIANTS, Schedule, exposed, unleash

print("\n".join(INVARIANTS))

# %%
kill = (
    Schedule()
    .connect("alice", "gateway-01")
    .connect("bob", "gateway-02")
    .send("bob", "alice", 3)
    .kill("gateway-01")
    .send("bob", "alice")
    .connect("alice", "gateway-03")
    .send("bob", "alice", 3)
)
killed = unleash(kill)
print([name for name, one in killed.items() if one.violated] or "nothing was seen")

# %% [markdown]
# And the race of lesson 04: the [release](../docs/glossary.md#register-refresh-release) of gateway-01 is held until Alice is at
# gateway-02. A heartbeat repairs much, so the refreshes of her new gateway are held as well.


# %%
def late_release(to):
    return (
        Schedule()
        .connect("alice", "gateway-01")
        .connect("bob", "gateway-03")
        .hold("gateway-01", "release")
        .move("alice", to)
        .hold(to, "refresh")
        .let_go("gateway-01", "release")
        .send("bob", "alice")
    )


elsewhere = unleash(late_release(to="gateway-02"))
print([name for name, one in elsewhere.items() if one.violated] or "nothing was seen")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.learn import predicted, reveal

exposed(
    {"a gateway is killed": killed, "a late release": elsewhere},
    prediction=predicted("q16"),
    title="A kill exposes {count} of {all} mistakes, and the race of lesson 04 none either",
)

# %%
found = [name for name, one in killed.items() if one.violated]
reveal("q16", len(found))
expect("a kill exposes none of the five", found == [], seen=found)
found = [name for name, one in elsewhere.items() if one.violated]
expect("the race of lesson 04 exposes none of the five", found == [], seen=found)

# %% [markdown]
# ## Explain
#
# A kill is loud. Connections end, `PUBLISH` counts nobody, and leases run out: all five teams had thought of that. And
# all had read lesson 04. What is left are quiet mistakes: a word that arrives after the world has changed, a goodbye in the wrong
# order, a repair that is not one. A random kill hardly ever finds them, for they need two things, in one order.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1**: after a kill there is a stale entry. But a lease and a count of zero cover it.
# * **3** and **5**: most outages that one reads about begin with a dead process. Most *mistakes* do not need one.
# </details>
#
# ## Modify
#
# Change one word of the second schedule: let Alice come back to `gateway-01`, the same gateway. How many teams does that
# expose? Decide first.

# %%
from wsdemo.lab.expectation import steadily


def back_at_the_same(pace):
    report = unleash(late_release(to="gateway-01"))
    found = [name for name, one in report.items() if one.violated]
    expect(
        "the same gateway makes the difference, for B and for D", found == ["B", "D"], seen=found
    )
    return report


same = steadily(back_at_the_same)

# %%
exposed(
    {"back elsewhere": elsewhere, "back at the same": same},
    title="One word changed: back at the same gateway, the late release exposes {most} of {all}",
)

# %%
same["D"].figure(title="Gateway {level} deletes the entry of Alice's new session")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `nemesis()`. It returns a list of schedules that together expose all five, in at most 30 steps; the sound gateway must not be
# accused. The check plays them with the gateways in other parts than you wrote, so that luck does not help. Without
# a hint you have these words:
#
# | step | what it does |
# |---|---|
# | `connect(user, gateway)` | she logs in; an older session of hers stays open |
# | `leave(user)`, `move(user, gateway)` | she says goodbye; she says goodbye and logs in, maybe at the same gateway |
# | `send(user, to, number)` | messages, counted until the end |
# | `hold(gateway, what)` | `"register"`, `"refresh"`, `"release"` or `"route"` waits before it begins; `"channel"`: what other gateways publish waits |
# | `freeze()` | Redis answers nobody |
# | `let_go()`, `let_go(gateway, what)` | all of it goes on, or one thing does; at the end of a schedule all does by itself |
# | `kill(gateway)`, `drain(gateway)` | SIGKILL, SIGTERM |
# | `rest(beats)` | time passes; a lease lasts three heartbeats |
#
# Try one schedule at a time with `unleash`, and draw what you have found: `unleash(...)["B"].figure()`.


# %% tags=["exercise"]
def nemesis():
    raise NotImplementedError


# %% tags=["solution"]
def nemesis():
    pair = Schedule().connect("alice", "gateway-01").connect("bob", "gateway-02")
    on_the_way = pair.hold("gateway-01", "channel").send("bob", "alice")
    frozen = Schedule().connect("alice", "gateway-01").freeze().rest(4)
    return [
        on_the_way.leave("alice"),
        on_the_way.drain("gateway-01"),
        late_release(to="gateway-01"),
        frozen,
    ]


# %%
check("ex16", nemesis)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A fault is not a dead process. It is two things in an order that nobody had thought of.
# * Say first what must hold, as invariants that an observer can check. Without them a nemesis finds nothing, for nobody looks.
# * Look before the repair. A heartbeat later the damage is gone, and so is the evidence.
#
# | one may think | but |
# |---|---|
# | more kills find more | a kill is the fault for which all five are ready |
# | the known race was repaired, so this is done | one word changed: it was repaired for two gateways, not for one |
# | no invariant was violated, so it is right | this schedule has not shown anything: that is less |
# | a long random run is stronger than a short schedule | a short one can be read, repeated, and kept as a test |
#
# Four questions, from memory: Why does a kill expose none of the five? What has to be held so that a late release can be seen? Which
# invariant does a lost bounce violate? Why does the check need a sound gateway?
#
# <details><summary>The answers</summary>
#
# 1. A death is loud: leases, counts and closed connections tell everybody.
# 2. The refreshes of the gateway where the user is now: they put the entry back.
# 3. No silent loss: the sender was told routed, and the message never arrived.
# 4. To know that the nemesis asks for no more than is promised: a false alarm proves nothing.
# </details>
#
# In the code: the product's own nemesis is `wsdemo/proof/chaos/nemesis.py`, with
# [the catalogue of faults](../docs/faults.md);
# `wsdemo/proof/simulate` plays hours of them in seconds. What the five teams did: `wsdemo/lab/lessons/seeded_gateways.py`.

# %%
import threading

left = [thread.name for thread in threading.enumerate() if thread.name.startswith("gateway-")]
expect("the schedules leave no thread of a gateway", not left, seen=left)
