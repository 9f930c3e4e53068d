"""Model checker: do the presence scripts keep their promises in every order of commands and faults?

from wsdemo.proof.checker import check_presence

check_presence()                           # the shipped scripts
check_presence({"release": my_script})     # one script is replaced by yours
"""

from wsdemo.proof.checker.machine import SHIPPED, ScriptError
from wsdemo.proof.checker.report import Counterexample, Result
from wsdemo.proof.checker.search import check_presence

__all__ = ["SHIPPED", "Counterexample", "Result", "ScriptError", "check_presence"]
