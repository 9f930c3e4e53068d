"""The server process: sockets in, messages out."""


def main() -> None:
    """Run the command line, ready to be stopped before anything else is (`wsdemo-gateway`)."""
    from wsdemo.gateway.signals import leave_at_once

    leave_at_once()

    from wsdemo.gateway.__main__ import main as run

    run()
