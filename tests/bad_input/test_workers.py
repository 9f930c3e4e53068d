"""Workers: what does a gateway say when it cannot have as many as it is asked for?"""

from __future__ import annotations

import pytest

from tests.bad_input.conftest import inputs
from tests.programs import said_by
from wsdemo.gateway import __main__ as gateway_program
from wsdemo.gateway.workers.count import number_of_workers
from wsdemo.settings import SettingsError


@inputs(
    {
        "below nothing": ("-1", "workers must be 0 (one for each core) to 128, not -1"),
        "too many": ("129", "workers must be 0 (one for each core) to 128, not 129"),
        "a word": ("two", "invalid int value: 'two'"),
        "half of one": ("1.5", "invalid int value: '1.5'"),
        "nothing": ("", "invalid int value: ''"),
        "5,000 digits": ("9" * 5_000, "workers"),
    }
)
def test_a_number_of_workers_that_cannot_be_is_one_line_and_exit_code_2(
    case: tuple[str, str],
) -> None:
    """Before anything is started (bad input 250)."""
    asked, says = case
    line = said_by(gateway_program.main, "--id", "g", "--workers", asked)
    assert says in line and line.startswith("wsdemo.gateway: ")


@inputs({"63": "g" * 63, "64": "g" * 64})
def test_an_id_without_room_for_the_number_of_a_worker_is_one_line_and_exit_code_2(
    case: str,
) -> None:
    """It is an id that one gateway may have (bad input 252)."""
    line = said_by(gateway_program.main, "--id", case, "--workers", "2")
    assert f"gateway id '{case}.1' is not valid" in line or "characters) is not valid" in line


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_workers_need_linux(platform: str) -> None:
    """Elsewhere the kernel spreads no connections, and one worker would get them all.

    (bad input 251)
    """
    with pytest.raises(SettingsError, match="--workers needs Linux"):
        number_of_workers(2, platform)
    assert number_of_workers(1, platform) == number_of_workers(None, platform) == 1
