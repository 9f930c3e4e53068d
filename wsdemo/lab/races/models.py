"""Models: what is a presence policy, without a real Redis, gateways or clocks?

A function `step(state, action)`, which changes a dict. That is enough to play every order, and a
reader can write one in ten minutes. A model is only useful if it agrees with the real scripts:
`compare(explore_model(step), explore("go-demo"))` says on which orders they differ.

An action is one of `h_ts h_set c_read c_del r_ts r_set`. The state that a step sees:

    state["redis"]    what Redis holds: state["redis"]["alice"] is her entry, a dict that names
                      the "gateway", or None; a policy may keep more beside it
    state["mine"]     what the gateway that acts remembers; empty at first
    state["gateway"]  the name of the gateway that acts
    state["clock"]    what that gateway's clock shows (s)

A step sees one gateway's memory and Redis, as a process does: gateways cannot look into each
other. Before the order begins, alice registers with gateway-01, by the same function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from wsdemo.lab.races.orders import (
    GATEWAY_OF,
    NEW,
    OLD,
    THREAD_OF,
    THREADS,
    Action,
    Exploration,
    Order,
    Played,
    all_orders,
)

State = dict[str, Any]
Step = Callable[[State, Action], Any]

QUIET_S: Final = 30.0
"""Seconds from alice's registration with gateway-01 to the first step."""
STEP_S: Final = 1.0


def plain(state: State, action: Action) -> None:
    """The last write always wins."""
    redis, mine = state["redis"], state["mine"]
    match action:
        case "h_ts" | "r_ts":
            mine[action] = state["clock"]
        case "h_set" | "r_set":
            redis["alice"] = {"gateway": state["gateway"]}
        case "c_del":
            redis["alice"] = None


def go_demo(state: State, action: Action) -> None:
    """The Go demo: only a register compares, and only timestamps of whole seconds."""
    redis, mine = state["redis"], state["mine"]
    match action:
        case "h_ts" | "r_ts":
            mine[action] = int(state["clock"])
        case "h_set":
            redis["alice"] = {**(redis["alice"] or {}), "ts": mine["h_ts"]}
        case "c_del":
            redis["alice"] = None
        case "r_set":
            if redis["alice"] is None or redis["alice"]["ts"] <= mine["r_ts"]:
                redis["alice"] = {"gateway": state["gateway"], "ts": mine["r_ts"]}


def check_then_delete(state: State, action: Action) -> None:
    """The Go demo, with a clean-up that reads the entry first."""
    redis, mine = state["redis"], state["mine"]
    match action:
        case "c_read":
            entry = redis["alice"] or {}
            mine["was mine"] = entry.get("gateway") == state["gateway"]
        case "c_del":
            if mine["was mine"]:
                redis["alice"] = None
        case _:
            go_demo(state, action)


def timestamp(state: State, action: Action) -> None:
    """Every write compares, by the clock of the gateway that writes."""
    redis, mine = state["redis"], state["mine"]
    newest = redis["alice"]["ts"] if redis["alice"] else float("-inf")
    match action:
        case "h_ts" | "r_ts":
            mine[action] = mine["heard"] = state["clock"]
        case "h_set" | "r_set":
            heard = mine[action.replace("set", "ts")]
            if newest <= heard:
                redis["alice"] = {"gateway": state["gateway"], "ts": heard}
        case "c_read":
            mine["c_read"] = mine["heard"]
        case "c_del":
            if newest <= mine["c_read"]:
                redis["alice"] = None


def fenced(state: State, action: Action) -> None:
    """Every write has the token of its session, which comes from a counter in Redis."""
    redis, mine = state["redis"], state["mine"]
    entry = redis["alice"]
    match action:
        case "r_ts":
            mine["token"] = redis["minted"] = redis.get("minted", 0) + 1
        case "r_set":
            if redis.get("top", 0) <= mine["token"]:
                redis["alice"] = {"gateway": state["gateway"], "token": mine["token"]}
                redis["top"] = mine["token"]
        case "h_set":
            # A lost entry is restored; a released one is not.
            released = redis.get("closed") == mine["token"]
            if redis["top"] == mine["token"] and not released:
                redis["alice"] = {"gateway": state["gateway"], "token": mine["token"]}
        case "c_del":
            redis["closed"] = mine["token"]
            if entry and entry["token"] == mine["token"]:
                redis["alice"] = None


MODELS: Final[dict[str, Step]] = {
    "plain": plain,
    "go-demo": go_demo,
    "check-then-delete": check_then_delete,
    "timestamp": timestamp,
    "fenced": fenced,
}
"""Models of the real policies."""


class ModelCluster:
    """Redis, two gateways with separate memory, and two clocks; alice has been registered with
    gateway-01 for a while.
    """

    def __init__(self, step: Step, skew_s: float = 0.0) -> None:
        self._step = step
        self._skew_s = skew_s
        self._now = 0.0
        self.redis: State = {"alice": None}
        self._memory: dict[str, State] = {OLD: {}, NEW: {}}
        for action in THREADS["re-register"]:
            self._act(action, OLD)
        self._now = QUIET_S - STEP_S

    def play(self, actions: Iterable[Action]) -> None:
        """Execute steps, one each second, each at its gateway."""
        for action in actions:
            self._now += STEP_S
            self._act(action, GATEWAY_OF[THREAD_OF[action]])

    def _act(self, action: Action, gateway: str) -> None:
        state: State = {
            "redis": self.redis,
            "mine": self._memory[gateway],
            "gateway": gateway,
            "clock": self._now + (self._skew_s if gateway == NEW else 0.0),
        }
        answer = self._step(state, action)
        # A function that returns a new state instead of changing the old one means the same.
        after: State = answer if isinstance(answer, dict) else state
        self.redis, self._memory[gateway] = after["redis"], after["mine"]

    def entry(self) -> dict[str, str]:
        """Return alice's entry in the words of the real one."""
        entry = self.redis.get("alice")
        if not entry:
            return {}
        words = {name: str(value) for name, value in entry.items() if name != "gateway"}
        return words | ({"gwId": entry["gateway"]} if "gateway" in entry else {})


def play(step: Step, order: Sequence[Action], skew_s: float = 0.0, name: str = "") -> Played:
    """Play one order with a model."""
    world, entries = ModelCluster(step, skew_s), []
    for action in order:
        world.play([action])
        entries.append(world.entry())
    return Played(tuple(order), name or named(step), skew_s, tuple(entries))


def explore_model(
    step: Step, skew_s: float = 0.0, *, orders: Iterable[Order] | None = None, name: str = ""
) -> Exploration:
    """Play every order with a model; otherwise as `interleavings.explore`."""
    name = name or named(step)
    chosen = all_orders() if orders is None else tuple(orders)
    played = tuple(play(step, order, skew_s, name) for order in chosen)
    return Exploration(name, skew_s, played, by="a model")


def named(step: Step) -> str:
    """Return the name of a model."""
    return f"model {getattr(step, '__name__', 'without a name')}"
