"""Samples with tokens that are not the model's own, through the loop: into pairs, training's input, replay, steps, and
what `verify` and a resume make of masks that do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.commands.verify.command import verify
from orchestrator.errors import Damaged
from orchestrator.ledger.columns import require_columns
from orchestrator.records.masks import as_mask, fitted, masked, misfits
from orchestrator.records.pair_ids import completion_key
from orchestrator.records.rows import DECODED, SAMPLES, SamplingPlan, pairs_schema
from orchestrator.sources.steps.answers import Answer
from orchestrator.sources.steps.pairing import Continuation, Error, StepPair, step_pair
from tests.orchestrator.commands.test_verify import forge, record, unchecked
from tests.orchestrator.sources.test_sources import project as with_solutions
from tests.support.stand_ins import StandInEngines, StandIns, chance, make_project, run_job, skill_of
from tests.support.step_stand_ins import STEPS, StepEngines, StepStandIns

PAIRS, SAMPLED = "rounds/01/pairs/00000.parquet", "rounds/01/samples/00000.parquet"


def with_mask(sample: dict[str, Any], seed: int) -> dict[str, Any]:
    """Two of three samples have a stretch of some other hand in them."""
    key, length = (sample["prompt_id"], sample["sample_index"], seed), len(sample["token_ids"])
    if chance("masked", *key) > 0.67 or length < 4:
        return sample
    start = 1 + int(chance("start", *key) * (length - 3))
    return sample | {"mask": [not start <= i < start + 2 for i in range(length)]}


class MaskedEngines(StandInEngines):
    def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        return with_mask(super()._sample(prompt, index, plan), plan.seed)


class MaskedStandIns(StandIns):
    """`rounds` of no training, from a model that has learned nothing yet, alone have masks if `first_only`."""

    first_only = False

    def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
        own = not self.first_only or skill_of(model) == 0.4
        return MaskedEngines(self, skill_of(model)) if own else super().engines(model)


class MaskedStepEngines(StepEngines):
    def _answer(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
        return with_mask(super()._answer(prompt, index, plan), plan.seed)


class MaskedStepStandIns(StepStandIns):
    def engines(self, model: str, probe: Path | None = None) -> StepEngines:
        return MaskedStepEngines(self, skill_of(model))


def rows(run: Path, step: str) -> list[dict[str, Any]]:
    return [row for file in sorted((run / step).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_job(make_project(tmp_path, pairs={"per_prompt": 2, "replay": 0.5}), MaskedStandIns())
    return tmp_path / "run"


def test_a_samples_mask_goes_with_it_into_pairs_and_replay(run: Path) -> None:
    samples = {(row["prompt_id"], row["sample_index"]): row for row in rows(run, "rounds/01/samples")}
    pairs, seen = rows(run, "rounds/01/pairs"), set()
    for pair in pairs:
        for side in ("chosen", "rejected"):
            sample = samples[pair["prompt_id"], pair[f"{side}_sample"]]
            assert pair[f"{side}_token_ids"] == sample["token_ids"] and pair[f"{side}_mask"] == sample["mask"]
            seen.add(sample["mask"] is None)
    assert seen == {True, False}
    by_id = {f"01:{pair['pair_id']}": pair for pair in pairs}
    replayed = rows(run, "rounds/02/replay")
    assert replayed and all(by_id[row["pair_id"]] | {"pair_id": row["pair_id"]} == row for row in replayed)
    assert verify(run).findings == []


def test_training_reads_the_masks(run: Path) -> None:
    pytest.importorskip("torch")
    from workers.training import pair_data

    read = pair_data.read_pairs([str(run / PAIRS), str(run / "rounds/02/replay/00000.parquet")], vocab_size=256)
    written = rows(run, "rounds/01/pairs") + rows(run, "rounds/02/replay")
    assert len(read) == len(written)
    for pair, row in zip(read, written, strict=True):
        for side, completion in zip(("chosen", "rejected"), pair.sides, strict=True):
            found = None if completion.mask is None else completion.mask.tolist()
            assert found == row[f"{side}_mask"] and completion.tokens.tolist() == row[f"{side}_token_ids"]
            key = completion_key(row["prompt_token_ids"], row[f"{side}_token_ids"], row[f"{side}_mask"])
            assert completion.key(pair.prompt) == key


@pytest.mark.parametrize(
    ("changes", "none"),
    [
        ({"pairs": {"rule": "correct"}, "loss": {"dpo": 0, "nll": 1}}, "rejected"),
        ({"pairs": {"gold_as_chosen": "only", "rejected": "any"}}, "chosen"),
    ],
    ids=["imitated", "gold"],
)
def test_what_is_no_sample_has_no_mask(tmp_path: Path, changes: dict[str, Any], none: str) -> None:
    """Nothing where nothing is rejected, and a gold solution, all of which is scored."""
    run_job(with_solutions(tmp_path, rounds=1, **changes), MaskedStandIns(), "data.solution=solution")
    pairs = rows(tmp_path / "run", "rounds/01/pairs")
    other = "chosen" if none == "rejected" else "rejected"
    assert {pair[f"{none}_mask"] is None for pair in pairs} == {True}
    assert {pair[f"{other}_mask"] is None for pair in pairs} == {True, False}
    assert verify(tmp_path / "run").findings == []
    if none == "chosen":
        mask = [True, *([False] * (len(pairs[0]["chosen_token_ids"]) - 1))]
        forge(tmp_path / "run", PAIRS, lambda table: table[0].update(chosen_mask=mask))
        assert any("has a mask, and is the gold solution" in line for line in verify(tmp_path / "run").findings)


@pytest.mark.parametrize("first_only", [True, False])
def test_files_without_a_mask_are_what_they_were(tmp_path: Path, first_only: bool) -> None:
    """Where a round has none, and where no round has any; a replay of both kinds has the column."""
    workers = MaskedStandIns() if first_only else StandIns()
    workers.first_only = True
    run_job(make_project(tmp_path, rounds=3, pairs={"per_prompt": 2, "replay": 0.5}), workers)
    run = tmp_path / "run"
    assert pq.read_schema(run / "rounds/02/samples/00000.parquet") == SAMPLES
    assert pq.read_schema(run / "rounds/02/pairs/00000.parquet") == pairs_schema(conversational=False)
    wanted = masked(pairs_schema(conversational=False)) if first_only else pairs_schema(conversational=False)
    assert pq.read_schema(run / "rounds/03/replay/00000.parquet") == wanted
    assert verify(run).findings == []


def mask_of(change: Callable[[Any], Any], column: str) -> Callable[[list[dict[str, Any]]], None]:
    def forged(rows: list[dict[str, Any]]) -> None:
        row = next(row for row in rows if row[column])
        row[column] = change(row[column])

    return forged


@pytest.mark.parametrize(
    ("name", "column", "change", "said"),
    [
        (SAMPLED, "mask", lambda mask: mask[1:], "`mask`: "),
        (SAMPLED, "mask", lambda mask: [False for _ in mask], "`mask`: no token is the model's own"),
        (SAMPLED, "mask", lambda mask: [None, *mask[1:]], "`mask`: this is no list of truth values"),
        (PAIRS, "chosen_mask", lambda mask: [*mask, True], "`chosen_mask`: "),
    ],
)
def test_a_mask_that_does_not_fit_is_damage(
    run: Path, tmp_path: Path, name: str, column: str, change: Any, said: str
) -> None:
    forge(run, name, mask_of(change, column))
    [found] = [line for line in verify(run).findings if said in line]
    assert found.startswith(f"{name}: row ") and found.endswith("or take the run from somewhere else.")
    with pytest.raises(Damaged, match=rf"{name}: row \d+, {said}"):
        run_job(tmp_path / "tiny.yaml", MaskedStandIns(), "rounds=3", "pairs.replay=0.5")


@pytest.mark.parametrize("column", ["chosen_mask", "rejected_mask"])
def test_a_pair_with_another_mask_than_its_sample_is_found(run: Path, column: str) -> None:
    forge(run, PAIRS, mask_of(lambda mask: [not own for own in mask], column))
    side = column.removesuffix("_mask")
    found = verify(run).findings
    assert any(f"its {side} side has another mask than sample" in line for line in found)
    assert any("is no pair of rounds/01" in line for line in found) or len(found) == 1


def test_a_column_of_another_type_is_damage(run: Path, tmp_path: Path) -> None:
    file = run / SAMPLED
    table = pq.read_table(file)
    at = table.column_names.index("mask")
    pq.write_table(table.set_column(at, "mask", table["mask"].cast(pa.list_(pa.int8()))), file)
    with pytest.raises(Damaged, match="its column `mask` holds lists of integers, and should hold lists of truth val"):
        require_columns(file, run)


def test_steps_keep_the_masks_of_their_answers(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"method": "step_dpo", "steps": STEPS, "promotion": {"rule": "always"}, "rounds": 1}
    generate = {"samples": 3, "max_tokens": 400, "shard_prompts": 4}
    run_job(make_project(tmp_path, 0.6, seed=8, **changes, generate=generate), MaskedStepStandIns())
    run = tmp_path / "run"
    assert verify(run).findings == []
    samples = {(row["prompt_id"], row["sample_index"]): row for row in rows(run, "rounds/01/samples")}
    pairs = rows(run, "rounds/01/pairs")
    prompts = {row["prompt_id"]: row["token_ids"] for row in rows(run, "rounds/01/prompts")}
    assert any(pair["rejected_mask"] for pair in pairs) and any(pair["chosen_mask"] for pair in pairs)
    for pair in pairs:
        sample = samples[pair["prompt_id"], pair["rejected_sample"]]
        start = len(pair["prompt_token_ids"]) - len(prompts[pair["prompt_id"]])
        mask = (sample["mask"] or [])[start : start + len(pair["rejected_token_ids"])]
        assert pair["rejected_mask"] == (None if all(mask) else mask)
    forge(run, PAIRS, mask_of(lambda mask: [not own for own in mask], "chosen_mask"))
    assert any("its chosen side has another mask than its sample" in line for line in verify(run).findings)


def test_a_step_of_another_hand_is_no_step_to_learn() -> None:
    def error(mask: list[bool] | None) -> Error:
        text = " 1\nStep 2: -2\nFinal answer: -2"
        ids = list(text.encode())
        answer = Answer("Step 1:", text, list(range(1, len(ids) + 1)))
        return Error("p", 0, [1, 2], ids, answer, mask)

    def right(mask: list[bool] | None) -> Continuation:
        ids = list(b" 2\nFinal answer: 2")
        prefix, ends = error(None).prefix(1), list(range(1, len(ids) + 1))
        return Continuation("search/01", 0, prefix, ids, bytes(ids).decode(), ends, mask)

    plain = step_pair(error(None), 2, right(None))
    assert isinstance(plain, StepPair)
    length, before = len(error(None).token_ids), len(plain.prompt_ids) - 2
    pair = step_pair(error([i != before + 1 for i in range(length)]), 2, right([i > 1 for i in range(18)]))
    assert isinstance(pair, StepPair)
    assert pair.rejected_mask == [i != 1 for i in range(len(pair.rejected_ids))]
    assert pair.chosen_mask == [i > 1 for i in range(len(pair.chosen_ids))]
    outside = step_pair(error([i >= before for i in range(length)]), 2, right([True] * 18))
    assert isinstance(outside, StepPair) and outside.rejected_mask is None and outside.chosen_mask is None
    assert step_pair(error([i < before for i in range(length)]), 2, right(None)) == "empty"


def test_what_a_mask_is() -> None:
    assert as_mask(None, 3) is None and as_mask([True] * 3, 3) is None and as_mask([], 0) is None
    mask = as_mask([True, False, True], 3)
    assert mask is not None and mask.tolist() == [True, False, True]
    other: Sequence[Any]
    for other in ([True], [True, None, True], [1, 0, 1], [False] * 3, [[True]] * 3, []):
        with pytest.raises(ValueError):
            as_mask(other, 3)


def test_a_completion_is_named_by_its_mask_too() -> None:
    prompt, tokens = [1, 2], [3, 4, 5, 6]
    plain = completion_key(prompt, tokens)
    assert plain == completion_key(prompt, tokens, None) == completion_key(prompt, tokens, [True] * 4)
    names = {completion_key(prompt, tokens, np.array([bit == "1" for bit in f"{n:04b}"])) for n in range(1, 15)}
    assert len(names) == 14 and plain not in names


def test_a_table_gets_the_columns_that_it_lacks_and_misfits_are_found() -> None:
    table = pa.Table.from_pylist(
        [{"prompt_id": "p", "sample_index": i, "text": "", "token_ids": [1, 2]} for i in range(2)]
        + [{"prompt_id": "p", "sample_index": 2, "text": "", "token_ids": []}]
    )
    whole = fitted(table, masked(pa.schema([SAMPLES.field(name) for name in table.column_names])))
    assert whole.column_names[-1] == "mask" and whole["mask"].null_count == 3
    assert list(misfits(table)) == list(misfits(whole)) == []
    broken = table.append_column("mask", pa.array([None, [True], None], pa.list_(pa.bool_())))
    assert list(misfits(broken)) == [(1, "`mask`: 1 truth values for 2 tokens")]
    assert masked(DECODED).names == [*DECODED.names, "mask"] and masked(masked(SAMPLES)) == masked(SAMPLES)


def test_a_told_number_of_completions_is_that_of_their_masks(tmp_path: Path) -> None:
    """Every sample has the same tokens, and a prompt's have masks of their own: they are counted by both."""

    class Alike(StandInEngines):
        def _sample(self, prompt: dict[str, Any], index: int, plan: SamplingPlan) -> dict[str, Any]:
            alike = {"token_ids": [7] * 8, "num_tokens": 8, "mask": [i != index for i in range(8)]}
            return super()._sample(prompt, index, plan) | alike

    class Workers(StandIns):
        def engines(self, model: str, probe: Path | None = None) -> StandInEngines:
            return Alike(self, skill_of(model))

    run_job(make_project(tmp_path, rounds=1), Workers())
    run = tmp_path / "run"
    path = record(run, "commit", step="rounds/01/train")
    document = unchecked(path)
    keys = {
        completion_key(row["prompt_token_ids"], row[f"{side}_token_ids"], row[f"{side}_mask"])
        for row in rows(run, "rounds/01/pairs")
        for side in ("chosen", "rejected")
    }
    assert len(keys) > len({row["prompt_id"] for row in rows(run, "rounds/01/pairs")})
    document["data"]["facts"]["distinct_completions"] = len(keys)
    path.write_text(json.dumps(document))
    assert verify(run).findings == []
    document["data"]["facts"]["distinct_completions"] = len(keys) - 1
    path.write_text(json.dumps(document))
    assert any("distinct_completions" in line for line in verify(run).findings)
