"""Flags: does a gateway read the settings that `flags_of` writes?"""

from __future__ import annotations

import pytest

from wsdemo.gateway.__main__ import parser, settings_of
from wsdemo.rig.flags import flags_of
from wsdemo.settings import Limits, Timing


def test_a_gateway_process_gets_the_written_settings() -> None:
    """All timings and all limits, with values that are not the defaults."""
    timing, limits = Timing(heartbeat_s=25.5, presence_ttl_s=80.0), Limits(max_user_id_chars=17)
    read = settings_of(parser().read(["--id", "gateway-01", *flags_of(timing), *flags_of(limits)]))
    assert (read.timing, read.limits) == (timing, limits)


def test_some_fields_or_plain_values_can_be_written() -> None:
    """A part of the settings, or values by name."""
    assert flags_of(Limits(drain_s=2.0), only=["drain_s"]) == ["--drain-s=2.0"]
    assert flags_of({"message_burst": 7}) == ["--message-burst=7"]


def test_a_name_that_is_no_setting_is_an_error() -> None:
    """A misspelt name must not be left out silently."""
    with pytest.raises(ValueError, match="'drain_seconds'"):
        flags_of(Limits(), only=["drain_seconds"])
