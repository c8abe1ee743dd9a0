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
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True)
class _Text:
    split: str
    problem_id: str
    joined: str
    """Its tokens with a space between: of a million texts there is no room for every token alone."""

    @property
    def tokens(self) -> Tokens:
        return tuple(self.joined.split())

    def shingles(self) -> frozenset[Tokens]:
        tokens = self.tokens
        last = max(1, len(tokens) - _WIDTH + 1)
        return frozenset(tokens[i : i + _WIDTH] for i in range(last))

    def numbers(self) -> str:
        return " ".join(token for token in self.tokens if not token[:1].isalpha() and token[:1] != "_")


def overlaps(splits: Mapping[str, Sequence[Problem]]) -> list[Overlap]:
    """Every problem that stands in an earlier split too, once, with the first found of its likest counterparts."""
    texts = [
        _Text(split, problem.prompt_id, " ".join(normalise(problem.text)))
        for split, problems in splits.items()
        for problem in problems
    ]
    texts = _without_common_ends(texts)
    owners: dict[str, _Text] = {}
    found: list[Overlap] = []
    distinct = []
    for text in texts:
        owner = owners.setdefault(text.joined, text)
        if owner.split != text.split:
            found.append(Overlap(text.split, text.problem_id, owner.split, owner.problem_id, 1.0))
        elif owner is text:
            distinct.append(text)
    return found + list(_near(distinct))


def normalise(text: str) -> Tokens:
    """The tokens of a text that count. A hyphen inside a word is spelling, elsewhere it is a minus sign."""
    folded = _HYPHEN.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return tuple(token for token in _TOKENS.findall(folded) if token not in _PROSE)


def _without_common_ends(texts: list[_Text]) -> list[_Text]:
    if not texts:
        return texts
    first = texts[0].tokens
    start = end = shortest = len(first)
    for text in texts:
        tokens = text.tokens
        start = _common(first[:start], tokens)
        end = _common(first[::-1][:end], tokens[::-1])
        shortest = min(shortest, len(tokens))
    end = min(end, shortest - start)
    if not start and not end:
        return texts
    return [_Text(t.split, t.problem_id, " ".join(t.tokens[start : len(t.tokens) - end])) for t in texts]


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens both begin with."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))


def _near(texts: Sequence[_Text]) -> Iterator[Overlap]:
    """Near-duplicates in different splits, among texts of which no two are the same."""
    owner: dict[int, str | None] = {}  # the split that numbers are of, by their hash; None where several have them
    for text in texts:
        key = hash(text.numbers())
        if owner.setdefault(key, text.split) != text.split:
            owner[key] = None
    blocks: dict[str, list[_Text]] = defaultdict(list)
    for text in texts:
        if owner[hash(numbers := text.numbers())] is None:
            blocks[numbers].append(text)
    for block in blocks.values():
        if len({text.split for text in block}) > 1:
            yield from _near_in(block)


def _near_in(block: Sequence[_Text]) -> Iterator[Overlap]:
    sets = [text.shingles() for text in block]
    frequency = Counter(shingle for shingles in sets for shingle in shingles)
    with_prefix: dict[Tokens, list[int]] = defaultdict(list)
    for i, (text, shingles) in enumerate(zip(block, sets, strict=True)):
        rare_first = sorted(shingles, key=lambda s: (frequency[s], s))
        prefix = rare_first[: len(shingles) - math.ceil(SIMILARITY * len(shingles)) + 1]
        candidates = {j for shingle in prefix for j in with_prefix[shingle] if block[j].split != text.split}
        likest = max(((_jaccard(shingles, sets[j]), -j) for j in candidates), default=(0.0, 0))
        if likest[0] >= SIMILARITY:
            other = block[-likest[1]]
            yield Overlap(text.split, text.problem_id, other.split, other.problem_id, likest[0])
        for shingle in prefix:
            with_prefix[shingle].append(i)


def _jaccard(a: frozenset[Tokens], b: frozenset[Tokens]) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)
