# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "15 · Write your own gateway"
#     question: "Five decisions make a gateway. Can you write them so that five levels of faults do not break it?"
#     able: "write the five decisions of a distributed gateway; read a counterexample; say which fault each line is for"
#     minutes: {read: 12, run: 1, exercise: 75}
#     needs: "Redis: a private one is started for you"
#     failure: "a gateway that dies, clean-ups that come too late, a Redis that is frozen, a drain with messages on the way"
#     level: "L1 directed: the order of the faults is exact; times are measured"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Your team needs a chat with several gateways. Somebody writes one on a Friday: two hundred lines, websockets and
# Redis, every test is green. On Monday a user walks from the office to the train, and for a minute nobody can
# reach her, although her phone shows a green dot. Now it is your turn to write one. This kit will try to break it.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Sockets, messages and subscriptions are given: `GatewaySkeleton` has them. Five decisions are missing:
# `register`, `refresh`, `release`, `route` and `drain`. The gateway from Friday made them like a tutorial: a
# key with a [lease](../docs/glossary.md#lease) for each user, which each
# [heartbeat](../docs/glossary.md#heartbeat) sets anew, and which is deleted when the user leaves.
#
# Five levels of faults wait for it: **1** it delivers, **2** presence is a lease, **3** it survives a late
# [clean-up](../docs/glossary.md#clean-up), **4** it survives a frozen Redis, **5** it
# [drains](../docs/glossary.md#drain) without a loss. **Which level is the first that stops it?**

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q15", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q15", 4)

# %% [markdown]
# ## Run
#
# This is the gateway from Friday. Read it as in a review: what does each line say to Redis, and what may have
# happened before it arrives there?

# %%
import inspect

from wsdemo.lab.lessons.first_gateways import CarefulGateway, TutorialGateway

print(inspect.getsource(TutorialGateway))

# %% [markdown]
# `try_to_break` runs three of these gateways, each on an event loop of its own, with a real Redis. Relays stand on
# every wire. Users come, write, move, and are cut off; what counts is what *they* see. Nothing is asked about the keys.

# %%
from wsdemo.lab.lessons.own_gateway import levels, try_to_break

tutorial = try_to_break(TutorialGateway)
print(f"levels passed: {tutorial.passed}")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
tutorial.figure()

# %%
from wsdemo.lab.learn import reveal

reveal("q15", tutorial.stopped_at)
expect("the late clean-up stops the tutorial's gateway", tutorial.stopped_at == 3, seen=tutorial)

# %% [markdown]
# ## Explain
#
# The release of gateway-01 was held until Alice was at gateway-02. Then it ran, and deleted whatever was there:
# the entry of her *new* session. Her socket is open, and she is offline for everybody. It is the race of lesson 04,
# in code that nobody would stop in a review. The first two levels do not find it, for in them nothing comes late.
#
# The lease, the heartbeat and the publish were right. A lease repairs what nobody cleans up. It does not help against
# somebody who cleans up too much.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **1** and **2**: two gateways and a lease are what tutorials test.
# * **4** and **5**: this gateway would not pass them either. Its calls of Redis have no deadline, and its drain
#   does not wait for what is on the way. But a gateway is stopped by the first level that it fails.
# </details>
#
# ## Modify
#
# The first repair that comes to mind is to look before deleting: is the entry still the one of this session? How
# far does that one come? Decide, then run it.

# %%
print(inspect.getsource(CarefulGateway))

# %%
careful = try_to_break(CarefulGateway)
levels(
    {"from a tutorial": tutorial, "looks, then deletes": careful},
    title="Looking before deleting is not enough: both stop at level 3",
)

# %%
careful.figure(title="Level {level}: erin moved between the look and the delete")

# %%
expect(
    "to look and then to delete is stopped at level 3 too", careful.stopped_at == 3, seen=careful
)
expect("it gets further within the level", careful.hint != tutorial.hint, seen=careful.hint)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write the five decisions. What the skeleton offers:
#
# | name | what it is |
# |---|---|
# | `self.id` | the name of this gateway; it hears the channel `gateway:NAME`, JSON in it |
# | `self.redis` | a `redis.asyncio.Redis`, **without a deadline**; `await self.redis.eval(text, 1, key, argument)` runs a script |
# | `self.settings` | `heartbeat_s`, `ttl_s`, `redis_timeout_s` |
# | `self.sessions` | user -> session, of this gateway; a session has `user`, `conn_id`, `socket`, and `token`, which is yours |
# | `await self.deliver(to, envelope)` | gives a message to a user of this gateway; False when there is none |
# | `await self.caught_up()` | returns when all that was published to this gateway until now has been delivered |
#
# What you raise because Redis does not answer (`TimeoutError`, for example) is handled: the client is told. Begin with
# `register` and `route`, and ask the check after each step: it says which level stopped you, what was seen, and
# one hint, and it draws the counterexample. Whoever is curious: `inspect.getsource(GatewaySkeleton)`.

# %% tags=["exercise"]
from wsdemo.lab.yours import GatewaySkeleton


class MyGateway(GatewaySkeleton):
    async def register(self, session):
        raise NotImplementedError

    async def refresh(self, session):
        raise NotImplementedError

    async def release(self, session):
        raise NotImplementedError

    async def route(self, to, envelope):
        raise NotImplementedError

    async def drain(self):
        raise NotImplementedError


# %% tags=["solution"]
import asyncio
import json

from wsdemo.lab.yours import GatewaySkeleton

REGISTER = """
if tonumber(redis.call('GET', KEYS[2]) or 0) > tonumber(ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'gateway', ARGV[1], 'conn', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'EX', 3600)
return 1
"""
REFRESH = f"""
if redis.call('HGET', KEYS[1], 'conn') == ARGV[2] then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return 1
end
{REGISTER}
"""
RELEASE = """
if redis.call('HGET', KEYS[1], 'conn') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
ROUTE = """
local gateway = redis.call('HGET', KEYS[1], 'gateway')
if not gateway then return 'offline' end
local heard = redis.call('PUBLISH', 'gateway:' .. gateway, ARGV[1])
return heard > 0 and 'routed' or 'unreachable'
"""


class MyGateway(GatewaySkeleton):
    async def register(self, session):
        async with asyncio.timeout(self.settings.redis_timeout_s):
            session.token = await self.redis.incr(f"token:{session.user}")
        return await self.write(REGISTER, session)

    async def refresh(self, session):
        return await self.write(REFRESH, session)

    async def release(self, session):
        await self.ask(RELEASE, [f"presence:{session.user}"], session.conn_id)

    async def route(self, to, envelope):
        if await self.deliver(to, envelope):
            return "routed"
        return await self.ask(ROUTE, [f"presence:{to}"], json.dumps(envelope))

    async def drain(self):
        here = list(self.sessions.values())
        await asyncio.gather(*(self.release(session) for session in here), return_exceptions=True)
        async with asyncio.timeout(self.settings.ttl_s):
            await self.caught_up()
        await asyncio.gather(*(session.socket.close(1012) for session in here))

    async def write(self, script, session):
        keys = [f"presence:{session.user}", f"newest:{session.user}"]
        ttl_ms = int(1000 * self.settings.ttl_s)
        told = (self.id, session.conn_id, session.token, ttl_ms)
        return await self.ask(script, keys, *told) == 1

    async def ask(self, script, keys, *args):
        async with asyncio.timeout(self.settings.redis_timeout_s):
            return await self.redis.eval(script, len(keys), *keys, *args)


# %%
check("ex15", MyGateway)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Each write to Redis may arrive late. Let it say for which session it is, and let Redis decide, in one
#   [atomic](../docs/glossary.md#atomic) step, whether that still counts.
# * No answer is not an answer. Each call has a [deadline](../docs/glossary.md#deadline), and who waits is told that nothing is known.
# * A goodbye has an order: first nobody sends anything more, then what is on the way is delivered, then the
#   socket is closed.
#
# | one may think | but |
# |---|---|
# | all tests are green, so it works | they had no fault in them: nothing came late |
# | look first, then delete | between the two another gateway writes |
# | the name of the gateway says whose entry it is | users come back to the same gateway |
# | a refresh only makes a lease longer | after a freeze there is nothing left to make longer |
# | a drain closes all sockets | messages were on their way to them |
#
# Four questions, from memory: What did the late release delete? Why is a look before the delete not enough? What must
# a refresh do after a long freeze? In which order does a drain work?
#
# <details><summary>The answers</summary>
#
# 1. The entry of the user's newer session: it deleted whatever was there.
# 2. Between the look and the delete the user may move. The two have to be one step: a script.
# 3. It puts the entry back, unless a newer session has registered: that is what a
#    [fencing token](../docs/glossary.md#fencing-token) says.
# 4. Release all sessions, so that nothing more is sent here; deliver what is on the way; close with 1012.
# </details>
#
# In the code: the product's five decisions are the scripts in `wsdemo/presence` and `wsdemo/route.lua`, and
# `Gateway.stop` in `wsdemo/gateway/server.py`. What your gateway still lacks of them: a kick that reaches the old session at
# once, a limit for every queue, a bounce that names the session, and much more.

# %%
import threading

left = [thread.name for thread in threading.enumerate() if thread.name.startswith("gateway-")]
expect("the trials leave no thread of a gateway", not left, seen=left)
