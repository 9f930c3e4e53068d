"""Do the presence scripts keep their promises in every order of commands and accidents?

from wsdemo.proof.checker import check_presence

check_presence()                           # the shipped scripts
check_presence({"release": my_script})     # with one of yours in its place
"""

from wsdemo.proof.checker.machine import SHIPPED, ScriptError
from wsdemo.proof.checker.report import Counterexample, Result
from wsdemo.proof.checker.search import check_presence

__all__ = ["SHIPPED", "Counterexample", "Result", "ScriptError", "check_presence"]
