"""When engines take weights in place, with engines whose model is one number, and trainers that round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orchestrator.records.executed import ANEW
from orchestrator.records.rows import PROBE
from workers.files import write_table
from workers.generation.in_place import InPlace, Probe, Served, read_probe

TEXTS = [((1, 2, n), tuple(range(3 + n % 4))) for n in range(8)]
NOISE = 0.01  # nats a completion, by which engine and trainer differ


def said_of(weight: float, texts: list[Any] = TEXTS, reference: float | None = None) -> Probe:
    """What a trainer says of the model with this weight, and of the reference with that one."""
    told = reference and -reference
    return {key: (-weight * len(key[1]), told and told * len(key[1])) for key in texts}


def served(weight: float, **changes: Any) -> Served:
    return Served(**{"model": f"m{weight}", "digest": str(weight), "probe": said_of(weight)} | changes)


class Engines:
    """Two engines, which do what they are asked for as those of a run do."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.resting, self.complete, self.asleep = True, True, False
        self.num_starts = 0
        self.weights = [0.0, 0.0]
        self.packed = [0.0, 0.0]
        self.loads = 0

    def serve(self, new: Served) -> None:
        self.model, self.resting, self.asleep = new.model, False, False
        self.weights = self.packed = [float(new.model[1:])] * 2

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> list[list[float | None]]:
        # The last one does not fit their context.
        rows = [(n, len(c)) for n, c in enumerate(completions[:-1])]
        return [[*(-w * size + NOISE * math.cos(n + w) for n, size in rows), None] for w in self.weights]

    def load_weights(self, model: str) -> str:
        self.loads += 1
        self.model, self.resting, self.asleep = model, False, False
        self.weights = self.packed = [float(model[1:])] * 2
        return ""

    def held(self) -> list[dict[str, str]]:
        return [{"weight": str(w), "packed": str(p)} for w, p in zip(self.weights, self.packed, strict=True)]

    def rename(self, model: str) -> None:
        self.model = model


class Sleeping(Engines):
    """Engines that can sleep; when they wake, one of them may fail, or keep a packed copy of what it held."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def rest(self) -> None:
        self.resting, self.asleep, self.weights = True, True, [math.nan] * 2

    def load_weights(self, model: str) -> str:
        if self.how == "fails":
            return "engine 0: CUDA error: out of memory"
        packed = self.packed
        super().load_weights(model)
        if self.how == "keeps":
            self.packed = packed
        return ""


class Stale(Engines):
    """The second one goes on with the weights that it has."""

    def load_weights(self, model: str) -> str:
        before = self.weights[1]
        super().load_weights(model)
        self.weights = [self.weights[0], before]
        return ""


class Half(Engines):
    """Half of each model stays what it was."""

    def load_weights(self, model: str) -> str:
        before = self.weights[0]
        super().load_weights(model)
        self.weights = [(w + before) / 2 for w in self.weights]
        return ""


class Packed(Engines):
    """A packed copy, which these completions do not need, stays what it was."""

    def load_weights(self, model: str) -> str:
        before = self.packed
        super().load_weights(model)
        self.packed = before
        return ""


class Unreadable(Engines):
    def load_weights(self, model: str) -> str:
        self.loads += 1
        return "engine 1: the engine stopped: KeyError('head')"


class Dying(Engines):
    """One dies of the new weights, and the one that replaces it is made anew."""

    def load_weights(self, model: str) -> str:
        self.num_starts += 1
        return super().load_weights(model)


class Speechless(Engines):
    def held(self) -> list[dict[str, str]]:
        return [{}, {}]


def changed(engines: Engines, *models: Served) -> tuple[list[bool], list[str], InPlace]:
    """Whether each model was taken in place, new engines having been made where not; and what was said."""
    said: list[str] = []
    weights, taken = InPlace(said.append), []
    for model in models:
        taken.append(weights.change(engines, model))
        if not taken[-1]:
            engines.serve(model)
            weights.made(engines, model)
        assert engines.model == model.model
    return taken, said, weights


def test_the_first_change_is_compared_with_new_engines_and_later_ones_need_none() -> None:
    engines = Engines()
    taken, said, weights = changed(engines, served(1.0), served(1.5), served(1.8))
    assert taken == [False, False, True] and engines.loads == 2 and engines.weights == [1.8, 1.8]
    [line] = said
    assert line.startswith("weights   are loaded in place from now on (slope ")
    assert weights.told.startswith("in place, slope ")


def test_equal_files_are_not_loaded_again() -> None:
    engines = Engines()
    taken, said, weights = changed(engines, served(1.0), served(1.0), served(1.0, model="m1"))
    assert taken == [False, True, True] and (engines.loads, said, weights.told) == (0, [], "")


@pytest.mark.parametrize(
    ("engines", "why"),
    [
        (Stale(), "engines follow the trainer with a slope of "),
        (Half(), "engines follow the trainer with a slope of 0.5"),
        (Packed(), "what engines hold after it is not what new ones hold: 1 tensors differ, such as packed"),
        (Unreadable(), "engine 1: the engine stopped: KeyError('head')"),
        (Dying(), "an engine was lost after it"),
        (Speechless(), "not every engine could say it"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_engines_that_do_it_wrongly_are_made_anew_and_do_it_no_more(engines: Engines, why: str) -> None:
    taken, said, weights = changed(engines, served(1.0), served(1.5))
    assert taken == [False, False] and engines.loads == 1 and engines.weights == [1.5, 1.5]
    [line] = said
    assert line.startswith("weights   cannot be loaded in place, and engines are made anew: ") and why in line
    assert weights.told.startswith(ANEW) and why in weights.told
    assert not weights.change(engines, served(1.8)) and engines.loads == 1 and len(said) == 1


def test_without_a_distance_that_stands_out_engines_are_made_anew_and_nothing_is_said() -> None:
    other = served(1.5, probe=said_of(1.5, [((9,), (9, 9))]))  # of another training
    for new in (served(1.002), served(1.5, probe=said_of(1.0)), served(1.5, probe={}), other):
        engines = Engines()
        taken, said, weights = changed(engines, served(1.0), new)
        assert (taken, engines.loads, said, weights.told) == ([False, False], 0, [], "")
    taken, _, _ = changed(Engines(), served(1.0), served(1.002), served(1.5), served(1.8))
    assert taken == [False, False, False, True], "that speaks neither for it nor against it"


def test_the_reference_of_a_training_is_left_for_what_was_trained() -> None:
    trained, others = [[((n, r), (1, 2, 3 + n)) for n in range(6)] for r in (1, 2)]
    first = served(1.5, probe=said_of(1.5, trained, reference=1.0))
    second = served(1.8, probe=said_of(1.8, others, reference=1.5))
    taken, said, weights = changed(Engines(), served(1.0, probe={}), first, second)
    assert taken == [False, False, True] and weights.told.startswith("in place, slope ") and len(said) == 1
    fixed = served(1.8, probe=said_of(1.8, others, reference=0.5))  # a reference that the engines do not serve
    taken, said, weights = changed(engines := Engines(), served(1.0, probe={}), first, fixed)
    assert (taken, engines.loads, len(said)) == ([False, False, False], 1, 1)


def test_only_engines_that_serve_the_model_before_can_take_the_next() -> None:
    for spoil in ({"resting": True}, {"complete": False}, {"model": "m7"}):
        engines = Engines()
        _, _, weights = changed(engines, served(1.0), served(1.5), served(1.8))
        for name, value in spoil.items():
            setattr(engines, name, value)
        assert not weights.change(engines, served(2.5)) and engines.loads == 2
    engines = Engines()
    _, _, weights = changed(engines, served(1.0))
    engines.complete = False
    assert weights.change(engines, served(1.0)), "one that is on its way will serve the same"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("wakes", "weights   are loaded in place from now on (after a sleep, and as in new engines)"),
        ("keeps", "weights   cannot be loaded in place, and engines are made anew: what engines hold after it"),
        (
            "fails",
            "weights   cannot be loaded in place, and engines are made anew: engine 0: CUDA error: out of memory",
        ),
    ],
)
def test_engines_that_sleep_take_weights_where_new_ones_once_held_the_same(how: str, told: str) -> None:
    """Without a slope, since they have given the old ones up: nothing need be known of the change."""
    said, taken = list[str](), list[bool]()
    engines, weights = Sleeping(how), InPlace(said.append)
    for weight in (1.0, 1.5, 1.8):
        model = served(weight, probe={})
        taken.append(weights.change(engines, model))
        if not taken[-1]:
            engines.serve(model)
            weights.made(engines, model)
        assert engines.weights == [weight] * 2 and not engines.resting
        if weights.may_sleep:
            engines.rest()
    assert taken == [False, False, how == "wakes"] and weights.may_sleep == (how == "wakes")
    assert len(said) == 1 and said[0].startswith(told)
    assert weights.told == ("in place, after a sleep" if how == "wakes" else "")


def test_a_probe_is_read(tmp_path: Path) -> None:
    write_table(pa.table([[[1, 2]], [[3]], [-0.5], [-0.7]], schema=PROBE), str(tmp_path / "probe.parquet"))
    assert read_probe(tmp_path / "probe.parquet") == {((1, 2), (3,)): (-0.5, -0.7)}
    earlier = pa.table([[[1, 2]], [[3]], [-0.5]], schema=pa.schema(list(PROBE)[:3]))
    write_table(earlier, str(tmp_path / "earlier.parquet"))
    assert read_probe(tmp_path / "earlier.parquet") == {((1, 2), (3,)): (-0.5, None)}
