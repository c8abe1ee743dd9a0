"""Where an archive may be: what is an address, and apart from all runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.archive.archiver import address_of
from orchestrator.commands.archive import archive
from orchestrator.config.archive import archive_address, filled_address
from orchestrator.config.load import load_job
from orchestrator.errors import BadInput
from tests.support.sample_run import two_rounds
from tests.support.stand_ins import make_project


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("backup", "a path from the root on"),
        ("s3://", "names a place"),
        ("s3://bucket/a?versionId=3", "has no `[?]`"),
        ("s3://bucket/../a", "without `..`"),
        ("simplecache::s3://bucket/a", "must be an address"),
        ("https://host/a", "cannot be written to"),
        ("memory://a", "gone with the process"),
        ("s3://key:secret@bucket/a", "holds a password"),
        ("s3://bucket/a?secret=x", "holds a secret"),
        ("file://relative/a", "from the root on"),
        (" ", "must be an address"),
        ("zip:///x.zip", "inside of one file: name a folder, /DISK/{name}, or"),
        ("tar://x.tar", "inside of one file"),
        ("/DISK/{x}", "`{x}` is no placeholder of an archive's address: use `{name}` and `{seed}`, or"),
        ("s3://bucket/{name}/{", "`{` is no placeholder"),
    ],
)
def test_what_is_no_address_of_an_archive(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        load_job(make_project(tmp_path), [f"archive={json.dumps(address)}"])
    assert "secret@" not in str(refused.value)
    with pytest.raises(BadInput, match=said) as by_hand:
        archive(two_rounds(tmp_path / "run").root, address)
    assert "secret@" not in str(by_hand.value)
    assert "archive: " in str(by_hand.value) or "this address holds" in str(by_hand.value)


def test_an_address_is_filled_in(tmp_path: Path) -> None:
    assert (
        filled_address(archive_address("s3://bucket/my runs/{name}/{seed}//"), "tiny", 3)
        == "s3://bucket/my runs/tiny/3"
    )


@pytest.mark.parametrize("place", ["run/archive", "run", "."])
def test_an_archive_and_its_run_do_not_lie_in_one_another(tmp_path: Path, place: str) -> None:
    job = load_job(make_project(tmp_path), [f"archive={tmp_path / place}"]).job
    with pytest.raises(BadInput, match="lie in one another"):
        address_of(job, tmp_path / "run")


@pytest.mark.parametrize("place", ["rounds/01/archive", "ledger/archive", "{name}"])
def test_an_archive_lies_in_no_other_run(tmp_path: Path, place: str) -> None:
    run, other = two_rounds(tmp_path / "run").root, two_rounds(tmp_path / "other").root
    before = sorted(other.rglob("*"))
    with pytest.raises(BadInput, match=f"lies in the run {other}"):
        archive(run, f"{other}/{place}")
    job = load_job(make_project(tmp_path), [f"archive={other}/{place}"]).job
    with pytest.raises(BadInput, match=f"lies in the run {other}"):
        address_of(job, run)
    assert sorted(other.rglob("*")) == before
