"""Engines and ranks that take turns. Cluster and workers are stand-ins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.driver.nodes import Node, holds, room, shared
from orchestrator.driver.placement import Placement, Share
from orchestrator.driver.turns import ENGINES, RANKS, Role, Turns


class Reserved:
    """A reservation that notes what is put into which of its bundles."""

    def __init__(self, count: int, cpus: int, gpus: int) -> None:
        self.count, self.cpus, self.gpus = count, cpus, gpus
        self.mark = "mark"
        self.living = [True] * count

    def actor_options(self, index: int) -> dict[str, Any]:
        variables = {"OMP_NUM_THREADS": str(self.cpus), "A": "b"}
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "scheduling_strategy": index,
            "runtime_env": {"env_vars": variables},
        }

    def placed(self) -> list[bool]:
        return self.living

    def wait(self) -> None:
        self.cpus //= 2


class Stage:
    """A cluster that notes what is held; it has so many nodes of so many cores and accelerators."""

    def __init__(self, nodes: int, cpus: int, gpus: int = 0) -> None:
        self._nodes = [Node(str(n), f"node-{n}", cpus, gpus) for n in range(nodes)]
        self.accelerated = gpus > 0
        self.waiting = False
        self.notes: list[str] = []
        self.say = self.notes.append

    def others_wait(self) -> bool:
        return self.waiting

    def nodes(self) -> list[Node]:
        return self._nodes

    @contextlib.contextmanager
    def reserve(
        self, what: str, count: int, cpus: int, gpus: int, again: Any = None, beside: Any = None
    ) -> Iterator[Reserved]:
        assert beside or not again or again() == (count, cpus, gpus)
        self.notes.append(f"reserve {count} x {cpus}" + (f" and {beside[0]} x {beside[1]}" if beside else ""))
        yield Reserved(count + (beside[0] if beside else 0), cpus, gpus)
        self.notes.append("given back")


class Crew:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    def rest(self) -> None:
        self.notes.append(f"{self.name} rest")


class Play:
    """Turns on a stage, with workers that note what they do."""

    def __init__(
        self,
        stage: Stage,
        engines: tuple[int, int, int],
        ranks: tuple[int, int, int],
        early: bool = False,
        split: bool = False,
        warm: bool | None = None,
    ) -> None:
        self.stage = stage
        over = lambda mark: stage.notes.append(f"{mark} is over")  # noqa: E731
        hire = {ENGINES: lambda place: self.hire("engines", place), RANKS: lambda place: self.hire("ranks", place)}
        needs = {ENGINES: lambda: engines, RANKS: lambda: ranks}
        self.turns = Turns(lambda: stage, needs, hire, over, early, split, warm)  # type: ignore[arg-type,return-value]
        self.places: list[Any] = []

    @contextlib.contextmanager
    def hire(self, name: str, place: Any) -> Iterator[Crew]:
        self.places.append(place)
        self.stage.notes.append(f"{name} start")
        yield Crew(name, self.stage.notes)
        self.stage.notes.append(f"{name} end")

    def __call__(self, role: Role) -> list[str]:
        """What happens when this role's turn comes."""
        before = len(self.stage.notes)
        workers = self.turns.of(role)
        assert self.turns.of(role) is workers and self.turns.turn == role
        return self.stage.notes[before:]


def test_threads_that_wait_soon_leave_the_cores_unless_the_job_says_otherwise() -> None:
    for said, spins in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        placement = Placement((1, 2, 0), None, lambda _: None, None, said)
        assert placement.environment(2)["env_vars"]["GOMP_SPINCOUNT"] == spins


def test_on_processors_both_live_in_one_reservation() -> None:
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(2, 1, 0))
    assert play(ENGINES) == ["reserve 1 x 2", "engines start"]
    assert play(RANKS) == ["engines rest", "ranks start"]
    assert play(ENGINES) == ["ranks rest"]
    assert play(RANKS) == ["engines rest"]
    play.turns.release()
    assert play.stage.notes[-4:] == ["ranks end", "engines end", "given back", "mark is over"]
    assert play(RANKS) == ["reserve 1 x 2", "ranks start"]
    play.turns.__exit__(None, None, None)
    assert play.stage.notes[-2:] == ["ranks end", "given back"]


def test_both_start_with_the_first_turn_where_one_reservation_holds_them() -> None:
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(2, 1, 0), early=True)
    assert play(RANKS) == ["reserve 1 x 2", "ranks start", "engines start"]
    assert play(ENGINES) == ["ranks rest"] and play(RANKS) == ["engines rest"]
    play.turns.release()
    assert play(ENGINES) == ["reserve 1 x 2", "engines start", "ranks start"]
    play = Play(Stage(1, 8, gpus=2), engines=(1, 4, 2), ranks=(2, 1, 1), early=True)
    assert play(ENGINES) == ["reserve 1 x 4", "engines start"], "on accelerators the devices are one role's alone"
    stage = Stage(1, 4)
    stage._nodes.append(Node("small", "small", 2, 0))
    play = Play(stage, engines=(3, 2, 0), ranks=(1, 3, 0), early=True)
    assert play(ENGINES) == ["reserve 3 x 2", "engines start"], "there is no room for the ranks"
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(1, 2, 0), early=True)
    play.stage.waiting = True
    assert play(ENGINES) == ["reserve 1 x 2", "engines start"], "another job waits for the room"


@pytest.mark.parametrize("gpus", [0, 1])
def test_roles_with_devices_of_their_own_never_rest(gpus: int) -> None:
    play = Play(Stage(1, 4, gpus=3 * gpus), engines=(1, 2, 2 * gpus), ranks=(2, 1, gpus), split=True)
    assert play.turns.there(ENGINES) is None
    assert play(RANKS) == ["reserve 1 x 2 and 2 x 1", "engines start", "ranks start"]
    assert play(ENGINES) == play(RANKS) == [] and play.turns.there(ENGINES) and play.turns.there(RANKS)
    engines, ranks = play.places
    assert [engines.count, ranks.count] == [1, 2] and [engines.gpus, ranks.gpus] == [2 * gpus, gpus]
    assert [ranks.actor_options(index)["scheduling_strategy"] for index in (0, 1)] == [1, 2]
    engines._placement.living = [True, False, True]
    assert engines.placed() == [True] and ranks.placed() == [False, True]
    play.stage.waiting = True
    again = ["ranks end", "engines end", "given back", "mark is over", "reserve 1 x 2 and 2 x 1"]
    assert play(ENGINES) == [*again, "engines start", "ranks start"], "another job has had its turn"
    play.stage.waiting = False
    play.turns.release()
    assert play.turns.there(RANKS) is None


def test_devices_that_nobody_needs_for_long_are_given_back() -> None:
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(1, 2, 0))
    told: list[str] = []
    tell = lambda: told.append("told")  # noqa: E731
    with play.turns.unused(0.001, tell):
        pass  # nothing is held
    play(ENGINES)
    for seconds in (60.0, None, 1e300):
        with play.turns.unused(seconds, tell):
            pass
    assert play.stage.notes == ["reserve 1 x 2", "engines start"] and told == []
    with play.turns.unused(0.001, tell):
        while "mark is over" not in play.stage.notes:
            time.sleep(0.01)
    assert play.stage.notes[2:] == ["engines end", "given back", "mark is over"] and told == ["told"]
    assert play(RANKS) == ["reserve 1 x 2", "ranks start"], "and reserved anew when they are needed"
    with pytest.raises(ZeroDivisionError), play.turns.unused(0.001, lambda: told.append(str(1 / 0))):
        time.sleep(0.2)
    with pytest.raises(KeyError), play.turns.unused(60.0, tell):
        raise KeyError("an error of the work itself")


def test_another_job_that_waits_gets_its_turn_between_two_of_ours() -> None:
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(1, 2, 0))
    play(ENGINES)
    play.stage.waiting = True
    assert play(RANKS) == ["engines end", "given back", "mark is over", "reserve 1 x 2", "ranks start"]


def test_on_accelerators_a_turn_ends_with_its_processes() -> None:
    play = Play(Stage(1, 8, gpus=2), engines=(1, 4, 2), ranks=(2, 1, 1))
    assert play(ENGINES) == ["reserve 1 x 4", "engines start"]
    assert play(RANKS) == ["engines end", "given back", "mark is over", "reserve 2 x 1", "ranks start"]
    assert [type(place) for place in play.places] == [Reserved, Reserved], "with cores and accelerators in Ray's books"


def devices(place: Any) -> list[str]:
    """Of each worker of a place its bundle, the first of its devices there, how many, and of how many."""
    options = [place.actor_options(index) for index in range(place.count)]
    assert all(one["num_cpus"] == one["num_gpus"] == 0 for one in options)
    return [one["runtime_env"]["env_vars"]["RATCHET_DEVICES"] for one in options]


@pytest.mark.parametrize(
    ("engines", "ranks", "reserved", "named"),
    [
        ((1, 4, 2), (2, 1, 1), (1, 4, 2), (["0 0 2 2"], ["0 0 1 2", "0 1 1 2"])),
        ((2, 1, 1), (2, 1, 1), (2, 1, 1), (["0 0 1 1", "1 0 1 1"], ["0 0 1 1", "1 0 1 1"])),
        ((1, 1, 1), (3, 2, 1), (3, 2, 1), (["0 0 1 1"], ["0 0 1 1", "1 0 1 1", "2 0 1 1"])),
        ((2, 1, 2), (3, 1, 1), (2, 2, 2), (["0 0 2 2", "1 0 2 2"], ["0 0 1 2", "0 1 1 2", "1 0 1 2"])),
    ],
)
def test_on_accelerators_both_live_in_one_reservation_where_the_job_says_so(
    engines: tuple[int, int, int],
    ranks: tuple[int, int, int],
    reserved: tuple[int, int, int],
    named: tuple[list[str], list[str]],
) -> None:
    play = Play(Stage(1, 8, gpus=4), engines, ranks, early=True, warm=True)
    assert play(ENGINES) == [f"reserve {reserved[0]} x {reserved[1]}", "engines start", "ranks start"]
    assert (devices(play.places[0]), devices(play.places[1])) == named
    assert play.places[0].gpus == engines[2] and play.turns._placement.gpus == reserved[2]  # type: ignore[union-attr]
    assert play(RANKS) == ["engines rest"] and play(ENGINES) == ["ranks rest"]
    assert play.turns.there(RANKS).name == "ranks"
    play.stage.waiting = True
    assert play(RANKS)[:4] == ["ranks end", "engines end", "given back", "mark is over"], "another job waits"


def test_on_accelerators_that_no_reservation_serves_for_both_each_turn_has_its_own() -> None:
    """Two nodes of three, and engines that are spread over two: there is room for two of them, or for six ranks."""
    play = Play(Stage(2, 8, gpus=3), engines=(2, 2, 2), ranks=(6, 1, 1), early=True, warm=True)
    [told, *notes] = play(ENGINES)
    assert told.startswith("turns     no reservation has room for engines and ranks alike")
    assert notes == ["reserve 2 x 2", "engines start"] and devices(play.places[0]) == ["0 0 2 2", "1 0 2 2"]
    assert play(RANKS) == ["engines end", "given back", "mark is over", "reserve 6 x 1", "ranks start"], "told once"


def test_processes_end_with_their_turn_everywhere_where_the_job_says_so() -> None:
    play = Play(Stage(1, 2), engines=(1, 2, 0), ranks=(2, 1, 0), early=True, warm=False)
    assert play(ENGINES) == ["reserve 1 x 2", "engines start"]
    assert play(RANKS) == ["engines end", "given back", "mark is over", "reserve 2 x 1", "ranks start"]
    assert [type(place) for place in play.places] == [Reserved, Reserved], "with cores in Ray's books"


def test_what_does_not_fit_into_one_reservation_takes_one_each_turn() -> None:
    play = Play(Stage(2, 5), engines=(2, 3, 0), ranks=(4, 2, 0))
    assert shared(play.stage.nodes(), (2, 3, 0), (4, 2, 0)) == (2, 4, 0)
    play = Play(Stage(2, 3), engines=(2, 3, 0), ranks=(6, 1, 0))
    assert play(ENGINES) == ["reserve 2 x 3", "engines start"] and play(RANKS) == ["engines rest", "ranks start"]
    play = Play(Stage(2, 3), engines=(1, 3, 0), ranks=(2, 2, 0))
    assert play(ENGINES) == ["reserve 2 x 3", "engines start"] and play(RANKS) == ["engines rest", "ranks start"]
    stage = Stage(1, 4)
    stage._nodes.append(Node("small", "small", 2, 0))
    play = Play(stage, engines=(3, 2, 0), ranks=(1, 3, 0))
    assert shared(stage.nodes(), (3, 2, 0), (1, 3, 0)) is None
    assert play(ENGINES) == ["reserve 3 x 2", "engines start"]
    assert play(RANKS) == ["engines end", "given back", "mark is over", "reserve 1 x 3", "ranks start"]


@pytest.mark.parametrize("gpus", [0, 4])
@pytest.mark.parametrize("one", [(1, 2, 0), (3, 1, 0), (2, 3, 0), (5, 2, 0)])
@pytest.mark.parametrize("other", [(1, 4, 0), (4, 1, 0), (2, 2, 0), (7, 1, 0)])
def test_a_shared_reservation_holds_both_and_fits(
    one: tuple[int, int, int], other: tuple[int, int, int], gpus: int
) -> None:
    if gpus:
        one, other = (*one[:2], 1), (*other[:2], 2)
    for cpus in range(1, 9):
        nodes = [Node(str(n), str(n), cpus + n % 2, 2 * gpus) for n in range(4)]
        if (bundles := shared(nodes, one, other)) is not None:
            assert room(nodes, *bundles[1:]) >= bundles[0]
            assert holds(bundles, one) and holds(bundles, other)
        elif not gpus:
            assert not all(room(nodes, *need[1:]) >= need[0] for need in (one, other)) or cpus < one[1] + other[1]


def test_places_of_a_role_in_a_shared_reservation() -> None:
    """Two bundles of four cores: two ranks of two cores in each. Ray counts none of them; threads are as many."""
    reserved, need = Reserved(2, 4, 0), [(4, 2, 0)]
    share = Share(reserved, lambda: need[0])  # type: ignore[arg-type]
    options = [share.actor_options(index) for index in range(4)]
    assert [o["scheduling_strategy"] for o in options] == [0, 0, 1, 1]
    assert all(o["num_cpus"] == o["num_gpus"] == 0 for o in options)
    assert all(o["runtime_env"]["env_vars"] == {"OMP_NUM_THREADS": "2", "A": "b"} for o in options)
    reserved.living = [True, False]
    assert share.placed() == [True, True, False, False]
    need[0] = (4, 1, 0)  # a node is lost for good
    share.wait()
    assert (share.count, share.cpus) == (4, 1) and share.actor_options(3)["scheduling_strategy"] == 1


@pytest.mark.parametrize("split", [False, True])
def test_reward_workers_have_a_turn_alone(split: bool) -> None:
    play = Play(Stage(1, 8, gpus=2), engines=(1, 4, 1), ranks=(1, 4, 1), split=split)
    play(ENGINES)
    before = len(play.stage.notes)
    pool = play.turns.alone((2, 4, 1), lambda place: play.hire("rewarders", place))
    assert play.turns.alone((2, 4, 1), lambda place: play.hire("others", place)) is pool
    ended = ["ranks end", "engines end"] if split else ["engines end"]
    assert play.stage.notes[before:] == [*ended, "given back", "mark is over", "reserve 2 x 4", "rewarders start"]
    assert play.turns.there(ENGINES) is None
    held = "reserve 1 x 4 and 1 x 4" if split else "reserve 1 x 4"
    started = ["engines start", "ranks start"] if split else ["engines start"]
    assert play(ENGINES) == ["rewarders end", "given back", "mark is over", held, *started]
    play.turns.__exit__(None, None, None)
