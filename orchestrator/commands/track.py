"""`ratchet track`: sends a run to MLflow and to further stores, whatever was sent of it before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from orchestrator.config import Tracking
from orchestrator.config.addresses import secret_in, without_password
from orchestrator.driver.resume import needing_trust
from orchestrator.driver.signals import signals
from orchestrator.errors import BadInput, Interrupted
from orchestrator.files import user_state
from orchestrator.files.inside import remove
from orchestrator.ledger.ledger import State
from orchestrator.reports.links import project_of
from orchestrator.reports.status import open_run, run_state
from orchestrator.reports.tracked import CURSOR_FILE
from orchestrator.text.counts import many
from orchestrator.text.terminal import echo
from orchestrator.tracking.feed import replay
from orchestrator.tracking.stores import NAMES, look_lines
from orchestrator.tracking.tracker import default_address, look_command, sync


def tell_track(run_dir: Path, to: str | None, experiment: str | None) -> None:
    """As `track`, and say how it went.

    Raises:
        BadInput, RatchetError: as `track`.
    """
    try:
        with signals():
            for line in track(run_dir, to, experiment):
                echo(line)
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here")
        raise typer.Exit(Interrupted.exit_code) from interrupted


def track(run_dir: Path, to: str | None, experiment: str | None) -> Iterator[str]:
    """Send all of a run, and say where it can be looked at. What is there already is not sent again. Without an address
    it is sent to all that the run names. `to` may be a store's name (`NAMES`), which is told all in a new run.

    Raises:
        BadInput: it has no records, is being driven, its address is the run's word alone, or no address to write, or a
            store's package is not installed.
        RatchetError: something could not be sent.
    """
    state = open_run(run_dir).state
    if not state.configs:
        raise BadInput(f"{run_dir}: this run was never started, so that there is nothing to send")
    if run_state(run_dir, state) == "running":
        raise BadInput(f"{run_dir}: somebody drives this run, and its driver sends what there is")
    said = Tracking.model_validate(state.configs[-1]["job"].get("tracking", {}))
    if to not in NAMES and (to is not None or said.enabled or not said.sinks):
        yield from _to_mlflow(run_dir, state, said, to, experiment)
    names: Sequence[str] = said.sinks if to is None else [name for name in NAMES if name == to]
    for name in names:
        if to is None:
            _require_approved(run_dir, state, name)
        yield f"tracked   {many(replay(run_dir, name, anew=to is not None), 'record')}, in {NAMES[name]}"
        yield from (f"also      {line}" for line in look_lines([name], run_dir, project_of(said, run_dir)))


def _to_mlflow(run_dir: Path, state: State, said: Tracking, to: str | None, experiment: str | None) -> Iterator[str]:
    uri = _given(run_dir, state, said, to)
    settings = Tracking(uri=uri, experiment=experiment or (said.experiment if to is None else None))
    with contextlib.suppress(FileNotFoundError):
        remove(run_dir, run_dir / CURSOR_FILE)
    records = sync(run_dir, settings)
    address = uri or default_address(run_dir.absolute().parent)
    yield f"tracked   {many(records, 'record')}, in MLflow at {without_password(address)}"
    yield f"dashboard {look_command(address, run_dir.absolute())}"


def _require_approved(run_dir: Path, state: State, name: str) -> None:
    items = [item for item in needing_trust(run_dir, state) if item.key == "tracking.sinks" and item.value == name]
    if not user_state.is_approved([item.digest for item in items]):
        raise BadInput(
            f"{run_dir}: {name} of its tracking.sinks is the run's word, and nobody has approved it here: if you want "
            f"it sent there, say so with --to {name}"
        )


def _given(run_dir: Path, state: State, said: Tracking, to: str | None) -> str | None:
    """The address to send to; None is the database beside the run."""
    if to is not None:
        if found := secret_in(to):
            raise BadInput(f"--to {without_password(to)}: this address holds {found}: set it in the environment")
        return to
    if said.uri is None:
        return None
    asked = [item.digest for item in needing_trust(run_dir, state) if item.key == "tracking.uri"]
    if not user_state.is_approved(asked):
        raise BadInput(
            f"{run_dir}: its tracking.uri {without_password(said.uri)!r} is the run's word, and nobody has approved it "
            "here: if it is where you want it sent to, give the address with --to"
        )
    return said.uri
