"""A step whose output comes in shards, each committed when it is done: a crash costs what was not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.files.durable import make_folder
from orchestrator.files.inside import require_below
from orchestrator.ledger import recipes
from orchestrator.ledger.ledger import Artifact, Commit
from orchestrator.ledger.taken import taken_shards
from orchestrator.ledger.uses import FileCheck, guarding, used_file
from orchestrator.records.abstentions import graders_version
from orchestrator.records.shards import shard_kind

if TYPE_CHECKING:
    from orchestrator.ledger.run import Run

Facts = dict[str, Any]

_EPOCH = re.compile(r"-e(\d+)")


class ShardedStep:
    """A step that is committed shard by shard; see `Run.sharded`. Kinds of shards are declared in records/shards.py."""

    def __init__(
        self,
        run: Run,
        name: str,
        inputs: recipes.Inputs,
        source: ShardedStep | None,
        version: int | None,
        files: Sequence[recipes.UsedFiles] | None,
    ) -> None:
        self.run, self.name, self._inputs, self._source = run, name, inputs, source
        self._units, self._counted = tuple[str, ...](), tuple[str, ...]()
        self.fresh = not (known := run.committed(name) is not None)
        """Whether this driver does some of it."""
        (run.watch.kept if known else run.watch.begin)(name)
        shard_kind(name)
        require_below(run.root, run.path(name))
        make_folder(run.path(name), run.root)
        self._versions = recipes.versions(inputs)
        self._fingerprints: dict[tuple[Any, ...], str] = {}
        self._require_committed()
        self._take_offers()
        if not known and run.committed(name) is not None:
            run.watch.kept(name)
        self.outdated = {} if version is None or run.committed(name) else self._discard_others(version)
        """How many shards of which other version were discarded, to be made again."""
        self.executed: Facts = {}
        """How this driver's workers execute it; each shard keeps it, and the step has the last one's."""
        self._files, self._checks = inputs if files is None else files, list[FileCheck]()
        self._hidden: dict[int, Path] = {}
        self._check_of: dict[int, FileCheck] = {}

    def _require_committed(self) -> None:
        """What is committed is from these inputs, and as it was. Most shards say the same of their inputs."""
        compared = set[tuple[Any, ...]]()
        for shard in self._shards.values():
            facts = shard.facts
            said = (facts["fingerprint"], facts.get("recipe", 1))
            if (known := (*said, *map(facts.get, self._versions))) not in compared:
                self.run._same_inputs(self.name, self._inputs, *said, facts)
                compared.add(known)
            self.run._require_sound(shard.artifact)

    def _discard_others(self, version: int) -> dict[int, int]:
        """No step mixes what different versions of the graders say; its source, the samples, stays."""
        others = [shard for shard in self._shards.values() if graders_version(shard.facts) != version]
        if others:
            self.run.discard(*(shard.artifact.path for shard in others))
        return dict(Counter(graders_version(shard.facts) for shard in others))

    def _take_offers(self) -> None:
        """Commit what another run made of the same inputs; and the step itself, if all of that is here."""
        state = self.run.ledger.state
        indices = sorted(index for step, index in state.offers if step == self.name and index is not None)
        for index in indices:
            if self.has(index) or (self._source and not self._source._is_as_offered(index)):
                continue
            if (offer := self.run.offered(self.name, index, self._inputs)) is not None:
                self._append(index, offer.artifacts[0], offer.facts)
        offer = self.run.offered(self.name, None, self._inputs)
        whole = bool(indices) and all(map(self._is_as_offered, indices))
        if offer is not None and whole and self.run.committed(self.name) is None:
            self.run.take(offer)

    def _is_as_offered(self, index: int) -> bool:
        """Whether a shard has the bytes that another run's later steps were made from."""
        offer = self.run.ledger.state.offers.get((self.name, index))
        return self.has(index) and offer is not None and self._shards[index].artifact.files == offer.artifacts[0].files

    @property
    def inputs(self) -> recipes.Inputs:
        """What it is made from."""
        return self._inputs

    @property
    def _shards(self) -> dict[int, Any]:
        return self.run.ledger.state.shards.get(self.name, {})

    def has(self, index: int) -> bool:
        return index in self._shards

    def expect(self, total: float, unit: str, units: Sequence[str], counted: Sequence[str] = ()) -> None:
        """Have the run's watch told how much the step comes to, and how it grows: by the facts of its shards that add
        up to `units`, with those that are `counted` besides."""
        self._units, self._counted = tuple(units), (*units, *counted)
        known = {key: sum(shard.get(key, 0) for shard in self.facts()) for key in self._counted}
        self.run.watch.expect(self.name, total, unit, sum(known[key] for key in units), **known)

    def begin(self) -> None:
        """Before the work on the first shard: the files that all of it uses are checked."""
        self._checks = self._checks or [FileCheck(self.run.root, self._files)]

    def hidden(self, index: int) -> Path:
        """Where a worker is to write a shard, each time another name; what it is made from is checked."""
        self.begin()
        if self._source and self._source.has(index):
            self._check_of[index] = FileCheck(self.run.root, self._source.files_of_shard(index))
        self._hidden[index] = self.run.hidden(f"{self.name}/{index:05d}.parquet")
        return self._hidden[index]

    def guarding(self) -> AbstractContextManager[None]:
        """Around the work on shards: where it fails, a file that was changed under it is named as the reason."""
        return guarding(lambda: [*self._checks, *self._check_of.values()])

    def path(self, index: int) -> Path:
        """Where a shard is, or will be: 00003.parquet, or 00003.1.parquet where the former was discarded."""
        if self.has(index):
            return self.run.path(self._shards[index].artifact.path)
        names = (f"{self.name}/{index:05d}{f'.{n}' if n else ''}.parquet" for n in count())
        return self.run.path(next(name for name in names if name not in self.run.ledger.state.discarded))

    def commit(self, index: int, facts: Mapping[str, Any]) -> None:
        """Commit a shard's file, which its worker has written, synced and hashed (`facts["file"]`).
        The first commit wins: a second result for the same shard is dropped.

        Raises:
            Damaged: what it was made from has changed, or the file since it was hashed.
        """
        if self.has(index):
            return
        for check in (*self._checks, *([self._check_of[index]] if index in self._check_of else [])):
            check.again()
        facts = self._versions | dict(facts)
        facts |= {"executed": dict(self.executed)} if self.executed else {}
        artifact = self.run.artifacts.adopt(self._hidden[index], self.path(index), facts.pop("file"))
        self._append(index, artifact, facts | {"fingerprint": self._fingerprint(facts), "recipe": recipes.RECIPE})
        del self._hidden[index]  # of thousands of shards, what is known of those in flight
        self._check_of.pop(index, None)
        grown = {key: facts.get(key, 0) for key in self._counted}
        self.run.watch.grow(self.name, sum(grown[key] for key in self._units), **grown)

    def _fingerprint(self, facts: Facts) -> str:
        """That of the inputs, of which facts only say the versions: it is the same for nearly every shard."""
        known = tuple(facts[name] for name in self._versions)
        if known not in self._fingerprints:
            self._fingerprints[known] = recipes.fingerprint(self._inputs, facts)
        return self._fingerprints[known]

    def _append(self, index: int, artifact: Artifact, facts: Facts) -> None:
        data = {"step": self.name, "index": index, "artifact": artifact.as_json(), "facts": facts}
        self.run.append("shard", data, artifact)

    def facts(self) -> list[Facts]:
        """The facts of the committed shards, by index."""
        return [shard.facts for _, shard in sorted(self._shards.items())]

    def own_facts(self) -> list[Facts]:
        """Those of the shards that this run has made, and not taken over."""
        left = taken_shards(self.run.ledger.state, self.name)
        return [shard.facts for index, shard in sorted(self._shards.items()) if index not in left]

    def files_of_shards(self) -> list[recipes.UsedFiles]:
        """Each committed shard as an input, by index."""
        return [self.files_of_shard(index) for index in sorted(self._shards)]

    def files_of_shard(self, index: int) -> recipes.UsedFiles:
        """A committed shard as an input: its hash, and its file, which is checked when it is used."""
        return used_file(self._shards[index].artifact)

    def finish(self, facts: Facts) -> Commit:
        """Commit the step, all of whose shards are committed; returns the earlier commit when there is one."""
        done = self.run.committed(self.name)
        if done is None:
            # A step is no more than its oldest shard: what that one's recipe left out counts for the whole.
            now: Facts = {"fingerprint": recipes.fingerprint(self._inputs), "recipe": recipes.RECIPE}
            now |= recipes.versions(self._inputs)
            oldest = min(self.facts(), key=lambda shard: int(shard.get("recipe", 1)), default=now)
            told = {name: oldest.get(name, 1) for name in recipes.versions(self._inputs)}
            ran = [shard["executed"] for shard in self.facts() if "executed" in shard]
            facts = recipes.with_executed(self._inputs, told | facts | ({"executed": ran[-1]} if ran else {}))
            self.run._commit(self.name, oldest["fingerprint"], [], facts, recipe=oldest.get("recipe", 1))
            for left in self.run.path(self.name).glob(".*"):  # second results, and those of workers that were replaced
                if _EPOCH.search(left.name):
                    self.run.remove(left)
            self.run.watch.end(self.name)
        return done or self.run.ledger.state.commits[self.name]


def epoch_of(name: str) -> int | None:
    """The epoch of the driver for which a hidden file was made; None for a name without one. A worker's own attempts
    say 0 besides (.00000.parquet-e2.partial-e0)."""
    found = _EPOCH.findall(name)
    return max(map(int, found)) if found else None
