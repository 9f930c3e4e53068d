"""What has been tried to break this, and what came of it? `make evidence`

Runs everything that tries (the model checker, its mutants, the simulation, chaos on real
processes, the bad inputs, attackers beside neighbours), keeps the numbers in a file, and writes
the table of docs/evidence.md and the sentence of the README from them. Nobody types a number into
these, and a test holds them together. Three quarters of an hour on two cores; one part alone with
`--only`.

Chaos has a fixed list of seeds. A run of it that has found something is told like the others; its
cause, when it has been found, is written into the file by hand (`"cause"` of that run), and stays
there for as long as the same seed breaks the same claims.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from wsdemo.command_line import Parser
from wsdemo.proof.checker.machines import MACHINES
from wsdemo.proof.checker.machines.presence.mutants import MUTANTS
from wsdemo.proof.simulate.offer import PLAIN, Offer
from wsdemo.redis.server import BundledServer
from wsdemo.terminal import never_refuse_text

ROOT: Final = Path(__file__).parents[1]
FILE: Final = ROOT / "tests" / "evidence.json"
README: Final = ROOT / "README.md"
PAGE: Final = ROOT / "docs" / "evidence.md"
BEGIN: Final = "<!-- evidence: begin -->\n"
END: Final = "<!-- evidence: end -->\n"
SEEDS: Final = 200
SEEDS_OF_FEATURES: Final = 30
MINUTES: Final = 10
FEATURES: Final = {
    "durable messages": Offer(durable=True),
    "rooms": Offer(rooms=True),
    "presence events": Offer(watch=True),
    "two devices of a user": Offer(devices=2),
    "durable messages for two devices": Offer(devices=2, durable=True),
}
"""Optional features with which clusters are simulated."""
CHAOS_SEEDS: Final = tuple(range(1, 11))
"""Each of them is run once and reported, whatever its result; none is ever removed."""
CHAOS_S: Final = 45
OTHER_SEEDS: Final = (1, 2, 3, 4)
"""Two in a row have all faults of a deployment between them."""
OTHER_CHAOS_S: Final = 60
OTHER_CHAOS: Final = "chaos-"
"""What the names of these parts begin with."""
DEPLOYMENTS: Final[Mapping[str, tuple[Sequence[str], str]]] = {
    "cluster": (("--redis", "cluster"), "on a cluster of six servers"),
    "sentinel": (("--redis", "sentinel"), "with three sentinels"),
    "workers": (("--workers", "2"), "with two workers each"),
}
"""Other deployments, in which chaos runs as well: the words for it, and how it is told."""
RED: Final = 1
"""The exit code of a command that has found something."""
SUBJECTS: Final = {
    "inbox": "Durable messages",
    "devices": "Several devices of a user",
    "rooms": "Rooms",
}
"""The machines of the model checker beside that of presence."""
NO_CAUSE: Final = "cause not found"
DEADLINE_S: Final = 900.0
"""For one command; each has bounds of its own far below."""
CLEAN_UP_S: Final = 30.0

Numbers = dict[str, Any]
Row = tuple[str, str, str]


class Failed(Exception):
    """Something was found, or could not be tried; the text says what."""


# --- trying --------------------------------------------------------------------------------------


def run(*words: str, output: str | None = None, red_too: bool = False) -> Any:
    """Run a module of ours; return the JSON that it prints, or writes to the option `output`.

    Args:
        red_too: the numbers are wanted also when it has found something.

    Raises:
        Failed: it found something, or did not end.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "numbers.json"
        command = [sys.executable, "-m", *words, *((output, str(file)) if output else ())]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
            try:
                said, _ = running.communicate(timeout=DEADLINE_S)
            except BaseException as problem:
                _end(running)
                if isinstance(problem, subprocess.TimeoutExpired):
                    text = f"{' '.join(words)} did not end within {DEADLINE_S:g} s"
                    raise Failed(text) from None
                raise
        if running.returncode != 0 and not (red_too and running.returncode == RED):
            raise Failed(f"{' '.join(words)} ended with {running.returncode}:\n{said}")
        return json.loads(file.read_text() if output else said)


def _end(running: subprocess.Popen[str]) -> None:
    """Tell a command to end, and give it time for its own processes, before it is killed."""
    running.terminate()
    try:
        running.wait(CLEAN_UP_S)
    except subprocess.TimeoutExpired:
        running.kill()


def try_orders() -> Numbers:
    return _orders("presence")


def _orders(machine: str) -> Numbers:
    results = run("wsdemo.proof.checker", "--machine", machine, output="--json")
    return {
        "scenarios": len(results),
        "states": sum(result["states"] for result in results),
        "steps": sum(result["steps"] for result in results),
        "violations": sum(len(result["violations"]) for result in results),
    }


def try_mutants() -> Numbers:
    with BundledServer() as server:
        killed = [m for m in MUTANTS if m.breaks in m.check(redis=server.url).violations]
    if len(killed) < len(MUTANTS):
        raise Failed(f"survivors: {[str(m) for m in MUTANTS if m not in killed]}")
    return {"mutants": len(MUTANTS), "killed": len(killed)}


def try_machines() -> Numbers:
    """Play the scripts of durable messages, devices and rooms in every order, and their mutants."""
    numbers: Numbers = {"violations": 0}
    with BundledServer() as server:
        for name in SUBJECTS:
            mutants = MACHINES[name].mutants
            killed = [m for m in mutants if m.breaks in m.check(redis=server.url).violations]
            if len(killed) < len(mutants):
                raise Failed(f"survivors: {[str(m) for m in mutants if m not in killed]}")
            numbers[name] = {**_orders(name), "mutants": len(mutants), "killed": len(killed)}
            numbers["violations"] += numbers[name]["violations"]
    return numbers


def try_simulation() -> Numbers:
    return _simulated(SEEDS, PLAIN)


def try_features() -> Numbers:
    return {name: _simulated(SEEDS_OF_FEATURES, offer) for name, offer in FEATURES.items()}


def _simulated(seeds: int, offer: Offer) -> Numbers:
    words = ("--seeds", str(seeds), "--minutes", str(MINUTES), *offer.words)
    report = run("wsdemo.proof.simulate", *words, output="--json")
    return {
        "seeds": report["seeds"],
        "hours": round(report["virtual_h"], 1),
        "wallS": round(report["wall_s"]),
        "kinds": len(report["faults"]),
        "faults": sum(report["faults"].values()),
        "messages": sum(report["sent"].values()),
        "scripts": sum(report["outcomes"].values()),
        "violations": sum(len(texts) for texts in report["failures"].values()),
    }


def try_chaos(
    seeds: Sequence[int] = CHAOS_SEEDS, *deployment: str, seconds: int = CHAOS_S
) -> Numbers:
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as out:
            words = ("--seconds", str(seconds), "--seed", str(seed), "--out", out, *deployment)
            runs.append(run("wsdemo.proof.chaos", *words, output="--json", red_too=True))
        _say(f"  seed {seed}: {'green' if runs[-1]['green'] else runs[-1]['claims']}")
    kinds = {fault for one in runs for fault in one["faults"]}
    return {
        "minutes": round(sum(one["tookS"] for one in runs) / 60, 1),
        "scale": runs[0]["scale"],
        "kinds": len(kinds),
        "faults": sum(sum(one["faults"].values()) for one in runs),
        "notArranged": sum(sum(one["notArranged"].values()) for one in runs),
        "messages": sum(sum(one["sent"].values()) for one in runs),
        "convergedS": max(one["convergedS"] for one in runs),
        "growthKibPerMin": max(max(one["rssKibPerMin"].values(), default=0) for one in runs),
        "runs": [
            {
                "seed": one["seed"],
                "violations": len(one["violations"]),
                "claims": one["claims"],
                "first": one["violations"][:1],
            }
            for one in runs
        ],
    }


def try_input() -> Numbers:
    return dict(run("tests.bad_input", "--json"))


def try_attacks() -> Numbers:
    return dict(run("benchmarks.attack", "--json"))


# --- telling -------------------------------------------------------------------------------------


def _violations(count: int) -> str:
    return "no violation" if count == 0 else f"**{count} violations**"


def tell_orders(n: Numbers) -> list[Row]:
    much = f"{n['scenarios']} scenarios, {n['states']:,} states, {n['steps']:,} steps"
    what = "Every order of two sessions' commands, with copies, expiry, loss and rollback"
    return [(what, much, _violations(n["violations"]))]


def tell_mutants(n: Numbers) -> list[Row]:
    return [("Scripts with a mistake in them", f"{n['mutants']}", f"{n['killed']} found")]


def tell_machines(n: Numbers) -> list[Row]:
    return [
        (
            f"{what}: every order of commands and faults in small worlds",
            f"{n[name]['scenarios']} scenarios, {n[name]['states']:,} states; "
            f"{n[name]['mutants']} scripts with a mistake",
            f"{_violations(n[name]['violations'])}; {n[name]['killed']} found",
        )
        for name, what in SUBJECTS.items()
    ]


def tell_simulation(n: Numbers) -> list[Row]:
    return [_simulation("Three gateways and their users on simulated time, production timings", n)]


def tell_features(n: Numbers) -> list[Row]:
    return [_simulation(f"The same with {name}", n[name]) for name in FEATURES]


def _simulation(what: str, n: Numbers) -> Row:
    much = (
        f"{n['seeds']} seeds, {n['hours']:g} hours, {n['faults']:,} faults of {n['kinds']} kinds, "
        f"{n['messages']:,} messages"
    )
    return what, much, _violations(n["violations"])


def tell_chaos(n: Numbers, where: str = "") -> list[Row]:
    what = f"Real processes{where}, killed, frozen, cut off, {n['scale']:g} times production speed"
    much = (
        f"{len(n['runs'])} seeds, {n['minutes']:g} minutes, {n['faults']:,} faults of "
        f"{n['kinds']} kinds, {n['messages']:,} messages"
    )
    red = [one for one in n["runs"] if one["violations"]]
    if not red:
        return [(what, much, "no violation in any of them")]
    told = "; ".join(_red(one) for one in red)
    return [(what, much, f"{len(n['runs']) - len(red)} without a violation; {told}")]


def _red(one: Mapping[str, Any]) -> str:
    claims = ", ".join(f"{count} of {claim}" for claim, count in one["claims"].items())
    return f"**seed {one['seed']}: {claims}** ({one.get('cause') or NO_CAUSE})"


def with_causes(new: Numbers, old: Numbers) -> Numbers:
    """Return the new numbers with the causes that were written into the old ones, by hand, for a
    seed that has broken the same claims again. A cause belongs to what it was found for.
    """
    causes = {
        one["seed"]: (set(one["claims"]), one["cause"])
        for one in old.get("runs", ())
        if one.get("cause")
    }
    for one in new.get("runs", ()):
        claims, cause = causes.get(one["seed"], (set(), ""))
        if claims and claims == set(one["claims"]):
            one["cause"] = cause
    return new


def tell_input(n: Numbers) -> list[Row]:
    what = "Bad handshakes, frames, JSON, fields, tokens, rates, envelopes, command lines"
    return [(what, f"{n['inputs']:,} in {n['rows']} groups", "each has its documented answer")]


def tell_attacks(n: Numbers) -> list[Row]:
    return [
        (
            f"Neighbours of an attacker: {name}",
            f"p99 {felt['with_p99_ms']:.1f} ms, {felt['without_p99_ms']:.1f} ms without",
            f"{felt['ratio']:.2f} times; {felt['lost']} of their messages lost",
        )
        for name, felt in n.items()
    ]


class Part(NamedTuple):
    """One kind of test: how it is run, and how it is reported."""

    gather: Callable[[], Numbers]
    tell: Callable[[Numbers], list[Row]]


PARTS: Final[Mapping[str, Part]] = {
    "orders": Part(try_orders, tell_orders),
    "mutants": Part(try_mutants, tell_mutants),
    "machines": Part(try_machines, tell_machines),
    "simulation": Part(try_simulation, tell_simulation),
    "features": Part(try_features, tell_features),
    "chaos": Part(try_chaos, tell_chaos),
    **{
        f"{OTHER_CHAOS}{name}": Part(
            partial(try_chaos, OTHER_SEEDS, *words, seconds=OTHER_CHAOS_S),
            partial(tell_chaos, where=f" {where}"),
        )
        for name, (words, where) in DEPLOYMENTS.items()
    },
    "input": Part(try_input, tell_input),
    "attacks": Part(try_attacks, tell_attacks),
}


def table(evidence: Mapping[str, Numbers]) -> str:
    """Return the table of all tests that were run, for docs/evidence.md."""
    measured = [name for name in PARTS if name in evidence]
    rows = [row for name in measured for row in PARTS[name].tell(evidence[name])]
    lines = ["| what was tried | how much of it | what came of it |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def in_short(evidence: Mapping[str, Numbers]) -> str:
    """Return the lines for the README; they include every failure."""
    orders, simulation, chaos = evidence["orders"], evidence["simulation"], evidence["chaos"]
    red = [one for one in chaos["runs"] if one["violations"]]
    green = len(chaos["runs"]) - len(red)
    return (
        f"* {orders['states']:,} states of every order of commands: "
        f"{_violations(orders['violations'])}.\n"
        f"* {simulation['hours']:g} hours of simulated clusters with {simulation['faults']:,} "
        f"faults: {_violations(simulation['violations'])}.\n"
        f"* {len(chaos['runs'])} runs of real processes with {chaos['faults']:,} faults: "
        f"{green} without a violation{'; the others are told with their causes' if red else ''}.\n"
        f"* {evidence['input']['inputs']:,} bad inputs: each has its documented answer.\n"
    )


def published(page: str) -> str:
    """Return what stands between the marks of a page.

    Raises:
        ValueError: the marks are not there.
    """
    _, begins, rest = page.partition(BEGIN)
    text, ends, _ = rest.partition(END)
    if not begins or not ends:
        raise ValueError("the page has no place for the evidence")
    return text


def _publish(evidence: Mapping[str, Numbers]) -> None:
    for path, text in ((README, in_short(evidence)), (PAGE, table(evidence))):
        page = path.read_text(encoding="utf-8")
        old = f"{BEGIN}{published(page)}{END}"
        path.write_text(page.replace(old, f"{BEGIN}{text}{END}"), encoding="utf-8")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = Parser("tools.evidence", description=__doc__)
    parser.add_argument("--only", choices=sorted(PARTS), help="this part; keep the others")
    only = parser.read(words).only
    never_refuse_text()
    evidence: dict[str, Numbers] = json.loads(FILE.read_text()) if FILE.exists() else {}
    for name in [only] if only else PARTS:
        started = time.monotonic()
        _say(f"{name} ...")
        try:
            evidence[name] = with_causes(PARTS[name].gather(), evidence.get(name, {}))
        except Failed as problem:
            _say(f"{name}: {problem}")
            return 1
        _say(f"{name}: {time.monotonic() - started:.0f} s")
        FILE.write_text(json.dumps(evidence, indent=1) + "\n")
    if all(name in evidence or name.startswith(OTHER_CHAOS) for name in PARTS):
        _publish(evidence)
        sys.stdout.write(table(evidence))
    return 0


if __name__ == "__main__":
    sys.exit(main())
