# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "03 · Who is really here? Health scans, half-open sockets, two maps"
#     question: "A laptop is shut. Who still believes that its user is there, and for how long?"
#     able: "tell the socket, the gateway's table and Redis' record apart; derive how long a dead user is believed in; see what a blocked event loop does"
#     minutes: {read: 14, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you"
#     failure: "half-open connections; a gateway whose event loop is blocked"
#     level: "L2 measured: the order of events is asserted, durations are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice shuts her laptop. No goodbye is sent, no FIN, nothing: the radio is off. Three parties have an
# opinion about her now. Her **socket** at gateway-01 still looks open: the connection is
# [half-open](../docs/glossary.md#half-open-connection). The gateway's **table** lists her.
# Redis' **record** names gateway-01. All three are wrong, and each will find out in its own time.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Heartbeats every 30 s, a lease of 90 s, a WebSocket [ping](../docs/glossary.md#ping-and-pong) after 20 s of silence that has to be answered
# within 20 s, a [scan](../docs/glossary.md#scan) each 60 s for users silent for more than 90 s. **Who forgets Alice first?**

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q03", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q03", "Redis")

# %% [markdown]
# ## Run
#
# A *wired* user has a TCP relay between herself and each gateway, so the lid can be shut for real: from
# that moment the wire swallows everything, in both directions, and the connection stays open. (On a
# machine that is busy, `steadily` slows the clock down.)

# %%
import time

from wsdemo.lab.expectation import steadily


def shut_the_lid(pace):
    lab = Lab(gateways=2, scale=pace.scale)
    alice = lab.connect("alice", to="gateway-01", wired=True)
    bob = lab.connect("bob", to="gateway-02")
    lab.watch("alice", "bob")
    lab.let_pass(45)
    began = time.monotonic()
    alice.vanish()
    print("connections at gateway-01:", lab.stats("gateway-01")["connections"])
    print("Redis says:               ", lab.record("alice").get("gwId", "nothing"))
    print("Bob, who writes, is told: ", bob.send("alice", "Are you there?").status)
    lab.wait_until("gateway-01 drops her", lambda: lab.stats("gateway-01")["connections"] == 0)
    took_s = (time.monotonic() - began) * lab.scale
    expect("gateway-01 notices within a minute", took_s < 60, seen=f"after {took_s:.0f} s")
    lab.wait_until("Redis forgets her", lambda: not lab.record("alice"))
    print("Bob, who writes, is told: ", bob.send("alice", "Are you there?").status)
    lab.let_pass(20)
    dropped = set(lab.trace().query("kind == 'cleanup'")["user"])
    expect("nobody is dropped whose laptop is open", dropped <= {"alice"}, seen=dropped)
    return lab


lab = steadily(shut_the_lid)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
lab.plot.ribbons(
    "alice",
    "bob",
    tables=True,
    title="The gateway forgets the shut laptop after {table_mean_s} s, Redis after {mean_s} s",
)

# %%
from wsdemo.lab.learn import reveal

trace = lab.trace()
dropped = trace[trace["kind"] == "cleanup"]["t"].min()
released = trace[(trace["kind"] == "presence_del") & (trace["user"] == "alice")]["t"].min()
reveal("q03", "the gateway" if dropped < released else "Redis")
expect("the release follows the drop", dropped < released, seen=(dropped, released))

# %% [markdown]
# ## Explain
#
# Between the lid and the first doubt lies silence, and nobody can tell silence from absence. What ends
# it is a question that goes unanswered: after 20 s without a byte the gateway sends a WebSocket ping,
# and 20 s later it draws its conclusion, drops the socket, and releases the record itself. Redis did
# not have to wait for its lease to run out.
#
# And note what Bob was told in between: `routed`. It was true. His message was routed to the gateway
# that Redis named, and written into a socket on whose other end nobody was.
#
# | who | believes in Alice until | at the latest after |
# |---|---|---|
# | the socket | somebody writes and nobody acknowledges | minutes (TCP's own timeouts) |
# | the gateway's table | a ping stays unanswered | 20 + 20 s |
# | Redis' record | it is released, or the lease runs out | 90 s |
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **Redis**: its lease is the famous 90 seconds. But the gateway asks much earlier, and then releases.
# * **at the same time**: the release follows the drop by a fraction of a millisecond. But it follows.
# * **nobody**: right for the socket by itself. That is why there are pings.
# </details>

# %% [markdown]
# ## Modify
#
# The Go demo sends no WebSocket pings. It drops a user when it has not heard from her for 90 s, and it
# looks only each 60 s. **And now, who is first?** The options are `"Redis"`, `"the gateway"` and
# `"either"`.

# %% tags=["exercise"]
predict("q03b", None)

# %% tags=["solution"]
predict("q03b", "the gateway")

# %% [markdown]
# Switch the pings off, and shut twenty laptops at moments spread over a minute.

# %%
from wsdemo import Timing


def shut_twenty(pace):
    demo = Lab(gateways=1, timing=Timing(ws_ping_interval_s=3600), scale=pace.scale)
    laptops = [demo.connect(f"user{n:02}", wired=True) for n in range(20)]
    demo.let_pass(60)
    for laptop in laptops:
        laptop.vanish()
        demo.let_pass(3)
    demo.wait_until("all are found", lambda: demo.stats("gateway-01")["connections"] == 0)
    found_s = demo.plot.detection().wsdemo_facts["mean_s"]
    expect("a scan finds each of them once", 55 < found_s < 155, seen=f"{found_s} s on average")
    return demo


demo = steadily(shut_twenty, users=20)

# %%
order = demo.plot.ribbons(
    tables=True,
    limit=3,
    title="Without pings, Redis forgets first: after {mean_s} s, the gateway after {table_mean_s} s",
)
order

# %%
releases = demo.trace()
released = int((releases["kind"] == "presence_del").sum())
print(f"20 clean-ups, {released} releases that still found an entry")
redis_s, table_s = order.wsdemo_facts["mean_s"], order.wsdemo_facts["table_mean_s"]
reveal("q03b", "Redis" if redis_s < table_s else "the gateway")
expect(
    "without pings, Redis forgets first",
    redis_s < table_s,
    seen=f"Redis {redis_s} s, the gateway {table_s} s",
)

# %% [markdown]
# The order is the other way round, and for every laptop. Both count 90 s from the last heartbeat. The
# lease ends at that moment by itself; the gateway has to wait for its next look. When it finds the dead
# connection and releases the entry, there is none left to release.
#
# | the rule | who forgets first | why |
# |---|---|---|
# | pings on: 20 s of silence, 20 s for an answer | **the gateway**, then Redis at once | it asks; 40 s are over before 90, and its clean-up releases the entry |
# | pings off: 90 s of silence, a look each 60 s | **Redis** | both count 90 s from the last heartbeat, and only one of them has to look |
#
# So "the gateway" was right in the first prediction, and "Redis" is right here. In between, Alice is in
# the gateway's table and not in Redis: nobody at another gateway can reach her, were she there.
#
# And for how long is she listed at the gateway? Where does the distribution begin, how wide is it?

# %%
demo.plot.detection(
    title="Without pings, the gateway lists a shut laptop for {mean_s} s on average"
)

# %%
demo.close()

# %% [markdown]
# **One more way to be a [ghost](../docs/glossary.md#ghost): a gateway that does not run.** So far gateways had
# an [event loop](../docs/glossary.md#event-loop) of their own. With `loop="kernel"` they live on the loop that also runs these cells, as in many a notebook. Now
# a cell that computes for two minutes on this clock (two seconds at 60x) stops every gateway with it:

# %%
blocked = Lab(gateways=1, loop="kernel")
blocked.connect("carol")
before = blocked.record("carol")
time.sleep(120 / blocked.scale)  # any computation would do
during = blocked.record("carol")
blocked.wait_until("her gateway has noticed", lambda: "stall" in set(blocked.trace()["kind"]))
blocked.wait_until("she is back", lambda: bool(blocked.record("carol")))
print("before:", before.get("gwId"), "| after two minutes of computing:", during or "nobody")

# %%
expect(
    "Carol is listed before the computation, and not at its end", before and not during, seen=during
)
blocked.close()

# %% [markdown]
# Carol's socket was open all the time, and she was offline for everybody else: her heartbeats lay unread
# while her lease ran down. When the loop turned again, the gateway noticed that it had stood still,
# blamed nobody for it, and asked Redis again for each of its users. In production the culprit is a
# blocking call in a handler, a huge JSON document, or a machine that swaps.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# A gateway keeps two maps: `user_to_conn` and `conn_to_user`. Write `cleanup(conn, user_to_conn,
# conn_to_user)`, called when a connection has ended. The user may have a newer connection by then. The
# check plays two hundred random stories and compares with the registry of the real gateway.


# %% tags=["exercise"]
def cleanup(conn, user_to_conn, conn_to_user):
    raise NotImplementedError


# %% tags=["solution"]
def cleanup(conn, user_to_conn, conn_to_user):
    user = conn_to_user.pop(conn, None)
    if user is not None and user_to_conn.get(user) == conn:
        del user_to_conn[user]


# %%
check("ex03", cleanup)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * There are three truths: the socket, the gateway's table and Redis' record. They never change at the
#   same instant.
# * Who forgets first depends on the rule: whoever asks earlier. With pings it is the gateway, without
#   them it is Redis.
# * Silence is not absence. Only an unanswered question is evidence, and even that only of silence.
# * Time to detect = timeout, less how long it had been silent already, plus up to one scan.
# * A blocked event loop is a dead gateway with open sockets.
#
# | one may think | but |
# |---|---|
# | TCP tells me when the other side is gone | without traffic it says nothing, for hours |
# | `routed` means that she has read it | it means that a gateway took it |
# | the scan runs each 60 s, so detection takes 60 s | timeout + up to one scan |
# | the gateway always knows before Redis | only when it asks before the lease ends |
#
# Five questions, from memory: Which of the three does the router ask? What does the gateway do before it
# forgets a silent user? Without pings, why is Redis first? Why must removal go by connection, and not by
# user? What does a gateway do first when it finds that it had stood still?
#
# <details><summary>The answers</summary>
#
# 1. Redis' record: it is the only one that other gateways can see.
# 2. It asks: a WebSocket ping, and then it waits 20 s for the answer.
# 3. Both count 90 s from the last heartbeat. The lease ends then; the gateway still has to look.
# 4. The user may have a newer connection by then, and removing "the user" would remove that one.
# 5. It drops nobody for that time, and asks Redis again for each of its users.
# </details>
#
# In the code: `wsdemo/gateway/health.py` and `wsdemo/gateway/registry.py`.

# %%
left = lab.leaks() + demo.leaks() + blocked.leaks()
expect("a closed laboratory leaves nothing behind", left == [], seen=left)
