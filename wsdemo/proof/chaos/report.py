"""Report: how is a chaos run shown? As a Markdown page, three figures and the history itself."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from wsdemo.addresses import Form
from wsdemo.drawing.words import counted, duration
from wsdemo.proof.chaos.bounds import (
    ALLOWANCE_S,
    CALM_S,
    GROWTH_BYTES,
    GROWTH_KIB_PER_MIN,
    PROMISED_S,
)
from wsdemo.proof.chaos.cluster import CHANGED_LIMITS, GATEWAYS, LIMITS, SCALE, TIMING
from wsdemo.proof.chaos.convergence import convergences, promised_s
from wsdemo.proof.chaos.faults import NOT_INJECTED
from wsdemo.proof.chaos.measures import back_after_s
from wsdemo.proof.chaos.monitor_log import OUTCOMES
from wsdemo.proof.chaos.nemesis import faults_of
from wsdemo.proof.chaos.result import ChaosResult
from wsdemo.proof.chaos.wanted import STATUSES, WANTED_COUNTERS, wanted
from wsdemo.proof.history import (
    GapTold,
    History,
    InboxStored,
    RoomHeard,
    RoomRegister,
    RoomSaid,
    Taken,
    WatchTold,
    by_fault,
    to_jsonl,
)
from wsdemo.proof.mix import PLAIN_MIX

FEATURE_RECORDS: Final = {
    "durable messages stored": InboxStored,
    "durable messages taken": Taken,
    "gaps told": GapTold,
    "changes in registers of rooms": RoomRegister,
    "messages said in rooms": RoomSaid,
    "messages heard in rooms": RoomHeard,
    "changes of presence told": WatchTold,
}
SHOWN: Final = 20
"""So many violations are shown on the page; all of them are in the summary."""
COUNTER: Final = "counter "
GONE: Final = (
    "gateway killed, back at once",
    "gateway killed, away",
    "gateway drained",
    "gateway a zombie",
)


def write(result: ChaosResult, directory: Path) -> Path:
    """Write everything into a directory, and return the page."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "history.jsonl").write_text(to_jsonl(result.history))
    (directory / "summary.json").write_text(json.dumps(summary(result), indent=1) + "\n")
    # Only a process that draws loads the plotting library.
    from wsdemo.proof.chaos import figures

    for draw in (figures.timeline, figures.convergence, figures.losses):
        draw(result).savefig(directory / f"{draw.__name__}.png")
    page = directory / "report.md"
    page.write_text("\n".join(_page(result)) + "\n")
    return page


def summary(result: ChaosResult) -> dict[str, Any]:
    """Return the numbers of a run, ready for JSON."""
    tally = result.tally
    return {
        "green": result.green,
        "seed": result.seed,
        "seconds": result.seconds,
        "features": result.mix.words,
        "deployment": result.deployment.words,
        "tookS": round(result.took_s, 2),
        "scale": SCALE,
        "users": result.users,
        "faults": dict(_faults(result)),
        "notArranged": dict(_not_arranged(result)),
        "scripts": dict(result.outcomes),
        "counters": dict(result.counters),
        "sent": dict(tally.sent),
        "delivered": tally.delivered,
        "featureRecords": feature_counts(result.history),
        "lostInFaults": dict(tally.lost_in_faults),
        "lostInCalm": dict(tally.lost_in_calm),
        "convergedS": round(result.converged_s, 3),
        "rests": len(result.rests),
        "promisedS": PROMISED_S,
        "pairs": result.pairs,
        "ends": dict(result.seen),
        "witnessGaps": result.gaps,
        "witnessBlind": result.blind,
        "releasesUnjudged": result.unjudged,
        "logLines": result.log_lines,
        "lateS": round(result.late_s, 2),
        "rssKibPerMin": {process: round(slope) for process, slope in result.slopes.items()},
        "peakKib": {process: peak // 1024 for process, peak in result.peaks.items()},
        "claims": dict(Counter(violation.claim for violation in result.violations)),
        "violations": [str(violation) for violation in result.violations],
    }


def feature_counts(history: History) -> dict[str, int]:
    """Count what happened to durable messages, in rooms and to watchers."""
    return {
        what: sum(isinstance(record, kind) for record in history)
        for what, kind in FEATURE_RECORDS.items()
    }


def verdict(result: ChaosResult) -> str:
    """Return one line: the result of the run, and how to repeat it."""
    usual = result.deployment.is_usual
    what = f"{result.mix}" if usual else f"{result.deployment}, {result.mix}"
    again = f"seed {result.seed}, {result.seconds:g} s, {what}"
    faults = counted(sum(_faults(result).values()), "fault")
    done = (
        f"{faults}, {result.tally.sent.total():,} messages, "
        f"{sum(result.outcomes.values()):,} scripts, {result.took_s:.0f} s"
    )
    if result.green:
        return f"green: no violation ({again}): {done}"
    claims = Counter(violation.claim for violation in result.violations)
    words = ", ".join(f"{count} of {claim}" for claim, count in claims.most_common())
    return f"RED: {words or 'not finished'} ({again}): {done}"


# --- the page ------------------------------------------------------------------------------------


def _page(result: ChaosResult) -> Iterable[str]:
    yield "# Chaos on real processes"
    yield f"\n**{verdict(result)}**"
    words = " ".join([*result.deployment.words, *(result.mix.words or ["--plain"])])
    command = f"python -m wsdemo.proof.chaos --seconds {result.seconds:g} --seed {result.seed}"
    yield f"\n`{command} {words}`"
    yield from _what_ran(result)
    yield from _violations(result)
    yield from _after(result)
    yield from _per_fault(result)
    yield from _users_back(result)
    yield from _messages(result)
    yield from _features(result)
    yield from _scripts(result)
    yield from _memory(result)


def _what_ran(result: ChaosResult) -> Iterable[str]:
    limits = ", ".join(f"{name} {getattr(LIMITS, name):g}" for name in CHANGED_LIMITS)
    yield "\n## What ran\n"
    yield (
        f"{_gateways(result)} and {_redis(result)} as processes, {result.users} users, and a TCP "
        f"relay on each connection{_relayed(result)}; Python {platform.python_version()} on "
        f"{platform.system()}. Timings are {SCALE:g} times faster than in production: heartbeat H "
        f"{TIMING.heartbeat_s:g} s, TTL "
        f"{TIMING.presence_ttl_s:g} s, health check {TIMING.health_check_s:g} s. Bounds on the "
        f"work of the machine are not scaled; some are set tighter: {limits}."
    )
    yield (
        f"\nThe witness (MONITOR) saw every change of an owner, except in "
        f"{counted(result.gaps, 'gap')} in which Redis was not reachable. After all but "
        f"{result.blind} of them it read all entries; {counted(result.unjudged, 'release')} "
        "before that could not be judged. All "
        f"{result.log_lines:,} lines of the gateways' logs were read, and {len(result.history):,}"
        " records are in `history.jsonl`. The machine was too busy with other work "
        f"for {result.late_s:.1f} s in all. The seed decides which fault comes when and where, "
        "and which half of the catalogue must come. It does not decide what the machine does, so "
        "two runs of one seed are similar, and not equal."
    )
    yield "\n![Faults, and users online](timeline.png)"


def _redis(result: ChaosResult) -> str:
    return {
        Form.SERVER: "a Redis",
        Form.CLUSTER: "a cluster of three primaries with a replica each",
        Form.SENTINEL: "a primary, its replica and three sentinels",
    }[result.deployment.form]


def _gateways(result: ChaosResult) -> str:
    count = result.deployment.workers
    return f"{len(GATEWAYS)} gateways" + (f" of {count} workers each" if count > 1 else "")


def _relayed(result: ChaosResult) -> str:
    return " of a user" if result.deployment.has_group else ""


def _violations(result: ChaosResult) -> Iterable[str]:
    yield "\n## Violations\n"
    if not result.violations:
        yield "None."
        return
    for violation in result.violations[:SHOWN]:
        yield f"```\n{violation}\n```"
    if len(result.violations) > SHOWN:
        yield f"\n... and {len(result.violations) - SHOWN} more, in `summary.json`."


def _after(result: ChaosResult) -> Iterable[str]:
    yield "\n## After a heal\n"
    yield (
        f"All faults were healed {counted(len(result.rests), 'time')}, and everything was right "
        f"after {result.converged_s:.2f} s at most. The promise X, at this scale, is "
        f"{PROMISED_S:g} s (red beyond {PROMISED_S + ALLOWANCE_S:g} s). A calm period of "
        f"{CALM_S:g} s followed each heal. In them {result.pairs:,} messages, one between any two "
        "users, had to be routed and to arrive, each ping had to get its pong, and gateways had to "
        "have the right number of sessions, sockets and descriptors. What was left when all users "
        "had gone, and how gateways ended:\n"
    )
    yield from _table(("what", "count"), sorted(result.seen.items()))
    yield "\n![Time until everything was right, by fault](convergence.png)"


def _per_fault(result: ChaosResult) -> Iterable[str]:
    counts, found = _faults(result), convergences(result)
    lost = by_fault(result.history)
    yield "\n## Faults\n"
    yield (
        "Right after: the time from a heal until all users who were wrong then had been right "
        "once, if no other fault touched Redis before that. It is an upper bound, because another "
        "fault may be active meanwhile. Promised: after faults of Redis, H and the pause of "
        "gateways between two attempts to connect (up to 2 s, not scaled); after others, the TTL. "
        "Messages: those that were sent while the fault was active.\n"
    )
    rows: list[tuple[object, ...]] = []
    for fault in faults_of(result.mix, result.deployment):
        times, sent = found.get(fault.name, []), lost.get(fault.name, Counter())
        rows.append(
            (
                fault.name,
                ", ".join(map(str, fault.rows)),
                counts[fault.name],
                duration(max(times)) if times else "",
                duration(promised_s(fault)),
                sent.total(),
                sent.total() - sent["delivered"],
                sent["routed"],
            )
        )
    head = ("fault", "row", "n", "right after, at most", "promised", "sent", "not delivered")
    yield from _table((*head, "of these routed"), rows)
    yield (
        "\nThese faults could not be arranged so many times, because a precondition was not "
        "reached. They have shown nothing then, and were tried again:\n"
    )
    why = {one.fault.name: one.not_arranged for one in result.injections if one.not_arranged}
    failed = [(name, n, why[name]) for name, n in _not_arranged(result).items()]
    yield from _table(("fault", "n", "the last time"), failed or [("none", 0, "")])
    yield "\nFaults of docs/faults.md that are not injected here:\n"
    left_out = [(", ".join(map(str, n)), reason) for n, reason in NOT_INJECTED.items()]
    yield from _table(("fault", "why"), left_out)


def _users_back(result: ChaosResult) -> Iterable[str]:
    yield "\n## Users of a gateway that is gone\n"
    yield (
        "The time from the begin of the fault until a user was registered with another gateway; "
        "users who moved by themselves meanwhile are included. Clients in production wait up to "
        "5 s before the first attempt, and these up to 0.1 s. A client notices a stopped gateway "
        "by two heartbeats without a pong, which takes 2 to 3 H.\n"
    )
    rows: list[tuple[object, ...]] = []
    for name in GONE:
        times = sorted(
            took_s
            for one in result.injections
            if one.fault.name == name
            for took_s in back_after_s(result.history, one.gateway, one.began)
        )
        if times:
            middle = duration(times[len(times) // 2])
            rows.append((name, len(times), middle, duration(times[-1])))
    yield from _table(("fault", "users", "median", "at most"), rows)


def _messages(result: ChaosResult) -> Iterable[str]:
    tally = result.tally
    yield "\n## Messages\n"
    yield (
        f"{tally.delivered:,} of {tally.sent.total():,} were delivered. One that was delivered "
        "twice or to another user is a violation above. By the last answer (a message without an "
        "id gets none, and counts as unknown):\n"
    )
    rows = [
        (status, tally.sent[status], tally.lost_in_faults[status], tally.lost_in_calm[status])
        for status in STATUSES
    ]
    head = ("answer", "sent", "not delivered, near a fault", "not delivered, far from any")
    yield from _table(head, rows)
    yield "\n![Outcomes of messages, by fault](losses.png)"


def _features(result: ChaosResult) -> Iterable[str]:
    if result.mix == PLAIN_MIX:
        return
    yield "\n## Optional features\n"
    if result.mix.devices > 1:
        yield (
            f"Gateways were started with `{result.mix}`. P1, P3 to P5, P7 and P8 were checked for "
            "each device, and each message was for all devices of its recipient."
        )
        if result.mix.durable:
            yield "\nSo were D1 to D5 and D7. What happened to durable messages:\n"
            yield from _table(("what", "times"), feature_counts(result.history).items())
        return
    yield (
        f"Gateways were started with `{result.mix}`. What happened to durable messages, in rooms "
        "and to watchers, by the number of records; D1 to D5, D7, R1 to R5 and W1 to W3 were "
        "checked.\n"
    )
    yield from _table(("what", "times"), feature_counts(result.history).items())


def _scripts(result: ChaosResult) -> Iterable[str]:
    yield "\n## Sometimes\n"
    yield (
        "Each of these must happen in a run with the faults that cause it, and each fault that is "
        "due must happen. Otherwise the run is red.\n"
    )
    others = sorted(result.outcomes.keys() - set(OUTCOMES))
    rows = [(name, result.outcomes[name]) for name in (*OUTCOMES, *others)]
    yield from _table(("script", "times"), rows)
    yield ""
    names = [
        name.removeprefix(COUNTER)
        for name in wanted({}, result.mix, result.deployment)
        if COUNTER in name
    ]
    rows = [(name, result.counters[name]) for name in dict.fromkeys((*WANTED_COUNTERS, *names))]
    yield from _table(("counter of gateways", "sum"), rows)


def _memory(result: ChaosResult) -> Iterable[str]:
    yield "\n## MemorySample\n"
    yield (
        f"An idle gateway had {result.idle_bytes // 1024:,} KiB; red at any time above "
        f"{(result.idle_bytes + GROWTH_BYTES) // 1024:,} KiB. The most was "
        f"{max(result.peaks.values(), default=0) // 1024:,} KiB.\n"
    )
    if not result.slopes:
        yield "No gateway lived long enough for a slope."
        return
    yield f"Growth after warm-up, median of five parts; red over {GROWTH_KIB_PER_MIN:,} KiB/min.\n"
    rows = [(process, f"{slope:,.0f}") for process, slope in result.slopes.items()]
    yield from _table(("process", "KiB/min"), rows)


def _faults(result: ChaosResult) -> Mapping[str, int]:
    return Counter(one.fault.name for one in result.injections if not one.not_arranged)


def _not_arranged(result: ChaosResult) -> Mapping[str, int]:
    return Counter(one.fault.name for one in result.injections if one.not_arranged)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
