# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "12 · How big does it get? Capacity to millions"
#     question: "It works with three hundred users. What does a million need, and what is full first?"
#     able: "measure what each thing costs; test a model on a real run before you trust it; plan a fleet that may lose one gateway"
#     minutes: {read: 20, run: 1, exercise: 30}
#     needs: "Redis: a private one is started for you"
#     failure: "one gateway of several dies at the busiest hour; a command that looks at all keys"
#     level: "L2 measured: the model is tested within 20 %; all costs are those of your machine"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# The pilot went well: three hundred users, two gateways, one Redis. Now the whole country is to use it, and
# Alice has to say how many machines to order. Nobody can try it out with a million users. She can
# measure what one user costs, multiply it, and be wrong by a factor of ten. Or she can find out *first* how wrong she is.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# A million users are connected. Each client sends a [heartbeat](../docs/glossary.md#heartbeat) every 30 seconds.
# Nobody has sent a message yet. **How many commands does Redis get each second?** The options are `3_000`,
# `33_000`, `300_000` and `1_000_000`.

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q12", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q12", 300_000)

# %% [markdown]
# ## Run
#
# Two real gateways, each a process of its own, so that the system can say how much CPU each of them has used.
# `measure_costs` lets them rest, then lets users come, send heartbeats, talk, and move to the other
# gateway, which is a reconnect. It does so one after the other: what is *more* than before is the cost of the new thing.
#
# Then a [model](../docs/glossary.md#capacity-model) is made of these costs, and of nothing else. It has to foretell a real
# run that it has not seen: heartbeats, messages and reconnects at once, at other rates. An error of more than 20 %
# ends the lesson here. This takes about fifteen seconds, and longer on a busy machine.

# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.capacity_costs import TOLERANCE, CapacityBench, compare, measure_costs


def measure_and_test(pace):
    bench = CapacityBench(pace)
    costs = measure_costs(bench)
    test = compare(bench, costs.sheet)
    million = 1_000_000 * costs.commands
    expect("the model foretells the real run", test.worst <= TOLERANCE, seen=test)
    expect("each user costs one command in 30 s", 29_000 < million < 38_000, seen=million)
    return bench, costs, test, million


bench, costs, test, million = steadily(measure_and_test, users=300)
sheet = costs.sheet
print(sheet)
print(f"\na user takes {costs.redis_bytes:.0f} bytes in Redis, ", end="")
print(f"and a connection {costs.gateway_bytes / 1024:.1f} KiB in a gateway")

# %%
test

# %% [markdown]
# The first column is real, the second is the model's. This is the only reason to believe what follows.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# Now the same costs for more users, at the speed of production. Each user writes a message every 80 seconds, and
# reconnects every ten minutes. One process may not use a whole core: Redis half of one, a gateway
# four fifths. The diamonds are the real run. The clock of its users ran faster, so they did what many more do in
# production.

# %%
from wsdemo.lab.learn import reveal
from wsdemo.lab.lessons.capacity_model import GATEWAY_CEILING, REDIS_CEILING, UserLoad, demand
from wsdemo.lab.plots import CapacityLine, capacity

each = demand(UserLoad(users=1_000_000))
redis, gateways = each.redis_cores(sheet), each.gateway_cores(sheet)
real_redis, real_gateways = (test.users, test.redis_cores), (test.users, test.gateways_cores)
capacity(
    [
        CapacityLine("Redis", redis, REDIS_CEILING, "Redis servers", real_redis),
        CapacityLine("gateway", gateways, GATEWAY_CEILING, "gateways", real_gateways),
    ]
)

# %%
reveal("q12", 33_000 if abs(million / 33_333 - 1) < 0.15 else round(million))
print(f"measured with {bench.users} users, for a million: {million:,.0f} commands a second")

# %% [markdown]
# ## Explain
#
# A [lease](../docs/glossary.md#lease) has a price that nobody sees in a pilot: it is renewed whether or not
# anybody talks. A million users divided by 30 seconds are 33,000 commands a second, day and night.
#
# The crosses are the first two limits: there *one* process is full, and you need a second one of its kind. For
# gateways that is easy: start another one. For Redis it is a decision: users are then spread over
# several [shards](../docs/glossary.md#shard), each with a part of the keys. At both limits it is the CPU that is full, not
# the memory.
#
# Here is what larger loads need. A gateway gets at most 20,000 connections, even if its CPU would do for more:
# when it dies, they all come back at the same time.

# %%
from wsdemo.lab.lessons.capacity_model import fleet_size

for users in (100_000, 1_000_000, 10_000_000):
    print(fleet_size(UserLoad(users), sheet, costs.redis_bytes))

# %% [markdown]
# The model is a [discrete-event simulation](../docs/glossary.md#discrete-event-simulation). A heap holds what happens
# next: a heartbeat, a message, a reconnect. Each process has a queue, and does one thing at a time. Why is a multiplication
# not enough? A message renews the sender's lease as well, so that her next heartbeat may find that it is
# too early. And when a process is full, waiting does not grow a little: it grows without end.
#
# See it at the busiest hour. There are as many users as three gateways carry at four fifths of a core. One of
# the gateways dies, and its users come to the others within 30 seconds. Then the same with a fourth gateway.

# %%
from wsdemo.lab.lessons.capacity_model import a_gateway_dies

talkative = UserLoad(1, message_rate=0.5)
users = round(3 * GATEWAY_CEILING / demand(talkative).gateway_cores(sheet))
free_redis = sheet.scaled(redis_refresh_us=0, redis_message_us=0, redis_move_us=0)
played = {}
for gateways in (3, 4):
    run = played[gateways] = a_gateway_dies(UserLoad(users, message_rate=0.5), free_redis, gateways)
    print(
        f"{users:,} users, {gateways} gateways, one dies: each of the others is busy for "
        f"{100 * run.gateway_share:.0f} %, and 1 of 100 messages takes {run.p99_s:.2f} s or longer"
    )

# %%
shares = {gateways: run.gateway_share for gateways, run in played.items()}
expect("without a spare gateway, the others have too much to do", shares[3] > 1.05, seen=shares)
expect("with a spare gateway, they have time left", shares[4] < 0.95, seen=shares)

# %% [markdown]
# With three gateways, each of the two that are left gets half as much again: more than a core can do. The queue grows as long as the
# busy hour lasts, and users who lose patience reconnect, which costs even more. With one to spare, the
# fleet is what it was planned for. This is called [N+1](../docs/glossary.md#n1). For a hundred
# gateways, one to spare is cheap: a hundredth more. For two, it is half as much again.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **3,000**: idle users feel free of charge. Their leases are not.
# * **300,000**: a heartbeat of 3 seconds feels right for a fast system. It would notice a death sooner, and cost ten times as
#   much.
# * **1,000,000**: "each user, each second" is easy to say. Nothing here happens each second.
# </details>
#
# ## Modify
#
# The costs are measured, within 20 %. The *load* is a guess: who knows how often a million people will write? **Which
# of the numbers would you ask about first?** Choose one before you run this. Each bar is the same plan for a
# million users with one number 20 % wrong.

# %%
from wsdemo.lab.lessons.capacity_model import cores, what_if
from wsdemo.lab.plots import tornado

plan_for = UserLoad(1_000_000)
tornado(
    what_if(plan_for, sheet),
    cores(plan_for, sheet),
    title="After the number of users, “{second}” matters most: it changes the plan by {second_change}",
)

# %% [markdown]
# One limit is in no such plan. Somebody wants a list of all users who are online, and types
# `KEYS presence:*`. Redis does one command at a time. **For how long do all others wait?** `SCAN` does the same work in small
# steps. A server of its own gets as many keys as make it slow enough to measure here.

# %%
from wsdemo.lab.lessons.capacity_keys import measure_stalls


def keys_and_scan(_):
    stalls = measure_stalls()
    keys, scan = stalls
    expect("while KEYS runs, others wait", keys.longest_s > keys.whole_s / 2, seen=stalls)
    expect("while SCAN runs, others wait less", scan.longest_s < keys.longest_s / 2, seen=stalls)
    return stalls


print(*steadily(keys_and_scan), sep="\n")

# %% [markdown]
# During `KEYS` nobody registers, no lease is renewed, and no message finds its way. With ten times as many
# keys it lasts ten times as long. `SCAN` takes longer in all, and nobody notices it: between two steps, all
# others get their turn. Better still is to need neither: the gateways never look at all keys.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `plan(users, msg_rate, hop_rate)`. The rates are a second and user: messages that she sends, and how
# often she reconnects. Return three numbers: how many gateways, how many Redis shards, and the seconds
# between two heartbeats. The costs, in µs of CPU, are the same on each machine:
#
# | | a heartbeat | a message | a reconnect |
# |---|---|---|---|
# | Redis | 30 | 60 | 120 |
# | gateways | 100 | 150 | 900 |
#
# * A gateway uses at most 0.8 of a core, and has at most 20,000 connections. This holds also when one of them has died.
# * A shard uses at most 0.5 of a core.
# * A lease lasts three heartbeats, and a user who has gone may be listed for at most 180 s.
# * A shard costs as much as ten gateways. Your plan may be 10 % dearer than the cheapest one.
#
# The check asks for five loads, from a small town to ten million users. Then it lets a gateway die in the model.


# %% tags=["exercise"]
def plan(users, msg_rate, hop_rate):
    raise NotImplementedError


# %% tags=["solution"]
import math


def plan(users, msg_rate, hop_rate):
    heartbeat = 60
    redis = users * (30 / heartbeat + 60 * msg_rate + 120 * hop_rate) / 1e6
    gateway = users * (100 / heartbeat + 150 * msg_rate + 900 * hop_rate) / 1e6
    gateways = math.ceil(max(gateway / 0.8, users / 20_000)) + 1
    return gateways, math.ceil(redis / 0.5), heartbeat


# %%
check("ex12", plan)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Measure what one thing costs, and let a model foretell a real run that it has not seen. Only then multiply.
# * Leases cost a command for each user and heartbeat, whether or not anybody talks.
# * Plan for the busiest hour with one gateway less. A full process does not get slow, its queue grows without end.
#
# | one may think | but |
# |---|---|
# | idle users are free of charge | each of them renews a lease, day and night |
# | 90 % busy is well used | when one of ten gateways dies, the other nine are full |
# | a model with measured costs is right | it is right when a real run has agreed with it |
# | `KEYS` is only a read | Redis does nothing else meanwhile |
#
# Four questions, from memory: How many commands a second do a million leases cost? What makes you believe a model? What is
# N+1? Why does `SCAN` hurt nobody, although it takes longer?
#
# <details><summary>The answers</summary>
#
# 1. 33,000: a million, each once in 30 s.
# 2. It foretold a real run that it had not seen, with an error that you have said before.
# 3. One gateway more than the busiest hour needs, because one may die in it.
# 4. It works in small steps, and between two of them the others get their turn.
# </details>
#
# In the code: `simulate` in `wsdemo/lab/lessons/capacity_model.py`, some hundred lines; `sheet_of` in
# `wsdemo/lab/lessons/capacity_costs.py`.

# %%
bench.close()
left = bench.lab.leaks()
expect("a closed laboratory leaves no task, socket, key or process", not left, seen=left)
