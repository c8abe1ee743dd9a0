"""What the trainer reads and writes: pairs, reference, first-step check, exported folders."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from safetensors import safe_open  # noqa: E402
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM  # noqa: E402

from orchestrator.config import RoundLoss  # noqa: E402
from orchestrator.records.pair_ids import completion_key  # noqa: E402
from orchestrator.records.rows import REFERENCE, TrainingPlan, pairs_schema  # noqa: E402
from workers.training import pair_data  # noqa: E402
from workers.training.checks import ReferenceCheck, ReferenceMismatch  # noqa: E402
from workers.training.export import ExportError, check_exportable, export_checkpoint, folder_dtype  # noqa: E402
from workers.training.loading import IncompleteModel, load_model, load_whole  # noqa: E402
from workers.training.pair_data import TrainingDataError  # noqa: E402
from workers.training.rank import Round  # noqa: E402


def save_pairs(file: Path, *ids: tuple[list[int], list[int], list[int]], **masks: pa.Array) -> str:
    rows = [(f"pair{i}", "p", "x", "y", "z", None, None, *sides) for i, sides in enumerate(ids)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    table = pa.table(columns, schema=pairs_schema(conversational=False))
    for name, mask in masks.items():
        table = table.append_column(name, mask)
    pq.write_table(table, file)
    return str(file)


def test_pairs_of_several_files_keep_their_order(tmp_path: Path) -> None:
    first = save_pairs(tmp_path / "1.parquet", ([1, 2], [3], [4, 5]), ([6], [7], [8]))
    second = save_pairs(tmp_path / "2.parquet", ([9], [0], [1, 2, 3]))
    pairs = pair_data.read_pairs([first, second], vocab_size=10)
    found = [[p.prompt.tolist(), p.chosen.tolist(), p.rejected.tolist()] for p in pairs]
    assert found == [[[1, 2], [3], [4, 5]], [[6], [7], [8]], [[9], [0], [1, 2, 3]]]


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (([1], [10], [2]), r"p\.parquet: pair pair0 has token id 10, but the model's vocabulary has 10"),
        (([1], [2], [-1]), "pair pair0 has token id -1"),
        (([1], [], [2]), r"p\.parquet: pair pair0: chosen has no tokens"),
    ],
)
def test_pairs_that_cannot_be_trained_on_are_named(tmp_path: Path, sides: Any, message: str) -> None:
    with pytest.raises(TrainingDataError, match=message):
        pair_data.read_pairs([save_pairs(tmp_path / "p.parquet", sides)], vocab_size=10)


BITS = pa.list_(pa.bool_())


def test_pairs_with_masks_and_without_are_read_alike(tmp_path: Path) -> None:
    sides = ([1, 2], [3, 4], [5, 6, 7])
    plain = save_pairs(tmp_path / "1.parquet", sides)
    chosen, rejected = ([[True, False], None, [True, True]], [None, [False, True, True], None])
    masks = {"chosen_mask": pa.array(chosen, BITS), "rejected_mask": pa.array(rejected, BITS)}
    found = pair_data.read_pairs([plain, save_pairs(tmp_path / "2.parquet", sides, sides, sides, **masks)], 10)
    read = [[None if side.mask is None else side.mask.tolist() for side in pair.sides] for pair in found]
    assert read == [[None, None], [[True, False], None], [None, [False, True, True]], [None, None]]
    assert [side.num_scored for pair in found for side in pair.sides] == [2, 3, 1, 3, 2, 2, 2, 3]
    # One column alone, and one of nothing but nulls.
    for mask in (pa.array([[False, True]], BITS), pa.nulls(1)):
        [pair] = pair_data.read_pairs([save_pairs(tmp_path / "3.parquet", sides, chosen_mask=mask)], 10)
        assert (pair.chosen_mask is None) == (mask.null_count == 1) and pair.rejected_mask is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (pa.array([[True]], BITS), r"p\.parquet: pair pair0: chosen_mask: 1 truth values for 2 tokens"),
        (pa.array([[False, False]], BITS), "pair pair0: chosen_mask: no token is the model's own"),
        (pa.array([[True, None]], BITS), "pair pair0: chosen_mask: this is no list of truth values"),
        (pa.array([[1, 0]]), "pair pair0: chosen_mask: this is no list of truth values"),
        (pa.array(["no"]), "pair pair0: chosen_mask: this is no list of truth values"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path: Path, mask: pa.Array, message: str) -> None:
    with pytest.raises(TrainingDataError, match=message):
        pair_data.read_pairs([save_pairs(tmp_path / "p.parquet", ([1], [2, 3], [4]), chosen_mask=mask)], 10)


def texts(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


def test_pairs_of_a_group_become_one_row_and_keep_to_their_file(tmp_path: Path) -> None:
    sides = [([1, 2], [3], [4]), ([1, 2], [3], [5]), ([1, 2], [3], [6])]
    first = save_pairs(tmp_path / "1.parquet", *sides, group=texts(None, "pair1", "pair1"))
    second = save_pairs(tmp_path / "2.parquet", *sides, group=texts("pair1", None, None))
    rows = pair_data.grouped(pair_data.read_pairs([first, second], 10))
    rejected = [[side.tokens.tolist() for side in row.sides[1:]] for row in rows]
    assert rejected == [[[4]], [[5], [6]], [[4]], [[5]], [[6]]]
    plan = TrainingPlan("", "", (), RoundLoss(beta=0.1, dpo=1.0, nll=1.0, form="softmax"), 0.0, 0, "", "", "", "", "")
    assert Round(plan, rows, None, []).nll_tokens([0, 1]) == 2, "a group's chosen one counts once"
    odd = save_pairs(tmp_path / "3.parquet", *sides[:1], ([1, 2], [7], [5]), group=texts("pair0", "pair0"))
    with pytest.raises(TrainingDataError, match="pair pair1: its group has another prompt or chosen completion; make"):
        pair_data.grouped(pair_data.read_pairs([odd], 10))


def test_a_side_that_is_too_long_leaves_its_group_and_a_chosen_one_takes_it_along(tmp_path: Path) -> None:
    sides = [([1], [2], [3]), ([1], [2], [3] * 9), ([4], [5] * 9, [6]), ([4], [5] * 9, [7])]
    file = save_pairs(tmp_path / "1.parquet", *sides, group=texts("a", "a", "b", "b"))
    [row] = pair_data.grouped(pair_data.drop_long(pair_data.read_pairs([file], 10), 5))
    assert [side.tokens.tolist() for side in row.sides] == [[2], [3]]


def test_what_a_loss_by_scores_cannot_go_by_is_named(tmp_path: Path) -> None:
    sides, numbers = [([1], [2], [3]), ([1], [2], [4])], lambda *values: pa.array(values, pa.float64())
    columns = {"chosen_score": numbers(4.0, 3.0), "rejected_score": numbers(2.5, 1.0)}
    pairs = pair_data.read_pairs([save_pairs(tmp_path / "1.parquet", *sides, **columns)], 10)
    assert pair_data.score_gaps(pairs) == [1.5, 2.0]
    for given, said in (
        ({}, "pair pair0 has no scores, by which this `loss.form` goes"),
        (columns | {"rejected_score": numbers(1.0, None)}, "pair pair1 has no scores"),
        (
            columns | {"rejected_score": numbers(4.0, 1.0)},
            "pair pair0: the chosen score less the rejected one is 0, and",
        ),
        (columns | {"chosen_score": numbers(math.nan, 1.0)}, "less the rejected one is nan, and must be above 0"),
    ):
        pairs = pair_data.read_pairs([save_pairs(tmp_path / "2.parquet", *sides, **given)], 10)
        with pytest.raises(TrainingDataError, match=said):
            pair_data.score_gaps(pairs)


def test_the_nll_of_a_batch_counts_own_tokens_alone(tmp_path: Path) -> None:
    masks = pa.array([[True, False, True], None], BITS)
    file = save_pairs(tmp_path / "p.parquet", ([1, 2], [3, 4, 5], [6]), ([7], [8, 9], [6]), chosen_mask=masks)
    pairs = pair_data.read_pairs([file], 10)
    plan = TrainingPlan("", "", (file,), RoundLoss(beta=0.1, dpo=1.0, nll=1.0), 0.0, 0, "", "", "", "", "")
    whole = replace(plan, loss=plan.loss.model_copy(update={"nll_scope": "prompt+response"}))
    assert Round(plan, pairs, None, []).nll_tokens([0, 1]) == 2 + 2
    assert Round(whole, pairs, None, []).nll_tokens([0, 1]) == 2 + 2 + 2 + 1


def test_no_pairs_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="cannot be read as a Parquet file of pairs"):
        pair_data.read_pairs([str(tmp_path / "none.parquet")], 10)
    with pytest.raises(TrainingDataError, match="the files of pairs are empty"):
        pair_data.drop_long([], 5)
    pairs = pair_data.read_pairs([save_pairs(tmp_path / "p.parquet", ([1, 2], [3], [4, 5]))], 10)
    with pytest.raises(TrainingDataError, match=r"all 1 are longer than train.max_tokens = 3; the shortest has 4"):
        pair_data.drop_long(pairs, 3)


def test_a_reference_for_other_pairs_is_refused(tmp_path: Path) -> None:
    pairs = pair_data.read_pairs([save_pairs(tmp_path / "p.parquet", ([1, 2], [3], [4, 5]))], 10)
    keys = [completion_key(pairs[0].prompt, side) for side in (pairs[0].chosen, pairs[0].rejected)]
    masks = {"chosen_mask": pa.nulls(1), "rejected_mask": pa.array([[True, False]], BITS)}
    masked = pair_data.read_pairs([save_pairs(tmp_path / "q.parquet", ([1, 2], [3], [4, 5]), **masks)], 10)
    pair_data.require_scored(pairs, dict.fromkeys(keys, -1.0), "r.parquet")
    with pytest.raises(TrainingDataError, match="lacks a completion of pair pair0"):
        pair_data.require_scored(masked, dict.fromkeys(keys, -1.0), "r.parquet")
    file = str(tmp_path / "r.parquet")
    pq.write_table(pa.table([keys[:1], [-1.5], [1]], schema=REFERENCE), file)
    reference = pair_data.read_reference(file)
    assert reference == {keys[0]: -1.5}
    with pytest.raises(TrainingDataError, match=r"r\.parquet: lacks a completion of pair pair0"):
        pair_data.require_scored(pairs, reference, file)


def check_of(differences: list[float]) -> ReferenceCheck:
    squares = sum(d * d for d in differences)
    absolute = sum(map(abs, differences))
    sums = {"completions": len(differences), "absolute": absolute, "signed": sum(differences), "squared": squares}
    return ReferenceCheck.from_sums(sums)


def test_rounding_passes_and_another_model_does_not() -> None:
    noise = [0.015 * math.sin(7 * i) for i in range(32)]
    check_of(noise).require_agreement()
    check_of([0.0] * 8).require_agreement()
    # Tiny and all in one direction: significant, and harmless.
    check_of([1e-6 + 1e-8 * i for i in range(32)]).require_agreement()
    with pytest.raises(ReferenceMismatch, match=r"0\.0300 nats a token on average"):
        check_of([0.03, -0.03] * 8).require_agreement()
    with pytest.raises(ReferenceMismatch, match=r"bias of \+0.01"):
        check_of([0.010 + 0.1 * d for d in noise]).require_agreement()


def test_standard_error_is_that_of_the_mean() -> None:
    values = [0.1, 0.3, -0.2, 0.4]
    spread = math.sqrt(sum((v - 0.15) ** 2 for v in values) / 3)
    assert check_of(values).standard_error == pytest.approx(spread / 2)


def tiny(folder: Path, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=1,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "weights.bin").write_text("not to be copied")
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_an_exported_folder_loads_as_the_same_model(tmp_path: Path, tied: bool, shard_bytes: int) -> None:
    model = tiny(tmp_path / "seed", tied)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    target = tmp_path / "out"
    export_checkpoint(
        model, str(tmp_path / "seed"), str(target), torch.float32, 0, 0, has_master=False, shard_bytes=shard_bytes
    )
    files = sorted(file.name for file in target.glob("*.safetensors"))
    if shard_bytes == 10**9:
        assert files == ["model.safetensors"] and not (target / "model.safetensors.index.json").exists()
    else:
        index = json.loads((target / "model.safetensors.index.json").read_text())["weight_map"]
        assert len(files) > 2 and set(index.values()) == set(files)
        for name, file in index.items():
            with safe_open(target / file, framework="pt") as weights:
                assert name in weights.keys()  # noqa: SIM118
    loaded, info = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for (name, wanted), (_, found) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(wanted, found), name
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert (target / "tokenizer.json").exists() and not (target / "weights.bin").exists()


def test_a_weight_that_is_not_finite_is_not_published(tmp_path: Path) -> None:
    model = tiny(tmp_path / "seed", True)
    with torch.no_grad():
        model.model.norm.weight[3] = math.nan
    with pytest.raises(ExportError, match=r"model\.norm\.weight holds a value that is not finite"):
        export_checkpoint(model, str(tmp_path / "seed"), str(tmp_path / "out"), torch.float32, 0, 0, False)
    assert not list((tmp_path / "out").glob("config.json"))


def test_a_weight_that_its_format_cannot_hold_is_not_published(tmp_path: Path) -> None:
    """Finite in float32, and infinite in the checkpoint that an engine would load."""
    model = tiny(tmp_path / "seed", True)
    with torch.no_grad():
        model.model.norm.weight[3] = -70000.0
    told = r"model\.norm\.weight holds a value of 7e\+04 after training, and torch\.float16 none above 6\.55e\+04"
    with pytest.raises(ExportError, match=told):
        export_checkpoint(model, str(tmp_path / "seed"), str(tmp_path / "out"), torch.float16, 0, 0, False)
    assert not list((tmp_path / "out").glob("*.*"))
    export_checkpoint(model, str(tmp_path / "seed"), str(tmp_path / "other"), torch.bfloat16, 0, 0, False)


def test_a_model_whose_names_are_not_those_of_its_files_is_refused(tmp_path: Path) -> None:
    model = tiny(tmp_path / "seed", True)
    check_exportable(model, str(tmp_path / "seed"))
    model.model.add_module("extra", torch.nn.Linear(2, 2))
    with pytest.raises(ExportError, match=r"2 of its weights differently .*model\.extra\.bias"):
        check_exportable(model, str(tmp_path / "seed"))


def test_missing_weights_are_an_error_and_not_random_numbers(tmp_path: Path) -> None:
    tiny(tmp_path / "seed", True)
    config = json.loads((tmp_path / "seed" / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (tmp_path / "seed" / "config.json").write_text(json.dumps(config))
    with pytest.raises(IncompleteModel, match=r"its weights lack model\.layers\.2\."):
        load_model(str(tmp_path / "seed"), torch.float32)


def test_loading_and_exporting_show_signs_of_life(tmp_path: Path) -> None:
    tiny(tmp_path / "seed", True)
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)

    model = load_whole(str(tmp_path / "seed"), torch.float32, beat)
    weights = len(list(model.parameters()))
    assert len(beats) >= 2 * weights, "each is made, and each is loaded"
    beats.clear()
    torch.nn.Linear(2, 2)
    assert not beats, "only while it loads"
    export_checkpoint(
        model, str(tmp_path / "seed"), str(tmp_path / "out"), torch.float32, 0, 0, False, shard_bytes=1000, beat=beat
    )
    files = len(list((tmp_path / "out").iterdir()))
    assert files > 3 and len(beats) > weights + files, "each is gathered, and each file written and synced"


def test_the_dtype_of_a_folder(tmp_path: Path) -> None:
    tiny(tmp_path / "seed", True).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert folder_dtype(tmp_path / "seed") == torch.float32
    assert folder_dtype(tmp_path / "half") == torch.bfloat16
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "half" / "config.json").write_text(json.dumps(config))
    assert folder_dtype(tmp_path / "half") == torch.bfloat16


def test_a_metric_that_some_steps_lack_is_null_there(tmp_path: Path) -> None:
    rows = [{"step": 1.0, "loss": 0.7}, {"step": 2.0, "loss": 0.6, "reward_accuracy": 0.9}]
    pair_data.write_metrics(str(tmp_path / "metrics.parquet"), rows)
    found = pq.read_table(tmp_path / "metrics.parquet").to_pydict()
    assert found == {"step": [1.0, 2.0], "loss": [0.7, 0.6], "reward_accuracy": [None, 0.9]}
