"""Machine of presence: do the four scripts that say where a user is keep P1 to P8?"""
