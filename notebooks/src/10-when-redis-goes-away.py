# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "10 · When Redis goes away"
#     question: "Redis is frozen, dead, empty, replaced. What still works, and who puts the entries back?"
#     able: "say what works without Redis; tell live from ready; say what a failover may lose, and who repairs it"
#     minutes: {read: 15, run: 1, exercise: 20}
#     needs: "Redis: a private one, a Sentinel trio and a cluster are started for you"
#     failure: "a frozen Redis, one that comes back empty, a primary that dies, one shard of three"
#     level: "L2 measured: who is told what is exact, durations are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Sixty people chat by two gateways. Bea and Carl sit at gateway-01, Dora at gateway-02. At 14:03 Redis stops
# answering: its process is [frozen](../docs/glossary.md#freeze). Ten minutes later somebody kills it. It comes
# back at once, and it is empty: it knows nobody. No person closes a window, and no gateway is restarted.
# Carl's messages to Bea, and his messages to Dora: what happens to them?

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Redis was killed, and is back without its data. Sixty users are still connected. Nobody reconnects, and nobody
# sends anything but [heartbeats](../docs/glossary.md#heartbeat). **How many of the sixty does Redis know one
# minute later?** The options are `none`, `those who reconnect`, `those who get a message` and `all`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q10", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q10", "all")

# %% [markdown]
# ## Run
#
# `Traffic` sends two messages each second of production: one between users of the same gateway, one across. It
# writes down what each sender is told, and asks Redis each second how many users it knows. The laboratory runs
# fifteen times faster than production.

# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.redis_away import (
    Traffic,
    connections,
    pages,
    reclaimed,
    same_and_across,
)


def frozen_then_empty(pace):
    lab = Lab(gateways=2, scale=pace.scale)
    lab.connect_many(60)
    before = connections(lab)
    with Traffic(lab, same_and_across(lab)) as seen:
        lab.let_pass(10)
        seen.mark("frozen")
        lab.redis.freeze()
        lab.let_pass(40)
        answers = pages(lab, "gateway-01")
        seen.mark("goes on")
        lab.redis.thaw()
        lab.let_pass(20)
        seen.mark("killed")
        lab.redis.stop()
        lab.let_pass(20)
        seen.mark("back, empty")
        lab.redis.restart()
        lab.wait_until("Redis knows all sixty", lambda: seen.known[-1].users == 60)
        lab.let_pass(10)
    after = connections(lab)
    expect("nobody has lost the connection", before == after, seen=f"{len(after)} users")
    here, across = (seen.failed_share(kind, "frozen", "goes on") for kind in seen.kinds)
    expect("messages within a gateway arrive while Redis is frozen", here == 0, seen=here)
    expect("most messages across gateways do not arrive meanwhile", across > 0.6, seen=across)
    return lab, seen, answers


one, seen, answers = steadily(frozen_then_empty, users=60, at_most=15)
print(f"the gateways have put back {reclaimed(one)} entries")
print(f"while Redis was frozen, gateway-01 answered {answers}")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.learn import reveal
from wsdemo.lab.plots import redis_outage

redis_outage(
    seen,
    title="Without Redis {failed[across gateways]} messages across gateways fail, and "
    "{failed[same gateway]} within one; {rebuilt_s} s after it is back, it knows all {users}",
)

# %%
reveal("q10", "all" if seen.known[-1].users == 60 else seen.known[-1].users)
known = seen.known[-1].users
expect("at the end, Redis knows all sixty users", known == 60, seen=known)
expect("each entry was put back by a gateway", reclaimed(one) == 60, seen=reclaimed(one))
alive = answers == {"/health": 200, "/ready": 503}
expect("without Redis a gateway is live, and not ready", alive, seen=answers)

# %% [markdown]
# ## Explain
#
# A gateway finds its own users in its own table. So Carl's messages to Bea never see Redis, and arrive. Dora is
# at another gateway: only Redis knows at which one.
#
# What the sender is told says what he may do next:
#
# | told | when | what it means |
# |---|---|---|
# | `unknown` | the command is on its way to a frozen Redis | it may still be executed, within two seconds, or never |
# | `busy` | there is no connection to Redis | nothing was done: send it again |
# | `offline` | Redis is back, and still empty | Redis does not know her *yet*. For a few seconds this may be wrong |
# | `routed` | all is well | her gateway has it |
#
# And nobody had to reconnect. **The truth about a connection is at its gateway; what Redis holds is a copy**,
# for the other gateways. When a gateway reaches Redis again, it renews the [lease](../docs/glossary.md#lease)
# of each of its users. Whoever is missing is written anew, with the [token](../docs/glossary.md#fencing-token)
# that the session has. If somebody else has registered meanwhile, with a newer token, he stays. That is why a
# copy can be rebuilt by many at once, in any order.
#
# A process that answers is *live*. A gateway that can serve newcomers is *ready*
# ([liveness and readiness](../docs/glossary.md#liveness-and-readiness)). `/health` answers the first question, `/ready` the second. A balancer that asks `/ready` sends newcomers elsewhere. Nobody kills a
# gateway whose users still talk to each other.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **none**: Redis has forgotten them. Their gateways have not.
# * **those who reconnect**: this is how a client repairs the death of a *gateway* (lesson 07). Here no socket broke.
# * **those who get a message**: a message only reads the entry. Only a register and a renewal write one.
# </details>
#
# ## Modify
#
# **A failover.** In production, a [replica](../docs/glossary.md#replica) stands by, and three
# [sentinels](../docs/glossary.md#sentinel) decide when it takes the place of the primary. But a primary answers *before* its replica has the data. Here the replica gets nothing more; then ten
# newcomers register, and each is told that she is in. Then the primary dies. How many users does the new primary know?

# %%
from wsdemo.lab.lessons.redis_away import known_at


def failover_that_forgets(pace):
    lab = Lab(gateways=2, redis="sentinel", scale=pace.scale)
    lab.connect_many(30)
    lab.redis.stop_replication()
    lab.connect_many(10)
    print(f"the primary knows {known_at(lab, 0)} users, its replica {known_at(lab, 1)}")
    lost = known_at(lab, 0) - known_at(lab, 1)
    lab.redis.kill(0)
    lab.wait_until("the replica is the primary", lambda: lab.redis.primaries == [1])
    lab.wait_until("all are known again", lambda: known_at(lab, 1) == 40)
    expect("ten registers that were acknowledged are lost", lost == 10, seen=lost)
    expect("exactly those ten were put back", reclaimed(lab) == 10, seen=reclaimed(lab))
    return lab


trio = steadily(failover_that_forgets, users=40, at_most=15)
print(f"the gateways have put back {reclaimed(trio)} entries, and the new primary knows all 40")

# %% [markdown]
# A failover loses what was acknowledged last. Presence heals by itself, for each entry has an owner who repeats
# it. A *message* in an [inbox](../docs/glossary.md#inbox) has no such owner: lesson 09 shows what that needs.
#
# **One of three.** Presence can be spread over a cluster: each user has a bucket, and each bucket is at one of
# three primaries. One of them dies. Which share of the messages is not delivered while it is away?

# %% tags=["exercise"]
predict("q10b", None)

# %% tags=["solution"]
predict("q10b", "33 %")

# %%
from wsdemo.lab.lessons.redis_away import connect_to_each

AWAY = ("server 0 is killed", "its replica is primary")


def one_of_three(pace):
    lab = Lab(gateways=2, redis="cluster", replicas=1, scale=pace.scale)
    with Traffic(lab, connect_to_each(lab, 8)) as seen:
        lab.let_pass(10)
        seen.mark("server 0 is killed")
        lab.redis.kill(0)
        lab.wait_until("a third is missing", lambda: seen.known[-1].users == 16)
        lab.wait_until("all are known again", lambda: seen.known[-1].users == 24)
        seen.mark("its replica is primary")
        lab.let_pass(20)
        lab.redis.heal()
        lab.let_pass(10)
        seen.mark("planned, server 1")
        lab.redis.fail_over(1)
        lab.let_pass(20)
    failed = [seen.failed_share(kind, *AWAY) for kind in seen.kinds]
    expect("messages to users of the dead server fail", failed[0] > 0.7, seen=failed)
    expect("messages to all others arrive", failed[1:] == [0, 0], seen=failed)
    killed, planned, _ = (seen.failures(kind) for kind in seen.kinds)
    expect("a planned failover costs less than a death", planned < killed, seen=(planned, killed))
    return lab, seen


three, strips = steadily(one_of_three, users=24, at_most=15)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# One strip for the users of each server.

# %%
redis_outage(
    strips,
    title="Killed, server 0 costs {failed[to users of server 0]} messages to its users, and "
    "{failed[to users of server 2]} to those of server 2; planned, the failover of server 1 costs "
    "{failed[to users of server 1]}",
)

# %%
failed = [strips.failed_share(kind, *AWAY) for kind in strips.kinds]
print("failed while server 0 was away:", [f"{share:.0%}" for share in failed])
share = sum(failed) / 3
reveal("q10b", "33 %" if 0.2 < share <= 0.4 else f"{share:.0%}")
known = strips.known[-1].users
expect("at the end, the cluster knows all 24 users", known == 24, seen=known)

# %% [markdown]
# A message needs one server: that of its *recipient*. So one dead primary of three stops a third of the
# messages, whoever sends them, until its replica is elected. Before a *planned* failover the primary waits until
# its replica has everything, and then hands over. It costs next to nothing: so restart servers one after the other, by
# a failover each.
#
# And is a gateway ready that reaches two of three servers? Two newcomers in three can be served. If it said
# no, all gateways would say no at the same moment, and nobody could be served.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `readiness(state)`. Return two truth values, `(live, ready)`. Whoever says that he is *not live* is killed and
# started again. Whoever is *not ready* gets no newcomers, and keeps his users. A state has these fields:
#
# * `stood_still_s`: for how long the gateway's own event loop has done nothing. After a minute it does not go on by itself.
# * `draining`: it has been told to stop.
# * `hears`: its subscription is alive, so messages of other gateways arrive.
# * `primaries`: what each primary of Redis does: `"takes writes"`, `"refuses writes"` or `"silent"`. With one Redis there is one.
# * `users`: how many are connected.
#
# Be ready as long as more than half of all newcomers can be served. The check goes through nine kinds of outage.


# %% tags=["exercise"]
def readiness(state):
    raise NotImplementedError


# %% tags=["solution"]
def readiness(state):
    live = state.stood_still_s < 60
    serving = state.primaries.count("takes writes")
    most = 2 * serving > len(state.primaries)
    return live, live and not state.draining and state.hears and most


# %%
check("ex10", readiness)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Connections live at the gateways; Redis holds a copy for the others. A lost copy is written again by those
#   who own it, and tokens make the order of that harmless.
# * A failover may lose what was acknowledged last. Ask of each kind of data who repeats it.
# * Live is about this process, ready is about newcomers. A dependency that is away makes a gateway not ready, never not live.
#
# | one may think | but |
# |---|---|
# | without Redis nothing works | messages within a gateway arrive, and no socket breaks |
# | an empty Redis needs a backup | sixty entries are written again within seconds, by their gateways |
# | acknowledged means safe | a replica may not have it yet when the primary dies |
# | one dead primary of three stops all | it stops the messages to its own users, a third |
#
# Four questions, from memory: Which messages arrive while Redis is frozen? Who puts an entry back, and when?
# What does a failover lose? Why must a gateway stay live when Redis is away?
#
# <details><summary>The answers</summary>
#
# 1. Those between users of the same gateway: it finds both in its own table.
# 2. The gateway of the user, when it reaches Redis again: it renews the leases of all its users.
# 3. What the primary had acknowledged and the replica had not got.
# 4. It would be killed with all its sockets, all gateways at once, and a restart repairs nothing.
# </details>
#
# In the code: `Health.resync` in `wsdemo/gateway/health.py`, `wsdemo/redis/primary.py` for sentinels, and
# `wsdemo/redis/cluster_link.py` for a cluster.

# %%
three.close()
left = [lab.leaks() for lab in (one, trio, three)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
