"""Entry point of `sundog` and of `kubectl sundog`: a Ctrl-C while the command is still imported shows no traceback."""

import signal


def main() -> None:
    """Import the command and run it."""
    # Until the command can catch it, an interrupt ends the process at once, with the exit code that shells expect.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sundog_operator.shell import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()
