"""The laboratory: real gateways and users in one process, accidents on purpose."""

import logging

from wsdemo.lab.cluster.cluster import Cluster
from wsdemo.lab.lab import Lab
from wsdemo.lab.learn import check, predict

__all__ = ["Cluster", "Lab", "check", "predict"]

# Without a handler, Python prints warnings to stderr: from a thread, into the wrong cell.
logging.getLogger("wsdemo").addHandler(logging.NullHandler())
