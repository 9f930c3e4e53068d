"""Do the presence scripts keep their promises in every order of commands and accidents?

from wsdemo.lab.checker import check_presence

check_presence()                           # the shipped scripts
check_presence({"release": my_script})     # with one of yours in its place
"""

from wsdemo.lab.checker.machine import SHIPPED, ScriptError
from wsdemo.lab.checker.report import Counterexample, Result
from wsdemo.lab.checker.search import check_presence

__all__ = ["SHIPPED", "Counterexample", "Result", "ScriptError", "check_presence"]
