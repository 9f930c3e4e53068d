# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "05 · Every order there is: enumerating the interleavings"
#     question: "Lesson 04 made one unlucky order happen. How many are there?"
#     able: "model a race as threads of atomic steps; count its orders and find the least that goes wrong; show that a policy is safe in every one of them"
#     minutes: {read: 12, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you"
#     failure: "the scheduler itself"
#     level: "L0 exact: every order is played, on clocks that are moved by hand; the replays are L1 directed"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice's train leaves the tunnel. In the same second, three things are under way: **gateway-01** still
# has her last heartbeat to write down, **gateway-01** cleans up after her broken connection, and
# **gateway-02** registers her. Nobody tells the three in which order. In lesson 04 we chose one order
# and she was lost. Was that bad luck, or is it what usually happens?

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Each of the three first *looks* (at its clock, or at Redis) and then *writes*: six steps, and **45
# orders** that can happen. The Go demo compares timestamps when it registers a user, and nowhere else.
# **After how many of the 45 does Redis not say where Alice is?** The options are `0`, `4`, `15`, `19`
# and `25`.

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q05", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q05", 4)

# %% [markdown]
# ## Run
#
# Three threads of two steps. Within a thread the order is fixed; between them everything may happen. One
# such order is an [interleaving](../docs/glossary.md#interleaving).

# %%
from wsdemo.lab.races.orders import THREADS, all_orders

THREADS


# %%
def merges(*threads):
    if not any(threads):
        yield ()
    for i, thread in enumerate(threads):
        if thread:
            rest = [other[1:] if j == i else other for j, other in enumerate(threads)]
            for order in merges(*rest):
                yield (thread[0], *order)


everything = list(merges(*THREADS.values()))
orders = [order for order in everything if order.index("h_ts") < order.index("r_ts")]
print(
    f"{len(everything)} orders; in {len(orders)} of them Alice pings gateway-01 before she leaves it"
)
same = set(orders) == set(all_orders())
expect("these are the 45 orders", same and len(orders) == 45, seen=f"{len(orders)} orders")

# %% [markdown]
# Why 90? Six steps can stand in 6 × 5 × 4 × 3 × 2 × 1 = 720 orders. But a thread looks *before* it
# writes: of the two orders of its steps only one is possible, and that halves the number once for each of
# the three threads. 720 / 2 / 2 / 2 = 90. Why 45? Alice pings gateway-01 before she goes to
# gateway-02, so `h_ts` comes before `r_ts`; by symmetry that is so in exactly half of them.
#
# Now each of them is played with the demo's own scripts, on a real server, step by step.

# %%
from wsdemo.lab.races.interleavings import explore, explore_all

demo = explore("go-demo")
demo

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# The same 45 orders under four policies. Each column is one order. *Plain* compares nothing; *check, then
# DEL* looks whose entry it is before it deletes it; *CAS by timestamp* compares in all three writes.

# %%
from wsdemo.lab.figures.barcode import barcode
from wsdemo.lab.learn import predicted, reveal

policies = explore_all(["plain", "go-demo", "check-then-delete", "timestamp"], skews=[0])
barcode(
    policies,
    predictions={"go-demo": predicted("q05")},
    title="The demo compares when it registers, and {go_demo} of {orders} orders still end wrong",
)

# %%
wrong = {one.policy: len(one.wrong) for one in policies}
reveal("q05", len(demo.wrong))
fewer_each_time = wrong["plain"] > wrong["go-demo"] > wrong["check-then-delete"] > 0
expect("each of the first three is wrong less often", fewer_each_time, seen=wrong)
expect("comparing in all three writes is right here", wrong["timestamp"] == 0, seen=wrong)

# %% [markdown]
# ## Explain
#
# Which is the least that has to go wrong? The bad order that is fewest swaps of neighbours away from a
# good one, and nearest to the calm order in which one thing follows the other:

# %%
bad, good = demo.minimal()
print(bad)
ends = (bad.end, good.end)
expect("she is lost, and one swap away all is well", ends == ("lost", "correct"), seen=ends)

# %%
from wsdemo.lab.figures.crossing import crossing

crossing(bad, near=good.order, title="{swaps} away from a good order, and alice is {end}")

# %% [markdown]
# It is the late clean-up of lesson 04. And it is not a thing of paper: here are two running gateways
# and Alice's real client. A director stops each of the three before it looks and before it writes, and
# lets them go in this order.

# %%
from wsdemo.lab.races.replay import replay

live = replay(bad.order, "go-demo")
fenced = replay(bad.order, "fenced")
print("scripts alone:   ", bad.end)
print("running gateways:", live.played.end)
print("the same, fenced:", fenced.played.end)
expect("gateways end as their scripts do", live.agrees_with(bad), seen=live.played.end)
expect("fencing tokens repair it", fenced.played.end == "correct", seen=fenced.played.end)

# %% [markdown]
# Any other red cell ends on gateways as it does here. This one leaves half an entry:

# %%
half = next(one for one in demo.wrong if set(one.entries[-1]) == {"ts"})
print(half)
again = replay(half.order, "go-demo")
expect("gateways end as their scripts do", again.agrees_with(half), seen=again.played.end)

# %% [markdown]
# And the demo's comparison? With right clocks it never turned anything away, in none of the orders.
# What saves 6 of plain's 25 is that the demo's heartbeat writes a timestamp only, and not the name of
# its gateway.

# %%
refused = [one for one in demo.played if "re-register" in one.rejected]
expect("the comparison refuses no registration", not refused, seen=refused)
expect("the demo saves 6 orders", wrong["plain"] - wrong["go-demo"] == 6, seen=wrong)

# %% [markdown]
# *Check, then DEL* looks whose entry it is before it deletes, and it is still wrong in the orders in
# which her registration falls between the look and the delete. Two steps that are right by themselves
# are not right together, unless nothing can come between them. That is what a script is for.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **0**: the register is guarded. But three verbs write, and two of them do not ask.
# * **4**: races are rare. In time they are; but a million users leave every tunnel all day.
# * **15**: in so many orders the DEL comes last of all. In 4 more it comes after her registration, and
#   a late heartbeat then raises half an entry: not better.
# * **25**: that is plain `SET` and `DEL`. The demo saves 6 of them, but not by comparing.
# </details>

# %% [markdown]
# ## Modify
#
# One knob: leave a thread out. Without the heartbeat there are two threads of two steps: how many
# orders are there, and in how many of them does the demo lose Alice? And without the clean-up: can a
# heartbeat alone do harm, under `plain`, and under the demo?

# %%
pair = ["clean-up", "re-register"]
fewer = explore_all(["plain", "go-demo"], skews=[0], orders=all_orders(pair))
barcode(
    fewer, title="Two threads are enough: {go_demo} of {orders} orders end wrong under the demo"
)

# %%
calm = explore_all(["plain", "go-demo"], skews=[0], orders=all_orders(["heartbeat", "re-register"]))
ends = {one.policy: (len(one.wrong), len(one.played)) for one in calm}
print("heartbeat and registration alone:", ends)
expect("two threads have 6 orders", len(fewer[1].played) == 6, seen=len(fewer[1].played))
expect("the clean-up alone does harm", fewer[1].wrong, seen=fewer[1])
more = ends["plain"][0] > ends["go-demo"][0]
expect("the heartbeat alone does more harm under plain than under the demo", more, seen=ends)

# %% [markdown]
# Two threads have 4 × 3 × 2 × 1 / 2 / 2 = 6 orders. The clean-up does its harm alone. A heartbeat is
# harmful under `plain`, which writes the name of its gateway again; the demo's heartbeat writes a
# timestamp only, so alone it does none.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# A policy is a function `step(state, action)` that changes a dict. `action` is one of the six steps.
# `state["redis"]` is what Redis holds: `state["redis"]["alice"]` is her entry, a dict that names the
# `"gateway"`, or `None`; you may keep more beside it. `state["mine"]` is what the acting gateway
# remembers, `state["gateway"]` is its name, `state["clock"]` what its clock shows. Here is the policy
# that compares nothing; it says the same as the real scripts, on every order:

# %%
import inspect

from wsdemo.lab.races.models import MODELS, explore_model
from wsdemo.lab.races.orders import compare

print(inspect.getsource(MODELS["plain"]))
same = [compare(explore_model(MODELS[one.policy]), one) for one in policies]
expect("the models say what the scripts say, on every order", all(same), seen=same)
print(same[0])

# %% [markdown]
# Write yours. It must be wrong in none of the 45 orders; it must still delete the entry of a user who has
# gone, and bring back one that Redis has lost. Alice registers with gateway-01 through the same function
# (`r_ts`, `r_set`) before an order begins. The check leaves no order out. All clocks are right; what if
# one is not, is lesson 06.


# %% tags=["exercise"]
def step(state, action):
    raise NotImplementedError


# %% tags=["solution"]
def step(state, action):
    redis, mine = state["redis"], state["mine"]
    entry = {"gateway": state["gateway"], "token": mine.get("token")}
    if action == "r_ts":  # Redis counts, so no two sessions get the same number.
        mine["token"] = redis["last"] = redis.get("last", 0) + 1
    elif action == "r_set" and mine["token"] >= redis.get("top", 0):
        redis["alice"], redis["top"] = entry, mine["token"]
    elif action == "h_set" and mine["token"] == redis["top"]:
        redis["alice"] = entry
    elif action == "c_del" and redis["alice"] and redis["alice"]["token"] == mine["token"]:
        redis["alice"] = None


# %%
verdict = check("ex05", step)
verdict

# %%
if verdict:
    print(compare(explore_model(step), explore("fenced")))

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Write a race down as threads of atomic steps, and its orders can be counted. Six steps are enough
#   to be wrong about.
# * Do not ask how likely a bad order is. Ask whether there is one: enough users will find it.
# * A proof of a model is worth as much as the model. Ours agrees with the real scripts on every order.
#
# | one may think | but |
# |---|---|
# | bad orders are exotic | the least bad one is one swap away from a good one |
# | looking first makes deleting safe | between the look and the delete, others write |
# | 0 of 45 means safe | it means safe in these orders: one more thread, an accident or a wrong clock may differ |
#
# Four questions, from memory: Why are there 90 orders, and why do only 45 count? What is one swap away
# from the minimal failing order? What does the demo's heartbeat leave behind after the DEL? Which two
# threads are enough to lose Alice?
#
# <details><summary>The answers</summary>
#
# 1. 720 orders of six steps, halved for each of three threads, because it looks before it writes. In half of
#    the 90 Alice pings before she leaves.
# 2. A good order: exchange two neighbours, and all ends well.
# 3. Half an entry: a timestamp, and no gateway.
# 4. The clean-up and the new registration.
# </details>
#
# In the code: `wsdemo/lab/races/orders.py` and `wsdemo/lab/races/models.py`. Next: **06 · Whose clock?**, and
# for those who want a proof of the real scripts **05b · A proof by exhaustion**.

# %%
expect("all 45 orders were played", len(demo.played) == 45, seen=len(demo.played))
