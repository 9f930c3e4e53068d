"""Deterministic simulation: a whole cluster on virtual time. `simulate(seed=1, minutes=10)`."""

from wsdemo.proof.simulate.run import Report, Run, simulate, simulate_many

__all__ = ["Report", "Run", "simulate", "simulate_many"]
