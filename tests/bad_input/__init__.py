"""Bad input: what does a gateway answer to it? One test for each row of docs/bad-input.md.

The docstring of a test ends with its row, as in "(bad input 50)"; the parameters of the test are
the inputs of that row. Each input is tried with the gateway's fast paths and without them, beside
another user who must not notice. A test whose docstring ends with "(bad input, not in the list)"
tries what the list does not have. `python -m tests.bad_input` counts the inputs.

`bad input 63` and `bad input 64` (an ack or a resume with an invalid offset) belong to a durable
mode that this gateway does not have: it answers `ack` and `resume` as `bad input 61`.
"""

from typing import Final

ROWS: Final = range(1, 82)
NOT_HERE: Final = frozenset({63, 64})
