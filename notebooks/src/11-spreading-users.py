# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "11 · Spreading users: balancing and scaling out"
#     question: "A gateway is added, or restarted. Who goes there, and who decides that?"
#     able: "compare rules of a load balancer for connections that last; say why a new gateway stays empty; move as few users as possible"
#     minutes: {read: 19, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you, and a cluster of three"
#     failure: "a rolling restart, old news about connections, a gateway that is broken and looks empty"
#     level: "L2 measured: who is where is exact, shares and ratios are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# It is Friday evening. Three gateways have a hundred users each, and that is as much as they can carry. The operator
# starts a fourth one and puts it behind the [load balancer](../docs/glossary.md#load-balancer). A minute later she looks
# at her three full gateways again.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# The balancer gives each new connection to the gateway with the
# [fewest connections](../docs/glossary.md#least-connections). Everybody is connected already; nobody
# comes, and nobody goes. **Which share of the users, in percent, does gateway-04 have after a minute?** The options are
# `0`, `8`, `25` and `100`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q11", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q11", 25)

# %% [markdown]
# ## Run
#
# `BehindBalancer` is a real balancer, although a small one: a process connects to its port, it picks a gateway, and
# passes bytes on in both directions. Its rule is that of `least_conn` in nginx.

# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.behind_balancer import BehindBalancer


def add_a_gateway(pace):
    lab = Lab(gateways=3, scale=pace.scale, api=True)
    crowd = BehindBalancer(lab, rule="least connections")
    crowd.come(pace.users)
    before = crowd.talk(2 * pace.users)
    lab.let_pass(10)
    lab.start_gateway("gateway-04")
    crowd.add("gateway-04")
    crowd.mark("gateway-04 is added")
    lab.let_pass(60)
    share = crowd.share("gateway-04")
    expect("nobody moves to the new gateway by himself", share < 0.02, seen=crowd.counts)
    return lab, crowd, before, crowd.history


lab, crowd, with_three, history = steadily(add_a_gateway, users=300, at_most=15)
print("users of each gateway:", crowd.counts)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.learn import predicted, reveal
from wsdemo.lab.plots import load_stream

said = predicted("q11")
load_stream(
    history,
    crowd.marks,
    since=crowd.marks[0].t - 10,
    prediction=None if said is None else f"{said} %",
    title="A minute after it was added, gateway-04 has {newest_has} of {users} users",
)

# %%
reveal("q11", round(100 * crowd.share("gateway-04")))
expect("the fullest gateway is as full as before", crowd.imbalance > 1.3, seen=crowd.imbalance)

# %% [markdown]
# ## Explain
#
# A balancer decides **once for each connection**, at its beginning. A web page is fetched by a request that ends after
# some milliseconds; then the next request is balanced anew, and a new server has its share at once. A WebSocket lasts
# for hours. While nobody comes or goes, there is nothing to decide.
#
# With some coming and going the new gateway fills up: all newcomers go there, for it has the fewest connections. How
# long that takes depends on how long users stay, and not on the balancer. The three others stay as full as they were
# until then, and that is when they needed help.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **25**: that is the share after everybody has connected anew. For requests it would be right.
# * **8**: a small share sounds careful. But who should have moved? Healthy connections do not break by themselves.
# * **100**: all *newcomers* would go there. There were none.
# </details>
#
# ## Modify
#
# **Send away those who are too many.** A gateway can ask a user to come again: it closes the connection with code 1012,
# and the client dials anew, through the balancer. The server API does this for one user
# (`POST /api/disconnect`, `"code": 1012`). `surplus` says how many users each gateway has above the mean.

# %%
from wsdemo.lab.lessons.behind_balancer import surplus

plan = surplus(crowd.counts)
lab.let_pass(5)
crowd.mark("the surplus is sent away")
crowd.send_away(plan)
lab.let_pass(10)
print("users of each gateway:", crowd.counts)
load_stream(
    crowd.history,
    crowd.marks,
    since=crowd.marks[-1].t - 5,
    title="{newest_has} of {users} users move once, and the fullest gateway has {ratio} x the mean",
)

# %%
expect("all gateways are balanced", crowd.imbalance <= 1.15, seen=crowd.counts)
expect("nobody was moved twice", crowd.most_moves <= 1, seen=crowd.most_moves)
with_four = crowd.talk(2 * len(crowd.users))

# %% [markdown]
# **Restart them all.** There is a new version, so each gateway is drained and started again, one after the other: a
# [rolling restart](../docs/glossary.md#rolling-restart). Everything is balanced before. **How many users does the
# gateway have that is restarted last?** Decide before you run it.

# %%
before = crowd.forced_moves
for name in ["gateway-01", "gateway-02", "gateway-03", "gateway-04"]:
    crowd.restart(name)
    lab.let_pass(5)
moves = crowd.forced_moves - before
print(f"{len(crowd.users)} users were moved {moves} times")
load_stream(
    crowd.history,
    crowd.marks,
    since=crowd.marks[-4].t - 5,
    title="After a rolling restart, the last gateway has {newest_has} of {users} users",
)

# %%
last = crowd.counts["gateway-04"]
expect("the gateway that was restarted last is empty", last == 0, seen=crowd.counts)
expect("there were more moves than users", moves > len(crowd.users), seen=moves)
lab.close()

# %% [markdown]
# Its users went to the others when it was drained, and nobody came after that. And some users were unlucky: they moved to a
# gateway that was the next to be restarted. After a rolling restart, a round of sending away is due.
#
# **Old news.** A balancer that is alone knows its connections. Often there are several balancers, and each hears of all
# connections only from time to time. We have 120 users at three gateways, add three empty ones, and let 120 newcomers
# come. Each rule is tried twice: with the present numbers, and with those from before the newcomers came.
# [Power of two choices](../docs/glossary.md#power-of-two-choices) looks at two gateways by chance, and takes the one with
# fewer connections. **Which rule becomes the worst of all when its news is old?**

# %%
from wsdemo.lab.lessons.behind_balancer import scale_out

RULES = ["round robin", "random", "least connections", "power of two"]


def try_the_rules(pace):
    lab = Lab(gateways=6, scale=pace.scale)
    crowd = BehindBalancer(lab, lab.cluster.names[:3])
    crowd.come(120)
    for name in lab.cluster.names[3:]:
        crowd.add(name)
    new = {rule: scale_out(crowd, rule, 120, old_news=False) for rule in RULES}
    old = {rule: scale_out(crowd, rule, 120, old_news=True) for rule in RULES}
    ratio = old["least connections"]
    expect("with old news, the fewest connections are a trap", ratio > 2.5, seen=old)
    expect("power of two hardly minds old news", old["power of two"] < 1.5, seen=old)
    return lab, {"present numbers": new, "old numbers": old}


rules_lab, ratios = steadily(try_the_rules, users=240, at_most=15)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# Each rule, with present and with old numbers.

# %%
from wsdemo.lab.plots import rules

rules(
    ratios,
    title="With old numbers, {worst_rule} fills one gateway to {worst} x the mean",
)

# %% [markdown]
# With present numbers, the fewest connections are the best rule. With old ones they are the worst: all newcomers see the
# same number, and all go to the same gateway. This is the **herd** of lesson 08, made by a balancer. Round robin and
# random look at no number, so old news does them no harm; but they do not fill the empty gateways either. Power of two
# uses the numbers, and chance spreads those who come together.
#
# **A gateway that fails fast.** Gateway-03 has just been started, and cannot reach Redis. It accepts connections, and
# answers each register with "try again later". So it has very few connections. Twenty users want to come. **How many of
# them are in after half a minute?**

# %%
from wsdemo.lab.lessons.behind_balancer import broken_gateway


def fails_fast(pace, check_every_s):
    with Lab(gateways=3, scale=pace.scale, wires=True) as lab:
        return broken_gateway(lab, check_every_s)


def without_and_with_checks(pace):
    without, with_checks = fails_fast(pace, None), fails_fast(pace, 5)
    expect("the broken gateway attracts most attempts", without.attracted > 0.5, seen=without)
    expect("fewer than all are in", without.came < 20, seen=without)
    expect("with checks of /ready all are in", with_checks.came == 20, seen=with_checks)
    return without, with_checks


without, with_checks = steadily(without_and_with_checks, at_most=15)
for name, run in {"no checks": without, "/ready every 5 s": with_checks}.items():
    print(f"{name}: {run.came} of 20 are in; {run.attracted:.0%} of {run.attempts} attempts failed")

# %% [markdown]
# The worst gateway looked like the best one, because failing is quick. A balancer has to ask "are you ready?", and not
# only "do you accept?". nginx without its paid part does not ask; HAProxy does (`deploy/haproxy.cfg`).
#
# **The real nginx**, if it is installed here: sixty users at three gateways, then a fourth line in its configuration and
# `nginx -s reload`, then twenty newcomers. Our balancer would send all twenty to gateway-04.

# %%
from wsdemo.lab.lessons.behind_balancer import through_nginx
from wsdemo.rig import nginx

if nginx.installed():
    with Lab(gateways=4, scale=15) as lab:
        before, after = through_nginx(lab, 60, 20)
    print("before the reload:      ", before)
    print("after twenty newcomers: ", after)
else:
    print("nginx is not installed here: read on, you miss nothing that is needed below.")

# %% [markdown]
# With nginx 1.22 each gateway gets five of the twenty. A reload starts new processes with new counters: for them, all four
# gateways have no connections at all.
#
# **What more gateways cost.** Two users by chance are at the same one of N gateways with a probability of 1/N. All other
# messages cross. The users above have talked, too: at three gateways, and later at four. Sixty others talk now at one,
# two and six gateways.

# %%
from wsdemo.lab.lessons.behind_balancer import crossing_by_gateways


def crossing(pace):
    with Lab(gateways=6, scale=pace.scale) as lab:
        counts = crossing_by_gateways(lab, (1, 2, 6))
    for one in (*counts, with_three, with_four):
        rule = 1 - 1 / one.gateways
        expect("the measured share is near 1 - 1/N", abs(one.share - rule) < 0.1, seen=one)
    return counts


counts = steadily(crossing, users=60, at_most=15)

# %%
from wsdemo.lab.plots import crossing_share

crossing_share([*counts, with_three, with_four])

# %% [markdown]
# From one gateway to four, three quarters of all messages begin to cross. From four to a hundred, nearly nothing changes
# any more. So the first step is the expensive one, and it is the cost of lesson 01: one hop more.
#
# **And Redis itself?** When one Redis is not enough, a cluster divides the users into 64
# [buckets](../docs/glossary.md#bucket), and each server has some of them. A fourth server joins. **How many buckets does
# it have after a minute?**

# %%
from wsdemo.lab.lessons.growing import buckets_by_server

cluster = Lab(gateways=2, redis="cluster", scale=15)
cluster.connect_many(30)
stages = {"three servers": buckets_by_server(cluster)}
new = cluster.redis.add_primary()
cluster.let_pass(30)
stages["a fourth joins"] = buckets_by_server(cluster)
print("buckets of each server:", stages["a fourth joins"])

# %%
from wsdemo.lab.lessons.growing import move_while_talking, take_from_each

move = move_while_talking(cluster, take_from_each(cluster, 16), new)
stages["16 buckets moved"] = buckets_by_server(cluster)
print(f"the move took {move.seconds:.1f} s; messages in it: {dict(move.told)}")
print(
    f"the longest gap of a user: {move.gap_ms:.0f} ms; of users who stayed: {move.others_ms:.0f} ms"
)

# %%
from wsdemo.lab.plots import shards

shards(stages, title="A new server has no bucket until 16 are moved to it")

# %%
nothing = stages["a fourth joins"][new]
expect("nothing moves to a new server by itself", nothing == 0, seen=stages)
moved = stages["16 buckets moved"][new]
expect("the new server has the buckets that were moved", moved == 16, seen=stages)
expect("users notice a gap far below a heartbeat", move.gap_ms < 10_000, seen=move)

# %% [markdown]
# It is the same answer as at the beginning: what is placed stays placed, until somebody moves it. There is one difference.
# Users of a gateway have to dial anew. Users whose bucket is moved keep their connection, for they are not connected to
# Redis; their gateway looks for the new server.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write the two decisions of this lesson. In both, `gateways` is a dictionary: name -> how many users it had when the
# balancer heard of it last, five seconds ago or less.
#
# * `pick(gateways)` returns the name of the gateway for one newcomer. Hundreds come between two reports.
# * `rebalance(gateways)` is called after each report. It returns how many users each gateway sends away, as a dictionary;
#   they come back through your `pick`.
#
# The check adds empty gateways to full ones. Within 60 seconds the fullest may have at most 1.15 times the mean, and
# nobody may be moved twice. You may `import random`.


# %% tags=["exercise"]
def pick(gateways):
    raise NotImplementedError


def rebalance(gateways):
    raise NotImplementedError


# %% tags=["solution"]
import random


def pick(gateways):
    two = random.sample(list(gateways), min(2, len(gateways)))
    return min(two, key=gateways.get)


def rebalance(gateways):
    mean = sum(gateways.values()) / len(gateways)
    full = {name: users for name, users in gateways.items() if users > 1.15 * mean}
    return {name: int(users - mean) for name, users in full.items()}


# %%
check("ex11", (pick, rebalance))

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A balancer decides once for each connection. Who is connected stays, so a new gateway stays empty until users come or are
#   sent away.
# * The fewest connections are a good rule with present numbers, and a trap with old ones. Power of two is good enough
#   with both.
# * What fails fast looks empty. Ask whether a gateway is ready, not whether it accepts.
#
# | one may think | but |
# |---|---|
# | a new gateway helps at once | it helps those who come after it |
# | the fewest connections are the least load | a broken gateway has the fewest of all |
# | a rolling restart leaves things as they were | the gateway that was last is empty, and some users moved several times |
#
# Four questions, from memory: Why is a WebSocket balanced differently from a request? Which rule makes a herd of old news?
# What does nginx know after a reload? Which share of the messages crosses with four gateways?
#
# <details><summary>The answers</summary>
#
# 1. It lasts for hours, and a balancer decides only at the beginning of a connection.
# 2. Least connections: until the next report, all newcomers see the same gateway as the emptiest.
# 3. Nothing of the old connections: its new processes count from zero.
# 4. Three quarters: 1 - 1/4.
# </details>
#
# In the code: `Balancer` in `wsdemo/rig/balancer.py`, one screen; `deploy/nginx.conf` and `deploy/haproxy.cfg`; the drain in
# `Gateway.stop` in `wsdemo/gateway/server.py`.

# %%
cluster.close()
left = [one.leaks() for one in (rules_lab, cluster)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
