"""The classroom: students join a lab from their own browsers, and a board shows what happens."""

from wsdemo.lab.classroom.recording import save_html, to_html
from wsdemo.lab.classroom.room import Classroom, board, classroom

__all__ = ["Classroom", "board", "classroom", "save_html", "to_html"]
