"""Drivers that are killed, or told to end, before each of their operations on the run folder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator.ledger.ledger import Ledger
from tests.faults.children import Fault, Undisturbed, note
from tests.faults.jobs import SAMPLE
from tests.faults.sweeps import STRIDE, of_sources, require_stopped, spread, state_of, sweep

KILLED = {
    SAMPLE: (STRIDE, 1),
    "steps": (263, 1),
    "steps, judge": (349, 7),  # each run of it takes seconds
    "steps, process": (251, 3),
    "steps, people": (269, 2),
    "dataset": (83, 1),
    "judge": (199, 1),
    "gold": (71, 1),
    "hints": (127, 1),
    "waves": (149, 1),
    "rewards": (151, 1),
    "curriculum": (131, 1),
}
MORE = {
    SAMPLE: (STRIDE, 1),
    "steps": (199, 2),
    "steps, judge": (None, 11),
    "steps, process": (None, 11),
    "dataset": (61, 1),
    "judge": (None, 3),
    "gold": (None, 3),
    "hints": (None, 3),
    "waves": (None, 3),
    "rewards": (None, 3),
    "curriculum": (None, 3),
}


@of_sources(KILLED)
def test_killed_at_any_operation_a_run_ends_as_if_undisturbed(
    calm: Undisturbed, space: Path, source: str, stride: int
) -> None:
    def killed(point: int) -> int:
        case = calm.case(space / f"kill-{point}")
        code = case.drive(Fault("SIGKILL", point))
        assert code == -9 or (code == 0 and len(case.operations) < point), f"exit code {code}\n{case.output}"
        require_stopped(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        assert state_of(case.run) == "finished"
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    repeated = sweep(spread(calm.operations, stride, stride // 2 + 1), killed)
    note("kill", {"source": source, "points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})
    assert max(repeated) <= 4  # an evaluation is one piece for the ledger: two shards and their verdicts


@pytest.mark.parametrize("source", ["judge"])
@pytest.mark.parametrize("kept", ["baseline/model", "baseline/reference"])
def test_killed_before_a_model_that_is_kept_has_its_name(
    calm: Undisturbed, space: Path, source: str, kept: str
) -> None:
    """A driver looks for its models before it claims the run, and so before it gives what is committed its name."""
    case = calm.case(space / "case")
    assert case.drive(Fault("SIGKILL", calm.operations.index(f"os.rename {kept}") + 1)) == -9
    assert case.drive() == 0, case.output
    calm.require_same(case.run)


@of_sources(MORE)
def test_killed_again_during_the_resume(calm: Undisturbed, space: Path, source: str, stride: int) -> None:
    draw = random.Random(0)
    seconds = {point: draw.randint(1, len(calm.operations)) for point in range(5, len(calm.operations), 5 * stride)}

    def killed_twice(point: int) -> int:
        case = calm.case(space / f"twice-{point}")
        case.drive(Fault("SIGKILL", point))
        case.drive(Fault("SIGKILL", seconds[point]))
        require_stopped(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    repeated = sweep(seconds, killed_twice)
    note("kill twice", {"source": source, "points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})


@of_sources(MORE)
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_interrupted_at_any_operation_a_run_says_so(
    calm: Undisturbed, space: Path, source: str, signal: str, stride: int
) -> None:
    def interrupted(point: int) -> int:
        case = calm.case(space / f"{signal}-{point}")
        code = case.drive(Fault(signal, point))  # type: ignore[arg-type]
        assert code == 130 or (code == 0 and len(case.operations) < point), f"exit code {code}\n{case.output}"
        assert "Traceback" not in case.output, case.output
        require_said(case.run)
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    points = spread(calm.operations, 2 * stride, 3 if signal == "SIGTERM" else 10)
    repeated = sweep(points, interrupted)
    note(signal, {"source": source, "points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces})


def require_said(run: Path) -> None:
    """A ledger of more than a claim says that the driver was interrupted, unless it had finished before."""
    records = Ledger(run / "ledger").records if (run / "ledger").is_dir() else []
    ends = [record.data["state"] for record in records if record.kind == "end"]
    # A signal may come while the word is written that it has finished.
    assert ends in ([], ["interrupted"], ["finished"], ["finished", "interrupted"])
    # A signal between the claim and its noting leaves no more than that; the process that it names is gone.
    assert ends or len(records) <= 1, "no word of the interruption"


@of_sources({SAMPLE: MORE[SAMPLE]})
def test_a_second_signal_leaves_at_once_and_does_no_harm(
    calm: Undisturbed, space: Path, source: str, stride: int
) -> None:
    def interrupted_twice(point: int) -> int:
        case = calm.case(space / f"impatient-{point}")
        code = case.drive(Fault("SIGINT", point, times=2))
        assert code in (130, 0), f"exit code {code}\n{case.output}"
        assert case.drive() == 0, case.output
        calm.require_same(case.run)
        repeated = case.pieces - calm.pieces
        case.remove()
        return repeated

    repeated = sweep(spread(calm.operations, 3 * stride, 7), interrupted_twice)
    note(
        "SIGINT twice", {"source": source, "points": len(repeated), "repeated": sorted(repeated), "pieces": calm.pieces}
    )
