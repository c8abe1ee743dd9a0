"""`ratchet`, which `python -m orchestrator` is too.

Until all is imported that commands need, Ctrl-C ends the process as it ends any other: nothing has begun, and a
traceback of an import tells nobody anything.
"""

import signal


def main() -> None:
    """The entry point."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else it is ignored, by whoever started us
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from orchestrator.cli import main as ratchet

    if ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    ratchet()


if __name__ == "__main__":
    main()
