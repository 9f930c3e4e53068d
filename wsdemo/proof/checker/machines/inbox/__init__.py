"""Machine of the inbox: is each stored message delivered once and in order, or a gap told?"""
