"""TRL's own DPO trainer as an oracle, where its definitions are ours: `sigmoid` plus `sft`.

Its `sft` term is one mean over all chosen tokens of a batch, our `nll_normalisation: batch`; the
paper's per-sequence mean has no counterpart there.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
import numpy as np  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

from orchestrator.records.rows import LossWeights  # noqa: E402
from workers.numerics import batching  # noqa: E402
from workers.numerics.batching import PairTokens  # noqa: E402
from workers.numerics.logprobs import PackScorer  # noqa: E402
from workers.numerics.step import BatchTotals, accumulate  # noqa: E402

VOCAB = 53


def tokenizer() -> PreTrainedTokenizerFast:
    words = {"<eos>": 0, "<pad>": 1, **{f"t{i}": i for i in range(2, VOCAB)}}
    plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<eos>", pad_token="<pad>")


def tiny_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=32,
            initializer_range=0.2,
            pad_token_id=1,
            eos_token_id=0,
            bos_token_id=None,
        )
    )


def preference_rows() -> list[dict[str, str]]:
    rng = np.random.default_rng(4)

    def text() -> str:
        return " ".join(f"t{i}" for i in rng.integers(2, VOCAB, rng.integers(1, 12)))

    rows = []
    for _ in range(3):
        prompt, losers = text(), [text(), text()]
        rows += [{"prompt": prompt, "chosen": " " + text(), "rejected": f" {losers[k]} <eos>"} for k in range(2)]
    return [row | {"chosen": row["chosen"] + " <eos>"} for row in rows]


def trl_trainer(folder: Path, policy: Any, reference: Any, alpha: float) -> Any:
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(folder),
        beta=0.3,
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, alpha],
        per_device_train_batch_size=6,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
    )
    rows = datasets.Dataset.from_list(preference_rows())
    return DPOTrainer(policy, reference, settings, train_dataset=rows, processing_class=tokenizer())


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_loss_and_gradients_are_those_of_trl(tmp_path: Path, alpha: float) -> None:
    policy, reference = tiny_model(1), tiny_model(2)
    ours, our_reference = PackScorer(copy.deepcopy(policy)), PackScorer(copy.deepcopy(reference))
    trainer = trl_trainer(tmp_path, policy, reference, alpha)
    rows = list(trainer.train_dataset)
    expected = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    expected.backward()

    pairs = [
        PairTokens(
            str(i),
            *(np.asarray(row[side], dtype=np.int32) for side in ("prompt_ids", "chosen_ids", "rejected_ids")),
        )
        for i, row in enumerate(rows)
    ]
    totals = BatchTotals(len(pairs), sum(len(pair.chosen) for pair in pairs))
    weights = LossWeights(beta=0.3, dpo=1.0, nll=alpha, nll_normalisation="batch")
    (share,) = batching.divide_batch(pairs, range(len(pairs)), 40, 1)
    packs = [batching.micro_batch(trees) for trees in share]
    with torch.no_grad():
        batches = [(batch, our_reference(batch.pack)) for batch in packs]
    assert len(batches) > 1, "several micro-batches, or the normalisation over the whole batch is not tested"
    sums = accumulate(ours, batches, weights, totals, lambda loss: loss.backward())

    assert sums.values[0].item() / len(pairs) == pytest.approx(expected.item(), rel=1e-5)
    wanted = dict(policy.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-5, msg=name)
