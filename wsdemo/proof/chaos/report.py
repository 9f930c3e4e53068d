"""What is there to tell of a run? A page in Markdown, three figures, and the history itself."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from wsdemo.drawing.words import counted, duration
from wsdemo.proof.chaos.nemesis import FAULTS
from wsdemo.proof.chaos.run import (
    ALLOWANCE_S,
    CALM_S,
    GROWTH_BYTES,
    GROWTH_KIB_PER_MIN,
    PROMISED_S,
    STATUSES,
    WANTED_COUNTERS,
    Outcome,
)
from wsdemo.proof.chaos.watch import back_after_s
from wsdemo.proof.chaos.witness import OUTCOMES
from wsdemo.proof.chaos.world import CHANGED_LIMITS, GATEWAYS, LIMITS, SCALE, TIMING
from wsdemo.proof.history import by_fault, to_jsonl

SHOWN: Final = 20
"""Violations that the page shows in full; all of them are in the summary."""
GONE: Final = (
    "gateway killed, back at once",
    "gateway killed, away",
    "gateway drained",
    "gateway a zombie",
)
NOT_HERE: Final = (
    "6, 7, 8 and 11 need a hand inside the process (3, 4 and 1 come close); 24 and 26 need a "
    "replica; 28 is a configuration that the guarantees exclude; 30 matters to the durable mode "
    "only; 41: the clock of Redis cannot be set apart from the machine's; 52 belongs to the "
    "notebook; 54 is met at the start only."
)


def write(outcome: Outcome, directory: Path) -> Path:
    """Write everything into a directory, and return the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "history.jsonl").write_text(to_jsonl(outcome.history))
    (directory / "summary.json").write_text(json.dumps(summary(outcome), indent=1) + "\n")
    # Only who draws loads a plotting library.
    from wsdemo.proof.chaos import figures

    for draw in (figures.timeline, figures.convergence, figures.losses):
        draw(outcome).savefig(directory / f"{draw.__name__}.png")
    page = directory / "report.md"
    page.write_text("\n".join(_page(outcome)) + "\n")
    return page


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the numbers of a run, ready for JSON."""
    tally = outcome.tally
    return {
        "green": outcome.green,
        "seed": outcome.seed,
        "seconds": outcome.seconds,
        "tookS": round(outcome.took_s, 2),
        "scale": SCALE,
        "users": outcome.users,
        "faults": dict(_faults(outcome)),
        "notArranged": dict(_not_arranged(outcome)),
        "scripts": dict(outcome.outcomes),
        "counters": dict(outcome.counters),
        "sent": dict(tally.sent),
        "delivered": tally.delivered,
        "lostInFaults": dict(tally.lost_in_faults),
        "lostInCalm": dict(tally.lost_in_calm),
        "convergedS": round(outcome.converged_s, 3),
        "rests": len(outcome.rests),
        "promisedS": PROMISED_S,
        "pairs": outcome.pairs,
        "ends": dict(outcome.seen),
        "witnessGaps": outcome.gaps,
        "witnessBlind": outcome.blind,
        "releasesUnjudged": outcome.unjudged,
        "logLines": outcome.log_lines,
        "lateS": round(outcome.late_s, 2),
        "rssKibPerMin": {process: round(slope) for process, slope in outcome.slopes.items()},
        "peakKib": {process: peak // 1024 for process, peak in outcome.peaks.items()},
        "claims": dict(Counter(violation.claim for violation in outcome.violations)),
        "violations": [str(violation) for violation in outcome.violations],
    }


def verdict(outcome: Outcome) -> str:
    """Return one line: what came of it, and how to run it again."""
    again = f"seed {outcome.seed}, {outcome.seconds:g} s"
    faults = counted(sum(_faults(outcome).values()), "fault")
    done = (
        f"{faults}, {outcome.tally.sent.total():,} messages, "
        f"{sum(outcome.outcomes.values()):,} scripts, {outcome.took_s:.0f} s"
    )
    if outcome.green:
        return f"green: no violation ({again}): {done}"
    claims = Counter(violation.claim for violation in outcome.violations)
    words = ", ".join(f"{count} of {claim}" for claim, count in claims.most_common())
    return f"RED: {words or 'not finished'} ({again}): {done}"


# --- the page ------------------------------------------------------------------------------------


def _page(outcome: Outcome) -> Iterable[str]:
    yield "# Chaos on real processes"
    yield f"\n**{verdict(outcome)}**"
    yield f"\n`python -m wsdemo.proof.chaos --seconds {outcome.seconds:g} --seed {outcome.seed}`"
    yield from _what_ran(outcome)
    yield from _violations(outcome)
    yield from _after(outcome)
    yield from _per_fault(outcome)
    yield from _users_back(outcome)
    yield from _messages(outcome)
    yield from _scripts(outcome)
    yield from _memory(outcome)


def _what_ran(outcome: Outcome) -> Iterable[str]:
    limits = ", ".join(f"{name} {getattr(LIMITS, name):g}" for name in CHANGED_LIMITS)
    yield "\n## What ran\n"
    yield (
        f"{len(GATEWAYS)} gateways and a Redis as processes, {outcome.users} users, wires between "
        f"all of them; Python {platform.python_version()} on {platform.system()}. Timings are "
        f"{SCALE:g} times those of production: heartbeat H {TIMING.heartbeat_s:g} s, TTL "
        f"{TIMING.presence_ttl_s:g} s, health check {TIMING.health_check_s:g} s. Bounds on what a "
        f"machine needs to do its work are not scaled; some are set tighter: {limits}."
    )
    yield (
        f"\nThe witness (MONITOR) saw every change of an owner but for "
        f"{counted(outcome.gaps, 'gap')}, in which Redis itself was away; after all but "
        f"{outcome.blind} of them it asked for all entries, and "
        f"{counted(outcome.unjudged, 'release')} before that could not be judged. All "
        f"{outcome.log_lines:,} lines of the gateways' logs were read, and {len(outcome.history):,}"
        " records are in `history.jsonl`. The machine was too busy with other things "
        f"for {outcome.late_s:.1f} s in all. The seed decides which fault comes when and where, "
        "and which half of the catalogue must come; what the machine does meanwhile is its own "
        "affair, so a run repeats in kind, not to the letter."
    )
    yield "\n![Faults, and users online](timeline.png)"


def _violations(outcome: Outcome) -> Iterable[str]:
    yield "\n## Violations\n"
    if not outcome.violations:
        yield "None."
        return
    for violation in outcome.violations[:SHOWN]:
        yield f"```\n{violation}\n```"
    if len(outcome.violations) > SHOWN:
        yield f"\n... and {len(outcome.violations) - SHOWN} more, in `summary.json`."


def _after(outcome: Outcome) -> Iterable[str]:
    yield "\n## After a heal\n"
    yield (
        f"{counted(len(outcome.rests), 'time')} all was healed, and everything was right after "
        f"{outcome.converged_s:.2f} s at most; promised, at this scale, are {PROMISED_S:g} s (red "
        f"beyond {PROMISED_S + ALLOWANCE_S:g} s). Then, in a calm of {CALM_S:g} s each, "
        f"{outcome.pairs:,} messages, one between any two, were to be routed and to arrive, each "
        "ping was to have its pong, and gateways were to have as many sessions, sockets and "
        "descriptors as there ought to be. What was left when everybody had gone, and how gateways "
        "ended:\n"
    )
    yield from _table(("what", "count"), sorted(outcome.seen.items()))
    yield "\n![Time until all was right, by fault](convergence.png)"


def _per_fault(outcome: Outcome) -> Iterable[str]:
    from wsdemo.proof.chaos import figures

    counts, found = _faults(outcome), figures.convergences(outcome)
    lost = by_fault(outcome.history)
    yield "\n## Faults\n"
    yield (
        "Right after: from a heal until the last user who then believed other than Redis was right "
        "for once, if Redis was not broken again before that; an upper bound, since another fault "
        "may be active meanwhile. Promised: H after "
        "faults of Redis, and the gateways' pause between two attempts to reach it (up to 2 s, not "
        "scaled); else the TTL. Messages: those sent while the fault was active.\n"
    )
    rows: list[tuple[object, ...]] = []
    for fault in FAULTS:
        times, sent = found.get(fault.name, []), lost.get(fault.name, Counter())
        rows.append(
            (
                fault.name,
                ", ".join(map(str, fault.rows)),
                counts[fault.name],
                duration(max(times)) if times else "",
                duration(figures.promised_s(fault)),
                sent.total(),
                sent.total() - sent["delivered"],
                sent["routed"],
            )
        )
    head = ("fault", "row", "n", "right after, at most", "promised", "sent", "not delivered")
    yield from _table((*head, "of these routed"), rows)
    yield (
        "\nThese could not be arranged so many times, because what they need did not come about; "
        "they have shown nothing then, and were tried again:\n"
    )
    why = {one.fault.name: one.not_arranged for one in outcome.injections if one.not_arranged}
    failed = [(name, n, why[name]) for name, n in _not_arranged(outcome).items()]
    yield from _table(("fault", "n", "the last time"), failed or [("none", 0, "")])
    yield f"\nRows of the catalogue that are not here: {NOT_HERE}"


def _users_back(outcome: Outcome) -> Iterable[str]:
    yield "\n## Users of a gateway that is gone\n"
    yield (
        "From the begin of the fault until they were registered with another gateway, those who "
        "left of their own accord meanwhile included. Production waits up to 5 s before a first "
        "try, these clients up to 0.1 s; a frozen gateway is noticed by two heartbeats that stay "
        "unanswered, which takes 2 to 3 H.\n"
    )
    rows: list[tuple[object, ...]] = []
    for name in GONE:
        times = sorted(
            took_s
            for one in outcome.injections
            if one.fault.name == name
            for took_s in back_after_s(outcome.history, one.gateway, one.began)
        )
        if times:
            middle = duration(times[len(times) // 2])
            rows.append((name, len(times), middle, duration(times[-1])))
    yield from _table(("fault", "users", "median", "at most"), rows)


def _messages(outcome: Outcome) -> Iterable[str]:
    tally = outcome.tally
    yield "\n## Messages\n"
    yield (
        f"{tally.delivered:,} of {tally.sent.total():,} delivered, none twice, none to another "
        "user, or it stands above. By the last answer (messages without an id get none: unknown):\n"
    )
    rows = [
        (status, tally.sent[status], tally.lost_in_faults[status], tally.lost_in_calm[status])
        for status in STATUSES
    ]
    head = ("answer", "sent", "not delivered, near a fault", "not delivered, far from any")
    yield from _table(head, rows)
    yield "\n![What became of messages, by fault](losses.png)"


def _scripts(outcome: Outcome) -> Iterable[str]:
    yield "\n## Sometimes\n"
    yield (
        "Each of these has to happen in a run with the faults that bring it about, as has each "
        "fault that is due, or the run is red.\n"
    )
    others = sorted(outcome.outcomes.keys() - set(OUTCOMES))
    rows = [(name, outcome.outcomes[name]) for name in (*OUTCOMES, *others)]
    yield from _table(("script", "times"), rows)
    yield ""
    rows = [(name, outcome.counters[name]) for name in WANTED_COUNTERS]
    yield from _table(("counter of gateways", "sum"), rows)


def _memory(outcome: Outcome) -> Iterable[str]:
    yield "\n## Memory\n"
    yield (
        f"An idle gateway had {outcome.idle_bytes // 1024:,} KiB; red at any time above "
        f"{(outcome.idle_bytes + GROWTH_BYTES) // 1024:,} KiB. The most was "
        f"{max(outcome.peaks.values(), default=0) // 1024:,} KiB.\n"
    )
    if not outcome.slopes:
        yield "No gateway lived long enough for a slope."
        return
    yield f"Growth after warm-up, by least squares; red above {GROWTH_KIB_PER_MIN:,} KiB/min.\n"
    rows = [(process, f"{slope:,.0f}") for process, slope in outcome.slopes.items()]
    yield from _table(("process", "KiB/min"), rows)


def _faults(outcome: Outcome) -> Mapping[str, int]:
    return Counter(one.fault.name for one in outcome.injections if not one.not_arranged)


def _not_arranged(outcome: Outcome) -> Mapping[str, int]:
    return Counter(one.fault.name for one in outcome.injections if one.not_arranged)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
