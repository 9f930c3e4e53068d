"""Feature mix: which optional features do the gateways of a run have?

The simulation and chaos have the same words for it on their command lines.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Final, Self

from wsdemo.command_line import positive_int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureMix:
    """The optional features of all gateways of a run.

    Raises:
        ValueError: these do not go together.
    """

    durable: bool = False
    """Messages may be durable, and clients read their inbox."""
    rooms: bool = False
    """Users join rooms, and say something there."""
    watch: bool = False
    """Users are told when others come and go."""
    devices: int = 1
    """How many devices a user may have. With more than one, each is called as `alice/phone`."""

    def __post_init__(self) -> None:
        if self.devices > 1 and (self.rooms or self.watch):
            raise ValueError("a run with several devices has no rooms, and nobody watches")

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Return the features that a command line asks for.

        Raises:
            ValueError: these do not go together.
        """
        return cls(
            durable=options.durable,
            rooms=options.rooms,
            watch=options.watch,
            devices=options.devices,
        )

    @property
    def words(self) -> list[str]:
        """What asks for these features on a command line."""
        flags = ["--durable"] * self.durable + ["--rooms"] * self.rooms + ["--watch"] * self.watch
        return flags + (["--devices", str(self.devices)] if self.devices > 1 else [])

    def __str__(self) -> str:
        return " ".join(self.words) or "no optional feature"


PLAIN_MIX: Final = FeatureMix()


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the words for all features to a command line."""
    parser.add_argument("--durable", action="store_true", help="users send durable messages too")
    parser.add_argument("--rooms", action="store_true", help="users meet in rooms")
    parser.add_argument("--watch", action="store_true", help="users watch each other")
    parser.add_argument("--devices", type=positive_int, default=1, help="of one user (1)")
