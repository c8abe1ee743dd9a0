"""`ratchet archive`: a run is archived by hand, and its archive looked at and mended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.archive.archiver import require_apart
from orchestrator.archive.opening import open_store
from orchestrator.archive.sender import Sender, Sent
from orchestrator.config.addresses import secret_in, without_password
from orchestrator.config.archive import archive_address, filled_address
from orchestrator.driver.resume import needing_trust
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files import user_state
from orchestrator.ledger.ledger import State
from orchestrator.reports.living import gone
from orchestrator.reports.status import open_run
from orchestrator.text.counts import many


@dataclass(frozen=True)
class Archived:
    """What is at the address now, all of it looked at."""

    address: str
    records: int
    sent: Sent

    def line(self) -> str:
        """The same for people."""
        were = "was" if self.sent.there == 1 else "were"
        files = (
            f"{many(self.sent.there, 'file')} {were} there, {self.sent.files} sent ({many(self.sent.bytes, 'byte')})"
        )
        return f"archive   {self.address}: {many(self.records, 'record')}, {files}"


def archive(run_dir: Path, address: str | None) -> Archived:
    """Have all of a run at an address, by default its own; each file and record that is there is looked at.

    Raises:
        BadInput: it has no address, one that is the run's word alone, or one that is none.
        RatchetError: something could not be sent, or is not this run's.
    """
    state = open_run(run_dir).state
    if not state.configs:
        raise BadInput(f"{run_dir}: this run was never started, so that there is nothing to archive")
    job = state.configs[-1]["job"]
    filled = filled_address(_given(run_dir, state, address), str(job["name"]), int(job["seed"]))
    require_apart(filled, run_dir)
    open_store(filled)  # says what is not installed
    own = job.get("archive") and filled_address(job["archive"], str(job["name"]), int(job["seed"]))
    sender = Sender(run_dir, filled, keep=own in (None, filled))
    if not sender.flush(whole=True):
        if (moved := gone(run_dir)) is not None:
            raise moved
        raise RatchetError(f"{run_dir}: {sender.problem}. The same command goes on from here")
    return Archived(without_password(filled), sender.records, sender.sent)


def _given(run_dir: Path, state: State, address: str | None) -> str:
    if address is None:
        own = state.configs[-1]["job"].get("archive")
        if own is None:
            raise BadInput(f"{run_dir}: its job names no archive: give the address (ratchet archive {run_dir} URL)")
        asked = [item.digest for item in needing_trust(run_dir, state) if item.key == "archive"]
        if not user_state.is_approved(asked):
            raise BadInput(
                f"{run_dir}: its archive {without_password(own)!r} is the run's word, and nobody has approved it here: "
                "if it is where you want the run copied to, give the address with the command"
            )
        return str(own)
    if found := secret_in(address):
        raise BadInput(f"{without_password(address)}: this address holds {found}: set it in the environment")
    try:
        return archive_address(address)
    except ValueError as error:
        raise BadInput(f"archive: {error} (it is {without_password(address)!r})") from error
