"""A run: one folder, its ledger and its artifacts; and `step`, the one mechanism behind resume."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, count
from pathlib import Path
from typing import Any

from orchestrator.errors import Damaged, RatchetError
from orchestrator.files import durable, inside, known_hashes
from orchestrator.files.durable import make_folder
from orchestrator.files.inside import require_below, walk
from orchestrator.ledger import recipes, rollbacks
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.borders import require_borders
from orchestrator.ledger.columns import require_columns, require_masks
from orchestrator.ledger.kinds import EndState, Kind
from orchestrator.ledger.ledger import Artifact, Commit, Ledger, Offer
from orchestrator.ledger.sharded import ShardedStep, epoch_of
from orchestrator.ledger.taken import left_offers
from orchestrator.ledger.uses import FileCheck, using
from orchestrator.records.progress import UNWATCHED, Watch

Facts = dict[str, Any]

_MAX_REASON = 10_000


class Run:
    """A run folder that this process drives."""

    def __init__(self, root: Path, on_append: Callable[[], None] = lambda: None, watch: Watch = UNWATCHED) -> None:
        """`watch` is told which step begins, ends, or is there already."""
        self.root, self.watch = root, watch
        self.ledger = Ledger(root / "ledger")
        self.artifacts = Artifacts(root)
        self._on_append = on_append
        self._attempts = count(1)

    def claim(self, driver: dict[str, Any], after: int | None = None) -> None:
        """Become the driver, and finish what the last one had committed, or set aside, but not yet given its final
        name. `after`: see `Ledger.claim`.

        Raises:
            Damaged: something of the run leads out of it; then nothing was done.
        """
        require_borders(self.root, self.ledger.state)
        self.epoch = self.ledger.claim(driver, after)
        rollbacks.settle(self)
        for artifact in self.ledger.state.artifacts():
            self.artifacts.reveal(artifact)
        for path in self.ledger.state.discarded:
            self.remove(self.root / path)
        self._remove_orphans()

    def append(self, kind: Kind, data: dict[str, Any], *artifacts: Artifact) -> None:
        """Write a record, then give the files it commits their final names, then tell who follows the ledger."""
        self.ledger.append(kind, data)
        for artifact in artifacts:
            self.artifacts.reveal(artifact)
        if known_hashes.is_due():
            with contextlib.suppress(OSError):  # it can go
                self.write(known_hashes.HASHES_CACHE, known_hashes.content())
        self._on_append()

    def end(self, state: EndState, reason: str, goal: str | None = None) -> None:
        """Say how this driver ended, once: a run that is finished does not finish again. `goal` is the step that it was
        to come as far as, where that is not all of its rounds."""
        if self.ledger.claimed and (self.ledger.state.end or {}).get("state") != state:
            # The words of an error can be anything, such as a file's name that is no text; how it ended is to be said.
            told = reason.encode(errors="replace").decode()[:_MAX_REASON]
            self.append("end", {"state": state, "reason": told} | ({"goal": goal} if goal else {}))
            self.ledger.cache()
        # Said first: a driver that was overtaken leaves the offers to its successor.
        if state == "finished" and goal is None:
            for path in left_offers(self.root, self.ledger.state):
                self.remove(path)

    def path(self, name: str) -> Path:
        return self.root / name

    def write(self, name: str, content: bytes) -> None:
        """Write a cache or a view of the run, in place.

        Raises:
            Displaced: another run stands where this one was claimed.
        """
        self.ledger.require_own()
        durable.replace(self.root / name, content)

    def remove(self, path: Path) -> None:
        """Remove something of this run; see `inside.remove`."""
        inside.remove(self.root, path)

    def rename(self, old: Path, new: Path) -> None:
        """See `inside.rename`."""
        inside.rename(self.root, old, new)

    def hidden(self, name: str) -> Path:
        """Where work in progress for `name` is written: invisible in listings, marked with this driver's epoch. Each
        call gives another name: who was given an earlier one, and works on, writes where nobody looks.

        Raises:
            Displaced: another run stands where this one was claimed.
        """
        self.ledger.require_own()
        final = self.root / name
        return final.with_name(f".{final.name}-e{self.epoch}-a{next(self._attempts)}")

    def committed(self, name: str) -> Commit | None:
        return self.ledger.state.commits.get(name)

    def step(
        self,
        name: str,
        inputs: recipes.Inputs,
        work: Callable[..., Facts],
        outputs: Sequence[str] | None = None,
        also: Sequence[recipes.UsedFiles] = (),
    ) -> Commit:
        """The committed result of a step; `work` runs only when there is none.

        `inputs` is everything that can change the result, as recipes.py wants it. The files that it names are checked
        before the work and after it, and so are those that are `also` used and that follow from the inputs. `work`
        gets one hidden path an output (default: one, for `name`), writes files or folders there and returns the
        step's facts, to which the seconds are added. Files get their final names once the ledger has them.

        Raises:
            Damaged: a committed file is not what was committed.
            RatchetError: the step was committed with other inputs; a committed step is never rewritten.
        """
        if (done := self.committed(name)) is not None:
            self.watch.kept(name)
            self._same_inputs(name, inputs, done.fingerprint, done.recipe, done.facts)
            for artifact in done.artifacts:
                if artifact.path not in self.ledger.state.discarded:
                    self._require_sound(artifact)
            return done
        if (offer := self.offered(name, None, inputs)) is not None:
            self.watch.kept(name)
            self.take(offer)
            return self.ledger.state.commits[name]
        self.watch.begin(name)
        finals = [self.path(output) for output in (outputs if outputs is not None else [name])]
        hiddens = [self.hidden(os.path.relpath(final, self.root)) for final in finals]
        for hidden in hiddens:
            require_below(self.root, hidden)
            self.remove(hidden)
            make_folder(hidden.parent, self.root)
        started = time.monotonic()
        with self.using([inputs, also]):
            facts: Facts = recipes.with_executed(inputs, recipes.versions(inputs) | work(*hiddens))
            facts["seconds"] = round(time.monotonic() - started, 3)
            artifacts = [self.artifacts.describe(h, f) for h, f in zip(hiddens, finals, strict=True)]
        for artifact, hidden in zip(artifacts, hiddens, strict=True):
            self.artifacts.require_as_hashed(artifact, hidden)
        self._commit(name, recipes.fingerprint(inputs, facts), artifacts, facts)
        for hidden in hiddens:
            for left in hidden.parent.glob(f"{hidden.name}.*"):  # attempts of workers that were replaced
                self.remove(left)
        self.watch.end(name)
        return self.ledger.state.commits[name]

    def using(self, inputs: Any) -> AbstractContextManager[None]:
        """Around whatever reads the files that some inputs name; see uses.py."""
        return using(self.root, inputs)

    def require(self, inputs: Any) -> None:
        """Raise Damaged where a file that some inputs name is not what was committed."""
        FileCheck(self.root, inputs)

    def used_file(self, path: str | Path) -> recipes.UsedFiles:
        """A committed file as an input, by its sha256. `path` is relative to the run, or absolute."""
        name = os.path.relpath(self.root / path, self.root)
        state = self.ledger.state
        shards = (shard.artifact for shards in state.shards.values() for shard in shards.values())
        above = {name, *map(str, Path(name).parents)}
        for artifact in chain((a for commit in state.commits.values() for a in commit.artifacts), shards):
            if artifact.path not in above:  # quickly told, of a hundred thousand shards too
                continue
            below = "" if name == artifact.path else os.path.relpath(name, artifact.path)
            if (said := artifact.files.get(below)) is not None:
                return recipes.UsedFiles(said["sha256"], ((name, said["sha256"]),))
        raise Damaged(f"{self.root / name}: is used, and was never committed")

    def fingerprints(self, inputs: recipes.Inputs, recipe: int, facts: Mapping[str, Any] | None) -> set[str]:
        """See recipes.py; what was recorded is this run's."""
        return recipes.fingerprints(inputs, recipe, facts, recipes.as_recorded(self.ledger.state.configs))

    def discard(self, *paths: str) -> None:
        """Remove committed artifacts that nothing needs any more: first the record of it, then the files. A name that
        was discarded is not used again: a driver that was overtaken may come to remove it late."""
        if new := [path for path in paths if path not in self.ledger.state.discarded]:
            for path in new:
                require_below(self.root, self.root / path)
            self.append("discard", {"paths": new})
            for path in new:
                self.remove(self.root / path)

    def offered(self, name: str, index: int | None, inputs: recipes.Inputs) -> Offer | None:
        """What another run made of the same inputs, if it is here and whole (see commands/fork/command.py)."""
        offer = self.ledger.state.offers.get((name, index))
        if offer is None or not recipes.seen_by(inputs, offer.recipe):
            return None
        if offer.fingerprint not in self.fingerprints(inputs, offer.recipe, None):
            return None
        here = [a for a in offer.artifacts if a.path not in offer.discarded]
        return offer if all(self.artifacts.is_intact(a, self.root / a.hidden) for a in here) else None

    def take(self, offer: Offer) -> None:
        """Commit a step that another run has done."""
        self._commit(offer.step, offer.fingerprint, offer.artifacts, offer.facts, offer.discarded, offer.recipe)

    def sharded(
        self,
        name: str,
        inputs: recipes.Inputs,
        source: ShardedStep | None = None,
        version: int | None = None,
        files: Sequence[recipes.UsedFiles] | None = None,
    ) -> ShardedStep:
        """A step whose files are committed one by one, so that a crash loses only those in flight. Each is made from
        the same shard of `source`, if that is given. `version` is of the graders, for a step that they do: of one that
        is not committed, shards by other versions are discarded. `files` are those that are used besides the shards
        of `source`, where these are not all that the inputs name."""
        return ShardedStep(self, name, inputs, source, version, files)

    def _commit(
        self,
        name: str,
        digest: str,
        artifacts: Sequence[Artifact],
        facts: Facts,
        discarded: Sequence[str] = (),
        recipe: int = recipes.RECIPE,
    ) -> None:
        """`discarded` are paths of artifacts that were removed before this run was forked."""
        made = [a.as_json() for a in artifacts]
        data = {"step": name, "fingerprint": digest, "recipe": recipe, "artifacts": made, "facts": facts}
        self.append("commit", data | ({"discarded": list(discarded)} if discarded else {}), *artifacts)

    def _same_inputs(
        self, name: str, inputs: recipes.Inputs, committed: str, recipe: int, facts: Mapping[str, Any]
    ) -> None:
        if committed not in self.fingerprints(inputs, recipe, facts):
            raise RatchetError(
                f"{self.root}: {name} was committed from other inputs (a changed model, data file or version of "
                "Ratchet). A committed step is never rewritten: restore the inputs, or go on in another run, which "
                f"keeps what has not changed (`ratchet fork {self.root} NEWRUN`)."
            )

    def _require_sound(self, artifact: Artifact) -> None:
        """What is committed is there, as it was committed, and what it is taken for."""
        place = self.artifacts.verify(artifact)
        for name in artifact.files:
            if (file := place / name if name else place).name.endswith(".parquet"):
                require_columns(file, self.root)
                require_masks(file)

    def _remove_orphans(self) -> None:
        """Hidden files that earlier drivers left: nothing refers to them. Those of later ones are none of ours."""
        for top in ("rounds", "baseline"):
            # Unlike a glob, a walk does not mind what a driver that is overtaken renames under it.
            for folder, folders, files in walk(self.path(top)):
                for name in (*folders, *files):
                    if name.startswith(".") and (epoch := epoch_of(name)) is not None and epoch <= self.epoch:
                        self.remove(Path(folder) / name)
