# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "01 · Follow the message: the cost of a hop"
#     question: "What does it cost that Bob sits at another gateway than Alice?"
#     able: "explain local and cross-gateway delivery; read an eCDF; say why p99 is not twice p50"
#     minutes: {read: 12, run: 1, exercise: 20}
#     needs: "Redis: a private one is started for you"
#     failure: "a slow wire between a gateway and Redis"
#     level: "L2 measured: only orders and ratios are asserted, never milliseconds"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice and Bob chat all day. In the morning both sit at gateway-01. At noon Bob's train leaves the
# station, he reconnects, and a load balancer puts him at gateway-02. Nothing in their chat looks any
# different. Somewhere in the machine room every word of theirs now takes a different way.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# A message to somebody at the *same* gateway takes two hops, *across* gateways it takes four, two of them
# to and from Redis. **How many times as long does the median message take across gateways?** The
# [median](../docs/glossary.md#percentile) is the time within which half of them arrive. The options are
# `1`, `1.5`, `2`, `3`, `5` and `10`; take the nearest.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q01", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q01", 5)

# %% [markdown]
# ## Run
#
# Three hundred users are connected, so that the gateways have something to hold. Alice writes to a
# neighbour at her own gateway and to somebody elsewhere in turn, so that a busy moment of this machine
# hits both alike; and one message at a time: what we want to see is the way, not the queue. `steadily`
# measures this machine first. If it is busy, the clock runs more slowly, or the crowd is smaller.

# %%
from wsdemo.lab.expectation import steadily


def talk(sender, *recipients, times=300):
    for n in range(times):
        for recipient in recipients:
            sender.send(recipient.name, f"message {n}")
            recipient.receive()


def near_and_far(lab):
    alice, bob = lab.connect("alice", to="gateway-01"), lab.connect("bob", to="gateway-01")
    return alice, bob, lab.connect("carol", to="gateway-02")


# %%
def chat_in_a_crowd(pace):
    lab = Lab(gateways=3, scale=pace.scale)
    lab.connect_many(pace.users)
    talk(*near_and_far(lab))
    return lab


lab = steadily(chat_in_a_crowd, users=300)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.learn import predicted, reveal

curves = lab.plot.latency(prediction=predicted("q01"))
curves

# %%
from math import log

ratio = float(curves.wsdemo_facts["ratio"])
nearest = min((1, 1.5, 2, 3, 5, 10), key=lambda option: abs(log(option / ratio)))
print(f"The medians differ by {ratio:g} times; the nearest option is {nearest}.")
reveal("q01", nearest)
expect("a message across gateways takes longer", ratio > 1.1, seen=f"{ratio:g} times as long")

# %% [markdown]
# ## Explain
#
# The curve of an [eCDF](../docs/glossary.md#ecdf) answers two questions at once: go up to 0.5 and across to find the median, go up
# to 0.99 and find what one message in a hundred takes longer than. The tail is not "the median with
# bad luck": it is made of other things, a heartbeat batch in the same turn of the loop, a garbage
# collection, the operating system's scheduler. So no factor leads from p50 to p99.
#
# Where does the time go? Each message left its times at every lane that it passed:

# %%
lab.plot.stages()

# %% [markdown]
# The two hops more are the middle of the lower bar: in to Redis, and out to the other gateway. Hardly
# anything is *carried* there; what takes time is that another process has to wake up, read, and write,
# and each time the operating system has to notice. Redis is asked once: looking up and publishing are one
# script. Asked twice, as in the Go demo, the middle would be longer still.
#
# (`make bench` measures what a message *costs*, with load processes of their own. Here each hop is to be
# seen, and that record exists only where gateways and users share one clock: in one process. So these
# times hold a little of the laboratory as well; compare them with each other, not with a stopwatch.)
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1** and **1.5**: Redis is fast. But it is another process, and it has to wake up.
# * **2** and **3**: twice the hops, and the two in the middle wake up one more process each. So much it
#   is where all hops are short; it is no law, as the slow wire below shows.
# * **5** and **10**: a network between machines would cost more. This is one machine.
# </details>
#
# ## Modify
#
# Now the wire from gateway-01 to Redis gets five milliseconds slower in each direction, as if Redis stood
# in another town. Which of the two curves moves, and by how much? Does the other one move at all?


# %%
def chat_with_a_slow_wire(pace):
    slow = Lab(gateways=2, wires=True, scale=pace.scale)
    users = near_and_far(slow)
    slow.wire("gateway-01", "redis").delay(0.005)
    talk(*users, times=100)
    return slow


slow = steadily(chat_with_a_slow_wire)

# %%
slow.plot.latency(title="With 5 ms to Redis, crossing costs {ratio} times as much")

# %%
from wsdemo.lab.trace.journeys import latencies

far = latencies(slow.trace()).groupby("way")["latency_s"].median()
ms = (1000 * far).round(1).to_dict()
expect(
    "with 5 ms to Redis and 5 ms back, crossing takes more than twice as long",
    far["across gateways"] > max(0.005, 2 * far["same gateway"]),
    seen=f"medians of {ms} ms",
)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `route(presence, me)`, the decision that a gateway takes for every message. `presence` is the
# recipient's record from Redis (`{}` when there is none), `me` the id of this gateway. Return
# `("local", None)`, `("publish", channel)` or `("offline", None)`. A gateway listens on the channel
# `gateway:` followed by its id.


# %% tags=["exercise"]
def route(presence, me):
    raise NotImplementedError


# %% tags=["solution"]
def route(presence, me):
    gateway = presence.get("gwId")
    if not gateway:
        return ("offline", None)
    if gateway == me:
        return ("local", None)
    return ("publish", f"gateway:{gateway}")


# %%
check("ex01", route)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A message within one gateway never asks Redis; across gateways it asks once.
# * Read latencies as a curve. A mean hides the tail, and the tail is what users remember.
# * The far wire costs every message that crosses, and no other. Keep chatty users together, or Redis near.
#
# | one may think | but |
# |---|---|
# | twice the hops, so always twice the time | two or three times it is while all hops are short; one slow wire makes it many times |
# | p99 is about 2 × p50 | the tail has causes of its own |
# | a presence cache makes it faster | and then it sends messages to where somebody was |
#
# Four questions, from memory: How many hops within one gateway? Which hops does the slow wire lengthen? What
# does p99 say, and why does it not follow from p50? What does a gateway do with a record that names itself?
#
# <details><summary>The answers</summary>
#
# 1. Two: in, and out.
# 2. Those between gateway-01 and Redis: of every message that crosses, and of no other.
# 3. 99 of 100 messages take no longer. The slowest ones have causes of their own, such as a collection of
#    garbage, so no factor leads from the one to the other.
# 4. It delivers the message itself, and Redis is not asked again.
# </details>
#
# In the code: `wsdemo/gateway/delivery.py`, `wsdemo/route.lua`.

# %%
slow.close()
left = lab.leaks() + slow.leaks()
expect("a closed laboratory leaves nothing behind", left == [], seen=left)
