"""How do we show what happened? Each figure is a pure function of a trace."""

from wsdemo.lab.plots.show import show
from wsdemo.lab.plots.spacetime import spacetime
from wsdemo.lab.plots.steps import steps

__all__ = ["show", "spacetime", "steps"]
