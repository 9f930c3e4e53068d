"""A whole cluster on virtual time: `simulate(seed=1, minutes=10)`; see `.run`."""

from wsdemo.proof.simulate.run import Report, Run, simulate, simulate_many

__all__ = ["Report", "Run", "simulate", "simulate_many"]
