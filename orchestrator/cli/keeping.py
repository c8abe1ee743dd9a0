"""The commands that see to where runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import Group, RunArgument, interruptible
from orchestrator.config.places import run_named
from orchestrator.driver.resume import command
from orchestrator.errors import BadInput
from orchestrator.text import terminal
from orchestrator.text.terminal import echo

keeps = Group("Keep runs")


@keeps.command("ratchet gc runs/irpo --dry-run")
def gc(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed")] = False,
) -> None:
    """Remove what no promoted checkpoint of a run needs: see `keep` of its job, and what dead drivers left."""
    from orchestrator.commands.gc import clean, waste
    from orchestrator.driver.drive import identity

    run = run_named(run)
    with interruptible():
        found = waste(run) if dry_run else clean(run, identity())
    for item in found:
        echo(f"{item.size:>16,}  {item.path}  ({item.why})")
    echo(f"{sum(item.size for item in found):>16,}  bytes {'would be ' if dry_run else ''}removed from {run}")


@keeps.command("ratchet archive runs/irpo", "ratchet archive runs/irpo s3://BUCKET/irpo")
def archive(
    run: RunArgument,
    address: Annotated[str | None, typer.Argument(metavar="[URL]", help="Where to; by default the job's own")] = None,
) -> None:
    """Copy a run to an address (S3, another disk), or mend the copy: all that is there is looked at."""
    from orchestrator.commands.archive import archive as send

    with interruptible():
        made = send(run_named(run), address)
    echo(made.line())


@keeps.command(
    "ratchet export runs/irpo my-model",
    "ratchet export runs/irpo@round2 my-model",
    "ratchet export runs/irpo my-pairs --pairs",
    "ratchet export runs/irpo ORG/NAME --push",
)
def export(
    run: Annotated[str, typer.Argument(metavar="RUN[@roundN]", help="Run, and which round's; else its reference")],
    folder: Annotated[str, typer.Argument(metavar="DIR|REPO", help="New folder; with --push a repository, ORG/NAME")],
    pairs: Annotated[bool, typer.Option("--pairs", help="The pairs, as a data set, instead of a model")] = False,
    to_hub: Annotated[bool, typer.Option("--push", help="To the Hub of HF_ENDPOINT, with its token, private")] = False,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everybody to see")] = False,
) -> None:
    """Take a checkpoint away, verified and with a model card, or the pairs as a data set; to a folder, or a Hub."""
    from orchestrator.commands.export.command import export_model, export_pairs
    from orchestrator.commands.export.push import push

    if public and not to_hub:
        raise BadInput("--public: only what is pushed can be public: add --push, or leave it out")
    with interruptible():
        if to_hub:
            echo(push(run, folder, pairs, public).line())
        else:
            echo((export_pairs if pairs else export_model)(run, Path(folder)).line())


@keeps.command("ratchet fetch s3://BUCKET/irpo", "ratchet fetch /DISK/irpo runs/irpo")
def fetch(
    address: Annotated[str, typer.Argument(metavar="URL", help="Where the run is archived")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of the run; by default runs/NAME")
    ] = None,
) -> None:
    """Bring a run back from its archive; what is cut off goes on with the same command."""
    from orchestrator.commands.fetch import fetch as bring

    with interruptible():
        found = bring(address, folder, show=terminal.watched())
    for line in found.lines():
        echo(line)
    echo(f"go on     {command(found.root)}{'' if found.trusted else ' --trust, which shows what needs trust'}")


@keeps.command(
    "ratchet track runs/irpo",
    "ratchet track runs/irpo --to http://HOST:5000 --experiment copies",
    "ratchet track runs/irpo --to tensorboard",
)
def track(
    run: RunArgument,
    to: Annotated[
        str | None,
        typer.Option("--to", help="MLflow's address, or tensorboard, wandb, trackio; by default the run's own"),
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Name of the experiment; by default the run's own")] = None,
) -> None:
    """Send a run to MLflow, from its beginning: what it has is not sent again. Another store gets a new run."""
    from orchestrator.commands.track import track as send

    with interruptible():
        for line in send(run_named(run), to, experiment):
            echo(line)
