"""Model checker: do the scripts keep their promises in every order of commands and faults?

from wsdemo.proof.checker import check_presence

check_presence()                           # the shipped scripts
check_presence({"release": my_script})     # one script is replaced by yours

What is checked is in `machines`, one machine for each subject.
"""

from wsdemo.proof.checker.machines.presence.machine import SHIPPED
from wsdemo.proof.checker.machines.presence.subject import check_presence
from wsdemo.proof.checker.report import Counterexample, Result
from wsdemo.proof.checker.subject import ScriptError

__all__ = ["SHIPPED", "Counterexample", "Result", "ScriptError", "check_presence"]
