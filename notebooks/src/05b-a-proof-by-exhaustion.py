# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
#   wsdemo:
#     title: "05b · A proof by exhaustion: the model checker (optional)"
#     question: "In lesson 05 nothing expired, nothing arrived twice, and nobody died. What if it does?"
#     able: "say what an invariant is, and write one; let a model checker judge a script of yours; read a counterexample"
#     minutes: {read: 10, run: 1, exercise: 15}
#     needs: "Redis: a private one is started for you; lessons 05 and 06 first"
#     failure: "every accident that the checker knows, at every moment"
#     level: "L0 exact: every reachable state is visited"
# ---

# %% [markdown] tags=["story"]
# ## Story
#
# The team has repaired its scripts, and all 45 orders of lesson 05 end well. Then somebody asks: and if the
# entry expires in the middle? If the network delivers a command twice? If a gateway dies between two of
# its steps? Nobody can draw all that on a whiteboard. A program can.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Predict
#
# Two sessions of one user register, refresh and release, in every order. One command may arrive twice,
# and an entry may expire once. **How many different states can Redis and the two sessions be in?** The
# options are `45`, `1300`, `100000` and `"without end"`.

# %% tags=["exercise"]
from wsdemo.lab import check, expect, predict

predict("q05b", None)

# %% tags=["solution"]
from wsdemo.lab import check, expect, predict

predict("q05b", "without end")

# %% [markdown]
# ## Run
#
# A [model checker](../docs/glossary.md#model-checker) restores a state of Redis, runs the real script in
# it, looks whether a promise is broken, and goes on from each state that it has not seen before. When
# there is no new state left, everything that can happen has happened.

# %%
from wsdemo.proof.checker import SHIPPED, check_presence

shipped = check_presence()
shipped

# %% [markdown]
# What does it look at? A statement that must hold at every moment is an
# [invariant](../docs/glossary.md#invariant). Those with an `S` are looked at after each step, those with an `E`
# at the end; each belongs to a promise of `docs/guarantees.md`, such as P1. You need two of them here:
#
# | code | promise | says |
# |---|---|---|
# | S1 | P1 | a release leaves another session's entry alone |
# | S4c | P1, P7 | after its release, a session has no entry, and the answer says so |
#
# And what do the scripts keep? Beside the entry of a user there is her **fence**, a key of its own that
# outlives the entry. Its fields are tokens, the rising numbers of lesson 06:
#
# | field | holds |
# |---|---|
# | `mint` | the last token that was handed out |
# | `top` | the token of the newest session that was accepted: an older one may not register any more |
# | `floor` | the highest token that was released: a session with this token or a smaller one may not register |
# | `closed` | the session that was released last: it may not refresh any more |

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Observe
#
# It takes any script of yours. Here is a `release.lua` that does not ask whose entry it is. What is the
# shortest way to a lost user? The checker looks at short ways first, so there is none shorter than this:

# %%
piece = "owner == conn"
expect("the script has this piece", piece in SHIPPED["release"], seen=SHIPPED["release"])
careless = check_presence({"release": SHIPPED["release"].replace(piece, "true")})
careless.violations["S1"]

# %%
from wsdemo.lab.figures.crossing import crossing
from wsdemo.lab.learn import reveal
from wsdemo.lab.races.interleavings import explore

bad, good = explore("plain").minimal()
crossing(
    bad, near=good.order, title="The checker's five steps are the late clean-up: alice is {end}"
)

# %%
reveal("q05b", min((45, 1300, 100000), key=lambda option: abs(option - shipped.states)))
expect("the shipped scripts break no promise", shipped.ok, seen=shipped)
steps = careless.violations["S1"]
expect("the shortest way to a lost user has five steps", len(steps) == 5, seen=steps)

# %% [markdown]
# ## Explain
#
# That is the late clean-up again, and nobody told the checker about it: session 1 registers, session 2
# registers, session 1 releases, and the entry of session 2 is gone. A list of steps that breaks an
# invariant is a [counterexample](../docs/glossary.md#counterexample).
#
# There are few states because two ways that lead to the same state are one from there on. Orders
# multiply; states do not. So a small case can be looked at completely, and mistakes in such scripts show in
# small cases.
#
# <details><summary>Why were the other answers tempting?</summary>
#
# * **45**: those are orders of one story. Here accidents come in between, and both sessions may do
#   everything.
# * **100000**: so many *orders*, and more. Most of them lead to states that were seen before.
# * **without end**: time goes on for ever, but what is remembered is little: tokens are compared, not
#   counted, so the checker may number them anew.
# </details>

# %% [markdown]
# ## Modify
#
# Now take a line away that seems to be too much: does `refresh.lua` have to look whether its session was
# closed? Change the piece, and say before you run it what will go wrong.

# %%
piece_of_refresh = "fence[2] == ARGV[3] .. ':' .. conn"
expect("the script has this piece", piece_of_refresh in SHIPPED["refresh"], seen=SHIPPED["refresh"])
mine = check_presence({"refresh": SHIPPED["refresh"].replace(piece_of_refresh, "false")})
mine.violations["S4"]

# %%
expect("the changed refresh breaks S4", "S4" in mine.violations, seen=mine)
expect("every state was visited", mine.complete, seen=mine)

# %% [markdown]
# A refresh that was under way arrives after the release, finds no entry, and brings the session back. Nobody
# is there any more: a ghost.

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Make
#
# Write S1 yourself: `leaves_others_alone(verb, session, before, after)` is called after each step. `verb` is
# `"register"`, `"refresh"` or `"release"`, `session` who called it (`"s1"`, `"s2"`); `before` and `after`
# say whose the entry was before the step and after it, or `None` when there was none. Return `False` when
# this step breaks P1, and `True` otherwise. The check tries every step that there can be.


# %% tags=["exercise"]
def leaves_others_alone(verb, session, before, after):
    raise NotImplementedError


# %% tags=["solution"]
def leaves_others_alone(verb, session, before, after):
    if verb != "release" or before in (None, session):
        return True
    return after == before


# %%
check("ex05b", leaves_others_alone)

# %% [markdown] slideshow={"slide_type": "slide"} tags=["slide"]
# ## Keep
#
# * An invariant says what must hold at every moment. Write it down before you look for mistakes.
# * A model checker visits every state of a small case. It finds the shortest way to a broken promise.
# * What it proves, it proves for this case: two sessions, one duplicate, one expiry.
#
# | one may think | but |
# |---|---|
# | there are too many orders to try | there are few states: many orders lead to the same one |
# | a test that passes shows that it is right | it shows one order; the checker shows all of a small case |
# | a check that never fires is too much | take it away, and ask the checker |
#
# Four questions, from memory: What is an invariant? Why is the first counterexample that is found the
# shortest? What does the fence remember that the entry cannot? What was not tried?
#
# <details><summary>The answers</summary>
#
# 1. A statement that must hold at every moment.
# 2. The checker goes through all ways of one step, then all of two, and so on.
# 3. What has ended: the entry is deleted or expires, and an old command must still be recognised.
# 4. Three sessions, two duplicates, a failover of Redis in between. `make check-deep` tries three sessions.
# </details>
#
# In the code: `wsdemo/proof/checker`, and `wsdemo/proof/checker/mutants.py`, fifty mistakes that it finds.

# %%
right = shipped.ok and not mine.ok
expect("the shipped scripts are right, and the changed one is not", right, seen=mine)
