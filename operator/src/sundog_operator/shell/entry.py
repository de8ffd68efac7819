"""Entry point of `sundog` and of `kubectl sundog`. Ctrl-C during the imports shows no traceback."""

import signal


def main() -> None:
    """Import the command and run it."""
    # The command cannot catch an interrupt yet. The default action ends the process with the exit code that shells expect.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from sundog_operator.shell import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)
    cli.main()
