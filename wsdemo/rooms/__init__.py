"""Rooms: who is in a room, when gateways die, sleep and wake up?"""

from wsdemo.rooms.store import RoomEntry as RoomEntry
