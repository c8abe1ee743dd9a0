"""Secrets that the job names: their values go from the driver's environment to engines and ranks, and stand nowhere.

The job may be a stranger's, and names what it likes: what it gets is on a list in the driver's environment. Ray writes
what a worker's environment shall be (its runtime environment) into its logs, and shows it; arguments of actors are
neither written nor shown, so that secrets go as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.errors import BadInput

ALLOWED = "RATCHET_SECRETS"
"""Of the driver's environment: the names, with commas between, that jobs may ask for."""


class Secrets(dict[str, str]):
    """Values by name, which show themselves to nobody."""

    def __repr__(self) -> str:
        return f"<{len(self)} secrets>"

    __str__ = __repr__


def secrets_of(asked: Sequence[str], environment: Mapping[str, str]) -> Secrets:
    """The values of the names that a job asks for.

    Raises:
        BadInput: one is not allowed here, or has no value.
    """
    allowed = {name.strip() for name in environment.get(ALLOWED, "").split(",")}
    for name in asked:
        if name not in allowed:
            raise BadInput(
                f"cluster.secrets: {name} is not among those that jobs may have here. If this job's workers shall "
                f"have it, give {ALLOWED}={','.join(sorted({*allowed, name} - {''}))} in the driver's environment."
            )
        if not environment.get(name):
            raise BadInput(f"cluster.secrets: {name} is not set in the driver's environment; set it, or leave it out.")
    return Secrets({name: environment[name] for name in asked})
