# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "00b · Redis and Lua in ten minutes"
#     question: "What does Redis store, what does it forget, and what can happen between two of its commands?"
#     able: "read and write keys, hashes and leases; say who hears a published message; change a script of three lines, and say why it cannot be interrupted"
#     minutes: {read: 10, run: 1, exercise: 12}
#     needs: "Redis: a private one is started for you"
#     failure: "two clients that write the same key"
#     level: "L2 measured: that additions are lost is asserted, and how many is this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice's gateway counts her messages: no more than a hundred in a minute. She has two windows open, at
# two gateways, and both count in the same Redis. At the end of the day each gateway has counted
# correctly, and the number in Redis is too small.
#
# Whoever knows `HGETALL`, `PEXPIRE`, `PUBLISH` and `EVAL` may go on with lesson 01.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Two clients add 1 to a counter in Redis, 500 times each, at the same time. To add 1, a client reads the
# number (`GET`), adds one, and writes it back (`SET`). **What does the counter say at the end?** The
# options are `1000`, `"less"`, `500` and `"an error"`.

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q00b", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q00b", 1000)

# %% [markdown]
# ## Run
#
# [Redis](../docs/glossary.md#redis) is one process that keeps values in memory, each under a **key**, which
# is a text. It does one command after the other, never two at the same time. `redis.Redis` is a client.

# %%
import time

import redis

from wsdemo.redis.server import find_server

server = find_server()
r = redis.Redis.from_url(server.url, decode_responses=True)
r.set("lesson:greeting", "hello")
print(r.get("lesson:greeting"), "|", r.get("lesson:nothing"))

# %% [markdown]
# The value of a key may be a [hash](../docs/glossary.md#hash): fields with values, like a small dictionary.
# This kit keeps one for each user who is online. `HGETALL` returns all fields; of a key that does not
# exist, none.

# %%
r.hset("lesson:alice", mapping={"gwId": "gateway-01", "connId": "c1"})
print(r.hgetall("lesson:alice"), "|", r.hgetall("lesson:bob"))

# %% [markdown]
# A key may have a time to live, its [TTL](../docs/glossary.md#ttl). `PEXPIRE` sets it (in milliseconds),
# `PTTL` says what is left of it, and Redis removes the key by itself. `PTTL` says −1 for a key that stays
# for ever, and −2 for one that is not there.

# %%
print("before:", r.pttl("lesson:alice"))
r.pexpire("lesson:alice", 300)
print("left:  ", r.pttl("lesson:alice"), "ms")
while r.exists("lesson:alice"):
    time.sleep(0.02)
print("later: ", r.pttl("lesson:alice"), r.hgetall("lesson:alice"))

# %% [markdown]
# And Redis passes messages on: [Pub/Sub](../docs/glossary.md#pubsub). Who has subscribed to a channel gets
# what is published there, from then on. Nothing is stored. `PUBLISH` returns how many were listening.

# %%
print("nobody listens:", r.publish("lesson:news", "one"))
listener = r.pubsub()
listener.subscribe("lesson:news")
listener.get_message(timeout=5)  # "you have subscribed"
print("one listens:   ", r.publish("lesson:news", "two"))
print("it heard:      ", listener.get_message(timeout=5)["data"])
listener.close()

# %% [markdown]
# Now the counter. `together` calls a function 500 times in each of two threads; each thread has a client
# of its own. It returns what the counter said after each addition.

# %%
from wsdemo.lab.lessons.counting import together


def add_one(r, key):
    n = int(r.get(key) or 0)
    r.set(key, n + 1)
    return n + 1


apart = together(add_one, server.url, times=500)
print("1,000 additions, and the counter says", apart[-1])

# %% [markdown]
# The same in one step. A **script** is a small program in the language Lua, which the client sends and
# Redis runs (`EVAL`). While it runs, Redis does nothing else.

# %%
ADD_ONE = """
local n = tonumber(redis.call('GET', KEYS[1]) or 0)
redis.call('SET', KEYS[1], n + 1)
return n + 1
"""


def add_one_by_script(r, key):
    return r.eval(ADD_ONE, 1, key)


atomic = together(add_one_by_script, server.url, times=500)
print("1,000 additions, and the counter says", atomic[-1])

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.figures.lost_updates import lost_updates
from wsdemo.lab.learn import reveal

lost_updates(
    {"GET, then SET": apart, "one script": atomic},
    title="GET, then SET loses {lost} of {additions} additions, and a script loses none",
)

# %%
reveal("q00b", "less" if apart[-1] < 1000 else 1000)
expect("GET, then SET loses additions when two clients add", apart[-1] < 1000, seen=apart[-1])
expect("a script loses none of 1,000 additions", atomic[-1] == 1000, seen=atomic[-1])

# %% [markdown]
# ## Explain
#
# Each *command* of Redis is done as a whole, but between two commands of one client the others have their
# turn. Both clients read 41, both write 42, and one addition is gone. This is a **lost update**. A
# script is [atomic](../docs/glossary.md#atomic): nobody has a turn between its first line and its last.
#
# | in a script | means |
# |---|---|
# | `KEYS[1]` | the first of the keys that the caller named: `r.eval(script, 1, key)` names one |
# | `ARGV[1]` | the first of the other arguments; always a text |
# | `local n = ...` | a variable |
# | `redis.call('GET', KEYS[1])` | a command of Redis, and its answer |
# | `x or 0` | `x`, or 0 when there is none (for a missing value `redis.call` answers `false`) |
# | `a == b`, `a ~= b` | equal, not equal. A text never equals a number: `'1' == 1` is false |
# | `tonumber(x)`, `a .. b` | a number of a text; two texts joined |
# | `if a then b else c end` | a choice |
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1000**: each command is done as a whole. But adding took two of them.
# * **500**: so it would be if the two always took turns exactly. Chance is not so tidy.
# * **an error**: nobody locks anything. Redis does what it is told, and says nothing.
# </details>
#
# ## Modify
#
# Redis can add 1 by itself: `INCR` returns the new number. This script also gives the counter a TTL.
# Before you run it: which of the four calls finds that the counter is gone? Then change the pauses: can
# the counter live for ever?

# %%
COUNT = """
local n = redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return n
"""
r.delete("lesson:visits")
for pause_s in (0.2, 0.2, 0.8, 0):
    print("the counter says", r.eval(COUNT, 1, "lesson:visits", 500))
    time.sleep(pause_s)

# %% [markdown]
# Every call begins the 500 ms anew. A value that lives as long as somebody renews it is a
# [lease](../docs/glossary.md#lease); lesson 02 is about it.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# For "no more than a hundred messages in a minute" that is wrong: who writes every 50 seconds is
# counted for ever. Change `COUNT` into `COUNT_IN_WINDOW`: the time begins with the *first* message, and
# later ones do not prolong it. `KEYS[1]` is the counter, `ARGV[1]` the length of the minute in
# milliseconds; it returns how many messages there were since the first. One line of the three changes.

# %% tags=["exercise"]
COUNT_IN_WINDOW = """
-- copy the three lines of COUNT, and change one
"""

# %% tags=["solution"]
COUNT_IN_WINDOW = """
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return n
"""

# %%
check("ex00b", COUNT_IN_WINDOW)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A command is atomic, two commands are not. A script is one step.
# * A key with a TTL goes by itself. What is to stay has to be renewed.
# * Pub/Sub stores nothing: `PUBLISH` says how many were listening, and that is all that is left.
#
# | one may think | but |
# |---|---|
# | Redis does one thing at a time, so nothing can go wrong | between your two things it does somebody else's |
# | a published message waits for its reader | without a subscriber it is gone |
# | `'1' == 1` in Lua | a text is not a number: use `tonumber`, or compare texts |
#
# Four questions, from memory: What does `HGETALL` return for a key that does not exist? What does `PTTL`
# say of a key without a TTL? Who hears a message that was published before she subscribed? Why does
# a script lose no addition?
#
# <details><summary>The answers</summary>
#
# 1. No fields: `{}` in Python.
# 2. −1; and −2 when there is no such key.
# 3. Nobody. It was not stored.
# 4. Redis does nothing else while it runs, so no other client reads between its reading and its writing.
# </details>
#
# In the code: `wsdemo/route.lua` and `wsdemo/presence/release.lua`, each one decision in one script.

# %%
r.delete("lesson:greeting", "lesson:visits")
r.close()
server.stop()
