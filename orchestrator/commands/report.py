"""`ratchet report`: the page of a run, made anew from its ledger and files."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import BadInput
from orchestrator.files import durable, unfinished
from orchestrator.files.named import named_path, real
from orchestrator.files.rights import reason
from orchestrator.models.files import enclosing_run
from orchestrator.reports.living import settled
from orchestrator.reports.page.page import NAME, document, page
from orchestrator.sources.registry import SOURCES
from orchestrator.text.terminal import echo


def write(run: Path, output: Path | None) -> None:
    """Write the page of a run, to `output` or into the run's folder, and say where it is and what it leaves out.

    Raises:
        BadInput: there is no run in this folder, or the file cannot be written.
        Damaged: a ledger record cannot be read.
    """
    file = run / NAME if output is None else place_of(output, "-o", run)
    told = settled(run, lambda ledger: document(run, SOURCES, ledger))
    try:
        # In the run's folder, `gc` knows what a killed command leaves; elsewhere, the next one of the same name does.
        (durable if output is None else unfinished).replace(file, page(told))
    except OSError as error:
        cure = "Give another place with -o FILE.html." if output is None else "Give a file that can be."
        raise BadInput(f"{file}: cannot be written: {reason(error)}. {cure}") from error
    answers = told["answers"]
    echo(f"report    {file}: {answers['shown']:,} of {answers['all']:,} samples and answers")
    for what in told["left_out"]:
        echo(f"left out  {what}")


def place_of(output: Path, option: str, own: Path | None = None) -> Path:
    """Where a page is to go that an option names; what is another kind of file by its name is not written over, and
    neither is a run's page, but for that of the run `own`.

    Raises:
        BadInput: it is no place for a page.
    """
    file = named_path(output, option)
    if file.suffix != ".html":
        raise BadInput(f"{option} {output}: the name must end in .html")
    place = real(file)
    if os.path.lexists(file) and not place.is_file():  # a link in a circle, too
        raise BadInput(f"{option} {output}: is no regular file. Give the name of one, such as run.html.")
    if not place.parent.is_dir():
        raise BadInput(f"{option} {output}: there is no folder {place.parent}")
    if (run := enclosing_run(place)) is not None and (own is None or place != real(own) / NAME):
        raise BadInput(
            f"{option} {output}: lies in the run {run}, among files that it counts. Choose a place outside of it; "
            f"its own page, {run / NAME}, is made by `ratchet report {run}`."
        )
    return place
