# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "13 · Who is in the room?"
#     question: "A room has a list of its members. Who keeps it right when gateways are slow, and when they die?"
#     able: "say why a set of members goes wrong; order words about a user by stamps; say when the list is right after a death"
#     minutes: {read: 13, run: 1, exercise: 20}
#     needs: "Redis: a private one is started for you"
#     failure: "a gateway that dies with a full room, a clean-up that comes too late"
#     level: "L2 measured: who is listed is exact, durations are this run's own"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Thirty people are in the lobby, a [room](../docs/glossary.md#room), ten by each gateway. Everybody sees the
# list of who is there. Then gateway-03 dies. Four of its ten people are back a moment later, by other
# gateways. The other six sit in a train that has just entered a tunnel, and go home without coming back. Who is in the list?

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# The list is a *set* in Redis: a gateway adds whoever registers, and removes whoever it releases. Presence
# itself is safe: it has [leases](../docs/glossary.md#lease) and tokens. Six of the ten people of gateway-03
# never come back. **How many of the six does the list still show after five minutes?** The options are
# `0`, `3`, `6` and `10`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q13", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q13", 0)

# %% [markdown]
# ## Run
#
# `policy="room-by-set"` is the product's presence and such a set beside it. `gateway_dies` fills the room,
# lets six people vanish, crashes gateway-03, and looks at the room each second, for 80 seconds of
# production. What is true after 80 seconds is true after five minutes: nobody is left who could remove
# anybody.

# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.room_list import ListBySet, gateway_dies


def list_as_a_set(pace):
    lab = Lab(gateways=3, policy="room-by-set", scale=pace.scale)
    samples = gateway_dies(lab, ListBySet(lab))
    there, listed = len(samples[-1].there), len(samples[-1].listed)
    expect("24 of the 30 people are there at the end", there == 24, seen=there)
    expect("the set still has all thirty", listed == 30, seen=listed)
    return lab, samples


naive, by_set = steadily(list_as_a_set, users=30, at_most=30)
ghosts = sorted(by_set[-1].ghosts)
print(f"{len(ghosts)} people are listed and not there: {', '.join(ghosts)}")

# %% [markdown]
# Now the rooms of the product, `Lab(rooms=True)`: the same people, the same death.

# %%
from wsdemo.lab.lessons.room_list import ListByStamp


def list_by_stamps(pace):
    lab = Lab(gateways=3, rooms=True, scale=pace.scale)
    samples = gateway_dies(lab, ListByStamp(lab))
    there, listed = len(samples[-1].there), len(samples[-1].listed)
    expect("24 of the 30 people are there at the end", there == 24, seen=there)
    expect("the list shows exactly those who are there", listed == 24, seen=listed)
    return lab, samples


product, by_stamp = steadily(list_by_stamps, users=30, at_most=30)
print(f"the list shows {len(by_stamp[-1].listed)} people at the end")

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.learn import predicted, reveal
from wsdemo.lab.plots import room_list

room_list(
    {"a set": by_set, "stamps and leases": by_stamp},
    fault=(10, "gateway-03 dies"),
    prediction=predicted("q13"),
    title="The set keeps {ghosts} ghosts for ever; with stamps the list is right after {heals_s} s",
)

# %%
reveal("q13", len(ghosts))
expect("the set keeps everybody who never came back", len(ghosts) == 6, seen=ghosts)

# %% [markdown]
# ## Explain
#
# In `presence:` each user has a lease: it runs out by itself. A member of a set has none, for Redis cannot let
# a part of a value expire. So somebody must say "this user has gone", and who could say it is dead.
#
# A lease for each member of each room would cost too much: a thousand rooms with a thousand members are a
# million leases to renew. The product has **one lease for each gateway**. A gateway signs every 10 seconds
# that it lives, for the next 30 seconds. When a lease runs out, the other gateways remove from their rooms all that
# this gateway said. So the list is right within 30 seconds and one
# [beat](../docs/glossary.md#beat). In the figure it is a little less: the last beat was some seconds
# before the death.
#
# The four who came back are no problem in either list: they joined by another gateway, and that word is newer.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **0**: their presence does run out, after 90 seconds. But the set is another key.
# * **3**: nothing stops half way.
# * **10**: the four who are back are listed too, but they are there.
# </details>
#
# ## Modify
#
# A death is rare. A late clean-up is not. Alice moves from gateway-01 to gateway-02, while everything that
# gateway-01 says to Redis is held on the wire. Then it is let go. You have seen this in lesson 04, and for that reason
# presence has tokens. Is Alice in the list now? Decide it for both lists before you run it.

# %%
from wsdemo.lab.lessons.room_list import late_cleanup

with Lab(gateways=2, wires=True, policy="room-by-set") as lab:
    in_the_set = late_cleanup(lab, ListBySet(lab))
    presence = lab.record("alice").get("gwId", "nothing")
print(f"a set:  presence says {presence}; the list says {sorted(in_the_set) or 'nobody'}")

# %%
with Lab(gateways=2, wires=True, rooms=True) as lab:
    room = ListByStamp(lab)
    in_the_room = late_cleanup(lab, room)
    words = room.entries()["alice"].split()
print(f"stamps: the list says {sorted(in_the_room) or 'nobody'}")
print(f"what Redis keeps of Alice: {words[0]}, token {words[1]}, seq {words[2]}, by {words[3]}")

# %%
expect("presence refuses the late release", presence == "gateway-02", seen=presence)
expect("the set believes the late clean-up", in_the_set == frozenset(), seen=in_the_set)
expect("the stamps refuse the late clean-up", in_the_room == {"alice"}, seen=in_the_room)

# %% [markdown]
# Presence was right, and the list was wrong. **A fence protects only what is behind it.** Each piece of shared
# state needs its own.
#
# The product keeps a *word* for each user: `in` or `out`, and a [stamp](../docs/glossary.md#stamp) `(token, seq)`.
# The token is that of the session, as in lesson 06. Its gateway counts the words of the session: that is seq. A word
# with a lower stamp than the kept one changes nothing, whenever it arrives. And a user who has left is not
# removed from the hash: an `out` is kept for a while, so that a late `in` finds something that is newer.
#
# So it does not matter in which order the words arrive. Such a value is called a
# [last-writer-wins register](../docs/glossary.md#last-writer-wins-register), and "last" means the stamp, not the clock.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `newer(kept, word)`. A word is `(state, token, seq)`, with the state `"in"` or `"out"`. `kept` is what Redis
# has of a user, and `None` when it has nothing; `word` has just arrived. Return the word that is to be kept.
# The check delivers the words of several sessions, in any order, some of them twice.


# %% tags=["exercise"]
def newer(kept, word):
    raise NotImplementedError


# %% tags=["solution"]
def newer(kept, word):
    if kept is None or word[1:] > kept[1:]:
        return word
    return kept


# %%
check("ex13", newer)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Whoever could say that somebody has gone can be dead. So each entry needs an end without a goodbye: a
#   lease, of the member or of the gateway.
# * Each piece of shared state needs its own fence. A token in presence does not protect a list beside it.
# * A leave is a word that must be remembered. Otherwise an older join brings the user back.
#
# | one may think | but |
# |---|---|
# | presence expires, so the list does too | the list is another key, and nobody tells it |
# | each member needs a lease | one for each gateway is enough, and costs much less |
# | who has left can be deleted | then a late join finds nothing to compare with |
#
# Four questions, from memory: Why did the set keep six people? After how long is the product's list right, and
# why? Which two numbers make a stamp? Why is an `out` kept?
#
# <details><summary>The answers</summary>
#
# 1. Nobody released them: their gateway was dead, and a member of a set has no lease.
# 2. Within the lease of a gateway, 30 s, and one beat: then the others remove all that it said.
# 3. The token of the session, and seq: the count of its words.
# 4. A late `in` of an earlier moment has to find something that is newer.
# </details>
#
# In the code: `wsdemo/rooms/room_join.lua` and `wsdemo/rooms/room_sweep.lua`; beside them, as it should not be,
# `wsdemo/rig/policies/room_by_set.py`.

# %%
product.close()
left = [one.leaks() for one in (naive, product, lab)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
