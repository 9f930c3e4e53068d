"""The laboratory: real gateways and users in one process, accidents on purpose."""

from wsdemo.lab.cluster import Cluster
from wsdemo.lab.lab import Lab
from wsdemo.lab.learn import check, predict

__all__ = ["Cluster", "Lab", "check", "predict"]
