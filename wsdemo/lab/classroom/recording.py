"""Recording: how does a run become one file that opens anywhere, with nothing around it?

The file holds the board, everything that happened, and nothing else: its content security policy
forbids it to ask anybody for anything. What users wrote to each other is not in it.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import secrets
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wsdemo.events import Event, Kind
from wsdemo.lab.classroom.bundle import STATIC, bundle
from wsdemo.lab.classroom.feed import MESSAGES_PER_TICK, TICK_S, describe
from wsdemo.lab.classroom.history import History, encoded
from wsdemo.lab.classroom.state import EntryRow
from wsdemo.lab.classroom.translator import BoardEvent, Translator
from wsdemo.lab.errors import LabRefused
from wsdemo.lab.trace.recorder import Recorder

if TYPE_CHECKING:
    from wsdemo.lab.classroom.room import Classroom
    from wsdemo.lab.lab import Lab

TITLE: Final = "A run of the lab"
POLICY: Final = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
INFERRED: Final = (
    "No class room was open during this run. What Redis says, and how long each lease lasts, is "
    "inferred from the answers that gateways got, and was not asked for."
)


def save_html(source: Classroom | Lab, path: str | Path, title: str = TITLE) -> Path:
    """Write a run into one HTML file, whole or not at all; return its path.

    Args:
        source: a class room, or a lab without one.

    Raises:
        LabRefused: the file cannot be written there.
    """
    target = Path(path).expanduser()
    if not target.parent.is_dir():
        raise LabRefused(f"there is no folder {str(target.parent)!r}: make it first")
    if target.is_dir():
        raise LabRefused(f"{str(target)!r} is a folder: give the name of a file, such as run.html")
    page = to_html(source, title)
    try:
        _replace(target, page)
    except OSError as problem:
        raise LabRefused(f"{str(target)!r} cannot be written: {problem.strerror}") from problem
    return target


def _replace(target: Path, text: str) -> None:
    """Write beside the target first: whoever opens it finds the old file or the new one."""
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="utf-8") as file:
            file.write(text)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def to_html(source: Classroom | Lab, title: str = TITLE) -> str:
    """Return the page of a run."""
    from wsdemo.lab.lab import Lab

    if isinstance(source, Lab):
        cluster = source.cluster
        texts = inferred(cluster.recorder, cluster.timing.presence_ttl_s)
        return page(describe(cluster), texts, title, INFERRED)
    return page(describe(source.lab.cluster), source.feed.history, title)


def inferred(recorder: Recorder, ttl_s: float) -> list[str]:
    """Return the batches of a record that no feed has followed. A lease is taken to last as long
    as its latest register or refresh has asked for.
    """
    inference, history = _Inference(recorder.started_at, ttl_s), History()
    for _, events in groupby(recorder.events, lambda event: int(event.t / TICK_S)):
        text = inference.batch(list(events))
        if text:
            history.add(text)
    return history.texts()


class _Inference:
    """Makes the batches of a record without asking Redis."""

    def __init__(self, started_at: float, ttl_s: float) -> None:
        self._started_at, self._ttl_s = started_at, ttl_s
        self._translator = Translator(started_at, ttl_s)
        self._leases: dict[str, EntryRow | None] = {}
        """The latest lease of each user; None when it was removed."""
        self._t = 0.0

    def batch(self, events: list[Event]) -> str:
        """Return the batch of these events; '' when nothing of it is shown."""
        shown: list[BoardEvent] = []
        rows: dict[str, EntryRow] = {}
        for event in events:
            rows |= self._renewed(event)
        for row in self._translator.translate(events, MESSAGES_PER_TICK):
            shown.append(row)
            shown += self._outage(row, rows)
        self._t = max(self._t, self._translator.seconds(events[-1].t))
        skipped, self._translator.skipped = self._translator.skipped, 0
        if not (shown or rows or skipped):
            return ""
        batch: dict[str, Any] = {"type": "batch", "t": self._t, "n": self._translator.messages}
        parts = {"e": shown, "b": list(rows.values()), "skipped": skipped}
        return encoded(batch | {name: value for name, value in parts.items() if value})

    def _renewed(self, event: Event) -> dict[str, EntryRow]:
        """Return the lease that was renewed, if one was. A refresh of an entry that is gone renews
        nothing, whatever the policy answers.
        """
        user, ends = event.user, round(event.t - self._started_at + self._ttl_s, 3)
        if event.kind is Kind.PRESENCE_DEL:
            self._leases[user] = None
        elif event.kind is Kind.PRESENCE_SET:
            self._leases[user] = [user, event.gateway, event.conn_id, ends]
        elif event.kind is Kind.PRESENCE_REFRESH:
            own = [user, event.gateway, event.conn_id, ends]
            before = own if event.reason == "reclaimed" else self._leases.get(user, own)
            if before is not None:
                row = self._leases[user] = [*before[:3], ends]
                return {user: row}
        return {}

    def _outage(self, row: BoardEvent, rows: dict[str, EntryRow]) -> Iterable[BoardEvent]:
        kind, of_redis = row["k"], row.get("g") == "redis"
        if kind == "redis_down":
            self._leases = dict.fromkeys(self._leases)
            rows.clear()
        if kind == "redis_down" or (kind == "freeze" and of_redis):
            yield {"k": "beliefs_unknown", "t": row["t"]}
        if kind == "redis_up" or (kind == "thaw" and of_redis):
            rows |= {user: lease for user, lease in self._leases.items() if lease is not None}
            yield {"k": "beliefs_known", "t": row["t"]}


def page(lab: dict[str, Any], batches: list[str], title: str, note: str = "") -> str:
    """Return a page with the board and these batches.

    Args:
        note: shown above the board.
    """
    run = f'{{"v":1,"lab":{json.dumps(lab)},"batches":[{",".join(batches)}]}}'
    packed = base64.b64encode(gzip.compress(run.encode(), 9, mtime=0)).decode()
    script = bundle()
    if "</script" in script:
        raise ValueError("the script of the board would end its own element")
    css = "".join((STATIC / name).read_text(encoding="utf-8") for name in ("page.css", "board.css"))
    told = f'<p class="run-note" role="note">{html.escape(note)}</p>\n' if note else ""
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{css}
body.board-page {{ display: flex; flex-direction: column; }}
body.board-page > .run-note {{ margin: 0; padding: 6px 16px; font: 14px/1.35 system-ui, sans-serif;
  background: #fff3d6; color: #1d2530; }}
body.board-page > .ws-board {{ flex: 1 1 0; height: auto; }}
</style>
<body class="board-page">
{told}<script type="application/octet-stream" id="run">{packed}</script>
<script type="module">
{script}
const text = atob(document.getElementById("run").textContent);
const packed = Uint8Array.from(text, (c) => c.charCodeAt(0));
const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
const recorded = JSON.parse(await new Response(unpacked).text());
const board = globalThis.board = new Board(document.body, {{ title: document.title }});
board.recorded = true;
board.hello({{ lab: recorded.lab, role: "viewer", room: {{}} }});
for (const batch of recorded.batches) board.run.add(batch);
board.seek(recorded.batches[0]?.t ?? 0);
board.root.querySelector(".play").focus();
</script>
</body>
</html>
"""
