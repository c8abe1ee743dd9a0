"""`ratchet compare`, and what it prints."""

from __future__ import annotations

from pathlib import Path

from orchestrator.commands.compare.command import compare, in_a_process, require_trust
from orchestrator.commands.compare.comparison import figures
from orchestrator.commands.compare.file import load_plan
from orchestrator.commands.compare.table import NO_PLOT, plot, terminal_table, write
from orchestrator.driver.signals import signals
from orchestrator.driver.trust import Tell
from orchestrator.errors import Interrupted
from orchestrator.files.disk import one_message
from orchestrator.text.counts import many
from orchestrator.text.terminal import Screen, echo


def compare_told(file: Path, table: bool, tell: Tell | None) -> int:
    """Run a comparison, or go on with it; with `table` only make the table of what there is. Returns the exit code.

    Raises:
        BadInput, RatchetError: as `load_plan`, `require_trust` and `compare`.
    """
    plan, failed = load_plan(file), list[str]()
    if not table:
        require_trust(plan, tell)
    kept = "What the runs have done is kept: see to the disk, and the same command goes on from here."
    try:
        with signals(), one_message(plan.folder, kept):
            if table:
                plan.folder.mkdir(parents=True, exist_ok=True)
            else:
                echo(f"looking at the jobs of {many(len(plan.runs), 'run')}")
                failed = compare(plan, echo, in_a_process)
            arms = figures(plan)
            plotted = plot(plan, arms)
            write(plan, arms, plotted)
    except Interrupted as interrupted:
        echo(f"interrupted by {interrupted}; the same command goes on from here")
        return Interrupted.exit_code
    Screen().print(terminal_table(arms))
    echo(f"the table is {plan.folder / 'compare.md'}")
    if not plotted:
        echo(NO_PLOT)
    return 1 if failed else 0
