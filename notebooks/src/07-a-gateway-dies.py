# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "07 · A gateway dies"
#     question: "A gateway is gone. What does each of its users notice, and for how long is the cluster wrong?"
#     able: "trace detection, reconnection and registration after a death; tell crash, drain and freeze apart; compute the outage of each user"
#     minutes: {read: 13, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you"
#     failure: "a crash, a drain, a frozen gateway that comes back, SIGKILL on a real process"
#     level: "L2 measured: counts and orders are asserted, durations are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Sixty users sit at gateway-01, Alice among them. At 9:41 it dies. There are three ways to die: a
# **[crash](../docs/glossary.md#crash)** tells nobody; a **[drain](../docs/glossary.md#drain)** says goodbye
# to each user first; and a **[frozen](../docs/glossary.md#freeze)** gateway is not dead at all: its sockets stay open, it says nothing, and later it comes back and goes on as if nothing had
# happened. Alice only wants to know how long she was offline.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Sixty users at gateway-01, which is killed. Some of them have reconnected elsewhere, others not yet.
# **How many records in Redis still name gateway-01?**

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q07", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q07", "all")

# %% [markdown]
# ## Run
#
# A crash in the laboratory is one: sockets break, no clean-up runs, nothing is released. Twenty of the
# sixty are in a tunnel: a director holds their registrations back until we let them go. Time passes
# fifteen times faster than in production, or less on a busy machine: sixty clients that all dial anew
# need some of it.

# %%
import time

from wsdemo.lab.expectation import steadily


def sixty_at_gateway_01(pace, **options):
    lab = Lab(gateways=3, scale=pace.scale, **options)
    users = [lab.connect(f"user{n:02}", to="gateway-01") for n in range(60)]
    lab.let_pass(5)
    return lab, users


def left_behind(lab):
    return (lab.where()["Redis says"] == "gateway-01").sum()


def wait_until_back(lab, users, within_s):
    def are_back():
        return all(user.gateway in ("gateway-02", "gateway-03") for user in users)

    lab.wait_until("they are back", are_back, timeout_s=within_s / lab.scale)


# %%
def crash_with_a_tunnel(pace):
    lab, users = sixty_at_gateway_01(pace)
    for user in users[40:]:
        lab.hold(user.name, at="gateway-02", verb="register")
        lab.hold(user.name, at="gateway-03", verb="register")
    print(f"before the crash, Redis names gateway-01 for {left_behind(lab)} users")
    began = time.monotonic()
    lab.crash("gateway-01")
    wait_until_back(lab, users[:40], within_s=45)
    left = left_behind(lab)
    took_s = (time.monotonic() - began) * lab.scale
    expect("Redis is asked before a lease can run out", took_s < 55, seen=f"{took_s:.0f} s later")
    return lab, users, left


tunnel, users, left = steadily(crash_with_a_tunnel, users=60, at_most=15)
print(f"forty are back; Redis still names gateway-01 for {left} users")

# %%
tunnel.let_all_go()
wait_until_back(tunnel, users, within_s=240)
at_last = left_behind(tunnel)
print(f"all are back; Redis names gateway-01 for {at_last} users")
tunnel.let_pass(10)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
some = [user.name for user in users[38:42]]
tunnel.plot.ribbons(*some, title="Redis is wrong until each user is back: {wrong_s} user-seconds")

# %%
from wsdemo.lab.learn import reveal

reveal("q07", "those not yet back" if left == 20 else f"{left} of 60")
expect("Redis names the dead gateway for those who are not back", left == 20, seen=left)
expect("when all are back, no record names the dead gateway", at_last == 0, seen=at_last)

# %% [markdown]
# ## Explain
#
# Nobody has to detect anything for Alice: her client sees the connection break, waits a random moment,
# and registers elsewhere. That *register* overwrites the record. So the wrong records are exactly those
# of the users who are not yet back, and each is wrong for as long as its user's outage. Those who never
# come back stay in Redis until their [lease](../docs/glossary.md#lease) runs out.
#
# The dead gateway may not be quite dead. A clean-up of it that is still on its way shows an old token
# and is rejected: that was lesson 04.
#
# | death | who tells the clients | what becomes of the records |
# |---|---|---|
# | crash | the broken connection, at once | wrong until each user is back, or 90 s |
# | drain | the gateway: close code 1012, "come back in … ms" | both begin together: each client is told, and its record is released. A record is wrong for a moment at most |
# | freeze | nobody: sockets stay open, answers stay out | wrong until users lose patience; then the [zombie](../docs/glossary.md#zombie) wakes up |
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **all**: that is what Redis says at the moment of the crash, and for whoever does not come back.
# * **0**: a crash releases nothing; only a drain does.
# * **half**: there is no rule that would stop half way.
# </details>
#
# ## Modify
#
# The same sixty users, without a tunnel, three deaths. Which has the shortest outage, and which the
# longest?


# %%
def die(lab, users, how):
    how("gateway-01")
    wait_until_back(lab, users, within_s=240)
    lab.let_pass(5)
    return lab


def released(lab):
    return (lab.trace()["kind"] == "presence_del").sum()


def crash_it(pace):
    lab, users = sixty_at_gateway_01(pace)
    die(lab, users, lab.crash)
    expect("after a crash nobody can release", released(lab) == 0, seen=released(lab))
    return lab


def drain_it(pace):
    lab, users = sixty_at_gateway_01(pace)
    die(lab, users, lab.drain)
    expect("a drain releases each of its 60 sessions", released(lab) == 60, seen=released(lab))
    return lab


crash = steadily(crash_it, users=60, at_most=15)
drain = steadily(drain_it, users=60, at_most=15)


# %%
def freeze_it(pace):
    lab, users = sixty_at_gateway_01(pace, freezable=["gateway-01"])
    die(lab, users, lab.freeze)
    lab.thaw("gateway-01")  # the zombie comes back, and still has sixty sessions in its table
    lab.wait_until("it sees", lambda: lab.stats("gateway-01")["connections"] == 0)
    where = lab.where()
    wrong = where[where["socket"] != where["Redis says"]]
    expect("the gateway that came back has changed no record", wrong.empty, seen=wrong)
    return lab


freeze = steadily(freeze_it, users=60, at_most=15)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# One line for each user, sorted by outage, and one axis for all three deaths.

# %%
from wsdemo.lab.plots import deaths

deaths(
    {"crash": crash.plot.run(), "drain": drain.plot.run(), "freeze": freeze.plot.run()},
    title="Half of the users are out for {median[freeze]} s or more after a freeze, "
    "{median[crash]} s after a crash, {median[drain]} s after a drain",
)

# %%
refused = (freeze.trace()["kind"] == "presence_reject").sum()
print(f"after the thaw, {refused} writes of the zombie are refused")
expect("the zombie still writes, and is refused", refused > 0, seen=refused)

# %% [markdown]
# The frozen gateway is the worst of the three. Its users had to find out by themselves, by
# [heartbeats](../docs/glossary.md#heartbeat) that nobody answered. And when it came back it still held
# sixty sessions; but each write of it, a refresh or a release, carried an old token and was refused. No
# record changed, and within a tick it had closed them.
#
# Crash and drain are close to each other. After a crash each client waits a tenth of a second at most,
# a random part of it ([jitter](../docs/glossary.md#jitter)), then dials: all sixty at once. They are
# back together, when this machine has answered sixty of them; with sixty thousand, that is a herd. A
# drain tells its clients *when* to come back, each another time, so that not all come at once. It does
# not tell them where to go: as after a crash, each takes the next gateway that it knows.
#
# **And for real.** All of this ran in one process. The same with a gateway that is a process of its own,
# and SIGKILL:

# %%
real = Lab(gateways=1)
real.start_process("gateway-09")
dora = real.connect("dora", to="gateway-09")
print(real, dora)
real.crash("gateway-09")
print("Redis says at once:", real.record("dora").get("gwId", "nothing"))
real.wait_until("Dora is back", lambda: dora.gateway == "gateway-01", timeout_s=20)
print("and when she is back:", real.record("dora").get("gwId", "nothing"))

# %%
said = real.record("dora").get("gwId", "nothing")
expect("her next register overwrites the record", said == "gateway-01", seen=said)
real.close()

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# A client that lost its gateway has to choose the next one. Write `next_gateway(history, gateways)`:
# `history` lists this client's latest attempts, the oldest first, as `(gateway, "ok")` or
# `(gateway, "failed")`; a new client has none. Return one of `gateways`. The check plays two hundred
# outages; in some of them every gateway is dead for a while.


# %% tags=["exercise"]
def next_gateway(history, gateways):
    raise NotImplementedError


# %% tags=["solution"]
def next_gateway(history, gateways):
    latest = {}
    for turn, (name, outcome) in enumerate(history):
        latest[name] = (outcome == "failed", turn)
    return min(gateways, key=lambda name: latest.get(name, (False, -1)))


# %%
check("ex07", next_gateway)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Records that name a dead gateway are those of the users who are not back yet: the client's reconnect
#   repairs presence, not a janitor.
# * A drain is worth its code: the records are released, and clients are told *when* to come back, each
#   another time, so that not all come at once. It is not there to be quicker than a crash.
# * A gateway that comes back from the dead must ask before it serves on. Tokens make the answer "no".
#
# | one may think | but |
# |---|---|
# | somebody has to clean up after a crash | each user's next register does; the lease does the rest |
# | a frozen gateway is a dead one | it wakes up with a table full of users who have left |
# | reconnecting at once is best | all at once is a herd, which is slow for each of them |
#
# Four questions, from memory: Which death releases records? How does a client notice a frozen gateway?
# What happens to what the zombie writes? When is a user who never comes back forgotten?
#
# <details><summary>The answers</summary>
#
# 1. The drain: it releases each session, and tells its client at the same time. A crash and a freeze release nothing.
# 2. By heartbeats that nobody answers. Its socket stays open all the time.
# 3. It is refused: each write carries an old token, and newer sessions have registered.
# 4. When her lease has run out: 90 s after her last heartbeat.
# </details>
#
# In the code: `Gateway.stop` in `wsdemo/gateway/server.py`, `Client._keep` in
# `wsdemo/client/connection.py`.

# %%
labs = (tunnel, crash, drain, freeze, real)
for lab in labs:
    lab.close()
left = [lab.leaks() for lab in labs]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
