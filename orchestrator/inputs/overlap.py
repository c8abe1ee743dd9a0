"""Problems that stand in two splits, word for word or nearly: what is trained on must not be evaluated on.

Texts are compared as tokens: case, spacing and the punctuation of prose do not count; words, numbers and the
signs of arithmetic do. What all texts begin and end with (instructions, worked examples) is left out. Two
problems are near-duplicates when the numbers and signs in them are the same, in the same order, and their sets
of two tokens in a row have a Jaccard similarity of at least 0.8. Other numbers make another problem, however
alike the words are.

The search is exact and skips most pairs: in an order that puts rare items first, two sets as similar as that
share one of their first few items (prefix filtering; Bayardo, Ma, Srikant: "Scaling up all pairs similarity
search", 2007).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records.rows import Problem

SIMILARITY = 0.8
_WIDTH = 2  # tokens in a row
_TOKENS = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d]+|[^\w\s]")  # whole numbers, words, and every other sign alone
_HYPHEN = re.compile(r"(?<=[^\W\d])[-‐‑](?=[^\W\d])")
_PROSE = frozenset(".,;:?\"'`‘’“”„«»…–—")

Tokens = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """Problem `problem_id` of `split` stands in `other_split` too, as `other_id`; `similarity` 1 is word for word."""

    split: str
    problem_id: str
    other_split: str
    other_id: str
    similarity: float


@dataclass(slots=True, eq=False)
class _Text:
    split: str
    problem_id: str
    tokens: Tokens
    owner: _Text | None = None
    """The first text of the same tokens, as soon as it is known."""
    likest: tuple[float, _Text | None] = (0.0, None)
    """The first of the most similar texts in earlier splits, of those that were compared."""

    def shingles(self) -> frozenset[Tokens]:
        last = max(1, len(self.tokens) - _WIDTH + 1)
        return frozenset(self.tokens[i : i + _WIDTH] for i in range(last))

    def numbers(self) -> Tokens:
        return tuple(token for token in self.tokens if not token[:1].isalpha() and token[:1] != "_")


def overlaps(splits: Mapping[str, Iterable[Problem]]) -> list[Overlap]:
    """Every problem that stands in an earlier split too, once, with the first found of its likest counterparts.

    Of the first split, which is what is trained on and may be millions, one text is in memory at a time.
    """
    start, end = _common_ends(problem.text for problems in splits.values() for problem in problems)

    def texts(split: str) -> Iterator[_Text]:
        for problem in splits[split]:
            tokens = normalise(problem.text)
            yield _Text(split, problem.prompt_id, tokens[start : len(tokens) - end])

    first, *others = splits or ("",)
    later = [text for split in others for text in texts(split)]
    same: dict[Tokens, list[_Text]] = defaultdict(list)
    for text in later:
        same[text.tokens].append(text)
    blocks = _blocks(later)
    seen: dict[Tokens, _Block] = {}  # in the order in which the texts are
    for text in texts(first) if later else ():
        if (block := blocks.get(numbers := text.numbers())) is not None:
            seen[numbers] = block
            for other in same.get(text.tokens, ()):
                other.owner = other.owner or text
            block.compare(text)
    for alike in same.values():
        for text in alike:
            text.owner = text.owner or alike[0]
    owned = [(text, text.owner) for text in later if text.owner and text.owner.split != text.split]
    found = [Overlap(text.split, text.problem_id, owner.split, owner.problem_id, 1.0) for text, owner in owned]
    return found + [near for block in (seen | blocks).values() for near in block.near()]


def normalise(text: str) -> Tokens:
    """The tokens of a text that count. A hyphen inside a word is spelling, elsewhere it is a minus sign."""
    folded = _HYPHEN.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return tuple(token for token in _TOKENS.findall(folded) if token not in _PROSE)


def _common_ends(texts: Iterable[str]) -> tuple[int, int]:
    """How many tokens all texts begin and end with, which together are no more than the shortest has."""
    first: Tokens | None = None
    start = end = shortest = 0
    for tokens in map(normalise, texts):
        if first is None:
            first = tokens
            start = end = shortest = len(tokens)
        start = _common(first[:start], tokens)
        end = _common(first[::-1][:end], tokens[: -end - 1 : -1])
        shortest = min(shortest, len(tokens))
        if not start and not end:
            break
    return start, min(end, shortest - start)


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens both begin with."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))


class _Block:
    """Texts of later splits with the same numbers, and where to look for those that are like another one."""

    def __init__(self, texts: Sequence[_Text]) -> None:
        self._texts, self._sets = texts, [text.shingles() for text in texts]
        self._frequency = Counter(shingle for shingles in self._sets for shingle in shingles)
        self._with_prefix: dict[Tokens, list[int]] = defaultdict(list)
        for number, shingles in enumerate(self._sets):
            for shingle in self._prefix(shingles):
                self._with_prefix[shingle].append(number)

    def _prefix(self, shingles: frozenset[Tokens]) -> Sequence[Tokens]:
        size = len(shingles) - math.ceil(SIMILARITY * len(shingles)) + 1
        if sum(shingle not in self._frequency for shingle in shingles) >= size:
            return ()  # it would be of these alone, which no text of the block has
        return sorted(shingles, key=lambda shingle: (self._frequency[shingle], shingle))[:size]

    def _alike(self, shingles: frozenset[Tokens]) -> Iterator[tuple[float, int]]:
        """The texts that are similar enough, in their order, and how similar they are."""
        candidates = {number for shingle in self._prefix(shingles) for number in self._with_prefix.get(shingle, ())}
        for number in sorted(candidates):
            if (similarity := _jaccard(shingles, self._sets[number])) >= SIMILARITY:
                yield similarity, number

    def compare(self, text: _Text) -> None:
        """With a text of the first split, which is none of the block's."""
        for similarity, number in self._alike(text.shingles()):
            if similarity > self._texts[number].likest[0]:
                self._texts[number].likest = similarity, text

    def near(self) -> Iterator[Overlap]:
        """Near-duplicates among texts of which no two are the same, once all of the first split were compared."""
        for number, text in enumerate(self._texts):
            if text.owner is not text:
                continue
            similarity, likest = text.likest
            for other_similarity, place in self._alike(self._sets[number]):
                other = self._texts[place]
                earlier = place < number and other.split != text.split and other.owner is other
                if earlier and other_similarity > similarity:
                    similarity, likest = other_similarity, other
            if likest is not None:
                yield Overlap(text.split, text.problem_id, likest.split, likest.problem_id, similarity)


def _blocks(texts: Sequence[_Text]) -> dict[Tokens, _Block]:
    found: dict[Tokens, list[_Text]] = defaultdict(list)
    for text in texts:
        found[text.numbers()].append(text)
    return {numbers: _Block(block) for numbers, block in found.items()}


def _jaccard(a: frozenset[Tokens], b: frozenset[Tokens]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
