"""The training of one round: from pairs to a candidate.

    reference   log-probabilities of every completion under the reference model, once, where the loss compares with it
    train       the updates; one checkpoint, or one every `train.eval_every` updates
    selection   each of several checkpoints on the gate problems
    choice      the last of them, or the best
    retrain     as many updates once more, with pairs of the gate problems too (arXiv 2404.19733, section 3.1)

The last three only where the job asks for them.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config import RoundLoss, Train, at_round
from orchestrator.errors import Damaged
from orchestrator.files import durable
from orchestrator.files.inside import read_regular, remove, require_below, walk
from orchestrator.files.user_state import sealing_key
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Commit
from orchestrator.ledger.recipes import Fields, Unseen, UsedFiles
from orchestrator.ledger.run import Facts
from orchestrator.ledger.taken import taken
from orchestrator.ledger.uses import files_of, fingerprint, model
from orchestrator.records.model_folder import link_folder
from orchestrator.records.rows import ScoringPlan, TrainingPlan
from orchestrator.records.seals import is_sealed
from orchestrator.rounds import regrading
from orchestrator.rounds.adapters import Start, merge_said, start_of
from orchestrator.rounds.context import Context, Model, executed
from orchestrator.rounds.readiness import ready
from orchestrator.rounds.watched import Updates
from orchestrator.text.counts import many

_LARGEST_MANIFEST = 1 << 24  # bytes, of a saved state: a line for each file of each rank


@dataclass(frozen=True)
class Candidate:
    """A checkpoint of a round, by the number of updates it was trained for."""

    updates: int
    model: Model


@dataclass(frozen=True)
class Training:
    """How one round trains. `folder` is the round's, such as rounds/01."""

    context: Context
    number: int
    folder: str
    init: Model
    reference: Model

    def candidate(self, pairs: Commit, replay: Commit | None, held_out: Commit | None) -> Model:
        """Train `init` on the pairs and those replayed; `held_out` are the gate problems' pairs, for `retrain`."""
        parts = [commit for commit in (pairs, replay) if commit]
        everything = [*parts, held_out] if held_out else parts
        if self._compares:
            self._score_reference(everything)
        if self.context.job.train.eval_every is None:
            commit = self._train("train", parts, everything, f"{self.folder}/checkpoint")
            return self._model(commit, self.context.run.path(f"{self.folder}/train/probe.parquet"))
        candidates = f"{self.folder}/candidates"
        commit = self._train("train", parts, everything, candidates, export_every=self.context.job.train.eval_every)
        evaluated = [self._evaluated(updates, commit) for updates in _updates_exported(commit)]
        models = regrading.comparable(self.context, [c.model for c in evaluated], f"{self.folder}/selection/regraded")
        evaluated = [Candidate(c.updates, model) for c, model in zip(evaluated, models, strict=True)]
        chosen = self._choose(evaluated, publish=not held_out)
        if held_out:
            total = commit.facts["steps"]
            limits = {"steps": chosen.facts["steps"], "schedule_steps": total}
            commit = self._train("retrain", everything, everything, f"{self.folder}/checkpoint", **limits)
            model = self._model(commit, self.context.run.path(f"{self.folder}/retrain/probe.parquet"))
        else:
            model = self._model(chosen, self.context.run.path(f"{self.folder}/choice/probe.parquet"))
        self.context.run.discard(candidates)
        return model

    def _model(self, commit: Commit, probe: Path) -> Model:
        name = f"{self.folder}/checkpoint"
        files = model(fingerprint(files_of(commit)), next(a for a in commit.artifacts if a.path == name))
        return Model(str(self.context.run.path(name)), name, files, probe)

    # Training

    def _score_reference(self, pairs: Sequence[Commit], name: str = "") -> Commit:
        settings = self.context.job.train
        inputs = {
            "reference": self.reference.files,
            "pairs": _files_of(pairs),
            **precision(settings),
            **apart(settings, self.init.path, self.reference.path),
            **self._start.scored,
            "max_tokens": settings.max_tokens,  # longer pairs are dropped, and not scored
            "executed": executed(train=settings),
        }

        def work(output: Path) -> Facts:
            output.mkdir()
            return self._scored(self._start.scoring(self._files(pairs)), output)

        return self.context.run.step(name or f"{self.folder}/reference", inputs, work, also=[self.init.files])

    def _scored(self, plan: ScoringPlan, output: Path, *against: str) -> Facts:
        trainers, wait = ready(self.context.workers.trainers)
        facts = trainers.score(plan, str(output / "00000.parquet"), *against)
        return wait.added(facts) | {"executed": self.context.workers.execution("train")}

    def _reference_pass(self, pairs: Sequence[Commit]) -> Commit:
        """The reference's log-probabilities of these pairs, by the kernels and on the device that compute now. The loss
        sees the policy's less the reference's, a small difference of large numbers: were one rounded by one kernel and
        the other by another, every log-ratio would begin with their difference instead of 0. So the pass is made once
        more, beside the first one, where these have changed since. It is asked for in the midst of the work that needs
        it: what is committed needs no devices."""
        now = self.context.workers.execution("train")
        for number in itertools.count():
            name = f"{self.folder}/reference_again/{number:02d}" if number else f"{self.folder}/reference"
            if self._computes_alike(done := self._score_reference(pairs, name), now):
                break
        return done

    def _computes_alike(self, scored: Commit, now: Facts) -> bool:
        """Whether a reference pass was made by the kernels and on the device of now. Earlier versions did not say;
        under them `train.attention` could not change, there was no `matmul`, and nothing was compiled."""
        compiled = now.get("train.compile", False)
        if "executed" in scored.facts:
            then = scored.facts["executed"]
            same = all(then.get(key) == now[key] for key in ("device", "train.attention"))
            return same and then.get("train.compile", False) == compiled
        asked = {said.get("attention") for said in recipes.as_recorded(self.context.run.ledger.state.configs)}
        return asked <= {self.context.job.train.attention, None} and now["train.attention"] != "matmul" and not compiled

    def score_policy(self, policy: Model, pairs: Commit, trained_on: Sequence[Commit]) -> None:
        """What the trained policy makes of the round's pairs: the reference pass once more, with the new checkpoint.
        `trained_on` are the pairs that the reference has scored."""
        run = self.context.run
        inputs = {
            "policy": policy.files,
            "reference": self.reference.files if self._compares else None,
            "pairs": files_of(pairs),
            **precision(self.context.job.train),
            **apart(self.context.job.train, self.init.path, policy.path),
            "max_tokens": self.context.job.train.max_tokens,
            "executed": executed(train=self.context.job.train),
        }

        def work(output: Path) -> Facts:
            output.mkdir()
            plan = ScoringPlan(policy.path, self.init.path, self._files([pairs]))
            if not self._compares:
                return self._scored(plan, output)
            before = self._reference_pass(trained_on)
            with run.using(files_of(before)):
                facts = self._scored(plan, output, str(run.path(f"{before.step}/00000.parquet")))
            facts["executed"]["reference"] = before.step
            return facts

        facts = run.step(f"{self.folder}/policy", inputs, work, also=[self.init.files]).facts
        rewarded = f"reward accuracy {facts['reward_accuracy']:.3f}, " if "reward_accuracy" in facts else ""
        self._say("policy", f"{rewarded}mean gamma {facts['gamma']:.2f}")

    def _train(
        self, phase: str, pairs: Sequence[Commit], scored: Sequence[Commit], target: str, **limits: int
    ) -> Commit:
        """One training from `init`; `scored` are the pairs of the reference pass, and `target` is where its checkpoint,
        or its checkpoints, go."""
        run, settings = self.context.run, self.context.job.train
        inputs = {
            "init": self.init.files,
            "reference": self.reference.files if self._compares else None,
            "pairs": _files_of(pairs),
            "loss": self._loss,
            "train": Fields(settings, {"learning_rate": at_round(settings.learning_rate, self.number)}),
            "round": self.number,
            "seed": self._seed,
            "limits": limits,
            **self._start.inputs,
            "executed": executed(train=settings),
        }
        if self._compares:
            inputs |= apart(settings, self.init.path, self.reference.path)

        step, updates = f"{self.folder}/{phase}", Updates(run.watch, f"{self.folder}/{phase}")

        def work(output: Path, checkpoint: Path) -> Facts:
            output.mkdir()
            states = self._own_states(phase)
            # What may change at a start is no part of a fingerprint: saved states fit any number of ranks.
            identity = recipes.fingerprint(inputs)
            plan = self._plan(pairs, output, checkpoint, states, identity=identity, **limits)
            if why := unused_states(states, plan.state_name, plan.state_key):
                self._say(phase, f"{why}, and it starts over")
            if not self._compares:
                return self._trained(plan, None, updates)
            before = self._reference_pass(scored)
            with run.using(files_of(before)):
                return self._trained(plan, before, updates)

        had = run.committed(step) is not None
        commit = run.step(step, inputs, work, [step, target])
        for states in self._states(phase):
            run.remove(states)  # of use only while the training was unfinished
        facts = commit.facts
        resumed = f", resumed after update {facts['resumed_from']}" if facts.get("resumed_from") else ""
        speed = "" if had or taken(run.ledger.state, step) else f" at {facts['tokens_per_second']:.0f}/s"
        self._say(phase, f"{many(facts['steps'], 'update')}{resumed}, {many(facts['tokens'], 'token')}{speed}")
        if warning := merge_said(self.context.job.lora, facts.get("merge_kept")):
            self._say(phase, warning)
        return commit

    def _trained(self, plan: TrainingPlan, reference: Commit | None, updates: Updates) -> Facts:
        """Train, on the ranks of driver/wiring.py; the facts say how, and against which reference pass."""
        run, workers = self.context.run, self.context.workers
        file = str(run.path(f"{reference.step}/00000.parquet")) if reference else None
        trainers, wait = ready(workers.trainers)
        facts = wait.added(trainers.train(plan, file, updates.told))
        against = {"reference": reference.step} if reference else {}
        return facts | {"executed": workers.execution("train") | against}

    def _states(self, phase: str) -> list[Path]:
        """Folders of saved states that drivers left, the newest driver's last."""
        folders = [path for path in self._like_states(phase) if not _is_odd(path)]
        return sorted(folders, key=lambda path: [int(number) for number in path.name.rpartition("-")[2].split(".")])

    def _like_states(self, phase: str) -> list[Path]:
        found = self.context.run.path(self.folder).glob(f".{phase}-state-of-*")
        return [path for path in found if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", path.name.rpartition("-")[2])]

    def _own_states(self, phase: str) -> Path:
        """This driver's folder of saved states: that of the driver before it, under another name, so that ranks which
        outlive that driver write where nobody looks."""
        run = self.context.run
        found, own = self._states(phase), run.path(f"{self.folder}/.{phase}-state-of-{run.epoch}")
        if found and own not in found:
            run.rename(found.pop(), own)
        for left in self._like_states(phase):
            if left != own:
                run.remove(left)
        return own

    def _plan(
        self, pairs: Sequence[Commit], output: Path, checkpoint: Path, states: Path, **further: Any
    ) -> TrainingPlan:
        return TrainingPlan(
            **self._start.planned,
            pairs=self._files(pairs),
            loss=self._loss,
            learning_rate=at_round(self.context.job.train.learning_rate, self.number),
            seed=self._seed,
            state_dir=str(states),
            keep_states=self.context.job.keep.training_states,
            state_key=sealing_key(),
            failure_file=str(self._failure_file()),
            metrics_file=str(output / "metrics.parquet"),
            probe_file=str(output / "probe.parquet"),
            checkpoint_dir=str(checkpoint),
            **further,
        )

    def _files(self, pairs: Sequence[Commit]) -> tuple[str, ...]:
        return tuple(str(self.context.run.path(f"{commit.step}/00000.parquet")) for commit in pairs)

    def _failure_file(self) -> Path:
        """Where the trainer writes what it failed on: a file of the run, and no link."""
        run = self.context.run
        file = run.path(f"failures/round-{self.number:02d}/not_finite.json")
        require_below(run.root, file)
        if file.is_symlink() or (file.exists() and not file.is_file()):
            run.remove(file)
        return file

    # The choice among several checkpoints

    def _evaluated(self, updates: int, commit: Commit) -> Candidate:
        """The checkpoint after so many updates, with its results on the gate problems."""
        run, name = self.context.run, f"{self.folder}/candidates/{updates:06d}"
        made = next(a for a in commit.artifacts if a.path == f"{self.folder}/candidates")
        said = sorted(made.files.items())
        own = [f"{file}:{about['sha256']}" for file, about in said if file.startswith(f"{updates:06d}/")]
        files = model(durable.fingerprint(own), made, f"{updates:06d}/checkpoint")
        here = Model(str(run.path(f"{name}/checkpoint")), name, files, run.path(f"{name}/probe.parquet"))
        evaluated = self.context.evaluate(here, f"{self.folder}/selection/{updates:06d}", splits=("gate",))
        return Candidate(updates, evaluated)

    def _choose(self, candidates: Sequence[Candidate], publish: bool) -> Commit:
        """Commit the choice; with `publish` the chosen checkpoint becomes the round's."""
        select = self.context.job.train.select
        accuracies = {f"{c.updates:06d}": c.model.gate_accuracy for c in candidates}
        facts = choice_facts(accuracies, select)
        chosen = next(candidate for candidate in candidates if candidate.updates == facts["steps"])
        inputs = {"candidates": {f"{c.updates:06d}": c.model.files for c in candidates}, "publish": publish}
        inputs |= {"accuracies": accuracies, "select": select}

        def work(output: Path, *checkpoint: Path) -> Facts:
            output.mkdir()
            (output / "accuracies.json").write_text(json.dumps(accuracies, indent=2) + "\n")
            shutil.copyfile(chosen.model.probe or "", output / "probe.parquet")
            for folder in checkpoint:
                # Both names stand for one copy on the disk; the candidates' is removed soon.
                link_folder(Path(chosen.model.path), folder)
            return facts

        step = f"{self.folder}/choice"
        outputs = [step, f"{self.folder}/checkpoint"] if publish else [step]
        also = [self.context.run.used_file(chosen.model.probe)] if chosen.model.probe else []
        commit = self.context.run.step(step, inputs, work, outputs, also)
        self._say("choice", f"{many(chosen.updates, 'update')}, the {select} of {many(len(candidates), 'checkpoint')}")
        return commit

    @property
    def _compares(self) -> bool:
        """Whether the loss compares with a reference."""
        return self._loss.reads_reference

    @property
    def _seed(self) -> int:
        return self.context.seed("train", self.number)

    @property
    def _loss(self) -> RoundLoss:
        return self.context.job.loss.of_round(self.number)

    @property
    def _start(self) -> Start:
        return start_of(self.context, self.number, self.init, self.reference)

    def _say(self, phase: str, text: str) -> None:
        self.context.tell(self.folder, phase, text)


def choice_facts(accuracies: Mapping[str, float], select: str) -> Facts:
    """Which of several checkpoints is chosen: the last, or of equally good ones the earliest. `accuracies` are those on
    the gate problems by number of updates, in six digits."""
    chosen = max(accuracies) if select != "best" else min(accuracies, key=lambda name: (-accuracies[name], name))
    return {"steps": int(chosen), "gate_accuracy": accuracies[chosen], "candidates": len(accuracies)}


def precision(train: Train) -> dict[str, Any]:
    """In what log-probabilities are computed, as inputs of a step."""
    autocast = train.precision == "bf16" and train.stage == 0  # workers.training.deepspeed_config.computes_in_autocast
    return {"precision": train.precision} | ({"autocast": Unseen(True)} if autocast else {})


def apart(train: Train, init: str, scored: str) -> dict[str, Any]:
    """Whether a model was scored that is not the one that the policy starts from, as inputs of a step. In bfloat16
    earlier versions computed it in another precision than the policy, and so no fork takes that over."""
    return {"apart": Unseen(True)} if train.precision == "bf16" and init != scored else {}


def _is_odd(folder: Path) -> bool:
    """Whether a folder of saved states is, or has, a link or a pipe: ranks would write through it, or wait for it, and
    no training makes one."""
    found = (Path(here) / name for here, folders, files in walk(folder) for name in (*folders, *files))
    modes = [path.lstat().st_mode for path in (folder, *found)]
    return not stat.S_ISDIR(modes[0]) or not all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in modes)


def unused_states(states: Path, name: str, key: bytes) -> str | None:
    """Why none of the saved states can serve the training of this name; None where there is none, or one may. States
    without a seal of this key are removed: weights of somebody else's choice may be in them."""
    found = [_manifest(file) for file in states.glob("[0-9]*/manifest.json")]
    sealed = [manifest for manifest in found if is_sealed(key, manifest)]
    if found and not sealed:
        remove(states.parent, states)
        return "the saved state has no seal of this user, so that it is not loaded"
    if not found or any(manifest["identity"] == name for manifest in sealed):
        return None
    return "the saved state is of an earlier version or of another training, so that it is not loaded"


def _manifest(file: Path) -> Any:
    try:
        return json.loads(read_regular(file, _LARGEST_MANIFEST, file.parents[1]))
    except (OSError, Damaged, ValueError, RecursionError):
        return None


def _files_of(commits: Sequence[Commit]) -> list[UsedFiles]:
    return [name for commit in commits for name in files_of(commit)]


def _updates_exported(commit: Commit) -> list[int]:
    """Numbers of updates after which a checkpoint was exported, in order."""
    numbers = {file.partition("/")[0] for artifact in commit.artifacts[-1:] for file in artifact.files}
    if not numbers or not all(number.isascii() and number.isdigit() for number in numbers):
        raise Damaged(f"{commit.step}: committed, but not with folders named after updates (000010/...)")
    return sorted(map(int, numbers))
