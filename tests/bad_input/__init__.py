"""What does a gateway do with bad input? One test a row of the table in the design's section 5.

A test is named after its row (`test_row_23_...`) and has all inputs of that row as parameters; each
is tried with the short ways of the gateway and without, beside a neighbour who must not notice.
What the table does not have is named `test_beyond_...`.
`python -m tests.bad_input` counts them.

Rows 63 and 64 (an ack or a resume with a garbage offset) are of a durable mode, which this gateway
does not have: there, `ack` and `resume` are unknown types (row 61).
"""

from typing import Final

ROWS: Final = range(1, 82)
NOT_HERE: Final = frozenset({63, 64})
