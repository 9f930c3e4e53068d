"""How does a run become one file that opens anywhere, with nothing around it?

The modules are put one after the other into a single script: each of them imports only from its
neighbours and exports plain names, so taking these lines away is all that a bundler would do.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from wsdemo.lab.classroom.feed import describe, of_record
from wsdemo.lab.classroom.room import STATIC, Classroom
from wsdemo.lab.lab import Lab

BOARD: Final = (
    *("elements.js", "model.js", "words.js", "timeline.js", "controls.js", "votes.js", "log.js"),
    *("gateways.js", "redis.js", "motion.js", "board.js"),
)
"""In the order in which they need each other."""
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[\w.]+";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?function |class |const )", re.MULTILINE)


def bundle(*modules: str) -> str:
    """Return these modules as one script without imports and exports."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", (STATIC / name).read_text())) for name in modules)


def to_html(source: Classroom | Lab, title: str = "A run of the lab") -> str:
    """Return a page with the board and everything that happened: it asks nobody for anything."""
    if isinstance(source, Classroom):
        cluster = source.lab.cluster
        batches: Sequence[Any] = source.lab._loop.call(lambda: [json.loads(text) for text in source.feed.history])
    else:
        cluster = source.cluster
        batches = of_record(cluster.recorder, cluster.timing.presence_ttl_s)
    return page({"v": 1, "lab": describe(cluster), "batches": batches}, title)


def save_html(source: Classroom | Lab, path: str | Path, title: str = "A run of the lab") -> Path:
    """Write it to a file."""
    target = Path(path)
    target.write_text(to_html(source, title), encoding="utf-8")
    return target


def page(run: dict[str, Any], title: str) -> str:
    packed = base64.b64encode(gzip.compress(json.dumps(run, separators=(",", ":")).encode(), 9, mtime=0)).decode()
    script = bundle(*BOARD)
    assert "</script" not in script
    css = (STATIC / "page.css").read_text() + (STATIC / "board.css").read_text()
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{css}</style>
<body class="board-page">
<script type="application/octet-stream" id="run">{packed}</script>
<script type="module">
{script}
const bytes = Uint8Array.from(atob(document.getElementById("run").textContent), (c) => c.charCodeAt(0));
const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
const recorded = JSON.parse(text);
const board = globalThis.board = new Board(document.body, {{ title: document.title }});
board.recorded = true;
board.hello({{ lab: recorded.lab, role: "viewer", room: {{}} }});
for (const batch of recorded.batches) board.run.add(batch);
board.seek(0);
board.root.querySelector(".play").focus();
</script>
</body>
</html>
"""
