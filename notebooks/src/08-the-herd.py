# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "08 · The herd: backoff, jitter and load shedding"
#     question: "Three hundred users lost their gateway at the same moment. When shall each of them try again?"
#     able: "explain why clients that behave alike meet again; choose a rule for retries from a figure; say what a server should tell those whom it refuses"
#     minutes: {read: 15, run: 1, exercise: 25}
#     needs: "Redis: a private one is started for you"
#     failure: "a restart that cuts off all users at once, behind a Redis that is slow"
#     level: "L2 measured: orders and ratios are asserted, times are this run's own; the model of 2,000 users is L0 exact"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# At 9:41 a gateway is restarted. It is back at once, but its 300 users have all lost their connection
# at the same moment, Alice among them. Redis is slow this morning, so the gateway can let in 133 of
# them a second. Two or three seconds would be enough for all. Alice is back after half a minute.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# A client whose attempt was refused waits, then tries again. All 300 follow the same rule. There are
# three candidates: **every 2 s**; **exponential**: after 1, 2, 4, 8, ... s
# ([back-off](../docs/glossary.md#back-off)); **jitter**: after a random part of 1, 2, 4, 8, ... s
# ([jitter](../docs/glossary.md#jitter)). **Rank them by the time at which the last user is back, the
# earliest first.**

# %% tags=["exercise"]
from wsdemo.lab import Lab, check, expect, predict

predict("q08", None)

# %% tags=["solution"]
from wsdemo.lab import Lab, check, expect, predict

predict("q08", "jitter, exponential, every 2 s")

# %% [markdown]
# ## Run
#
# One real gateway and 300 real clients. Time passes as in production here: sixty times faster, 300
# clients that dial together would need more time than passes. So what other lessons call 60x is real time in
# this one. On a busy machine the crowd is smaller, and so is its gateway. A rule is a function of the number of the attempt, and of a random generator that
# each client has for itself.


# %%
def every_2_s(attempt, rng):
    return 2.0


def exponential(attempt, rng):
    return min(60.0, 2.0 ** min(attempt - 1, 9))


def jitter(attempt, rng):
    return rng.uniform(0, exponential(attempt, rng))


# %% [markdown]
# `restart` crashes gateway-01 and starts it again at once, with 40 places for registers: who finds no
# place is refused. That is [load shedding](../docs/glossary.md#load-shedding), and it is the right thing to
# do: without it, all would wait in a queue until they lose patience. A wire delays what Redis answers,
# so that each register takes 0.3 s.

# %%
from wsdemo.lab.expectation import steadily
from wsdemo.lab.lessons.herd import crowd, restart

herd_size = crowd()
print(f"{herd_size.users} users, at most {herd_size.capacity:.0f} of them accepted a second")


def experiment(rule, back=True, earlier_than=40, **options):
    def run(pace):
        lab = Lab(gateways=1, wires=True, scale=pace.scale / 60, backoff=rule)
        outcome = restart(lab, herd_size, **options)
        lab.close()
        all_back = outcome.back == herd_size.users
        expect("all are back, or are not, as announced", all_back == back, seen=outcome.back)
        if back:
            last_s = outcome.last_s
            expect(f"all are back before {earlier_than:.0f} s", last_s < earlier_than, seen=last_s)
        return lab, outcome

    return steadily(run, users=60)


fixed_lab, fixed = experiment(every_2_s)

# %% [markdown]
# The exponential rule is stopped after 12 s: nobody waits longer in front of a notebook.

# %%
exponential_lab, doubling = experiment(exponential, back=False, patience_s=12)

# %%
jitter_lab, spread = experiment(jitter, earlier_than=fixed.last_s)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe

# %%
from wsdemo.lab.lessons.herd import SERVICE_S, ranking
from wsdemo.lab.plots import herd

runs = {"every 2 s": fixed, "exponential": doubling, "jitter": spread}
herd(
    {name: run.attempts for name, run in runs.items()},
    herd_size.capacity,
    bin_s=SERVICE_S,
    stopped_s={"exponential": 12},
    title="Last user back {best_end} with jitter, {worst_end} with exponential pauses",
)

# %%
from wsdemo.lab.learn import reveal

reveal("q08", ranking(runs))
expect("with jitter the last user is back first", spread.last_s < fixed.last_s, seen=runs)
outside = herd_size.users - doubling.back
expect("after 12 s of exponential pauses, users are outside", outside > 0, seen=outside)
expect("jitter needs fewer attempts than a fixed pause", spread.each < fixed.each, seen=runs)

# %% [markdown]
# ## Explain
#
# The gateway can let in 133 users a second, but only when somebody knocks. Under the first two rules all
# users wait equally long. So they meet again each time: a wave, in which 40 find a place and all others
# are refused. Then nobody comes, and the gateway waits. This is a
# [thundering herd](../docs/glossary.md#thundering-herd).
#
# Longer pauses do not help against that. They make the waves *rarer*, and each wave still brings in
# equally many. With jitter the pauses are shorter and each is another one. The gateway has something to do all
# the time, and the herd is over as soon as it can be.
#
# Each refused attempt costs something as well: a TCP connection, a handshake, often TLS. How many attempts
# there are for one success is the [retry amplification](../docs/glossary.md#retry-amplification). A
# gateway that is full because it is slow becomes slower by being asked more often; this is how a short
# outage becomes a long one.

# %%
for name, run in runs.items():
    print(f"{name:<12} {run.back:>4} back, {run.each:.1f} attempts a user so far")

# %% [markdown]
# <details><summary>Why were the other answers tempting?</summary>
#
# * **exponential before every 2 s**: it is the polite rule, and against one client it is. But politeness is not
#   what is missing here; 300 clients that are polite in the same moment are a wave.
# * **every 2 s first**: who asks more often is served sooner, if the others do not do the same.
# * **jitter last**: a random pause looks like lost time. It is the only one that uses the time between
#   two waves.
# </details>
#
# **2,000 users.** So many clients do not fit on this machine, but a model is easy: so many places, each taken for
# so long, and the attempts of a wave arrive within so many seconds. All three numbers are measured: they
# are those of the run with a fixed pause. Does the model say of this crowd what the real run showed?

# %%
from wsdemo.lab.lessons.herd import calibrated, come_back_in_a_model

rules = {"every 2 s": every_2_s, "exponential": exponential, "jitter": jitter}
measured = calibrated(fixed, herd_size)
until = {"exponential": 12.0}
same = {
    name: come_back_in_a_model(rule, measured, herd_size.users, until_s=until.get(name, 60.0))
    for name, rule in rules.items()
}
print(measured)
for name, run in runs.items():
    print(f"{name:<12} real {run.each:.2f} attempts a user, model {same[name].each:.2f}")

# %%
agree = [0.7 < same[name].each / runs[name].each < 1.4 for name in rules]
last = [ranking(same), ranking(runs)]
expect(
    "exponential pauses are the last in both",
    all(r.endswith("exponential") for r in last),
    seen=last,
)
expect("the model needs as many attempts, within a third", all(agree), seen=agree)

# %% [markdown]
# It does. So let it say what 2,000 users would see at a gateway with 40 places. **How long does the last of
# them wait under the exponential rule: half a minute, two minutes, or much longer?**

# %%
big = measured._replace(places=40)
crowds = {name: come_back_in_a_model(rule, big, 2_000) for name, rule in rules.items()}
herd(
    {name: crowd.table() for name, crowd in crowds.items()},
    big.capacity,
    bin_s=0.5,
    title="2,000 users: last one back {best_end} with {best}, {worst_end} if exponential",
)

# %%
late = crowds["exponential"].last_s / crowds["jitter"].last_s
more = crowds["every 2 s"].each / crowds["jitter"].each
expect("for 2,000 users, too, the exponential rule is the last by far", late > 5, seen=late)
expect("the fixed rule needs half as many attempts again, at least", more > 1.5, seen=more)

# %% [markdown]
# With 2,000 users there is nearly always somebody who knocks, so a fixed pause may be as quick as jitter. But look
# at what it costs: several times as many attempts. The exponential rule is still the last, by far.
#
# ## Modify
#
# The gateway knows more than any client: how many it can let in. So it can tell those whom it refuses when
# to come back: the close frame 1013 says `retryAfterMs`, an HTTP answer 503 says
# [`Retry-After`](../docs/glossary.md#retry-after). Until now ours said "at once". An *honest* hint says how long the gateway
# needs for all: users divided by capacity. Take the worst of the three rules, and let the clients
# add what the gateway asks for. **Does it matter whether all are told the same?**

# %%
honest_s = herd_size.users / herd_size.capacity
told_lab, told = experiment(exponential, hint_s=honest_s)

# %%
from wsdemo.lab.lessons.herd import hint_of

alike = come_back_in_a_model(
    exponential, measured, herd_size.users, hint=hint_of(honest_s, jitter=False), until_s=20
)
herd(
    {
        f"all are told {honest_s:.2f} s (model)": alike.table(),
        "each is told another time (real)": told.attempts,
    },
    herd_size.capacity,
    bin_s=SERVICE_S,
    stopped_s=20,
    title="The same hint for all only moves the wave; a hint with jitter ends it {best_end}",
)

# %%
expect("a hint with jitter brings all back", told.back == herd_size.users, seen=told.back)
expect("the same hint for all leaves users outside", alike.back < herd_size.users, seen=alike.back)

# %% [markdown]
# Also for a gateway that is full, not slow, there is an answer: 503, before any WebSocket. This one has
# `--max-connections 1`, and one user.

# %%
from wsdemo.lab.lessons.herd import knock_at_a_full_gateway

lab = Lab(gateways=1)
answer = knock_at_a_full_gateway(lab)
print(answer)
expect("a full gateway says when to come back", answer.endswith("Retry-After: 1"), seen=answer)

# %% [markdown]
# That 1 is the same for everybody, because proxies and caches may repeat an HTTP answer. So **a client adds a random part of its
# own to what it is told**, and never comes earlier. The client of this project does: the hint, plus a
# random part of 0.1, 0.2, 0.4, ... s, at most 5 s. And the gateway adds one to its own hints: from half
# of `--retry-after-s` to one and a half.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write `backoff(attempt, rng)`: how many seconds a client waits before its attempt number 1, 2, 3, ... `rng`
# is a `random.Random` of its own. The check cuts off 2,000 users of a gateway that accepts 400 a second, on five
# seeds, and asks for all of this:
#
# * the gateway is back at once: the last user is back within 20 s, with at most 4 attempts a user;
# * the gateway is away for 30 s: the last user is back 20 s later, with at most 10 attempts a user;
# * in no half second there are more attempts than 5 times what the gateway can accept;
# * a user who loses the connection alone is back within 5 s;
# * attempt 5,000 is possible: somebody is away for a night.


# %% tags=["exercise"]
def backoff(attempt, rng):
    raise NotImplementedError


# %% tags=["solution"]
def backoff(attempt, rng):
    longest = min(10.0, 2.0 ** min(attempt, 4))
    return rng.uniform(0, longest)


# %%
check("ex08", backoff)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * Who waits equally long meets again. Longer pauses make waves rarer; only a random part removes them.
# * A good rule has a short first pause, grows, is bounded, and is random over its whole length: full jitter.
# * A server that refuses early stays alive. It can say when to come back; it must not say the same to all.
#
# | one may think | but |
# |---|---|
# | exponential back-off solves the herd | without jitter it is the slowest rule of all |
# | who tries more often is back sooner | only if nobody else does; together, all are refused more often |
# | a random pause wastes time | it uses the time between two waves |
# | `Retry-After: 1` spreads the users | it moves them all by one second |
#
# Four questions, from memory: Why does the exponential rule take so long? What is retry amplification? Which
# three things, apart from jitter, does a good rule have? Why does a client add a random part to a hint?
#
# <details><summary>The answers</summary>
#
# 1. All users wait equally long, so they come in waves. Each wave brings in as many as there are places, and the waves
#    come less and less often.
# 2. The attempts that are made for one success. Each costs the gateway something, which is slow already.
# 3. A short first pause, growth after each refusal, and a bound.
# 4. All others have got the same hint, and would come at the same moment.
# </details>
#
# In the code: `Connection._pause_s` in `wsdemo/client/connection.py`, six lines; `Session._admitted` in
# `wsdemo/gateway/session.py`, which sheds the load.

# %%
lab.close()
left = [one.leaks() for one in (fixed_lab, exponential_lab, jitter_lab, told_lab, lab)]
expect("a closed laboratory leaves no task, socket, key or process", not any(left), seen=left)
