"""A source is two places: its settings in config/sources, everything else in sources, and a line in two registries.

Here is one that the product does not have. With nothing but these it is run, resumed, verified, reported, forked,
described, and its space is told.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.fork.command import fork
from orchestrator.commands.verify.command import verify
from orchestrator.config import Job
from orchestrator.config.base import Count, NonNegative
from orchestrator.config.idle import idle
from orchestrator.config.job_docs import job_docs
from orchestrator.config.load import load_job
from orchestrator.config.sources import KINDS, SourceSettings
from orchestrator.config.sources.base import PROBLEMS, SAMPLING, single_samples
from orchestrator.driver.drive import drive
from orchestrator.driver.preview import request
from orchestrator.driver.resume import resumed
from orchestrator.driver.signals import signals
from orchestrator.driver.trust import OUTSIDE, Item, needs_trust
from orchestrator.errors import BadInput
from orchestrator.ledger.ledger import Commit, Ledger, State
from orchestrator.ledger.run import Facts
from orchestrator.records.rows import SELF_SCORES, Problem
from orchestrator.reports.columns import Column, Reported, Section, count
from orchestrator.reports.evidence import Evidence
from orchestrator.reports.lineage import Trail
from orchestrator.reports.report import report_text
from orchestrator.reports.sampled import SAMPLES
from orchestrator.reports.symptoms import Past
from orchestrator.rounds import pair_files, space
from orchestrator.rounds.context import Model
from orchestrator.rounds.recount import Counting, Recounted
from orchestrator.rounds.round import GradedSamples, Round
from orchestrator.rounds.space import DiskFull
from orchestrator.sources.lineage import SAMPLED, Sampled
from orchestrator.sources.registry import SOURCES
from orchestrator.sources.source import Prompts, Source
from tests.orchestrator.commands.test_verify import forge
from tests.support.stand_ins import StandIns, all_read, make_project

PROJECT = Path(__file__).parents[3]


class Brevity(SourceSettings):
    """Short samples against long ones; for `source: brevity`."""

    type: Literal["brevity"] = "brevity"

    section: ClassVar[str] = "brevity"
    what: ClassVar[str] = "its own samples, the short against the long"
    reads: ClassVar[frozenset[str]] = frozenset({*PROBLEMS, *SAMPLING, "pairs.rule", "pairs.margin"})

    weight: NonNegative = 1.0
    """What a token costs."""
    room: Count = 1
    """Bytes that a round takes besides."""
    notes: str = "notes"
    """A folder that it reads."""

    @property
    def scores(self) -> tuple[float, float]:
        return -1e9, 0.0

    def paths_in_run(self) -> Iterator[tuple[str, str]]:
        yield "brevity.notes", self.notes

    def contradictions(self, job: Job) -> Iterator[str]:
        if job.pairs.rule != "best_worst":
            yield "`source: brevity` gives scores: set `pairs.rule: best_worst`"
        yield from single_samples(job)


def _pairs(round_: Round, model: Model) -> Commit:
    graded = round_.samples_and_verdicts(round_.prompts(), model)
    settings, run = Brevity.of(round_.context.job), round_.context.run

    def work(folder: Path) -> Facts:
        folder.mkdir()
        for number, shard in enumerate(graded.shards):
            rows = pq.read_table(shard.samples, columns=["prompt_id", "sample_index", "num_tokens"]).to_pylist()
            scored = [row | {"score": -settings.weight * row.pop("num_tokens"), "judgements": 1} for row in rows]
            pq.write_table(pa.Table.from_pylist(scored, SELF_SCORES), folder / f"{number:05d}.parquet")
        return {"measured": _measured(folder)}

    commit = run.step(f"{round_.folder}/lengths", {"samples": graded.files, "weight": settings.weight}, work)
    files = [run.path(f"{commit.step}/{number:05d}.parquet") for number in range(len(graded.shards))]
    shards = [pair_files.Scored(shard.samples, file) for shard, file in zip(graded.shards, files, strict=True)]
    return round_.pairs(GradedSamples(graded.prompts, shards, graded.files))


def _measured(folder: Path) -> int:
    return sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet"))


def _follow(run_dir: Path, state: State, place: str) -> Iterator[str]:
    known = {row["prompt_id"] for row in pq.read_table(run_dir / place / "prompts").to_pylist()}
    for row in pq.read_table(run_dir / place / "pairs").to_pylist():
        if row["prompt_id"] not in known:
            yield f"{place}/pairs: pair {row['pair_id']!r} is of no prompt"
    yield from Sampled(run_dir, state, place).index()


def _recount(run: Counting, step: str, number: str) -> Facts:
    folder = step.rpartition("/")[0]
    shards = zip(run.files.scored(folder), run.files.all(f"{folder}/lengths"), strict=True)
    return run.chosen(step, int(number), [pair_files.Scored(shard.samples, lengths) for shard, lengths in shards])


def _rows(job: Job, number: int, problems: space.Sizes) -> tuple[int, int]:
    pairs, written = space.sampled(job, number, problems)
    return pairs, written + Brevity.of(job).room


def _all_measured(evidence: Evidence, past: Past) -> Iterator[str]:
    yield f"{evidence.round.count('lengths', 'measured')} samples were measured."


BREVITY = Source(
    pairs=_pairs,
    trail=Trail((*SAMPLED, "lengths"), _follow),
    recounted=Recounted(
        {
            r"rounds/\d+/lengths": lambda run, step: {"measured": _measured(run.files.all(step)[0].parent)},
            r"rounds/(\d+)/pairs": _recount,
        }
    ),
    disk=space.Disk(_rows),
    reported=Reported(
        [
            SAMPLES,
            Section(
                "Brevity",
                (Column("measured", lambda e: count(e, "lengths", "measured")),),
                about=lambda e: "lengths" in e.round.facts,
            ),
        ],
        settings=[("price of a token", "brevity.weight")],
        symptoms=[_all_measured],
    ),
    derived=lambda job, problems: iter([Prompts("brevity.notes", "brief", problems[:1], {"max_tokens": 3})]),
)
REGISTRY = SOURCES | {"brevity": BREVITY}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "brevity", Brevity)


def project(folder: Path, **changes: Any) -> Path:
    return make_project(
        folder, **{"source": {"type": "brevity", "weight": 2.0}, "pairs": {"rule": "best_worst"}} | changes
    )


def run_job(job: Path, workers: StandIns, *overrides: str) -> None:
    with signals() as received:
        drive(load_job(job, overrides), lambda _: None, received, lambda *_: workers, ask=all_read, sources=REGISTRY)


def test_a_source_is_run_resumed_and_verified(tmp_path: Path) -> None:
    run_job(project(tmp_path), workers := StandIns())
    assert workers.calls["train"] == 2
    pairs = pq.read_table(tmp_path / "run/rounds/02/pairs").to_pylist()
    assert pairs and all(len(pair["chosen"]) < len(pair["rejected"]) for pair in pairs)
    report = verify(tmp_path / "run", sources=REGISTRY)
    assert (report.findings, report.followed) == ([], [1, 2])
    run_job(project(tmp_path), again := StandIns(), "rounds=3")
    assert again.calls["train"] == 1 and resumed(tmp_path / "run").job.source == Brevity(weight=2.0)
    with pytest.raises(BadInput, match=r"brevity\.weight: 2\.0 in the run, 3\.0 now"):
        run_job(project(tmp_path), StandIns(), "source.weight=3")
    fork(tmp_path / "run", tmp_path / "child", ["brevity.weight=4"])
    assert resumed(tmp_path / "child").job.source == Brevity(weight=4.0)


def test_what_it_commits_is_followed_and_counted_again(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1), StandIns())
    forge(tmp_path / "run", "rounds/01/pairs/00000.parquet", lambda table: table[0].update(prompt_id="another"))
    found = verify(tmp_path / "run", sources=REGISTRY).findings
    assert any("is of no prompt" in line for line in found)
    forge(tmp_path / "run", "rounds/01/lengths/00000.parquet", lambda table: table.pop())
    assert any("measured" in line for line in verify(tmp_path / "run", sources=REGISTRY).findings)


def test_it_is_reported(tmp_path: Path) -> None:
    run_job(project(tmp_path, rounds=1), StandIns())
    text = (tmp_path / "run/report.md").read_text()
    assert text == report_text(tmp_path / "run", REGISTRY)
    assert "## Brevity\n\n| measured |\n|---:|\n| 32 |" in text and "| price of a token | 2.0 |" in text
    assert "Round 1: 32 samples were measured." in text


def test_its_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="round 1 needs up to"):
        run_job(project(tmp_path), StandIns(), f"brevity.room={2**60}")
    assert not Ledger(tmp_path / "run/ledger").state.commits.keys() - {"baseline/prompts", "baseline/evaluation"}


def test_its_settings_are_checked_and_described(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="source: brevity` gives scores"):
        load_job(project(tmp_path, pairs={"rule": "zip"}))
    with pytest.raises(BadInput, match=r"must be a number of at least 0 \(it is 'x'\)"):
        load_job(project(tmp_path), ["brevity.weight=x"])
    other = load_job(project(tmp_path, source="sample", brevity={"weight": 3.0}, pairs={"per_prompt": 2})).job
    assert idle(other) == ["`brevity`: read only with `source: brevity`"]
    text = job_docs()
    assert "## `brevity`" in text and "`brevity` (its own samples, the short against the long, see `brevity`)" in text


def test_what_it_reads_needs_trust_and_what_it_asks_is_looked_at(tmp_path: Path) -> None:
    file = load_job(project(tmp_path), ["brevity.notes=/"])
    assert needs_trust(file, tmp_path) == [Item("brevity.notes", "/", OUTSIDE)]
    assert needs_trust(load_job(file.path, ["brevity.notes=/", "source=sample", "pairs.rule=zip"]), tmp_path)
    assert needs_trust(load_job(file.path, ['brevity.notes="\\0"']), tmp_path) == []
    problems = [Problem(f"p{i}", f"{i}?", str(i), None) for i in range(3)]
    asked = request(file.job, "model", {"train": problems}, [], REGISTRY)["sets"]
    assert [(said["key"], said["name"], len(said["rows"]), said["plan"]["max_tokens"]) for said in asked] == [
        ("data.train", None, 3, 8),
        ("brevity.notes", "brief", 1, 3),
    ]


# Nobody else asks which source it is


def asks_for_a_source(tree: ast.AST, names: set[str]) -> Iterator[int]:
    """Lines that compare a source with a name, or choose by names of sources."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            said = {c.value for side in sides for c in ast.walk(side) if isinstance(c, ast.Constant)}
            if said & names and any("source" in ast.unparse(side) for side in sides):
                yield node.lineno
        if isinstance(node, ast.Match):
            cases = {c.value for case in node.cases for c in ast.walk(case.pattern) if isinstance(c, ast.Constant)}
            if cases & names:
                yield node.lineno
        if isinstance(node, ast.Dict):
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            if len(keys) > 1 and keys <= names:
                yield node.lineno
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            of, kind = map(ast.unparse, node.args)
            if of.endswith(".source") and kind != "SourceSettings":
                yield node.lineno


@pytest.mark.parametrize(
    "code",
    [
        "job.source.type == 'steps'",
        "if job.get('source') in ('sample', 'gold'): pass",
        "'judge' != self.job.source.type",
        "match kind:\n    case 'dataset': pass",
        "made = {'sample': 1, 'steps': 2}[name]",
        "isinstance(job.source, Steps)",
    ],
)
def test_who_asks_is_found(code: str) -> None:
    assert list(asks_for_a_source(ast.parse(code), {*KINDS}))


def test_no_other_module_asks_which_source_it_is() -> None:
    rooms = ("config/sources/", "sources/")
    files = {str(file.relative_to(PROJECT / "orchestrator")): file for file in PROJECT.glob("orchestrator/**/*.py")}
    others = [name for name in files if not name.startswith(rooms)]
    assert len(others) > 100
    asked = [f"{name}:{n}" for name in others for n in asks_for_a_source(ast.parse(files[name].read_text()), {*KINDS})]
    assert asked == []
