"""Bad input: what does a gateway answer to it? One test for each row of docs/bad-input.md.

The docstring of a test ends with its row, as in "(bad input 50)"; the parameters of the test are
the inputs of that row. Each input is tried with the gateway's fast paths and without them, beside
another user who must not notice. A test whose docstring ends with "(bad input, not in the list)"
tries what the list does not have. `python -m tests.bad_input` counts the inputs.
"""

import re
from pathlib import Path
from typing import Final

_PAGE: Final = Path(__file__).parents[2] / "docs" / "bad-input.md"
ROWS: Final = tuple(int(row) for row in re.findall(r"(?m)^\| (\d+) \|", _PAGE.read_text("utf-8")))
"""The rows of the page."""
