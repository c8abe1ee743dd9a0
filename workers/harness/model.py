"""A model of lm-evaluation-harness whose requests the run's engines answer.

What is asked, cut and made of an answer is as in the harness's own backend for transformers (`hf`), but for the room
in the context: engines score a completion only where one more token would fit, so that what is cut there is cut by two
tokens more here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from orchestrator.errors import BadInput
from orchestrator.records.harness import REQUESTS
from workers.files import write_table
from workers.tokens.prompts import load_config, templated
from workers.tokens.rendering import context_of
from workers.tokens.tokenizer import decoded, encoded, load_tokenizer

Ask = Callable[[str, int, dict[str, Any] | None], list[str]]
"""Has a file of requests answered; returns the files of the answers. See orchestrator.records.harness.Asked."""

_ROWS_A_GROUP = 1024
_WITHOUT_EFFECT: Mapping[str, Any] = {
    **{"num_beams": 1, "repetition_penalty": 1.0, "num_return_sequences": 1, "early_stopping": False},
    **{"use_cache": True, "min_p": 0.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0},
}
"""Arguments of a generation that change nothing at these values."""


class EngineLM(TemplateLM):
    """`model` is its folder, for the tokenizer; `work` a folder for requests, which `ask` has answered."""

    def __init__(self, model: str, max_model_len: int | None, work: Path, ask: Ask) -> None:
        super().__init__()
        self.tokenizer = load_tokenizer(model)
        self.max_length: int = max_model_len or context_of(load_config(model)) or 2**31
        self._work, self._ask = work, ask
        self._asked = 0

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None and has_bos_prefix(string, decoded(self.tokenizer, [self.prefix_token_id])):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = encoded(self.tokenizer, string, **given)["input_ids"]
        return ids

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """See `LM`."""
        return templated(self.tokenizer, chat_history, None, add_generation_prompt, goes_on=not add_generation_prompt)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """Of (texts, context ids, continuation ids) each; the same ones are asked for once."""
        rows = [self._fitted(context, continuation) for _, context, continuation in requests]
        unique = {row: str(number) for number, row in enumerate(dict.fromkeys(rows))}
        asked = [(name, [*context], [*continuation]) for (context, continuation), name in unique.items()]
        said = {row["prompt_id"]: (row["logprob"], row["greedy"]) for row in self._answers(asked, None)}
        if any(logprob is None for logprob, _ in said.values()):
            raise BadInput(
                f"the engines' context is shorter than {self.max_length} tokens: set generate.max_model_len to it"
            )
        return [said[unique[row]] for row in rows]

    def _fitted(self, context: list[int], continuation: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What engines take, cut from the left; one more token must fit."""
        most = self.max_length - 1
        if not continuation or len(continuation) >= most:
            raise BadInput(
                f"a task wants a completion of {len(continuation)} tokens scored; the engines' context has room for "
                f"1 to {most - 1}. Leave the task out, or raise generate.max_model_len"
            )
        ids = (*context, *continuation)[-most:]
        return ids[: -len(continuation)], tuple(continuation)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        windows = [list(self._windows(*request.args)) for request in requests]
        flat = [(None, context, continuation) for of_request in windows for context, continuation in of_request]
        said = iter(self._loglikelihood_tokens(flat))
        return [sum(next(said)[0] for _ in of_request) for of_request in windows]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        longest = self.max_length - 2  # one for the context, one for the token that must fit
        yield from map(
            make_disjoint_window,
            get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=longest,
                context_len=1,
            ),
        )

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(json.dumps(self._sampling(request), sort_keys=True), []).append(place)
        found: dict[int, str] = {}
        for key, places in groups.items():
            found |= self._generated(json.loads(key), {place: requests[place].args[0] for place in places})
        return [found[place] for place in range(len(requests))]

    def _sampling(self, request: Any) -> dict[str, Any]:
        """How a request wants to be completed, as `Asked.sampling`."""
        given = dict(normalize_gen_kwargs(request.args[1], 256))
        sampled = given.pop("do_sample")
        temperature = given.pop("temperature", 1.0) if sampled else 0.0
        until = handle_stop_sequences(given.pop("until"), eos=decoded(self.tokenizer, [self.eot_token_id]))
        found = {
            "temperature": float(temperature or 0.0),
            "top_p": float(given.pop("top_p", 1.0)) if sampled else 1.0,
            "top_k": int(given.pop("top_k", 0)) if sampled else 0,
            "max_tokens": given.pop("max_gen_toks"),
            "stop": [text for text in until if text],
        }
        ignored = {"top_p", "top_k", *(key for key, value in _WITHOUT_EFFECT.items() if given.get(key) == value)}
        if unknown := sorted(given.keys() - ignored):
            raise BadInput(
                f"task {request.task_name}: its generation_kwargs have {', '.join(unknown)}, which engines are not "
                "asked for here. Leave the task out"
            )
        if found["max_tokens"] >= self.max_length:
            raise BadInput(
                f"task {request.task_name}: {found['max_tokens']} tokens of an answer leave no room for a prompt in "
                f"the context of {self.max_length} (generate.max_model_len). Leave the task out"
            )
        return found

    def _generated(self, sampling: dict[str, Any], contexts: Mapping[int, str]) -> dict[int, str]:
        """By place what becomes of each text. Where nothing is drawn by chance, the same ones are asked for once."""
        longest = self.max_length - sampling["max_tokens"]
        ids = {place: tuple(self._prompt(text)[-longest:]) for place, text in contexts.items()}
        greedy = not sampling["temperature"]
        known: dict[Any, str] = {}
        names = {place: known.setdefault(of if greedy else place, str(len(known))) for place, of in ids.items()}
        prompts = {name: [*ids[place]] for place, name in names.items()}
        asked = [(name, prompt, list[int]()) for name, prompt in prompts.items()]
        texts = {row["prompt_id"]: row["text"] for row in self._answers(asked, sampling)}
        # A prompt that took down several engines was given up: nothing is answered.
        said = {name: postprocess_generated_text(texts.get(name, ""), sampling["stop"], None) for name in prompts}
        return {place: said[name] for place, name in names.items()}

    def _prompt(self, text: str) -> list[int]:
        plain = has_bos_prefix(text, getattr(self.tokenizer, "bos_token", None))
        ids: list[int] = encoded(self.tokenizer, text, **({"add_special_tokens": False} if plain else {}))["input_ids"]
        return ids or [self.prefix_token_id]

    def _answers(
        self, rows: Sequence[tuple[str, list[int], list[int]]], sampling: dict[str, Any] | None
    ) -> Iterator[dict[str, Any]]:
        """The rows of the answers to requests (their name, prompt and completion)."""
        if not rows:
            return
        self._asked += 1
        file = self._work / f"requests-{self._asked}.parquet"
        columns = dict(zip(REQUESTS.names, map(list, zip(*rows, strict=True)), strict=True))
        write_table(pa.table(columns, schema=REQUESTS), file, _ROWS_A_GROUP)
        names = ["prompt_id", "text"] if sampling else ["prompt_id", "logprob", "greedy"]
        for answers in self._ask(str(file), len(rows), sampling):
            yield from pq.read_table(answers, columns=names).to_pylist()
