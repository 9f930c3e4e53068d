"""The server process: sockets in, messages out."""
