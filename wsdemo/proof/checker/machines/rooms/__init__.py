"""Machine of rooms: is the list of a room right, whatever commands come late or gateways die?"""
