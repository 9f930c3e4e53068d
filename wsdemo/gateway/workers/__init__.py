"""Workers: how do several gateway processes serve one port of one machine?

A parent forks them and starts them anew; it serves nobody itself. Each worker is a whole gateway
with an id of its own (`gateway-01.1`), and listens on the same port: the kernel spreads new
connections over the workers (SO_REUSEPORT). They share limits and figures through memory that the
parent has made before the first fork.
"""
