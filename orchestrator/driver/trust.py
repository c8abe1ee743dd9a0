"""Settings that need trust: what of a job is code, an address, the name of a secret, or a path outside.

A job file that lies outside of any run is the user's own word: naming it approves its set. A file inside a run is the
run's word, and a run may come from somebody else: nothing of its set is imported, called, connected to or read before
the user has approved it, by naming such a job file once or with `--trust`. The hashes of what is approved are kept in
the user's state folder. docs/threats.md has the whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import OWN_REFERENCES, Grader, Job, Steps
from orchestrator.config.addresses import without_password
from orchestrator.config.data import TESTS, HeldOut
from orchestrator.config.load import JobFile
from orchestrator.config.sources import sections
from orchestrator.errors import BadInput, Damaged, cut
from orchestrator.files import durable, user_state
from orchestrator.files.inside import regular_size, run_around, walk
from orchestrator.files.named import is_there, named_path, real
from orchestrator.files.rights import reason

Tell = Callable[[str], None]

CODE = "code of this machine that is imported and called"
ARGUMENT = "an argument of the engines, which can load code and files"
ADDRESS = "an address that is connected to, and that samples are sent to"
SERVICE = "a store outside of the run, which gets its figures and settings with your credentials"
COPIED = "an address that the run is copied to, with your credentials"
SECRET = "an environment variable whose value is sent to the judge"
VARIABLE = "a variable of the workers' environment, which can load code and name addresses"
WORKERS_SECRET = "an environment variable whose value the workers get"
OUTSIDE = "a path outside of the run, which is read"
WRITTEN = "a folder outside of the run, which is written"

KEYS: Mapping[str, str] = {
    "grade.graders": CODE,
    "regrade.grade.graders": CODE,
    "evaluate.harness.include_path": CODE,
    "generate.engine": ARGUMENT,
    "judge.base_url": ADDRESS,
    "tracking.uri": ADDRESS,
    "tracking.sinks": SERVICE,
    "cluster.address": ADDRESS,
    "cluster.env": VARIABLE,
    "cluster.secrets": WORKERS_SECRET,
    "judge.api_key_env": SECRET,
    "model": OUTSIDE,
    "reference": OUTSIDE,
    "reward.models": OUTSIDE,
    "steps.process.model": OUTSIDE,
    "data.train.path": OUTSIDE,
    "data.gate.path": OUTSIDE,
    "data.test.path": OUTSIDE,
    "data.tests": OUTSIDE,
    "stages.sources": OUTSIDE,
    "steps.verdicts": OUTSIDE,
    "run_dir": WRITTEN,
    "archive": COPIED,
}
"""Keys that can need trust, and why. All others are data."""

_LARGEST_FILE = 1 << 24
"""Bytes of a job file."""
_LONGEST = 7000
"""Characters of an item: the longest path has fewer, and a line that is shown may have more."""
_MOST_FILES = 10_000
"""Files of a model's folder that are looked at."""


@dataclass(frozen=True, order=True)
class Item:
    """A setting that needs trust."""

    key: str
    value: str
    why: str

    @property
    def digest(self) -> str:
        return durable.fingerprint(json.dumps([self.key, self.value]))  # a name of a file may be no UTF-8

    def __str__(self) -> str:
        """One line of plain characters, whatever a stranger has written."""
        value = without_password(json.dumps(self.value))  # an earlier version let one be written
        return f"{json.dumps(self.key)[1:-1]}: {value}  ({self.why})"


def needs_trust(file: JobFile, root: Path) -> list[Item]:
    """The settings of a job that need trust, in order; `root` is the run, whose own files need none. Paths are those
    that they lead to now, all links resolved; one that leads nowhere is left out, since nothing is read there. What
    other settings leave unused counts too: a user's override must not bring a stranger's setting to life."""
    job = file.job
    return sorted({*_code(job), *_tasks(file), *_addresses(job), *_paths(file, real(root))})


def _item(key: str, value: str, below: str = "") -> Item:
    return Item(key + below, value, KEYS[key])


def _code(job: Job) -> Iterator[Item]:
    graders = {"grade.graders": job.grade.graders}
    if job.regrade:
        graders["regrade.grade.graders"] = job.regrade.grade.graders
    for key, given in graders.items():
        yield from (_item(key, name) for grader in given for name in _named(grader) if name.startswith("python:"))
    for name, value in job.generate.engine.items():
        yield _item("generate.engine", json.dumps(value, sort_keys=True), f".{name}")
    for name, value in job.cluster.env.items():
        yield _item("cluster.env", value, f".{name}")
    for name in job.cluster.secrets:
        yield _item("cluster.secrets", name)


def _tasks(file: JobFile) -> Iterator[Item]:
    """A folder of tasks is code wherever it lies, inside of the run, too."""
    if (harness := file.job.evaluate.harness) is not None and harness.include_path is not None:
        with suppress(BadInput):  # which leads nowhere
            key = "evaluate.harness.include_path"
            yield _item(key, str(file.find(harness.include_path, key)))


def _named(grader: Grader) -> Iterator[str]:
    """The names of a grader's members, of a plain one its own."""
    if isinstance(grader, str):
        yield grader
    else:
        for members in grader.values():
            for member in members:
                yield from _named(member)


def _addresses(job: Job) -> Iterator[Item]:
    if job.judge:
        yield _item("judge.base_url", job.judge.base_url or "OPENAI_BASE_URL, else OpenAI's own")
        yield _item("judge.api_key_env", job.judge.api_key_env)
    if job.tracking.uri is not None:
        yield _item("tracking.uri", job.tracking.uri)
    yield from (
        _item("tracking.sinks", name) for name in job.tracking.sinks if name != "tensorboard"
    )  # which is a folder of the run
    if job.cluster.address is not None:
        yield _item("cluster.address", job.cluster.address)
    if job.archive is not None:
        yield _item("archive", job.archive)


def _paths(file: JobFile, root: Path) -> Iterator[Item]:
    job = file.job
    models = {"model": job.model, "reference": "" if job.reference in OWN_REFERENCES else job.reference}
    for key, named in models.items():
        if named.startswith("run:"):
            yield from _of_another_run(file, key, named, root)
        else:
            yield from _led_to(file, key, named, root)
    for model in job.reward.models if job.reward else ():
        yield from _led_to(file, "reward.models", model.model, root)
    for split, source in job.data.sources.items():
        key = f"data.{TESTS}" if isinstance(source, HeldOut) else f"data.{split}.path"
        yield from _led_to(file, key, source.path, root)
    for source_of_pairs in job.sources():
        if isinstance(source_of_pairs, Steps) and source_of_pairs.process:
            yield from _led_to(file, "steps.process.model", source_of_pairs.process.model, root)
        for key, source in source_of_pairs.rows():
            yield from _led_to(file, key, source.path, root)
    yield from _read_while_it_runs(job, root)
    if job.run_dir and not (folder := real(named_path(job.run_dir, "run_dir"))).is_relative_to(root):
        yield _item("run_dir", str(folder))


def _led_to(file: JobFile, key: str, named: str, root: Path) -> Iterator[Item]:
    """Where a path of the job leads outside of the run; so for each file of a folder inside, which may be a link."""
    if not named or "\0" in named:
        return
    names = [named]
    with suppress(BadInput):  # which names nothing
        names.append(str(named_path(named)))
    for name in dict.fromkeys(names):  # as `JobFile.find`, and as a fork looks for it
        folders = [Path()] if Path(name).is_absolute() else [*file.folders, Path()]
        found = next((place for folder in folders if is_there(place := folder / name)), None)
        if found is not None:
            yield from (Item(key, str(outside), OUTSIDE) for outside in _outside(real(found), root))


def _outside(found: Path, root: Path) -> Iterator[Path]:
    """Where a file or a folder leads out of the run. A folder that is too full to be looked at counts as outside."""
    waiting, seen, files = [found], {found}, 0
    while waiting:
        place = waiting.pop()
        if not place.is_relative_to(root) or files > _MOST_FILES:
            yield place
            continue
        for folder, folders, names in walk(place):
            files += len(names) + len(folders)
            linked = {real(path) for name in (*folders, *names) if (path := Path(folder) / name).is_symlink()}
            waiting += linked - seen
            seen |= linked
            if files > _MOST_FILES:
                yield place
                break


def _of_another_run(file: JobFile, key: str, named: str, root: Path) -> Iterator[Item]:
    """The folder of a run whose checkpoint the job names: also one beside the run, wherever that lies."""
    from orchestrator.config.places import run_folder
    from orchestrator.models.other_run import place_of, run_model

    try:
        model = run_model(named, key)
        folders = {place_of(model.run, file.folders, own) for own in (root, run_folder(file.job))} if model else set()
    except (BadInput, OSError, ValueError):  # names no run, which is said where it is looked for
        return
    for folder in folders:
        if os.path.isdir(folder / "ledger") and not folder.is_relative_to(root):
            yield _item(key, str(folder))


def _read_while_it_runs(job: Job, root: Path) -> Iterator[Item]:
    """People's verdicts are written while a run goes on: where they are to be counts, and not whether they are."""
    unsaid = [usual for kind in sections().values() if (usual := kind.usual())]
    for settings in {settings.section: settings for settings in (*unsaid, *job.sources())}.values():
        for key, path in settings.paths_in_run():
            places = [] if "\0" in path else _outside(real(root / path), root)
            yield from (Item(key, str(place), OUTSIDE) for place in places)


# Who said it


def require_file(path: Path) -> None:
    """Before a file that lies in a run is read: it is a file of the run, of a job file's size.

    Raises:
        BadInput: it is a pipe or a device, leads out of the run, or is too large.
    """
    if (around := run_around(path)) is None or not os.path.exists(path):
        return
    try:
        size = regular_size(path, around)
    except OSError as error:
        raise BadInput(f"{path}: {reason(error)}") from error
    except Damaged as error:
        raise BadInput(f"{error}. A file in a run's folder is that run's word: name your own file") from error
    if size > _LARGEST_FILE:
        raise BadInput(f"{path}: {size:,} bytes are more than a job file in a run may have, {_LARGEST_FILE:,}")


def unapproved(now: Sequence[Item], before: Sequence[Item] | None, overrides: Sequence[str]) -> list[Item]:
    """Those of the settings `now` that are not the user's word. `before` are those without the user's `overrides`, None
    where there is no job without them: what only these have brought, or name, is the user's own."""
    keys = [override.partition("=")[0] for override in overrides]
    own = {item for item in now if any(item.key == key or item.key.startswith(key + ".") for key in keys)}
    given = [item for item in now if item not in own and (before is None or item in before)]
    # With less than an approved set a job can do less.
    return [] if user_state.is_approved([item.digest for item in given]) else given


def require(
    file: JobFile, root: Path, before: JobFile | None, overrides: Sequence[str], run: str, tell: Tell | None
) -> None:
    """Refuse a job of the run's word whose set is not approved. `tell` is there with `--trust`: it is told the set,
    which is approved with that. `overrides` are the user's own, and `before` is the job without them.

    Raises:
        BadInput: it needs approval. The message has the whole set and the cure.
    """
    now = needs_trust(file, root)
    unapproved_items = _shown_whole(run, unapproved(now, needs_trust(before, root) if before else None, overrides))
    shown = [f"  {item}" for item in unapproved_items]
    if unapproved_items and tell is None:
        raise BadInput(
            f"{run}: these settings are the run's word, and nobody has approved them here:\n"
            + "\n".join(shown)
            + "\nNothing of it was imported, connected to or read. If you trust whoever made the run, give the same "
            "command with --trust, or name your own job file. `ratchet verify` and `ratchet status` need no trust."
        )
    if unapproved_items and tell:
        tell("\n".join([f"trusted   the settings of {run}:", *shown]))
    if remembered := remember(now):
        (tell or _unsaid)(remembered)


def _shown_whole(run: str, items: list[Item]) -> list[Item]:
    """The items, each of which a terminal shows to its end: nobody approves what he has not seen.

    Raises:
        BadInput: one of them has more text.
    """
    if long := next((item for item in items if len(str(item)) > _LONGEST), None):
        raise BadInput(
            f"{run}: {cut(str(long))}: too long to be shown, so that nobody can approve it. Give another value "
            f"({cut(long.key)}=VALUE), or name your own job file"
        )
    return items


def remember(items: Sequence[Item]) -> str | None:
    """Keep a set as approved; returns what hinders that, for people. It then counts for this command alone."""
    try:
        user_state.approve([item.digest for item in items])
    except user_state.Unusable as error:
        return f"trust     not remembered, so that `ratchet resume` will want --trust: {error}"
    return None


def _unsaid(_: str) -> None:
    """The driver says it once more."""


def is_passed_on(
    parent: Sequence[Item], child: Sequence[Item], root: Path, before: Sequence[Item], own: Sequence[str]
) -> bool:
    """Whether the settings of a fork are approved with its parent's, in `root`: each is the user's own override, one of
    the parent's, or a path inside of the parent. `before` are the child's without the overrides, `own`."""
    if not user_state.is_approved([item.digest for item in parent]):
        return False
    known, here = {(item.key, item.value) for item in parent}, real(root)
    keys = [override.partition("=")[0] for override in own]
    for item in child:
        named = item not in before or any(item.key == key or item.key.startswith(key + ".") for key in keys)
        inside = item.why == OUTSIDE and Path(item.value).is_relative_to(here)
        if not (named or inside or (item.key, item.value) in known):
            return False
    return True
