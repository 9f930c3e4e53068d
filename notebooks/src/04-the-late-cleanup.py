# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "04 · The late cleanup: why presence needs compare-and-set"
#     question: "Alice is online at one gateway. How can another one make her disappear?"
#     able: "produce the race on demand; explain it with a space-time diagram; fix it with one atomic script"
#     minutes: {read: 15, run: 1, exercise: 34}
#     needs: "Redis: a private one is started for you"
#     failure: "a clean-up that comes too late"
#     level: "L1 directed: the order of events is exact, times are measured"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice is on a train. Her connection to **gateway-01** breaks, her client reconnects, and this time it
# ends up at **gateway-02**. She is online and sees no difference. But gateway-01 still has to tidy up
# after her old connection: that is its [clean-up](../docs/glossary.md#clean-up), and today it is slow. When it
# finally gets round to it, Alice has long been elsewhere.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Alice has moved from gateway-01 to gateway-02; *afterwards* gateway-01 cleans up the way the Go demo
# does it: it deletes `presence:alice`. **Where does Redis say that Alice is?** The options are
# `"gateway-01"`, `"gateway-02"`, `"nothing"` and `"both"`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q04", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q04", "gateway-02")

# %% [markdown]
# ## Run
#
# A [policy](../docs/glossary.md#policy) is the rule by which gateways write presence: `policy="go-demo"` is a
# faithful copy of the Go demo's. The [race](../docs/glossary.md#race) is not left to
# luck: a director holds gateway-01's clean-up until we let it go. (`Lab()` measures this machine. Time
# passes sixty times as fast as in production, or less on a machine that is busy, and then it says so.)


# %%
def train_ride(policy):
    lab = Lab(gateways=2, policy=policy)
    bob = lab.connect("bob", to="gateway-01")
    alice = lab.connect("alice", to="gateway-01")
    lab.hold_cleanup("alice", at="gateway-01")
    alice.move("gateway-02")
    lab.let_go("alice", at="gateway-01")  # ... and here it comes, too late
    receipt = bob.send("alice", "Are you there?")
    if receipt.status == "routed":
        alice.receive()
    return lab, alice, receipt


# %%
lab, alice, receipt = train_ride("go-demo")
print("Alice's socket is at:   ", alice.gateway)
print("Redis says:             ", lab.record("alice").get("gwId", "nothing"))
print("Bob, who writes, is told:", receipt.status)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
said = lab.record("alice").get("gwId", "nothing")
lab.plot.story(
    "alice",
    title="{late} deletes an entry that is {owner}'s: alice is online and nobody can reach her",
    steps=10,
)

# %%
from wsdemo.lab.learn import reveal

reveal("q04", said)
expect("Alice has moved, and stays there", alice.gateway == "gateway-02", seen=alice)
expect("a DEL removes the entry, whoever owns it", said == "nothing", seen=said)
expect("Bob's gateway finds no entry: she is offline", receipt.status == "offline", seen=receipt)

# %% [markdown]
# ## Explain
#
# Each step is right by itself. gateway-01 *had* Alice, her connection *is* gone, so its entry has to
# go. But the entry is not gateway-01's any more. `DEL` does not ask whose it is.
#
# A gateway writes three things about a session: [register, refresh,
# release](../docs/glossary.md#register-refresh-release). The Go demo compares timestamps when a user
# **registers**, and says that this protects against late clean-ups. It does not: the clean-up never
# compares anything. And it gets worse. The next heartbeat writes a fresh timestamp without looking,
# into an entry that is not there:


# %%
def half_an_entry():
    return set(lab.record("alice")) == {"ts"}


lab.wait_until("the next refresh", half_an_entry)
print(lab.record("alice"))

# %% [markdown]
# An entry without a gateway: Alice is listed, and nobody can reach her.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **gateway-02**: she registered there last, and "last writer wins". A `DEL` is a write as well.
# * **gateway-01**: its clean-up came last. But it deletes, it does not write its name.
# * **both**: one key holds one entry.
# </details>

# %% [markdown]
# **See it in another tool (optional).** The picture above shows *when* things happened. What could
# gateway-01 have *known* when it deleted the entry? A [vector clock](../docs/glossary.md#vector-clock)
# says of how many events of each lane an event can have known. The next cell writes this run as a log
# with a vector clock for each event, and shows two of them.

# %%
from pathlib import Path

from wsdemo.lab.trace.shiviz import happened_before, stamps

Path("late-cleanup.shiviz.log").write_text(lab.shiviz(), encoding="utf-8")
events = stamps(lab.trace())
register = next(
    e for e in events if e.host == "gateway-02" and e.text.startswith("presence_set to")
)
release = next(e for e in events if e.host == "gateway-01" and e.text.startswith("presence_del to"))
print("gateway-02 registers alice:", register.clock)
print("gateway-01 releases alice: ", release.clock)
concurrent = not happened_before(register, release) and not happened_before(release, register)
expect("no chain of messages leads from one to the other", concurrent, seen=(register, release))

# %% [markdown]
# An event *happened before* another one if none of its numbers is larger (a lane that is missing counts
# as 0). Here neither did: the two are [concurrent](../docs/glossary.md#concurrent). No chain of arrows
# leads from the registration to the release, so gateway-01 could not have known, however fast it is.
# Redis sees both writes, and nobody else does: that is where they have to be compared.
#
# The file `late-cleanup.shiviz.log` beside this notebook is for
# [ShiViz](https://bestchai.bitbucket.io/shiviz/), which draws such logs in a browser (that page needs a
# network; nothing in this lesson does). Open the file there, and follow the lines upwards from
# `presence_del to redis` of gateway-01: you never come to gateway-02.

# %% [markdown]
# ## Modify
#
# The same train ride, the same director, the same order of events. One thing differs: presence is now
# the four scripts of this kit. Each compares and writes in one step, which is called compare-and-set;
# release asks whose entry it is. What will the picture look like?

# %%
fenced, alice, receipt = train_ride("fenced")
print("Redis says:             ", fenced.record("alice").get("gwId", "nothing"))
print("Bob, who writes, is told:", receipt.status)
said = fenced.record("alice").get("gwId")
expect("only its owner removes an entry", said == "gateway-02", seen=said)
expect("Bob's message is handed on", receipt.status == "routed", seen=receipt)

# %%
fenced.plot.story(
    "alice",
    title="{late} is told that the entry is {owner}'s: the release is rejected, and Bob's message "
    "arrives",
    steps=10,
)

# %% [markdown]
# One user is an anecdote. Three hundred users talk and move about for a minute, while every gateway cleans
# up 45 seconds late. On a machine that is busy, the minute takes longer, or there are fewer users. First
# the Go demo's rule, then the four scripts:


# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.trace.frames import verdicts


def busy_minute(policy, pace):
    lab = Lab(gateways=3, policy=policy, scale=pace.scale)
    lab.connect_many(pace.users)
    lab.delay_cleanups(45)
    print(lab.live(60, hop_every_s=60, talk_every_s=30))
    lab.let_pass(60)  # the last clean-ups come in
    effects = verdicts(lab.trace())["effect"].value_counts()
    return lab, effects.get("lost", 0), effects.get("saved", 0)


def careless_minute(pace):
    lab, lost, _ = busy_minute("go-demo", pace)
    expect("late clean-ups remove entries of newer sessions", lost > 0, seen=f"{lost} lost")
    return lab


careless = steadily(careless_minute, users=300)


# %%
def careful_minute(pace):
    lab, lost, saved = busy_minute("fenced", pace)
    expect("a release that compares removes no entry of another session", lost == 0, seen=lost)
    expect("the same clean-ups come too late, and are told so", saved > 0, seen=saved)

    def all_agree():
        where = lab.where()
        return (where["socket"] == where["Redis says"]).all()

    lab.wait_until("socket and entry of each user agree", all_agree)
    return lab


careful = steadily(careful_minute, users=300)

# %%
from wsdemo.lab.plots import ledger

ledger(
    {"the demo's rule": careless.plot.run(), "compare-and-set": careful.plot.run()},
    title="The demo's rule: up to {mosts[0]} live users whom nobody can reach; "
    "with compare-and-set {mosts[1]}",
)

# %% [markdown]
# A rejection in this figure is not an error. It is the system at work: somebody was about to do harm and
# was told "no". Count them in production, and watch them: they are
# `wsdemo_releases_total{outcome="other_owner"}`, and a rising number means that something delays clean-ups.
#
# A late clean-up that *found no entry* is another thing: the lease had run out, or somebody had removed the
# entry before. Nobody was in danger, so it is counted apart, as `outcome="no_entry"`.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write the script that deletes an entry only if it is its caller's. It gets the key in `KEYS[1]`, and
# the caller's connection id, gateway id and timestamp in `ARGV[1]`, `ARGV[2]` and `ARGV[3]`. It returns
# 1 when it has deleted the entry, and 0 when not. The entry has the fields `connId`, `gwId` and `ts`.
# The check runs it on a real server, in seven situations.

# %% tags=["exercise"]
DELETE_IF_MINE = """
-- your script
"""

# %% tags=["solution"]
DELETE_IF_MINE = """
if redis.call('HGET', KEYS[1], 'connId') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
"""

# %%
check("ex04", DELETE_IF_MINE)

# %% [markdown]
# **A second phone.** Gateways can let a user have several devices (`--devices 2`), and each device has a session
# with a token of its own. Suppose that `presence:alice` is a hash with a field for each device: `phone` with the token
# of the phone's session, `laptop` with that of the laptop's. Alice's phone says goodbye. Its gateway compares
# the token, which is right, and then deletes the key with `DEL`. **Where can Alice be reached now?** The options are
# `"on the laptop"`, `"on both"` and `"nowhere"`.

# %% tags=["exercise"]
predict("q04b", None)

# %% tags=["solution"]
predict("q04b", "on the laptop")

# %%
WHOLE_KEY = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('DEL', KEYS[1])
  return 1
end
return 0
"""


def a_phone_says_goodbye(script):
    lab = Lab(gateways=2, devices=2, release_device=script, scale=1)
    bob = lab.connect("bob", to="gateway-01")
    phone = lab.connect("alice", to="gateway-02", device="phone")
    laptop = lab.connect("alice", to="gateway-02", device="laptop")
    hello = bob.send("alice", "Hello, both of you")
    for device in (phone, laptop):
        device.receive()
    phone.disconnect()
    lab.wait_until("the phone is released", lambda: "s:phone" not in lab.record("alice"))
    return lab, laptop, hello, bob.send("alice", "Are you there?")


two_devices, laptop, hello, receipt = a_phone_says_goodbye(WHOLE_KEY)
print("The laptop's socket is at:", laptop.gateway)
print("Bob, who writes, is told: ", receipt.status)

# %%
two_devices.plot.spacetime(hello, title="{hops} hops carry one message to both devices of alice")

# %%
reveal("q04b", "nowhere")
expect("the laptop is connected, and nobody finds it", receipt.status == "offline", seen=receipt)

# %% [markdown]
# These were two real gateways. With `release_device` they ask a script what a release removes; time runs as in
# production (`scale=1`). The laptop's next heartbeat puts its entry back, up to 30 seconds later. Until then,
# everybody who writes to Alice is told `offline`.
#
# To compare is not enough: what is compared must be what is deleted. Write the script for one device. It gets
# the key in `KEYS[1]`, the name of the device in `ARGV[1]`, and the caller's token in `ARGV[2]`. It removes the
# device if its field is the caller's, and returns 1 then, otherwise 0. The check tries it in seven situations, and
# then in real gateways.

# %% tags=["exercise"]
RELEASE_DEVICE = """
-- your script
"""

# %% tags=["solution"]
RELEASE_DEVICE = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
"""

# %%
check("ex04b", RELEASE_DEVICE)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * A clean-up is a write. Every write to shared state has to show that it still may.
# * [Compare *and* set](../docs/glossary.md#compare-and-set) in one step on the server: between a `GET` and a `DEL` of yours, others write.
# * Compare identities (which connection?), not times. Two clocks are two opinions.
# * Delete what was compared, and no more: a key may hold what belongs to others.
#
# | one may think | but |
# |---|---|
# | guarding `register` is enough | refresh and release write as well |
# | the gateway id tells whose entry it is | a user can come back to the same gateway |
# | it is rare, so it does not matter | at a million users it happens all day |
#
# Four questions, from memory: Which three verbs write? What did the demo's refresh do after the `DEL`?
# Why is the gateway id not enough? Who is told `offline` although Alice is online?
#
# <details><summary>The answers</summary>
#
# 1. Register, refresh and release. Each of them has to show that it still may.
# 2. It wrote a fresh timestamp into an entry that was not there: half an entry, without a gateway.
# 3. A user can come back to the same gateway on a new connection. Only the connection tells the two apart.
# 4. Whoever writes to her: here Bob. His gateway found no entry that names a gateway.
# </details>
#
# In the code: `wsdemo/presence/release.lua`, one screen, and beside it `wsdemo/rig/policies/go_demo.py`.

# %%
two_devices.close()
left = [one.leaks() for one in (lab, fenced, careless, careful, two_devices)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
