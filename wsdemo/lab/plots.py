"""How do we show what happened? Each figure is a pure function of a trace."""

from wsdemo.drawing.show import show
from wsdemo.lab.figures.availability import availability
from wsdemo.lab.figures.detection import detection
from wsdemo.lab.figures.false_offline import false_offline
from wsdemo.lab.figures.herd import herd
from wsdemo.lab.figures.latency import latency
from wsdemo.lab.figures.ledger import ledger
from wsdemo.lab.figures.ribbons import ribbons
from wsdemo.lab.figures.sawtooth import sawtooth
from wsdemo.lab.figures.skew import skew_map
from wsdemo.lab.figures.spacetime import spacetime
from wsdemo.lab.figures.stages import stages
from wsdemo.lab.figures.steps import steps

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
