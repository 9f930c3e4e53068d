# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "00 · Start here: one message across two gateways"
#     question: "How does a message reach a user who is connected somewhere else?"
#     able: "start a lab and connect users; send a message and name its hops; read a space-time diagram"
#     minutes: {read: 8, run: 1, exercise: 11}
#     needs: "Redis: a private one is started for you"
#     failure: "none; then a message to somebody who is not there"
#     level: "L1 directed: the order of events is exact, times are measured"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice wants to say hello to Bob. Her [WebSocket](../docs/glossary.md#websocket) ends at **gateway-01**, his at **gateway-02**.
# The two [gateways](../docs/glossary.md#gateway) have never heard of each other; each knows its own users
# and nobody else's. All that they share is a [Redis](../docs/glossary.md#redis). Today nothing breaks: the message arrives. We want to see how.

# %% [markdown]
# Is everything here? The doctor looks at versions, and at where the Redis comes from.

# %%
from wsdemo.lab.doctor import doctor

doctor()

# %% [markdown]
# Have you been here before? This says which lessons you have predicted in, and whose checks you have
# passed. Run it again whenever you come back.

# %%
from wsdemo.lab.learn import progress

progress()

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Alice sits at gateway-01, Bob at gateway-02. **How many hops does her message take?** A
# [hop](../docs/glossary.md#hop) is one arrow from one process to another. The options are `1`, `2`, `4`, `5` and `"depends"`. Put yours in and
# run the cell; going on without is possible, but you will learn less.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q00", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q00", 5)

# %% [markdown]
# ## Run
#
# Three real gateways, each with a port of its own, and three real users.

# %%
lab = Lab(gateways=3, seed=7, api=True)
alice = lab.connect("alice", to="gateway-01")
bob = lab.connect("bob", to="gateway-02")
carol = lab.connect("carol", to="gateway-03")
lab

# %% [markdown]
# Where is everybody? The sockets say it, and so does Redis, which is the only place where
# gateway-01 can look.

# %%
lab.where()

# %%
receipt = alice.send("bob", "Hello from Alice!")
message = bob.receive()
print(f"{message.sender}: {message.content}   (alice was told: {receipt.status})")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# Every hop of that message, as a table and as a picture, a
# [space-time diagram](../docs/glossary.md#space-time-diagram). Time goes from left to right.

# %%
lab.hops(receipt)

# %%
from wsdemo.lab.learn import predicted, reveal

hops = len(lab.hops(receipt))
lab.plot.spacetime(receipt, prediction=predicted("q00"))

# %%
reveal("q00", hops)
way = lab.hops(receipt)["from"].tolist()
expect("a message across gateways takes four hops", hops == 4, seen=hops)
expect(
    "it goes by way of gateway-01, Redis and gateway-02",
    way == ["alice", "gateway-01", "redis", "gateway-02"],
    seen=way,
)

# %% [markdown]
# ## Explain
#
# Which table did the message change? Each column is one moment of its way, from left to right. A wide box
# was the same at every moment; an orange frame means "changed since the moment before".

# %%
lab.plot.steps(receipt)

# %% [markdown]
# No gateway stores the message, and Redis does not either: it passes through. What Redis stores is
# *where people are*. gateway-01 asked for Bob's record and published to the channel of the gateway
# that it names; both happen in one script on the Redis server, so Bob cannot move in between.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1**: chat feels like a wire between two people. There is none.
# * **2**: true when both sit at the same gateway. Try it below.
# * **5**: true for designs that look up first and publish afterwards. The time between the two is
#   where messages get lost; here it does not exist.
# * **depends**: on where they sit, yes. That was given.
# </details>
#
# What the operator sees, over plain HTTP, and what is in Redis:

# %%
print("/health:", lab.health("gateway-02"))
stats = lab.stats("gateway-02")
print("/stats: ", {name: stats[name] for name in ("gatewayId", "connections", "ready")})
print("HGETALL presence:bob:", {k: lab.record("bob")[k] for k in ("gwId", "ts")})

# %% [markdown]
# ## Modify
#
# Now a message to somebody who is not there. Before you run it: how far does it get, and who is told?

# %%
nowhere = alice.send("nobody", "Is anybody there?")
print("alice was told:", nowhere.status)
lab.plot.spacetime(nowhere, title="{hops} hops, then Redis knows nobody of that name: {took}")

# %% [markdown]
# And to somebody at the same gateway: Redis is not asked at all.

# %%
dave = lab.connect("dave", to="gateway-01")
near = alice.send("dave", "Hello, neighbour!")
dave.receive()
expect("a neighbour is two hops away", len(lab.hops(near)) == 2, seen=lab.hops(near))
lab.plot.spacetime(near, title="{hops} hops when both sit at one gateway, without Redis: {took}")

# %% [markdown]
# **A backend is no user.** A shop wants to tell Bob that his parcel is on its way. It has no WebSocket and needs none:
# a gateway can offer a [server API](../docs/glossary.md#server-api), plain HTTP at a port of its own, for those who know its key. Here that
# is `Lab(api=True)`, in a terminal `--api-port`. Does the shop have to know where Bob is?

# %%
from wsdemo.lab.lessons.start import curl

online = curl(lab, "/api/presence/bob")
told = curl(lab, "/api/publish", {"to": "bob", "content": "Your parcel is on its way"})
parcel = bob.receive()
print(f"{parcel.sender}: {parcel.content}")

# %%
expect("any gateway can say whether Bob is online", online["online"], seen=online)
expect(
    "what a backend publishes is handed on like a message", told["status"] == "routed", seen=told
)

# %% [markdown]
# It asked gateway-01, and Bob sits at gateway-02: any gateway will do, since the answer comes from Redis.
# [The whole API](../docs/server-api.md) can also end sessions, and look into rooms and inboxes.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `where_is(record)`. It gets what `HGETALL presence:{user}` returned, as a dictionary, and
# returns the id of the user's gateway, or `None` when the user is offline. The check asks it about 30
# users on three gateways of its own, one of whom has left.


# %% tags=["exercise"]
def where_is(record):
    raise NotImplementedError


# %% tags=["solution"]
def where_is(record):
    # The record of an offline user is empty: the key is gone.
    return record.get("gwId")


# %%
check("ex00", where_is)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A gateway knows its own users. Redis knows which gateway has whom; it does not have the messages.
# * Across gateways a message takes four hops, and the third one only if somebody is listening.
# * A sender is told what is known: `routed` means handed on, not read.
#
# | one may think | but |
# |---|---|
# | Redis stores the messages | it passes them on; what nobody listens to is gone |
# | a gateway asks the other gateways | it asks Redis, once |
# | `routed` means that Bob has read it | it means that his gateway was listening |
#
# Four questions, from memory: What is in `presence:bob`? Who publishes to `gateway:gateway-02`? Which hops
# are missing when both sit at one gateway? What is Alice told about a user who is not there?
#
# <details><summary>The answers</summary>
#
# 1. Which gateway has him (`gwId`), since when (`ts`), and by which connection.
# 2. The script on the Redis server, for a gateway that has a message for a user of gateway-02.
# 3. Both hops of Redis: in to it, and out of it. Two are left.
# 4. `offline`: Redis knows nobody of that name.
# </details>
#
# In the code: `wsdemo/gateway/delivery.py` and `wsdemo/route.lua`, one screen each. Next: **00b · Redis and
# Lua in ten minutes**, or 01 for whoever knows them. All words: [glossary](../docs/glossary.md).

# %%
lab.close()
expect("a closed laboratory leaves nothing behind", lab.leaks() == [], seen=lab.leaks())
