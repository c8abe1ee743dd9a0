"""MLflow's server, with all that it starts, for as long as whoever has asked for it lives, however that one ends.

    python -P -m orchestrator.tracking.serve ARGUMENTS        in a process group of its own, with a pipe as its input

Python and the server that MLflow starts look for modules in the current folder, which may be a stranger's run: so that
is the root folder here, and no process takes it for a place of modules.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Be the process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    command = [sys.executable, "-P", "-m", "mlflow", "server", *sys.argv[1:]]
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    sys.exit(subprocess.run(command, stdin=subprocess.DEVNULL, cwd="/", env=environment, check=False).returncode)


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing is ever written: it returns when nobody holds the other end any more
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
