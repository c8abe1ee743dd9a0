"""Does a kind of model compute in packs of trees what it computes alone? Tried on a tiny model with the structure of
the large one, before any of its weights are loaded.

Rounding gives differences of up to 1e-4 nats a token; each kind of model that trees do not fit gives 0.03 or more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workers.numerics import batching, layout, limits, tiny
from workers.numerics.attention import UnsupportedModel
from workers.numerics.batching import PairTokens
from workers.numerics.logprobs import PackScorer, check_class, disable_dropout

LIMIT = 1e-3
"""Largest difference of a completion's log-probability that is taken for rounding, in nats a token."""


class NotTried(Exception):
    """No tiny model could be made or asked, though the large one may well be sound; the message says why."""


def check_agreement(config: Any, activation_checkpointing: bool = False) -> float:
    """Compare a pack of two trees, each a prompt with two completions, with each path on its own; the largest
    difference, in nats a token. `config` is that of a transformers model, and loses its dropout.

    Raises:
        UnsupportedModel: they differ, or the model cannot be scored by packs at all, or not trained.
        NotTried: nothing is known.
    """
    check_class(_model_class(config))
    window = limits.attention_window(config)
    disable_dropout(config)
    # What is known to be full attention at every length must be so however short that is which looks like a window.
    model = _tiny_model(config, shrink_windows=window is None)
    pairs = _pairs()
    try:
        alone = {(pair.pair_id, side): _alone(model, pair, side) for pair in pairs for side in (0, 1)}
        sees_ahead = _sees_ahead(model, pairs[0])
    except Exception as error:
        raise _unfit(config, error) from error
    kind = _kind(config)
    if sees_ahead:
        raise UnsupportedModel(
            f"{kind}: its tokens attend to those that come after them, so it is no causal language model; choose one "
            "that is (Llama, Qwen, Mistral and their like)"
        )
    if (difference := _difference(model, pairs, alone, kind, activation_checkpointing)) > LIMIT:
        raise UnsupportedModel(
            f"{kind}: completions that share a prompt get other log-probabilities than each alone (by {difference:.2g} "
            "nats a token, tried on a tiny model of this kind): its attention is not full, or not all that carries its "
            "text from token to token; choose another model (Llama, Qwen, Mistral and their like)"
        )
    return difference


def _model_class(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise UnsupportedModel(
            f"{_kind(config)}: transformers has no causal language model of this kind; choose another model"
        ) from None


def _kind(config: Any) -> str:
    return str(getattr(config, "model_type", None) or type(config).__name__)


def _tiny_model(config: Any, shrink_windows: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM

    try:
        model: nn.Module = AutoModelForCausalLM.from_config(tiny.tiny_config(config, shrink_windows))
        tiny.draw(model, seed=0)
    except Exception as error:
        raise _unfit(config, error) from error
    return model.float().eval()


def _unfit(config: Any, error: Exception) -> Exception:
    """What a failure of the tiny model means: where the large one fails likewise, nothing can be done with it."""
    said = f"{_kind(config)}: {type(error).__name__}: {_first_line(error)}"
    if isinstance(error, ImportError) or _fails_alike(config, error):
        return UnsupportedModel(f"{said}, where transformers makes or asks such a model; choose another model")
    return NotTried(said)


def _fails_alike(config: Any, error: Exception) -> bool:
    """Whether the model in its full size, without memory for its weights, fails in the same way."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(config)(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)
    except Exception as again:
        return type(again) is type(error) and str(again) == str(error)
    return False


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200].rstrip(":")


def _pairs() -> list[PairTokens]:
    rng = np.random.default_rng(0)

    def ids(count: int) -> batching.Tokens:
        return rng.integers(tiny.FIRST_ID, tiny.VOCABULARY, count).astype(np.int32)

    return [PairTokens("a", ids(9), ids(12), ids(7)), PairTokens("b", ids(6), ids(11), ids(14))]


def _path(pair: PairTokens, side: int) -> Tensor:
    return torch.from_numpy(np.concatenate((pair.prompt, pair.sides[side].tokens)).astype(np.int64))


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor) -> Tensor:
    """[T, V] of one path."""
    logits: Tensor = model(ids[None], use_cache=False).logits[0].float()
    return logits


def _alone(model: nn.Module, pair: PairTokens, side: int) -> float:
    """Log-probability of a completion behind its prompt, by the model's ordinary forward."""
    ids = _path(pair, side)
    logprobs = _logits(model, ids)[:-1].log_softmax(-1).gather(1, ids[1:, None])
    return float(logprobs[len(pair.prompt) - 1 :].sum())


def _sees_ahead(model: nn.Module, pair: PairTokens) -> bool:
    """Whether another last token changes what is predicted before it."""
    ids = _path(pair, 0)
    other = ids.clone()
    other[-1] = tiny.FIRST_ID + (ids[-1] + 1) % tiny.FIRST_ID
    first, second = (_logits(model, each)[:-1].log_softmax(-1) for each in (ids, other))
    return bool((first - second).abs().max() > LIMIT)


def _difference(
    model: Any, pairs: list[PairTokens], alone: dict[tuple[str, int], float], kind: str, checkpointing: bool
) -> float:
    """Largest difference of a completion in the pack from the same completion alone, in nats a token. The pack is
    computed as in training, backward too."""
    trees = [batching.pair_trees([pair], [0], 10**6)[0] for pair in pairs]
    pack = layout.lay_out(trees)
    try:
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        found = PackScorer(model).train()(pack)
        found.sum().backward()
    except UnsupportedModel:
        raise
    except Exception as error:
        how = " with train.activation_checkpointing" if checkpointing else ""
        raise UnsupportedModel(
            f"{kind}: tree batching does not fit what it computes{how} ({type(error).__name__}: {_first_line(error)}); "
            "choose another model"
        ) from error
    wanted = [(alone[pair.pair_id, side], len(pair.sides[side])) for pair in pairs for side in (0, 1)]
    return max(abs(float(a) - b) / tokens for a, (b, tokens) in zip(found.detach(), wanted, strict=True))
