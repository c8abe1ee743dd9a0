"""`ratchet doctor`: is this cluster fit for this job? One finding a check, each with a time limit.

The checks use the run's own workers (examination.Examination), so that what passes here runs there. A check that fails
does not keep the next from being tried.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import random
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.commands.doctor.addresses import examine_archive, examine_mlflow
from orchestrator.commands.doctor.diagnosis import (
    BESIDE_TORCH,
    PACKAGES,
    Check,
    Facts,
    Finding,
    diagnose_all_reduce,
    diagnose_fit,
    diagnose_machines,
    diagnose_memory_back,
    diagnose_model,
    diagnose_shared,
    diagnose_space,
    diagnose_versions,
    nodes_text,
    worst,
)
from orchestrator.commands.doctor.examiner import Examiner
from orchestrator.commands.doctor.patient import Patient
from orchestrator.commands.doctor.storage import examine_storage
from orchestrator.commands.doctor.trial import made_up_ids, made_up_pairs, model_config, pair_lengths, trial_plan
from orchestrator.config.addresses import without_password
from orchestrator.config.places import run_folder
from orchestrator.driver.kept import (
    base_model_of,
    read_all_preferences,
    read_all_problems,
    reference_of,
    reward_models_of,
)
from orchestrator.driver.nodes import Node
from orchestrator.driver.same_job import reading_of
from orchestrator.driver.start_checks import gold_lines, limits_of, previewed, tried_models
from orchestrator.errors import BadInput, RatchetError
from orchestrator.files import unfinished
from orchestrator.inputs.preferences import Preferences, mean_characters
from orchestrator.inputs.repeated import repeated_lines
from orchestrator.ledger.ledger import probe_links
from orchestrator.ledger.run import Run
from orchestrator.models.files import link_model
from orchestrator.models.named import NamedModel, on_hub
from orchestrator.records.limits import reading_seconds
from orchestrator.records.rows import PROMPTS, Problem, SamplingPlan, ScoringPlan, Shard
from orchestrator.rounds.space import gib, job_need, rejected_of_row, sizes
from orchestrator.sources.registry import SOURCES
from orchestrator.text.counts import many
from orchestrator.tracking.outbox import first_line

_LIMITS = {"prompts": 600.0, "trainer": 600.0, "engine": 900.0, "update": 900.0, "all-reduce": 300.0}
_LIMIT = 90.0  # seconds, of every other check
_READING = ("engine", "update")
_BACK_SECONDS = 30.0


def examine(patient: Patient, examiner: Examiner, tell: Callable[[Check], None], limit: float | None = None) -> bool:
    """Run the checks in order; `tell` gets each as it ends. Returns whether none failed.

    `limit` replaces the seconds that each check may take.
    """
    with _workspace(patient.runs) as workspace:
        return _Doctor(patient, examiner, tell, limit, workspace).run()


@contextlib.contextmanager
def _workspace(runs: Path) -> Iterator[Path | OSError]:
    """A folder for the checks' files beside the runs, removed in the end; the error where there can be none."""
    with contextlib.ExitStack() as stack:
        made: Path | OSError
        try:
            runs.mkdir(parents=True, exist_ok=True)
            made = stack.enter_context(_removed(runs, "doctor"))
        except OSError as error:
            made = error
        yield made


@contextlib.contextmanager
def _removed(parent: Path, label: str) -> Iterator[Path]:
    """A folder that is removed in the end; where a kill keeps that from being done, by the next examination."""
    unfinished.tidy(parent, label)
    folder = unfinished.hidden(parent, label)
    try:
        folder.mkdir()
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Doctor:
    """One examination: what a check learns, later ones use."""

    def __init__(
        self,
        patient: Patient,
        examiner: Examiner,
        tell: Callable[[Check], None],
        limit: float | None,
        workspace: Path | OSError,
    ) -> None:
        self.patient, self.examiner, self.job = patient, examiner, patient.job
        self._tell, self._limit, self._workspace = tell, limit, workspace
        self._nodes: list[Node] | None = None
        self._model: str | None = None
        self._reference: NamedModel | None = None
        self._problems: dict[str, tuple[int, float]] = {}
        self._rows: tuple[Mapping[str, Sequence[Problem]], Sequence[Preferences]] | None = None
        self._before: dict[str, Any] = {}
        self._sound = True

    def run(self) -> bool:
        has_job = self.patient.has_job
        self._check("cluster", self._connect, threaded=False)
        self._check("versions", self._versions)
        self._check("shared path", self._shared)
        if has_job:
            # A download takes as long as it takes.
            self._check("model and data", self._model_and_data, threaded=not self._downloads())
            self._check("prompts", self._with_model(self._prompts))
            self._check("trainer", self._with_model(self._trainer))
        self._check("disk", self._disk)
        self._on_cluster("machines", self._machines)
        if has_job:
            self._on_cluster("fit", self._fit)
        self._on_cluster("all-reduce", self._all_reduce)
        if has_job:
            self._on_cluster("engine", self._with_model(self._engine))
            self._on_cluster("update", self._with_model(self._update))
        self.examiner.release()
        self._on_cluster("memory back", self._memory_back)
        self._check("mlflow", lambda: examine_mlflow(self.job, self.patient.runs, _removed))
        if self.job.archive:
            self._check("archive", lambda: examine_archive(self.job, run_folder(self.job)))
        return self._sound

    def _on_cluster(self, name: str, work: Callable[[], Finding]) -> None:
        if self._nodes is None:
            self._report(Check(name, 0.0, Finding("warn", "not checked, since there is no cluster")))
        else:
            self._check(name, work)

    def _check(self, name: str, work: Callable[[], Finding], threaded: bool = True) -> None:
        started = time.monotonic()
        found: list[Finding] = []

        def guarded() -> None:
            try:
                found.append(work())
            except RatchetError as error:
                found.append(Finding("FAIL", without_password(str(error)).rstrip(".")))
            except Exception as error:
                found.append(Finding("FAIL", f"{type(error).__name__}: {first_line(error)}"))

        if threaded:
            thread = threading.Thread(target=guarded, daemon=True)
            thread.start()
            thread.join(limit := self.limit(name))
            if not found:
                cure = "look at Ray's worker logs, or give it longer with --limit"
                found.insert(0, Finding("FAIL", f"not finished within {limit:.0f} s", cure))
                self.examiner.release()  # which ends the workers that it waits for, with an error of theirs
        else:
            guarded()
        self._report(Check(name, time.monotonic() - started, found[0]))

    def _report(self, check: Check) -> None:
        self._sound &= check.finding.level != "FAIL"
        self._tell(check)

    def limit(self, name: str) -> float:
        """Seconds that a check may take; those that reserve devices may wait for them, and read the model, besides."""
        if self._limit is not None:
            return self._limit
        if name == "model and data":  # its weights are looked at
            with contextlib.suppress(BadInput):
                return _LIMIT + reading_seconds(self.patient.file.find(self.job.model, "model"))
        reading = reading_seconds(self._model) if name in _READING and self._model else 0.0
        return _LIMITS[name] + self.job.cluster.timeout + reading if name in _LIMITS else _LIMIT

    def _inner(self, name: str) -> float:
        """Seconds that the nodes are given for their answers within a check that asks them twice at most."""
        return 0.4 * self.limit(name)

    @property
    def workspace(self) -> Path:
        if isinstance(self._workspace, OSError):
            raise RatchetError(f"{self.patient.runs}: cannot be written ({self._workspace.strerror}); set RATCHET_HOME")
        return self._workspace

    # The checks

    def _connect(self) -> Finding:
        cluster = self.examiner.cluster
        self._nodes = list(cluster.nodes())
        names = ", ".join(node.name for node in self._nodes)
        return Finding("pass", f"Ray has {nodes_text(len(self._nodes))}: {names}", "", {"nodes": names.split(", ")})

    def _versions(self) -> Finding:
        packages = (*PACKAGES, *BESIDE_TORCH)
        here = {"python": platform.python_version()}
        for package in packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                here[package] = importlib.metadata.version(package)
        return diagnose_versions(here, self.examiner.versions(packages, self._inner("versions")) if self._nodes else {})

    def _shared(self) -> Finding:
        folder, token = self.workspace / "exchange", secrets.token_hex(8)
        folder.mkdir()
        probe_links(folder)
        (folder / "driver").write_text(token)
        told = self.examiner.exchange(str(folder), token, self._inner("shared path")) if self._nodes else {}
        names = {node: name for node, name in told.items() if not isinstance(name, Exception)}
        deadline = time.monotonic() + min(10.0, self._inner("shared path"))
        while unseen := [node for node, name in names.items() if not _holds(folder / name, token)]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        found = diagnose_shared(str(self.patient.runs), told, unseen)
        if found.level == "FAIL":
            return found
        return examine_storage(folder, self.examiner, self._nodes or [], self._inner("shared path"), found)

    def _downloads(self) -> bool:
        return bool(on_hub(self.patient.file) or on_hub(self.patient.file, "reference"))

    def _model_and_data(self) -> Finding:
        run = Run(run_folder(self.job))
        base = base_model_of(self.patient.file, run)
        self._reference = reference_of(self.patient.file, run, base)
        reward_models_of(self.patient.file, run)
        folder = base.folder
        if base.origin is not None:  # a run would keep it, where all nodes see it
            folder = self.workspace / "model"
            link_model(base.folder, folder, base.checkpoint.files if base.checkpoint else None)
        self._model = str(folder)
        self.examiner.measure(self._model)
        problems = read_all_problems(self.patient.file, reading=reading_of(run))
        golds = gold_lines(self.patient.file, run, problems, self.examiner.unread_golds)
        lines = (*repeated_lines(problems), *golds)
        warned = [Finding("warn", line) for line in (*lines, *limits_of(self.job, folder).warnings)]
        self._problems = sizes(problems)
        self._rows = (problems, preferences := read_all_preferences(self.patient.file, problems))
        if preferences:
            self._problems["stages"] = (sum(len(s.rows) for s in preferences), mean_characters(preferences))
        files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
        told = self.examiner.file_sizes(str(folder), self._inner("model and data")) if self._nodes else {}
        found = diagnose_model(str(folder), files, told)
        return worst([found, *warned], found)

    def _prompts(self, model: str) -> Finding:
        """Look at what will be trained on, as `ratchet validate` shows it."""
        if self._rows is None:
            return Finding("warn", "not checked, since the data could not be read")
        (problems, preferences), self._rows = self._rows, None  # a large data set is not held while engines start
        run = Run(run_folder(self.job))
        seen = previewed(self.patient.file, run, Path(model), problems, preferences, self.examiner.rendered)
        said: Facts = {"shown": list(seen.shown), "warnings": list(seen.warnings), "refusals": list(seen.refusals)}
        if seen.refusals or seen.warnings:
            return Finding("FAIL" if seen.refusals else "warn", "; ".join([*seen.refusals, *seen.warnings]), "", said)
        first = " ".join(seen.shown[0].split(None, 1)[-1:]) if seen.shown else "there are none"
        return Finding("pass", first if len(first) <= 120 else f"{first[:117]}...", "", said)

    def _trainer(self, model: str) -> Finding:
        """Have the trainer say what it makes of the models' configurations."""
        run = Run(run_folder(self.job))
        seen = tried_models(self.patient.file, run, Path(model), self._reference, self.examiner.tried)
        if said := [*seen.refusals, *seen.warnings]:
            return Finding("FAIL" if seen.refusals else "warn", "; ".join(said))
        return Finding("pass", " ".join(seen.shown[0].split()[1:]))

    def _disk(self) -> Finding:
        free = shutil.disk_usage(self.workspace).free
        disk = SOURCES[self.job.source.type].disk
        model = self._model if self.patient.has_job else None
        need = job_need(self.job, Path(model), self._problems, disk) if model else None
        return diagnose_space(str(self.patient.runs), free, need, self.job.rounds)

    def _machines(self) -> Finding:
        told = self.examiner.machines(self._inner("machines"))
        self._before = {node.name: machine for node, machine in told.items() if not isinstance(machine, Exception)}
        return diagnose_machines(told, self.job, self.examiner.cluster.accelerated, self.patient.has_job)

    def _fit(self) -> Finding:
        needs, free = self.examiner.needs(), self.examiner.cluster.free()
        return diagnose_fit(needs, self._nodes or [], free, self.examiner.fits)

    def _all_reduce(self) -> Finding:
        return diagnose_all_reduce(self.examiner.all_reduce())

    def _engine(self, model: str) -> Finding:
        """Start the engines as a round would, and have each generate one token."""
        count = self.examiner.needs()["generate.engines"][0]
        folder = self.workspace / "engine"
        folder.mkdir()
        prompt = made_up_ids(random.Random(0), model_config(model)["vocab_size"], 8)
        row = {"prompt_id": "doctor", "text": "", "token_ids": prompt, "gold": ""}
        pq.write_table(pa.Table.from_pylist([row], schema=PROMPTS), folder / "prompts.parquet")
        shards = [Shard(i, str(folder / "prompts.parquet"), 0, 1, str(folder / f"{i}.parquet")) for i in range(count)]
        started = time.monotonic()
        pool = self.examiner.engines(model)
        ready = time.monotonic()
        facts = [facts for _, facts in pool.generate(shards, SamplingPlan(1, 0.0, 1.0, 0, 1, (), 0))]
        done = time.monotonic()
        tokens = sum(fact["tokens"] for fact in facts)
        said = {"engines": count, "start_seconds": ready - started, "token_seconds": done - ready, "tokens": tokens}
        text = f"{many(count, 'engine')} started in {ready - started:.1f} s"
        if tokens != count:
            return Finding("FAIL", f"{text}, and generated {tokens} tokens instead of {count}", "", said)
        return Finding("pass", f"{text}; one token each after {done - ready:.2f} s", "", said)

    def _update(self, model: str) -> Finding:
        """Score and train one batch of made-up pairs of the job's size, at learning rate 0, and export."""
        folder = self.workspace / "training"
        folder.mkdir()
        prompt, completion = pair_lengths(self.job, model_config(model).get("max_position_embeddings"))
        vocabulary, count = model_config(model)["vocab_size"], self.job.train.batch_pairs
        pairs = made_up_pairs(vocabulary, prompt, completion, count, rejected_of_row(self.job, 1))
        pq.write_table(pairs, folder / "pairs.parquet")
        plan = trial_plan(self.job, model, folder)
        group = self.examiner.trainers()
        started = time.monotonic()
        group.score(ScoringPlan(model, model, plan.pairs), str(folder / "reference.parquet"))
        facts = group.train(plan, str(folder / "reference.parquet"))
        seconds = time.monotonic() - started
        step = facts["tokens"] / facts["tokens_per_second"]
        peaks = self.examiner.peak_memory()
        host, device = (max(peak[kind] for peak in peaks) for kind in ("host", "device"))
        said: Facts = {"update_seconds": step, "seconds": seconds, "pairs": count, "tokens": prompt + completion}
        said |= {"peak_host": host, "peak_device": device, "tokens_per_second": facts["tokens_per_second"]}
        memory = f"{gib(host)} of memory" + (f" and {gib(device)} of an accelerator" if device else "")
        rows = "groups" if plan.loss.reads_groups else "pairs"
        text = (
            f"{count} {rows} of {prompt + completion} tokens on {many(len(peaks), 'rank')}: one in "
            f"{step:.1f} s ({seconds:.1f} s with scoring and export), at most {memory} a rank"
        )
        return Finding("pass", text, "", said)

    def _with_model(self, work: Callable[[str], Finding]) -> Callable[[], Finding]:
        if (model := self._model) is None:
            return lambda: Finding("warn", "not checked, since there is no model to try it with")
        return lambda: work(model)

    def _memory_back(self) -> Finding:
        """Ask the nodes until their memory is free again, at most half a minute."""
        deadline = time.monotonic() + min(_BACK_SECONDS, self._inner("memory back"))
        while True:
            after = self.examiner.machines(self._inner("memory back"))
            held = self.examiner.holders(self._before, self._inner("memory back"))
            finding = diagnose_memory_back(self._before, after, held)
            if finding.level == "pass" or time.monotonic() > deadline:
                return finding
            time.sleep(1.0)


def _holds(file: Path, token: str) -> bool:
    with contextlib.suppress(OSError):
        return file.read_text() == token
    return False
