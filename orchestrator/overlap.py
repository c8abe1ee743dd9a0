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

from orchestrator.records import Problem

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
    tokens: Tokens

    def shingles(self) -> frozenset[Tokens]:
        last = max(1, len(self.tokens) - _WIDTH + 1)
        return frozenset(self.tokens[i : i + _WIDTH] for i in range(last))

    def numbers(self) -> Tokens:
        return tuple(token for token in self.tokens if not token[0].isalpha() and token[0] != "_")


def overlaps(splits: Mapping[str, Sequence[Problem]]) -> list[Overlap]:
    """Every problem that stands in an earlier split too, once, with the first found of its likest counterparts."""
    texts = [
        _Text(split, problem.prompt_id, normalise(problem.text))
        for split, problems in splits.items()
        for problem in problems
    ]
    texts = _without_common_ends(texts)
    owners: dict[Tokens, _Text] = {}
    found: list[Overlap] = []
    distinct = []
    for text in texts:
        owner = owners.setdefault(text.tokens, text)
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
    first, last = min(text.tokens for text in texts), max(text.tokens for text in texts)
    start = _common(first, last)
    rest = [text.tokens[start:] for text in texts]
    backwards = [tokens[::-1] for tokens in rest]
    end = _common(min(backwards), max(backwards))
    return [_Text(t.split, t.problem_id, r[: len(r) - end] if end else r) for t, r in zip(texts, rest, strict=True)]


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens both begin with."""
    for i, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return i
    return min(len(a), len(b))


def _near(texts: Sequence[_Text]) -> Iterator[Overlap]:
    """Near-duplicates in different splits, among texts of which no two are the same."""
    blocks: dict[Tokens, list[_Text]] = defaultdict(list)
    for text in texts:
        blocks[text.numbers()].append(text)
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
