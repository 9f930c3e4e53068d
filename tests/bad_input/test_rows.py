"""Bad input: is there a test for each row of docs/bad-input.md?"""

from __future__ import annotations

import asyncio
import re
import sys

from tests.bad_input import ROWS


async def test_every_row_of_the_list_has_a_test() -> None:
    """And the printed sum is that of the printed counts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bad_input"), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(50):
        said, _ = await process.communicate()
    assert process.returncode == 0
    *lines, total = said.decode().splitlines()
    counts = {
        group: int(n) for group, n in re.findall(r"^(.+): +(\d+) inputs$", said.decode(), re.M)
    }
    rows = {int(group.split()[-1]) for group in counts if re.fullmatch(r"bad input +\d+", group)}
    assert rows == set(ROWS)
    assert len(lines) == len(counts)
    assert all(counts.values())
    assert total.startswith(f"{sum(counts.values())} bad inputs in {len(counts)} groups, ")
