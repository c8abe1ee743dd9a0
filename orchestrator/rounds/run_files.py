"""The committed files of a run, for readers that may not trust them: only those that are what was committed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from orchestrator.errors import Damaged
from orchestrator.ledger import waves
from orchestrator.ledger.artifacts import Artifacts
from orchestrator.ledger.ledger import Artifact, State
from orchestrator.ledger.run import Facts
from orchestrator.rounds.pair_files import Scored


class Gone(Exception):
    """A file that would be needed was discarded on purpose, or is not what was committed, which is told already."""


class RunFiles:
    """Where the files of steps are, by the names below the run that they are committed under. Those that are `bad` are
    not handed out.

    Each method raises `Gone` for those and for what was discarded, and `Damaged` for what was never committed: else a
    record without its files could tell anything.
    """

    def __init__(self, root: Path, state: State, bad: Collection[str]) -> None:
        self.root, self.state, self._bad = root, state, bad
        self._at = Artifacts(root)
        self._artifacts = {artifact.path: artifact for artifact in state.artifacts()}

    def one(self, name: str) -> Path:
        """A file, such as rounds/01/pairs/00000.parquet."""
        for path, artifact in self._artifacts_above(name):
            inner = name.removeprefix(path).lstrip("/")
            if inner in artifact.files:
                return self._file(artifact, inner)
        if self.state.discarded & {name, *map(str, Path(name).parents)}:
            raise Gone(name)
        raise Damaged(f"{name} is not committed")

    def has(self, name: str) -> bool:
        """Whether it is committed, as a file that was not discarded."""
        try:
            self.one(name)
        except Damaged:
            return False
        except Gone:
            return not self.state.discarded & {name, *map(str, Path(name).parents)}
        return True

    def all(self, step: str) -> list[Path]:
        """The data files of a step's own folder, in order."""
        commit = self.state.commits.get(step)
        own = [artifact for artifact in commit.artifacts if artifact.path == step] if commit else []
        if not own:
            raise Damaged(f"{step} is not committed with a folder of that name")
        if step not in self._artifacts:
            raise Gone(step)
        names = sorted(name for name in own[0].files if name.endswith((".parquet", ".jsonl")))
        return [self._file(own[0], name) for name in names]

    def shards(self, step: str) -> dict[int, Path]:
        """The files of a step's shards, by index."""
        return {index: self.shard(step, index) for index in sorted(self.state.shards.get(step, {}))}

    def shard(self, step: str, index: int) -> Path:
        """The file of one shard; whether the others are good is no matter."""
        return self._file(self.state.shards[step][index].artifact, "")

    def shard_facts(self, step: str) -> list[Facts]:
        return [shard.facts for _, shard in sorted(self.state.shards.get(step, {}).items())]

    def scored(self, folder: str, most: int | None = None) -> list[Scored]:
        """The shards of samples and of their verdicts below a folder; where they were drawn in waves, of all of them or
        of at `most` so many."""
        first, *later = [self._scored(wave) for wave in waves.folders(self.state, folder)[:most]]
        return [shard._replace(more=tuple(w[i] for w in later if i in w)) for i, shard in first.items()]

    def _scored(self, folder: str) -> dict[int, Scored]:
        samples, verdicts = self.shards(f"{folder}/samples"), self.shards(f"{folder}/verdicts")
        if samples.keys() != verdicts.keys():
            raise Damaged(f"{folder}: not every shard of samples has its verdicts")
        return {index: Scored(samples[index], verdicts[index]) for index in samples}

    def _artifacts_above(self, name: str) -> list[tuple[str, Artifact]]:
        above = [name, *(str(parent) for parent in Path(name).parents)]
        return [(path, self._artifacts[path]) for path in above if path in self._artifacts]

    def _file(self, artifact: Artifact, inner: str) -> Path:
        if artifact.path in self.state.discarded or f"{artifact.path}/{inner}".rstrip("/") in self._bad:
            raise Gone(artifact.path)
        place = self._at.place(artifact)
        return place / inner if inner else place
