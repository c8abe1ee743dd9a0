"""`ratchet verify`: a sound run is called sound wherever it is, and each kind of damage is named."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import Verification, verify
from orchestrator.errors import Damaged
from orchestrator.files.durable import sha256
from orchestrator.files.lack import Lack
from orchestrator.ledger.ledger import Ledger
from orchestrator.records.rows import GRADERS_VERSION
from tests.orchestrator.rounds.test_selection import RETRAIN
from tests.orchestrator.test_cli import ratchet
from tests.support.stand_ins import StandIns, make_project, run_job

PAIRS, SAMPLES, VERDICTS = (f"rounds/01/{name}/00000.parquet" for name in ("pairs", "samples", "verdicts"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_job(make_project(tmp_path, pairs={"per_prompt": 2, "replay": 0.5}), StandIns())
    return tmp_path / "run"


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_a_moved_copy_is_sound_and_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere/copy"
    shutil.copytree(run, elsewhere)
    shutil.rmtree(run)
    before = files_of(elsewhere)
    for path in [elsewhere, *elsewhere.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    report = verify(elsewhere)
    for path in [elsewhere, *elsewhere.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert (report.findings, report.followed, report.strays) == ([], [1, 2], 0)
    assert files_of(elsewhere) == before
    on_disk = [p for folder in ("rounds", "baseline") for p in (elsewhere / folder).rglob("*") if p.is_file()]
    assert report.files == len(on_disk) and report.bytes == sum(p.stat().st_size for p in on_disk)


def test_a_run_that_selected_and_retrained_is_sound(tmp_path: Path) -> None:
    workers = StandIns(gain=0.1, steps=7, peak=4)
    run_job(make_project(tmp_path, skill=0.3, **RETRAIN), workers)
    report = verify(tmp_path / "run")
    assert (report.findings, report.followed, report.discarded) == ([], [1, 2], 2)


def test_every_bad_file_is_named_not_only_the_first(run: Path) -> None:
    checkpoint = run / "rounds/02/checkpoint/model.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-2] ^= 1
    checkpoint.write_bytes(content)
    (run / VERDICTS).unlink()
    (run / PAIRS).write_bytes(b"short")
    shutil.rmtree(run / "baseline/evaluation")
    found = verify(run).findings
    assert sorted(line.partition(": ")[0] for line in found) == [
        "baseline/evaluation/gate.parquet",
        "baseline/evaluation/test.parquet",
        PAIRS,
        VERDICTS,
        "rounds/02/checkpoint/model.safetensors",
    ]
    assert f"{VERDICTS}: missing" in found
    assert any(line.startswith(f"{PAIRS}: 5 bytes, and ") for line in found)
    assert "rounds/02/checkpoint/model.safetensors: other bytes than were committed (sha256 differs)" in found


def record(run: Path, kind: str, **wanted: Any) -> Path:
    """The file of the first record of a kind whose data has these values."""
    for path in sorted((run / "ledger").glob("*.json")):
        document = json.loads(path.read_bytes())
        if document["kind"] == kind and wanted.items() <= document["data"].items():
            return path
    raise LookupError(kind)


def unchecked(path: Path) -> dict[str, Any]:
    """A record without its check, so that it can be changed without anybody noticing that it was."""
    document: dict[str, Any] = json.loads(path.read_bytes())
    del document["check"]
    return document


def test_every_bad_record_is_named(run: Path) -> None:
    promotion, pairs = record(run, "promotion", round=2), record(run, "commit", step="rounds/01/pairs")
    train = record(run, "commit", step="rounds/02/train")
    promotion.write_bytes(b'{"half')
    pairs.unlink()
    document = unchecked(train)
    train.write_text(json.dumps(document | {"data": {"step": "rounds/02/train"}}))
    found = verify(run).findings
    assert f"ledger/{pairs.name}: missing" in found
    assert any(line.startswith(f"ledger/{promotion.name}: this ledger record is damaged") for line in found)
    assert any(line.startswith(f"ledger/{train.name}: ") and "`data.artifacts` is missing" in line for line in found)
    assert "rounds/01/checkpoint: comes from rounds/01/pairs, which is not committed" in found


def test_a_promotion_without_its_checkpoint_is_named(run: Path) -> None:
    path = record(run, "promotion", round=2)
    document = unchecked(path)
    document["data"]["reference"] = "rounds/07/checkpoint"
    path.write_text(json.dumps(document))
    where = f"promotions: round 2 (ledger/{path.name}): "
    assert verify(run).findings == [
        f"{where}its reference rounds/07/checkpoint is not committed",
        f"{where}reference is 'rounds/07/checkpoint', and the files say 'rounds/02/checkpoint'",
        "CURRENT: names rounds/02/checkpoint, and the last promotion rounds/07/checkpoint",
    ]


def test_a_record_of_a_displaced_driver_is_named(run: Path) -> None:
    run_job(run.parent / "tiny.yaml", StandIns(), "rounds=3", "pairs.replay=0.5")
    path = record(run, "commit", step="rounds/03/train")
    document = unchecked(path)
    path.write_text(json.dumps(document | {"epoch": 1}))
    assert verify(run).findings == [f"ledger/{path.name}: of epoch 1, after epoch 2 has begun"]


def forge(run: Path, name: str, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change a committed table, and its hash in the ledger with it: as if a worker had made it so."""
    file = run / name
    schema, rows = pq.read_schema(file), pq.read_table(file).to_pylist()
    change(rows)
    before = sha256(file)
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    [path] = [path for path in (run / "ledger").glob("*.json") if before in path.read_text()]
    document = unchecked(path)
    artifacts = document["data"].get("artifacts") or [document["data"]["artifact"]]
    [said] = [said for a in artifacts for said in a["files"].values() if said["sha256"] == before]
    said |= {"sha256": sha256(file), "size": file.stat().st_size}
    path.write_text(json.dumps(document))


def cut_behind(run: Path, step: str) -> str:
    """A run as it would be, had its driver died when this step was committed."""
    records = Ledger(run / "ledger").records
    last = next(record.number for record in records if record.data.get("step") == step)
    for record in records[last + 1 :]:
        (run / f"ledger/{record.number:08d}.json").unlink()
        for artifact in record.data.get("artifacts", []):
            shutil.rmtree(run / artifact["path"])
    (run / "ledger.cache").unlink(missing_ok=True)
    return step


def swap_sides(rows: list[dict[str, Any]]) -> None:
    for key in ("", "_sample", "_token_ids"):
        rows[0][f"chosen{key}"], rows[0][f"rejected{key}"] = rows[0][f"rejected{key}"], rows[0][f"chosen{key}"]


FORGERIES: list[tuple[str, Callable[[list[dict[str, Any]]], object], str]] = [
    (PAIRS, swap_sides, "was judged wrong, not correct"),
    (PAIRS, lambda rows: rows[0]["rejected_token_ids"].append(7), "its rejected side has other token ids than sample"),
    (PAIRS, lambda rows: rows[0]["prompt_token_ids"].append(7), "its prompt has other token ids than"),
    (PAIRS, lambda rows: rows[0].update(chosen_sample=99), "its chosen sample 99 is not among the committed samples"),
    (PAIRS, lambda rows: rows[0].update(rejected_sample=None), "its rejected sample None is not among the committed"),
    (PAIRS, lambda rows: rows[0].update(chosen_sample=None), "has other token ids than the gold solution"),
    (PAIRS, lambda rows: rows[0].update(prompt_id="nobody"), "its prompt 'nobody' is not among the committed prompts"),
    (SAMPLES, lambda rows: rows.append(rows[0]), "a (prompt_id, sample_index) stands there more than once"),
    (SAMPLES, lambda rows: rows[0].update(prompt_id="nobody"), "samples of 'nobody', which is not among"),
    (VERDICTS, lambda rows: rows.pop(), "not one verdict for each sample"),
    ("rounds/02/replay/00000.parquet", swap_sides, "is no pair of rounds/01"),
]


@pytest.mark.parametrize(("name", "change", "said"), FORGERIES, ids=[said[:40] for _, _, said in FORGERIES])
def test_files_that_do_not_belong_together_are_named(
    run: Path, name: str, change: Callable[[list[dict[str, Any]]], object], said: str
) -> None:
    forge(run, name, change)
    found = verify(run).findings
    assert any(said in line and line.startswith(name.rpartition("/")[0]) for line in found), found


def test_a_prompt_in_two_shards_is_named(run: Path) -> None:
    [first] = [pq.read_table(run / SAMPLES).to_pylist()[0]]
    forge(run, SAMPLES.replace("00000", "00001"), lambda rows: rows.append(first))
    assert any("which has some in shard 0 already" in line for line in verify(run).findings)


def test_many_findings_of_one_kind_are_counted(run: Path) -> None:
    forge(run, PAIRS, lambda rows: [row["chosen_token_ids"].append(7) for row in rows])
    num_pairs = pq.read_metadata(run / PAIRS).num_rows
    own = [line for line in verify(run).findings if line.startswith("rounds/01")]
    assert len(own) <= 21 and (num_pairs <= 20 or f"{num_pairs - 20} more findings like these" in own[-1])


def test_strays_are_counted_and_forgiven(run: Path) -> None:
    (run / "rounds/01/.pairs-e1").mkdir()
    (run / "rounds/01/.pairs-e1/00000.parquet").write_text("half")
    (run / "rounds/03").mkdir()
    (run / "rounds/03/notes.txt").write_text("mine")
    (run / "ledger/.00000099.json.0123").write_text("{half")
    report = verify(run)
    assert (report.findings, report.strays) == ([], 3)


def test_what_was_put_into_a_committed_folder_is_named(run: Path) -> None:
    """Whatever loads a checkpoint takes all the weights that lie in it."""
    folder = "rounds/01/checkpoint"
    (run / folder / "zz.safetensors").write_bytes(bytes(8))
    os.mkfifo(run / folder / "zzz.safetensors")
    (run / folder / "model.safetensors.0123abcd-e0").write_bytes(b"what a worker left that was given up")
    added = "stands in it and was not committed with it"
    assert verify(run).findings == [f"{folder}: {name}.safetensors {added}" for name in ("zz", "zzz")]
    for name in ("zz", "zzz"):
        (run / folder / f"{name}.safetensors").unlink()
    path = record(run, "commit", step="rounds/01/train")
    document = unchecked(path)
    [checkpoint] = [one for one in document["data"]["artifacts"] if one["path"] == folder]
    name = next(iter(checkpoint["files"]))
    del checkpoint["files"][name]
    path.write_text(json.dumps(document))
    assert f"{folder}: {name} {added}" in verify(run).findings, "nor may a record forget one"


def test_a_step_with_verdicts_of_two_versions_is_named(run: Path) -> None:
    path = record(run, "shard", step="rounds/01/verdicts", index=1)
    document = unchecked(path)
    document["data"]["facts"]["graders_version"] += 1
    path.write_text(json.dumps(document))
    [found] = [line for line in verify(run).findings if "of the graders" in line]
    by = f"by version {GRADERS_VERSION + 1} of the graders"
    assert found.startswith(f"ledger/{path.name}: commits shard 1 of rounds/01/verdicts {by}")


def test_what_a_crash_left_at_its_hidden_name_is_found_there(run: Path) -> None:
    path = record(run, "commit", step="rounds/02/evaluation")
    [artifact] = json.loads(path.read_bytes())["data"]["artifacts"]
    (run / artifact["path"]).rename(run / artifact["hidden"])
    assert verify(run).findings == []


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratchet("verify", run) == 0
    assert "2 promoted checkpoints followed to their prompts; 0 discarded; 0 strays; 0 findings" in (
        capsys.readouterr().out
    )
    (run / PAIRS).unlink()
    assert ratchet("verify", run) == 1
    assert capsys.readouterr().out.splitlines()[0] == f"{PAIRS}: missing"
    assert ratchet("verify", run, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == [f"{PAIRS}: missing"] and not found["sound"]
    assert ratchet("verify", tmp_path) == 2
    assert "not a run" in capsys.readouterr().err


FEW_FILES = """
import resource, sys
from pathlib import Path
from orchestrator.commands.verify.command import verify
from orchestrator.errors import RatchetError

verify(Path(sys.argv[1]))  # has everything imported
for limit in range(12, 2, -1):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        print("findings", verify(Path(sys.argv[1])).findings)
    except (RatchetError, OSError) as error:  # the command line says both in one message
        print(error)
"""


def test_a_sound_run_is_not_called_damaged_where_no_more_files_may_be_opened(run: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FEW_FILES, str(run)], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    lacking = [line for line in said if "too many open files" in line.lower()]
    assert len(said) == 10 and lacking
    assert {line for line in said if line not in lacking} == {"findings []"}
    assert not [line for line in lacking if line.startswith("findings")]


class Starving(Verification):
    """Has no memory left by the time it looks into a file."""

    def _problem(self, artifact: Any, name: str) -> Iterator[str]:
        try:
            raise pa.ArrowMemoryError("malloc of size 2752 failed")
        except pa.ArrowException as error:
            raise Damaged(f"{name}: committed, but it is no Parquet file that can be read") from error
        yield


def test_a_sound_run_is_not_called_damaged_for_want_of_memory(run: Path) -> None:
    with pytest.raises(Lack, match="too little memory"):
        Starving(run).report()


AWAY = """
import errno, os, sys
from pathlib import Path
from orchestrator.commands.verify.command import verify
from orchestrator.errors import RatchetError

verify(Path(sys.argv[1]))  # has everything imported
run, number = sys.argv[1], getattr(errno, sys.argv[2])
count, at = 0, 0

def away(event, arguments):
    global count
    if event == "open" and str(arguments[0]).startswith(run):
        count += 1
        if count == at:
            raise OSError(number, os.strerror(number), str(arguments[0]))

sys.addaudithook(away)
for at in range(1, 100, 7):
    count = 0
    try:
        print("findings", verify(Path(run)).findings)
    except (RatchetError, OSError) as error:  # the command line says both in one message
        print("told", error)
"""


@pytest.mark.parametrize("name", ["ESTALE", "ETIMEDOUT", "ESHUTDOWN"])
def test_a_sound_run_is_not_called_damaged_where_its_file_system_goes_away(run: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-c", AWAY, str(run), name], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert {line for line in said if line.startswith("findings")} <= {"findings []"}
    assert [line for line in said if "does not answer, and nothing is said of the run" in line]


def test_a_file_that_is_closed_to_us_is_named(run: Path) -> None:
    def closed() -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "rounds/01/pairs/pairs.parquet")

    found = Verification(run).look(closed)
    assert found == ["cannot be checked (rounds/01/pairs/pairs.parquet: Permission denied)"]


def test_a_sound_run_is_not_called_damaged_for_its_long_path(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it was moved to, the paths of some of its files are longer than the system takes, and others are not."""
    codes, job = set(), tmp_path / "tiny.yaml"
    for size in (4000, 4058, 4060, 4062, 4085):
        deep = folder_of(tmp_path / "deep", size - 2)
        run.rename(deep / "r")
        codes.add(ratchet("verify", deep / "r"))
        assert "0 findings" in (said := "".join(capsys.readouterr())) or "path is so long" in said or "too long" in said
        (deep / "r").rename(run)
        assert ratchet("validate", job, f"run_dir={deep / 'new'}") == 2  # told before the work starts
        assert "Choose another `run_dir`" in capsys.readouterr().err
    assert codes == {0, 2}


def folder_of(top: Path, size: int) -> Path:
    """A new folder below `top` whose path has that many bytes."""
    while (left := size - len(str(top)) - 1) > 0:
        top /= "d" * (left if left <= 200 else min(200, left - 2))
    top.mkdir(parents=True, exist_ok=True)
    return top
