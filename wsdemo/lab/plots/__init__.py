"""How do we show what happened? Each figure is a pure function of a trace."""

from wsdemo.lab.plots.availability import availability
from wsdemo.lab.plots.detection import detection
from wsdemo.lab.plots.false_offline import false_offline
from wsdemo.lab.plots.herd import herd
from wsdemo.lab.plots.latency import latency
from wsdemo.lab.plots.ledger import ledger
from wsdemo.lab.plots.ribbons import ribbons
from wsdemo.lab.plots.sawtooth import sawtooth
from wsdemo.lab.plots.show import show
from wsdemo.lab.plots.skew import skew_map
from wsdemo.lab.plots.spacetime import spacetime
from wsdemo.lab.plots.stages import stages
from wsdemo.lab.plots.steps import steps

__all__ = [
    "availability",
    "detection",
    "false_offline",
    "herd",
    "latency",
    "ledger",
    "ribbons",
    "sawtooth",
    "show",
    "skew_map",
    "spacetime",
    "stages",
    "steps",
]
