# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "09 · The message that fell in the gap"
#     question: "A message was sent while nobody was listening. Where is it now, and who knows that?"
#     able: "find where Pub/Sub loses messages; bring them with an inbox and a position; say why a position needs more than a number"
#     minutes: {read: 15, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you"
#     failure: "a gateway that hears nothing from Redis, a user who is away, a failover that gives a number to another message"
#     level: "L1 directed: which messages are lost is exact, times are measured"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# Alice sends a hundred messages to Bob. In the middle, the line from Redis to Bob's gateway fails for a
# moment. Bob's socket is fine all the time, and no error is shown. Later he
# takes the underground, and is away for a while. In the evening they compare what she wrote and what he has.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Alice sends 100 messages. During 20 of them, Bob's gateway hears nothing from Redis. During 20 others,
# Bob is away. Messages go by [Pub/Sub](../docs/glossary.md#pubsub), and nothing stores them. **How many
# never reach Bob?** The options are `0`, `20`, `40` and `80`.

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q09", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q09", 20)

# %% [markdown]
# ## Run
#
# Two real gateways; a wire lies between each of them and Redis. From message 21 on, the wire of gateway-02
# drops everything that comes *from* Redis; before message 41 it works again. Bob leaves before message 61,
# and is back before message 81. `send_a_hundred` does this, and notes what became of each message.

# %%
from collections import Counter

from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.gap import GAPS, PlainPost, send_a_hundred


def pub_sub_alone(pace):
    lab = Lab(gateways=2, wires=True, scale=pace.scale)
    sent = send_a_hundred(lab, PlainPost(lab))
    lost = sum(one.lost for one in sent)
    expect("the messages of both gaps are lost, and no other one", lost == 40, seen=lost)
    return lab, sent


plain, by_pub_sub = steadily(pub_sub_alone, at_most=10)
print("Alice was told:", dict(Counter(one.told for one in by_pub_sub)))

# %% [markdown]
# While Bob was away, Alice was told `offline`: she knows that these messages did not arrive. But 80
# messages were `routed`, and Bob has only 60 of them. Redis had handed 20 to a connection on which nobody
# heard them. **Nobody knows that they are lost**: not Alice, not Bob, and no gateway.
#
# Now the same with an [inbox](../docs/glossary.md#inbox): a list of Bob's messages in Redis. Each message
# is stored first. Then a [hint](../docs/glossary.md#hint) goes out by Pub/Sub: "there is something new".
# Nobody relies on what the hint says. The reader reads the inbox: all that comes after his
# [position](../docs/glossary.md#position). There are two of them. In the first, which is only for this lesson, a
# position is just a number, and Bob's program does the work. The second one is the product's: a gateway that is started
# with `--durable`, here `Lab(durable=True)`, stores the message for Alice, and reads for Bob.

# %%
from wsdemo.lab.lessons.gap import DurablePost, NumberedPost


def with_inbox(way):
    def experiment(pace):
        lab = Lab(gateways=2, wires=True, scale=pace.scale, durable=True)
        sent = send_a_hundred(lab, way(lab))
        lost = sum(one.lost for one in sent)
        expect("what was stored arrives, early or late", lost == 0, seen=lost)
        return lab, sent

    return steadily(experiment, at_most=10)


numbered, by_number = with_inbox(NumberedPost)
durable, by_mark = with_inbox(DurablePost)
print("Alice was told:", dict(Counter(one.told for one in by_mark)))

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# Each mark is one message. Both kinds of inbox look alike here. What tells them apart comes below.

# %%
from wsdemo.lab.learn import predicted, reveal
from wsdemo.lab.plots import loss_raster

ways = {"Pub/Sub alone": by_pub_sub, "inbox by number": by_number, "durable": by_mark}
loss_raster(
    ways,
    gaps=GAPS,
    prediction=predicted("q09"),
    title="Pub/Sub loses {lost} of {sent} messages; with an inbox none, though some are late",
)

# %%
lost = sum(one.lost for one in by_pub_sub)
reveal("q09", lost)
late = sum(one.late for one in by_mark)
expect("with an inbox the messages of both gaps come late", late == 40, seen=late)

# %% [markdown]
# ## Explain
#
# `PUBLISH` hands a message to those who listen at this moment. It answers how many these were. That
# number can be wrong in one direction: Redis counts a connection that is dead and does not know it yet.
#
# With an inbox it does not matter whether a hint arrives. The hints 21 to 40 were lost as well. But then
# somebody read all that came after Bob's position, and 20 messages came at once. A lost hint costs time,
# never a message.
#
# In the inbox by number it was hint 41 that made Bob read. Without a message 41 he would have waited for
# long. The product does not rely on the next hint: a gateway looks into the inbox when its subscription was renewed, and at
# each heartbeat.
#
# An inbox has a price: each message is written to Redis, and later removed. So it is optional, for the gateway and
# for each message. Bob's client acknowledges what he has, and only then it is removed.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **0**: other message systems keep what nobody has fetched. Pub/Sub of Redis keeps nothing.
# * **20**: one of the two gaps is easy to see. In the other one, Bob's socket was fine.
# * **80**: the gateway subscribes again by itself, so what is sent from then on arrives.
# </details>
#
# ## Modify
#
# A position can be a number: "I have ten messages". Or it can be a number and a
# [mark](../docs/glossary.md#mark): a random number that a message gets when it is stored. When does this
# make a difference? When Redis [fails over](../docs/glossary.md#failover) to a replica. A replica is always
# a little behind. Here Bob has read ten messages, and the replica has eight of them. Three new ones are
# stored, then Bob comes back with his position. **What should he be told?** Decide before you run it.

# %%
from wsdemo.lab.lessons.gap import fail_over_with_a_durable_inbox, fail_over_with_numbers

lab = Lab(gateways=1, durable=True)
by_number_only = fail_over_with_numbers(lab)
with_marks = fail_over_with_a_durable_inbox(lab)
for name, page in {"number only": by_number_only, "durable": with_marks}.items():
    print(f"{name}: {page.answer}. Bob gets: {', '.join(page.texts)}")

# %%
from wsdemo.lab.lessons.gap import after_failover

loss_raster(
    {"number only": after_failover(by_number_only), "durable": after_failover(with_marks)},
    gaps={"the replica lacks these": range(9, 11)},
    notes={
        "number only": f"Bob is told: {by_number_only.answer}",
        "durable": f"Bob is told: {with_marks.answer}",
    },
    title="A number alone skips {lost} stored messages and says that all is well",
)

# %%
expect(
    "a number alone says that nothing is missing",
    by_number_only.answer == "recovered" and by_number_only.texts == ["new 11"],
    seen=by_number_only,
)
expect(
    "with marks Bob is told, and gets all that is left",
    with_marks.answer == "reset" and with_marks.texts[-3:] == ["new 9", "new 10", "new 11"],
    seen=with_marks,
)

# %% [markdown]
# Bob was at 10. After the failover there was a 10 again, but it was *another message*. The number fits, so
# the inbox went on with 11: new 9 and new 10 are stored, and nobody will ever read them. This is the worst
# kind of loss, for the answer says that all is well. It is the mistake of lesson 04 once more: a number that fits is not an
# identity.
#
# With marks the inbox sees that it does not know Bob's position. It cannot know what he is missing either. So
# it says `reset`, and gives him all that is left. Some of it he has read already, and that is the smaller
# evil. His program is told that messages may be missing (`MessagesMissed`), and can say so to Bob.
#
# Even a mark cannot show everything. Suppose that Bob had read only eight: then old 9 and old 10 are gone, and
# his position is in order. Only a new *run* of Redis can show this. The product therefore puts the id of
# the Redis process into each position.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `read_on(place, before, entries)`. Bob stands at `place`: the number and the mark of the message that he
# had last. `entries` is what the inbox has, the oldest first, each as `(number, mark, text)`. `before` is the
# number and the mark of the message just before the oldest entry: it was removed, because it was acknowledged
# or because the inbox was full. Return two things: `"recovered"` or `"reset"`, and the list of texts that
# Bob gets. The check tries it with inboxes that store, remove and go back by chance.


# %% tags=["exercise"]
def read_on(place, before, entries):
    raise NotImplementedError


# %% tags=["solution"]
def read_on(place, before, entries):
    places = [before] + [(number, mark) for number, mark, _ in entries]
    texts = [text for _, _, text in entries]
    if place in places:
        return "recovered", texts[places.index(place) :]
    return "reset", texts


# %%
check("ex09", read_on)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Pub/Sub keeps nothing: who does not listen at this moment gets nothing, and the sender may still be told
#   `routed`.
# * Store first, then send a hint. A hint may be lost, because the reader reads the inbox, not the hint.
# * A position names a message. A number alone does not: after a failover another message may have it.
#
# | one may think | but |
# |---|---|
# | the socket is fine, so messages arrive | the line behind the gateway can be dead |
# | an inbox makes sure that nothing is lost | Redis itself can lose what it confirmed; then Bob must be told |
# | a number that counts up is enough | two messages can have had the same number |
#
# Four questions, from memory: What was Alice told about messages 21 to 40? Why does a lost hint cost no
# message? What does `reset` mean for Bob? Which loss can no mark show?
#
# <details><summary>The answers</summary>
#
# 1. `routed`: Redis had handed them to a connection, and nobody heard them there.
# 2. The reader reads all that comes after his position; the next hint, or the next look, is enough.
# 3. His position is not in the inbox. He gets all that is left, and messages may be missing.
# 4. The loss of messages that he had not read yet: his position is still in order.
# </details>
#
# In the code: `wsdemo/inbox/read.lua`, one screen, and `Pump` in `wsdemo/gateway/inbox.py`, which decides
# when an inbox is read.

# %%
lab.close()
left = [one.leaks() for one in (plain, numbered, durable, lab)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
