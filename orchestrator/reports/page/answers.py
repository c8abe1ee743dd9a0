"""The samples that the page holds: as many as fit into its cap, those of problems that flipped first."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import RatchetError
from orchestrator.reports.inspection.pairs import as_text
from orchestrator.reports.inspection.reading import VERDICTS, RunReader, only
from orchestrator.reports.inspection.views import Document, reference_before
from orchestrator.reports.rounds import rounds
from orchestrator.reports.tables import round_step

CAP = 4_000_000
"""Characters of all texts that a page holds."""
ROW = 100
"""Characters that a sample, problem or pair counts for besides its texts, so that a million empty ones do not fit."""
LONGEST = 20_000
"""Characters of one text; of a longer one its beginning and end."""
_HELD_OUT = 0.6
"""Share of the cap that answers to gate and test problems may take where a round has samples or pairs."""
_PAIRED = 0.1
"""Share of a round's part of the cap that its samples leave to their pairs."""
_SPLITS = ("gate", "test")
_TOLD = ("verdict", "cause", "rule", "extracted", "reason", "finish_reason", "tokens", "text")
_COLUMNS = ("round", "split", "problem", "sample", "flip", *_TOLD)
_TEXTS = ("rule", "extracted", "reason", "text")
GONE = (OSError, ValueError, pa.ArrowException, RatchetError)
"""What reading a damaged or half-removed run raises."""


class Answers:
    """Collects problems, answers and pairs until a cap of characters is reached.

    What cannot be read is left out, and said in `left_out`.
    """

    def __init__(self, reader: RunReader, cap: int = CAP) -> None:
        self._reader, self._cap = reader, cap
        self._told = rounds(reader.state)
        self._problems: dict[tuple[str, str], Document] = {}
        self._rows: list[list[Any]] = []
        """Of `_COLUMNS`: there may be a hundred thousand."""
        self._pairs: list[Document] = []
        self._size = 0
        self.left_out: list[str] = []

    def document(self) -> Document:
        """`problems` (split, id, prompt, gold), `samples` (as rows of lists under `columns`), `pairs`, and how many
        samples and answers are `shown` of how many there are (`all`)."""
        numbers = {phase: self._reader.rounds(phase) for phase in ("verdicts", "pairs", "evaluation")}
        trained = sorted({*numbers["verdicts"], *numbers["pairs"]} - {0})
        everything = sum(self._held_out(split, bool(trained), numbers["evaluation"]) for split in _SPLITS)
        for left, number in zip(itertools.count(len(trained), -1), reversed(trained), strict=False):
            most = self._size + (self._cap - self._size) // left
            if number in numbers["verdicts"]:
                kept = set[str]()
                left_to_pairs = _PAIRED * max(0, most - self._size)
                self._try(f"samples of round {number}", self._sampled, number, most - left_to_pairs, kept)
                self._try(f"pairs of round {number}", self._paired, number, kept, int(left_to_pairs) // ROW + 1)
                everything += self._graded(number)
            else:
                self._try(f"pairs of round {number}", self._written, number, most)
        return {
            "problems": list(self._problems.values()),
            "columns": _COLUMNS,
            "samples": self._rows,
            "pairs": self._pairs,
            "shown": len(self._rows),
            "all": everything,
            "cap": self._cap,
        }

    def _try(self, what: str, read: Callable[..., int], *arguments: Any) -> int:
        try:
            return read(*arguments)
        except GONE as error:
            self.left_out.append(f"{what}: {error}")
            return 0

    # Answers to gate and test problems.

    def _held_out(self, split: str, trained: bool, numbers: Collection[int]) -> int:
        """Take answers to a held-out set in all rounds, problem by problem; returns how many there are."""
        cap = self._cap * (_HELD_OUT if trained else 1.0)
        most = (self._size + (cap - self._size) / 2) if split == _SPLITS[0] else cap
        sizes, solved = Counter[str](), dict[int, dict[str, bool]]()
        for number in numbers:
            self._try(f"{split} answers of round {number}", self._seen, number, split, sizes, solved)
        flips = {number: self._flips(number, solved) for number in solved}
        flipped = dict.fromkeys(name for of_round in flips.values() for name in of_round)
        wanted = self._fitting(split, (*flipped, *(name for name in sizes if name not in flipped)), sizes, most)
        for number in solved:
            self._try(f"{split} answers of round {number}", self._answers, number, split, wanted, flips[number])
        return sum(map(len, solved.values()))

    def _seen(self, number: int, split: str, sizes: Counter[str], solved: dict[int, dict[str, bool]]) -> int:
        """Note how large each answer is and whether it is right."""
        if (table := self._reader.answers(number, split)) is None:
            if self._counted(number, split):
                self.left_out.append(f"{split} answers of round {number}: the file is not there")
            return 0
        names = table["prompt_id"].to_pylist()
        sizes.update(dict(zip(names, pc.add(pc.utf8_length(table["text"]), ROW).to_pylist(), strict=True)))
        solved[number] = dict(zip(names, pc.equal(table["verdict"], "correct").to_pylist(), strict=True))
        return len(names)

    def _counted(self, number: int, split: str) -> bool:
        """Whether the ledger tells of such answers."""
        step = round_step(number, "evaluation") if number else "baseline/evaluation"
        commit = self._reader.state.commits.get(step)
        return bool(commit and commit.facts.get(split))

    def _flips(self, number: int, solved: dict[int, dict[str, bool]]) -> dict[str, str]:
        """What became of the problems that a round's reference and its candidate do not both solve or fail."""
        before = solved.get(reference_before(self._reader.state, number), {}) if number else {}
        now = solved[number]
        return {name: "won" if now[name] else "lost" for name in now if now[name] != before.get(name, now[name])}

    def _fitting(self, split: str, names: Iterable[str], sizes: Counter[str], most: float) -> set[str]:
        """The first problems whose answers fit."""
        fitting, size = set[str](), self._size
        for name in names:
            size += sizes[name]
            if size > most:
                break
            fitting.add(name)
        self._try(f"{split} prompts", self._take_prompts, 0, split, fitting)
        return fitting

    def _answers(self, number: int, split: str, wanted: Collection[str], flips: dict[str, str]) -> int:
        table = self._reader.answers(number, split)
        for row in only(table, wanted).to_pylist() if table is not None else ():
            self._take(number, split, row, flips.get(row["prompt_id"]))
        return len(self._rows)

    # A round's own samples, or pairs that came without.

    def _sampled(self, number: int, most: float, kept: set[str]) -> int:
        """Take samples of a round, whole problems, which are noted in `kept`; no more shards are read than that takes.
        Returns how many samples were taken."""
        before = len(self._rows)
        for table in self._reader.samples(number):
            new, room = set[str](), self._room(most)
            for name, rows in _by_problem(table.slice(0, room).to_pylist()):
                if self._size > most:
                    break
                new.add(name)
                for row in rows:
                    self._take(number, "train", row)
            kept |= new
            self._take_prompts(number, "train", new)
            if self._size > most or room < table.num_rows:
                break
        return len(self._rows) - before

    def _paired(self, number: int, kept: Collection[str], least: int) -> int:
        """Take the pairs of a round's problems that samples were taken of: as many as fit, or `least`."""
        found = self._reader.pairs(number, kept, max(least, self._room(self._cap)))
        for pair in found:
            if pair.pop("hinted", False):  # of a sample that is none of those above, and is shown in the pair alone
                pair |= {"chosen_sample": None, "chosen": self._text(as_text(pair["chosen"]))}
        self._pairs += [{"round": number, **pair} for pair in found]
        self._size += ROW * len(found)
        return len(found)

    def _graded(self, number: int) -> int:
        """How many samples a round has, and whether some of them are gone."""
        count = self._reader.num_graded(number)
        known = sum(each.count("verdicts", key) for each in self._told if each.number == number for key in VERDICTS)
        if count < known:
            self.left_out.append(f"samples of round {number}: files of {known - count:,} of them are not there")
        return count

    def _written(self, number: int, most: int) -> int:
        """Take pairs of a round that has no verdicts, with their texts."""
        columns = ("pair_id", "prompt_id", "prompt", "chosen", "rejected")
        for table in self._reader.rows(round_step(number, "pairs"), columns):
            for row in itertools.chain.from_iterable(batch.to_pylist() for batch in table.to_batches(64)):
                if self._size > most:
                    return 0
                self._size += ROW
                texts = {side: self._text(as_text(row[side])) for side in ("prompt", "chosen", "rejected")}
                absent = {} if row["rejected"] is not None else {"rejected": None}
                self._pairs.append({"round": number, **row, **texts, **absent})
        return 0

    def _take_prompts(self, number: int, split: str, wanted: Collection[str]) -> int:
        new = [name for name in wanted if (split, name) not in self._problems]
        for name, told in self._reader.prompts(number, split, new).items():
            texts = {"prompt": self._text(told["prompt"]), "gold": self._text(told["gold"])}
            self._problems[split, name] = {"split": split, "id": name, **texts}
            self._size += ROW
        return len(new)

    def _take(self, number: int, split: str, row: Document, flip: str | None = None) -> None:
        row |= {"round": number, "split": split, "problem": row["prompt_id"], "flip": flip}
        row |= {name: self._text(row[name]) for name in _TEXTS if name == "text" or row.get(name) is not None}
        self._size += ROW
        self._rows.append([row.get(name) for name in _COLUMNS])

    def _room(self, most: float) -> int:
        """How many rows can fit at most; the last of them does not."""
        return max(0, int(most - self._size)) // ROW + 1

    def _text(self, said: str | None) -> str:
        """A text as the page holds it; counts it. Somebody else's file may have none."""
        said = shortened(said or "")
        self._size += len(said)
        return said


def shortened(said: str) -> str:
    """A text, or the beginning and the end of one that is longer than a page holds."""
    if (over := len(said) - LONGEST) <= 0:
        return said
    half = LONGEST // 2
    return f"{said[:half]}\n… {over:,} characters left out …\n{said[-half:]}"


def _by_problem(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A shard holds whole prompts."""
    for name, of_problem in itertools.groupby(rows, key=lambda row: str(row["prompt_id"])):
        yield name, list(of_problem)
