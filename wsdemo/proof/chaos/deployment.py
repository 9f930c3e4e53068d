"""Deployment: what is the Redis of a run, and how many workers has each gateway?"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from wsdemo.addresses import Form
from wsdemo.command_line import positive_int


class DeploymentKind(StrEnum):
    """What is special about a deployment. A fault says where it makes sense."""

    SERVER = "server"
    """Nothing: one Redis, and gateways of one process."""
    SENTINEL = "sentinel"
    """A primary, its replica and three sentinels."""
    CLUSTER = "cluster"
    """A cluster of three primaries with a replica each."""
    WORKERS = "workers"
    """Gateways of several processes, and one Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a run consists of, beside its users and the optional features.

    Raises:
        ValueError: this is not offered.
    """

    form: Form = Form.SERVER
    workers: int = 1
    """How many processes serve the port of each gateway."""

    def __post_init__(self) -> None:
        if self.workers > 1 and self.form is not Form.SERVER:
            raise ValueError("gateways with several workers have one Redis here")

    @property
    def kind(self) -> DeploymentKind:
        """What is special about it."""
        return DeploymentKind.WORKERS if self.workers > 1 else DeploymentKind(self.form)

    @property
    def has_group(self) -> bool:
        """Whether the Redis is several servers."""
        return self.form is not Form.SERVER

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """Return what a command line asks for.

        Raises:
            ValueError: this is not offered.
        """
        return cls(form=Form(options.redis), workers=options.workers)

    @property
    def is_usual(self) -> bool:
        """Whether it is one server, and gateways of one process."""
        return self == USUAL

    @property
    def words(self) -> list[str]:
        """What asks for this on a command line."""
        form = [] if self.form is Form.SERVER else ["--redis", str(self.form)]
        return form + ([] if self.workers == 1 else ["--workers", str(self.workers)])

    def __str__(self) -> str:
        return " ".join(self.words) or "one Redis"


USUAL: Final = Deployment()


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """Add the words for all deployments to a command line."""
    parser.add_argument(
        "--redis",
        choices=[str(form) for form in Form],
        default=str(Form.SERVER),
        help="what the Redis is (%(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, default=1, help="of each gateway (1)")
