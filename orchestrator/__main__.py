"""`python -m orchestrator` is `ratchet`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
