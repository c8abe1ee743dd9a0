"""Verdicts for completions, from grader processes that can be killed.

A thread of the pool serves one grader process: it asks where the answers of a few completions are, looks
each up among the verdicts it has already, and otherwise asks for a verdict. Those are asked for one at a
time, a few dozen microseconds of overhead against milliseconds of SymPy: whatever kills a process, it is
known which answer did, and no other has to be tried again. The same holds for a user's own pattern; the
built-in rules take linear time, so that completions go through them many at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from orchestrator.config import Grade, Judge
from orchestrator.errors import BadInput
from orchestrator.records.counts import by_prompt, disputed, verdicts
from orchestrator.records.parquet import read_table
from orchestrator.records.rows import GRADERS_VERSION, VERDICTS, Cause, Shard, Verdict
from workers.files import write_table
from workers.graders.combine import name_of
from workers.graders.extraction.extraction import PATTERN, rules_of
from workers.graders.extraction.thoughts import without_thoughts
from workers.grading.process import GraderDied, GraderProcess
from workers.logs import at_work

GROUP = 32
"""Most items that one process takes in a row."""
MOST_KNOWN = 200_000
"""Verdicts that are kept to be used again; beyond that all are forgotten."""
Item = tuple[str, str, str]
"""(gold answer, text of the completion, finish reason)"""


@dataclass(frozen=True, slots=True)
class Graded:
    """One verdict.

    Example: Graded("wrong", extracted="8", rule="final_answer", reason="number: '8' is not '7'")
    """

    verdict: Verdict
    extracted: str | None = None
    rule: str | None = None
    reason: str | None = None
    cause: Cause | None = None
    """Why it is "ungradable"."""
    final: bool = field(default=False, compare=False, repr=False)
    """Whether a judge need not be asked, because it is wrong for certain."""
    opinions: Mapping[str, str] | None = field(default=None, compare=False)
    """The verdict of each grader by itself, where they are audited."""

    @property
    def disputed(self) -> bool:
        """Whether one grader says correct and another one does not."""
        return disputed(self.opinions)


class GraderPool:
    """Grades with `settings.processes` processes, started at the first use and kept until `close`."""

    def __init__(self, settings: Grade, judge: Judge | None = None, cache: Path | None = None) -> None:
        """`judge` is needed where it is among the graders; `cache` is a folder for what it answers."""
        self._judge = None
        if "judge" in settings.graders:
            from workers.judge.client import JudgeClient

            if judge is None:
                raise BadInput("grade.graders: `judge` needs `judge.model`, the model that judges")
            self._judge = JudgeClient(judge, cache)
        self._settings = settings
        number = settings.processes or len(os.sched_getaffinity(0))
        rules = rules_of(settings.answer, settings.strict)
        self._at_once = not any(rule.startswith(PATTERN) for rule in rules)
        # By gold and extracted answer. What else a verdict depends on, the graders, is the pool's for life.
        self._known: dict[tuple[str, str], Graded] = {}
        graders = [grader for grader in settings.graders if grader != "judge"]
        self._names = [name_of(grader) for grader in graders] if settings.audit else []
        self._processes = [GraderProcess(settings.timeout, settings.memory, graders, rules) for _ in range(number)]
        self._idle: SimpleQueue[GraderProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(number, thread_name_prefix="grader")
        self.items = 0
        """About how many completions were graded so far: it moves while there is progress."""

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; a `grade` that is under way fails."""
        for process in self._processes:
            process.interrupt()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.close()

    def pids(self) -> list[int]:
        """Process ids of the running grader processes; each leads a process group of its own."""
        return [process.pid for process in self._processes if process.pid is not None]

    def grade(self, items: Iterable[Item]) -> list[Graded]:
        """Verdicts in the order of `items`.

        A truncated completion is ungradable, and so is one whose gold answer is "", which says that there is none. One
        without an answer is wrong, and one whose grading took too long or too much memory is ungradable. An answer that
        cannot be read is what the settings say (`grade.unreadable`). Raises RatchetError when no grader process can be
        started.
        """
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        # Within a call a deadly answer is paid for once; in the next one the machine may be less busy.
        deadly: dict[tuple[str, str], Graded] = {}
        items = list(items)
        futures = [
            self._threads.submit(self._grade_group, group, deadly) for group in _groups(items, len(self._processes))
        ]
        try:
            graded = [one for future in futures for one in future.result()]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        graded = self._with_opinions(items, graded) if self._judge else graded
        return [_as_wrong(one) for one in graded] if self._settings.unreadable == "wrong" else graded

    def _with_opinions(self, items: Sequence[Item], graded: Sequence[Graded]) -> list[Graded]:
        """The verdicts, with the judge's where no other grader has settled one."""
        from workers.graders.judge import compare

        wanted = _answered if self._settings.audit else _open
        open_ones = [
            (gold, one.extracted or "") for (gold, _, _), one in zip(items, graded, strict=True) if wanted(one)
        ]
        asked = list(dict.fromkeys(open_ones))
        opinions: dict[tuple[str, str], Any] = {}
        for start in range(0, len(asked), GROUP):
            part = asked[start : start + GROUP]
            opinions |= dict(zip(part, compare(self._judge, part), strict=True))
            self.items += len(part)
        found = iter(open_ones)
        return [_opinion(one, opinions[next(found)]) if wanted(one) else one for one in graded]

    def _grade_group(self, group: Sequence[Item], deadly: dict[tuple[str, str], Graded]) -> list[Graded]:
        process = self._idle.get()
        try:
            graded = []
            for gold, found in self._located(process, group):
                graded.append(found if isinstance(found, Graded) else self._judged(process, gold, *found, deadly))
                self.items += 1
            return graded
        finally:
            self._idle.put(process)

    def _located(self, process: GraderProcess, group: Sequence[Item]) -> Iterator[tuple[str, Graded | tuple[str, str]]]:
        """Each item's gold answer with its answer and rule, or with the verdict where there is no answer."""
        texts = [self._read(text) for gold, text, reason in group if gold and reason != "length"]
        places = iter(self._places(process, texts))
        for gold, text, finish_reason in group:
            if finish_reason == "length":
                yield gold, Graded("ungradable", reason="truncated", cause="truncated")
                continue
            if not gold:
                yield gold, Graded("ungradable", reason="the problem has no gold answer", cause="gold")
                continue
            place = next(places)
            if isinstance(place, GraderDied):
                yield gold, Graded("ungradable", reason=self._reason(place), cause="failed")
            elif place[0] is not None:
                yield gold, (place[0], place[1])
            elif self._is_cut(text):
                limit = self._settings.max_characters
                reason = f"too long: its last line has more than {limit:,} characters (grade.max_characters)"
                yield gold, Graded("ungradable", reason=reason, cause="unreadable")
            else:
                yield gold, Graded("wrong", reason="no answer found")

    def _read(self, text: str) -> str:
        """The end of what follows the thoughts, which may have begun before that end."""
        return without_thoughts(text, self._settings.thoughts)[-self._settings.max_characters :]

    def _is_cut(self, text: str) -> bool:
        """Whether the last line of a text begins before the end that is read: an answer in it has lost its mark."""
        answer, limit = without_thoughts(text, self._settings.thoughts), self._settings.max_characters
        return len(answer) > limit and "\n" not in answer[-limit:] and not answer[-limit:].isspace()

    def _places(self, process: GraderProcess, texts: Sequence[str]) -> Iterator[Any]:
        """[answer, rule] of each text, or why the process died over it."""
        if self._at_once and texts:
            with contextlib.suppress(GraderDied):  # none of them can be to blame, but it is found out one by one
                yield from _ask(process, "extract", *texts)["places"]
                return
        for text in texts:
            try:
                yield _ask(process, "extract", text)["places"][0]
            except GraderDied as died:
                yield died

    def _judged(
        self, process: GraderProcess, gold: str, answer: str, rule: str, deadly: dict[tuple[str, str], Graded]
    ) -> Graded:
        known = self._known.get((gold, answer)) or deadly.get((gold, answer))
        if known is not None:
            return replace(known, rule=rule)
        try:
            reply = _ask(process, "grade", gold, answer)
        except GraderDied as died:
            graded = deadly[gold, answer] = Graded("ungradable", answer, rule, self._reason(died), "failed")
        else:
            opinions = {name: self._opinion(process, gold, answer, name) for name in self._names}
            graded = self._known[gold, answer] = Graded(
                reply["verdict"], answer, rule, reply["reason"], _cause(reply.get), reply["final"], opinions or None
            )
        return graded

    def _opinion(self, process: GraderProcess, gold: str, answer: str, name: str) -> str:
        try:
            verdict: str = _ask(process, "opinion", gold, answer, name)["verdict"]
        except GraderDied:
            return "ungradable"
        return verdict

    def _reason(self, died: GraderDied) -> str:
        if str(died) == "timeout":
            return f"timeout: a grader took more than {self._settings.timeout:g} s"
        if str(died) == "out of memory":
            return f"out of memory: a grader took more than {self._settings.memory:g} GiB"
        return f"grader died: {died}"

    def grade_shard(self, shard: Shard, golds: dict[str, str]) -> dict[str, Any]:
        """Grade rows `start` to `stop` of a samples file and write verdicts to `shard.written`, fsynced.

        `golds` maps prompt ids to gold answers. Returns {"correct": n, "wrong": n, "ungradable": n, of these
        "truncated": n, "unreadable": n, "failed": n, "gold": n, "graders_version": v, what counts.by_prompt counts,
        "rules": {rule or "none": n}, "seconds": s, "file": see workers.files.write_table}; "judge", what its
        client has done, where there is one; and "disputed", on how many the graders differ, where they are audited.
        Raises ValueError when the rows or a gold answer are missing.
        """
        started = time.monotonic()
        before = self._judge.facts() if self._judge else {}
        rows = _read_samples(shard)
        missing = next((row["prompt_id"] for row in rows if row["prompt_id"] not in golds), None)
        if missing is not None:
            raise ValueError(f"{shard.source}: no gold answer was given for prompt {missing!r}")
        graded = self.grade((golds[row["prompt_id"]], row["text"], row["finish_reason"]) for row in rows)
        file = _write_verdicts(shard.written, rows, graded)
        said, causes, rules, answers = (
            [getattr(one, name) for one in graded] for name in ("verdict", "cause", "rule", "extracted")
        )
        counts: dict[str, Any] = verdicts(said, causes, rules) | {"graders_version": GRADERS_VERSION}
        counts |= by_prompt([row["prompt_id"] for row in rows], said, causes, answers)
        if self._judge:
            counts["judge"] = {name: number - before[name] for name, number in self._judge.facts().items()}
        if self._settings.audit:
            counts["disputed"] = sum(one.disputed for one in graded)
        return counts | {"seconds": round(time.monotonic() - started, 4), "file": file}


class GraderActor:
    """A GraderPool for a process of its own, such as a Ray actor; this class knows nothing of Ray.

    When its process is killed, its graders end too: their pipes break.
    """

    def __init__(self, settings: Grade, judge: Judge | None = None, cache: str | None = None) -> None:
        self._pool = GraderPool(settings, judge, Path(cache) if cache else None)

    def grade_shard(self, shard: Shard, golds: dict[str, str]) -> dict[str, Any]:
        """See GraderPool.grade_shard."""
        with at_work(shard.output, shard.index):
            return self._pool.grade_shard(shard, golds)

    def progress(self) -> int:
        """A count that moves while completions are graded."""
        return self._pool.items

    def close(self) -> None:
        """End the grader processes."""
        self._pool.close()


def _ask(process: GraderProcess, *request: str) -> dict[str, Any]:
    """Ask, and ask once more where an earlier request may be to blame for the death.

    A time limit starts anew with each request; memory, and whatever else breaks, may have been used up
    before. The second try has a new process to itself.
    """
    try:
        return process.ask(*request)
    except GraderDied as died:
        if died.fresh or str(died) == "timeout":
            raise
    return process.ask(*request)


def _open(one: Graded) -> bool:
    return one.extracted is not None and one.verdict != "correct" and not one.final


def _answered(one: Graded) -> bool:
    return one.extracted is not None


def _opinion(one: Graded, judgement: Any) -> Graded:
    """The judge's word: it decides what was open, and stands among the opinions where these are kept."""
    if one.opinions is not None:
        one = replace(one, opinions={**one.opinions, "judge": judgement.verdict})
    if not _open(one):
        return one
    cause = _cause(lambda name: getattr(judgement, name))
    return replace(one, verdict=judgement.verdict, reason=judgement.reason, cause=cause)


def _cause(said: Callable[[str], Any]) -> Cause | None:
    """Why a judgement, given as a function of its fields' names, is "ungradable". Where a grader failed, a "correct"
    may be missing, whatever others could not read."""
    if said("verdict") != "ungradable":
        return None
    return "failed" if said("failed") else "unreadable" if said("unreadable") else "gold"


def _as_wrong(one: Graded) -> Graded:
    """The binary reward of the papers, asked for last: judges and later graders have had their say."""
    return replace(one, verdict="wrong", cause=None) if one.cause == "unreadable" else one


def _groups(items: Sequence[Item], processes: int) -> Iterator[list[Item]]:
    """Neighbours together, since those of one prompt share a gold answer, and a few groups for each process."""
    size = max(1, min(GROUP, len(items) // (4 * processes)))
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _read_samples(shard: Shard) -> list[dict[str, Any]]:
    columns = ["prompt_id", "sample_index", "text", "finish_reason"]
    table = read_table(shard.source, columns=columns)
    if not 0 <= shard.start <= shard.stop <= table.num_rows:
        raise ValueError(
            f"{shard.source}: rows {shard.start} to {shard.stop} were asked for, but it has {table.num_rows}"
        )
    rows: list[dict[str, Any]] = table.slice(shard.start, shard.stop - shard.start).to_pylist()
    return rows


def _write_verdicts(path: str, rows: Sequence[dict[str, Any]], graded: Sequence[Graded]) -> dict[str, Any]:
    columns = {
        "prompt_id": [row["prompt_id"] for row in rows],
        "sample_index": [row["sample_index"] for row in rows],
        "verdict": [one.verdict for one in graded],
        "extracted": [one.extracted for one in graded],
        "rule": [one.rule for one in graded],
        "reason": [one.reason for one in graded],
        "opinions": [None if one.opinions is None else list(one.opinions.items()) for one in graded],
        "cause": [one.cause for one in graded],
    }
    return write_table(pa.table(columns, schema=VERDICTS), path)
