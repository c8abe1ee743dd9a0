"""Reading the committed tables of a run."""

from __future__ import annotations

from pathlib import Path

from orchestrator.reports.tables import those_there


def test_many_missing_files_are_waited_for_as_long_as_one(tmp_path: Path) -> None:
    """A file that is committed may get its name in a moment; a stranger's run may lack all of them."""

    def waits(missing: int) -> int:
        waited = list[float]()
        assert list(those_there([*(tmp_path / f"{n}.parquet" for n in range(missing)), here], waited.append)) == [here]
        return len(waited)

    (here := tmp_path / "here.parquet").touch()
    assert waits(50) == waits(1) > 0


def test_a_file_that_gets_its_name_meanwhile_is_there(tmp_path: Path) -> None:
    late = tmp_path / "late.parquet"
    assert list(those_there([late], lambda _: late.touch())) == [late]
