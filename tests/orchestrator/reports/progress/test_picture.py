"""The picture of a run, at three widths: no line is longer, nothing is lost that matters, text is text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len

from orchestrator.reports.progress.model import Phase, Progress, RoundLine, Sample
from orchestrator.reports.progress.picture import Size, picture
from orchestrator.text.terminal import Lasting, Screen
from tests.orchestrator.reports.progress.test_lines import NOW, SAMPLES, VERDICTS
from tests.support.strangers_text import EVIL, require_text

ROUNDS = (
    RoundLine(number=0, kept=True, gate=0.528, test=0.497),
    RoundLine(number=1, promoted=True, gate=0.61, test=0.611, before=0.497, pairs=992, won=44, lost=11, seconds=95),
)
DONE = Phase(what="rounds/02/prompts", state="kept", text="300 prompts")
START = Phase(what="start/engines", detail="vLLM loads checkpoint", total=2, done=1, unit="engines", seconds=4)
SAMPLE = Sample(prompt_id="p", text="Step 1: 3 + 4 = 7\nFinal answer: 7", verdict="correct", extracted="7")
FULL = NOW.model_copy(update={"finished": ROUNDS, "phases": (DONE, SAMPLES, VERDICTS, START), "sample": SAMPLE})


def drawn(progress: Progress, width: int = 80, height: int = 30, **options: Any) -> list[str]:
    out = io.StringIO()
    screen = Screen(file=Lasting(out), width=width, height=height, force_terminal=True, **options)
    screen.print(picture(progress, Size(width, height)))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_all_that_matters_fits(width: int) -> None:
    lines = drawn(FULL, width, no_color=True, color_system=None)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    require_text(text)
    for said in (
        "round 2 of 3",
        "about 1:02:05 left",
        "1,280/2,400",
        "49.7 → 61.1 %",
        "promoted",
        "1/2",
        "Final answer: 7",
    ):
        assert said in text, text
    assert [line[0] for line in lines] == ["=", "✓", "i", "=", "▸", "▸", "▸", " "]
    assert ("44 won, 11 lost" in text and "8,304 tok/s" in text) or width == 60


def test_what_the_ledger_had_has_no_speed_and_no_time() -> None:
    kept = SAMPLES.model_copy(update={"state": "kept", "text": "2400", "rate": None, "seconds": None})
    [line] = [
        line for line in drawn(NOW.model_copy(update={"phases": (kept,)}), color_system=None) if "samples" in line
    ]
    assert line.split() == ["=", "samples", "2400"]


def test_a_low_terminal_shows_the_newest() -> None:
    phases = tuple(Phase(what=f"rounds/02/search/{n:02d}/samples", state="done", seconds=1) for n in range(40))
    many = tuple(RoundLine(number=n, promoted=True, test=0.5) for n in range(30))
    progress = NOW.model_copy(update={"phases": (*phases, SAMPLES), "finished": many, "sample": SAMPLE})
    for height in (10, 24):
        lines = drawn(progress, 80, height, color_system=None)
        assert len(lines) <= height and "1,280/2,400" in "\n".join(lines) and "earlier" in "\n".join(lines)


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted", "stopped"])
def test_how_it_has_ended_stands_on_top(state: Any) -> None:
    over = FULL.model_copy(update={"state": state, "reason": "no disk", "phases": (), "sample": None})
    assert any(f"irpo  {state} after 1:03: no disk" in line for line in drawn(over, color_system=None))


def test_whatever_it_holds_is_text() -> None:
    phase = Phase(what=f"rounds/02/{EVIL}", detail=EVIL, unit=EVIL, rate=1, rate_unit=EVIL, text=EVIL, newest=EVIL)
    phases = [phase, phase.model_copy(update={"total": 3.0, "done": 1.0}), phase.model_copy(update={"state": "done"})]
    sample = Sample(prompt_id=EVIL, text=EVIL, verdict=EVIL, extracted=EVIL)
    for state in ("running", "failed"):
        strange = {"name": EVIL, "reason": EVIL, "phases": tuple(phases), "sample": sample, "state": state}
        told = "\n".join(drawn(FULL.model_copy(update=strange), color_system=None))
        require_text(told)
        assert ("x1b]52" in told and "[red]" in told) or "\\x1b" in told


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not [line for line in drawn(FULL, color_system="256") if "\x1b[3" in line or "\x1b[38" in line]
    monkeypatch.delenv("NO_COLOR")
    assert [line for line in drawn(FULL, color_system="256") if "\x1b[3" in line]


@pytest.mark.parametrize("width", [60, 120])
def test_a_round_that_is_over_has_the_gates_word_its_health_and_its_warnings(width: int) -> None:
    said = "promoted: 44 problems newly solved, 11 lost, of 400; +8.2 points (95 % interval [4.6, 11.8])"
    told = {"decision": said, "health": {"pass_1": 0.508, "pass_n": 0.827}, "warnings": ("length creeps up " + EVIL,)}
    over = ROUNDS[1].model_copy(update=told)
    now = FULL.model_copy(update={"finished": (over,), "warnings": ("pairs run dry",)})
    lines = drawn(now, width, no_color=True, color_system=None)
    assert max(map(cell_len, lines)) <= width
    require_text("\n".join(lines))
    assert "won" not in lines[0] and "61.1 %" in lines[0]
    assert lines[1].startswith("  gate          promoted: 44 problems newly solved, 11 lost")
    assert ("+8.2 points" in lines[1]) is (width == 120)
    assert lines[2] == "  health        pass@1 50.8 %, pass@N 82.7 %"
    assert lines[3].startswith("! round 1: length creeps up") and lines[4] == "! round 2: pairs run dry"
