"""What prompts and preference pairs will look like to the model, looked at before a run: `python -m workers.rendering`
reads a request as JSON from its input and writes what it found.

A process of its own: transformers stays out of the driver, and torch out of this process, since a tokenizer needs none
and importing it takes ten seconds.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.preference_tokens import Pairs
    from workers.tokenizing import Prompt, Prompter

_DAYS = ("2001-02-03", "2019-10-30")
_SHOWN_TEXT, _SHOWN_IDS = 600, 6


@dataclass
class Found:
    """What there is to tell: `shown` are name and text of what is trained on, `refused` would spoil the run."""

    shown: list[tuple[str, str]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def look_at_prompts(found: Found, splits: dict[str, Any], literal: str) -> None:
    """`splits` has for each set of problems its `plan` and `rows` (fields of TokenizingPlan and Problem), and of how
    many the rows are the first (`of`). `literal` is the text that the job itself puts into each prompt."""
    from orchestrator.records import Problem, TokenizingPlan
    from workers.tokenizing import Prompter

    for split, given in splits.items():
        plan = given["plan"]
        examples = tuple((prompt, completion) for prompt, completion in plan["examples"])
        prompter = Prompter(TokenizingPlan(**(plan | {"examples": examples})))
        if split == next(iter(splits)) and prompter.encoder.appends_eos:
            found.warned.append(
                f"the tokenizer of {plan['model']} closes every text with its EOS token; it is left off the prompts"
            )
        rows = [Problem(**row) for row in given["rows"]]
        if prompter.plan.chat and prompter.plan.date is None and _differs(_on_day(prompter, rows[0])):
            found.refused.append(_clock(plan["model"]))
        if found.refused:
            return
        _look_at_split(found, split, prompter, rows, given["of"], literal)


def _limits(model: str, max_model_len: int | None, limits: Mapping[str, int]) -> Iterator[str]:
    """Lengths that the job asks for, by key, against the model's context."""
    from workers.tokenizing import load_config

    if (context := context_of(load_config(model))) is None:
        return
    said = f"the context of {model} ({context} tokens: max_position_embeddings of its config.json)"
    if max_model_len is not None and max_model_len > context:
        yield f"generate.max_model_len: {max_model_len} is more than {said}: lower it"
        return
    for key, tokens in limits.items():
        if tokens >= context:
            yield f"{key}: {tokens} leaves no room for a prompt in {said}: lower it"


def context_of(config: Any) -> int | None:
    """Most tokens that a model takes, as engines reckon it: positions stretched by its RoPE scaling; None: no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    longest = positions
    for kind in (scaling, *(value for value in scaling.values() if isinstance(value, dict))):
        name, factor = kind.get("rope_type", kind.get("type")), kind.get("factor")
        if factor and name not in ("su", "longrope", "llama3"):  # those say the stretched length already
            original = kind.get("original_max_position_embeddings") if name == "yarn" else None
            longest = max(longest, int((original or positions) * float(factor)))
    return longest


def _look_at_split(found: Found, split: str, prompter: Prompter, rows: Sequence[Any], of: int, literal: str) -> None:
    key, chat, faults = f"data.{split}", prompter.plan.chat, _Faults()
    known, too_long, shown = _special_texts(prompter.tokenizer), 0, False
    for row in rows:
        prompt = prompter.prompt(row)
        prompter.check_embedded(row.prompt_id, prompt.token_ids)
        for fault in _faults_of_prompt(prompter, prompt):
            faults.add(fault, f"problem {row.prompt_id!r}")
        solution = (row.solution or "").removesuffix(prompter.tokenizer.eos_token)
        for text in _beyond(known, f"{row.text} {solution}", literal):
            cure = "take it out of the data" if chat else "take it out, if it is not meant to be one"
            holds = f"holds {text!r}, which becomes that special token: {cure}"
            faults.add(holds, f"problem {row.prompt_id!r}", not chat)
        if len(prompt.token_ids) > prompter.longest:
            too_long += 1
        elif not shown:
            shown = True
            if not found.shown:
                found.shown += _of_problem(prompter, prompt, row, split)
    for text, is_warning in faults.told(key):
        (found.warned if is_warning else found.refused).append(text)
    most = prompter.plan.max_tokens
    limit = "the model's context" if prompter.plan.max_model_len is None else "generate.max_model_len"
    room = f"with {most} more tokens (the longest answer) it must fit {most + prompter.longest} ({limit})"
    if too_long and not shown and len(rows) == of:
        found.refused.append(f"{key}: every prompt is too long: {room}")
    elif too_long:
        first = f" of the first {len(rows)}" if len(rows) < of else f" of {of}"
        found.warned.append(f"{key}: {too_long}{first} prompts are too long and will be left out: {room}")


def _faults_of_prompt(prompter: Prompter, prompt: Prompt) -> Iterator[str]:
    tokenizer, model = prompter.tokenizer, prompter.plan.model
    bos, eos, ids = tokenizer.bos_token_id, tokenizer.eos_token_id, prompt.token_ids
    if bos is not None and ids[:2] == [bos, bos]:
        if prompt.messages:
            yield f"begins with {tokenizer.bos_token!r} twice after the chat template of {model}: leave one out there"
        else:
            yield f"begins with {tokenizer.bos_token!r}, which the tokenizer writes by itself: leave it out of the text"
    end = len(ids)
    while end and not tokenizer.decode([ids[end - 1]]).strip():
        end -= 1
    if end and ids[end - 1] == eos and ids[:end] != [bos]:
        if prompt.messages and not prompter.plan.opening:
            yield (
                f"ends in {tokenizer.eos_token!r}: the chat template of {model} opens no answer "
                "(add_generation_prompt): use `chat: false` and write the turns into `template`, or another template"
            )
        else:
            yield f"ends in EOS, {tokenizer.eos_token!r}, after which nothing is asked: leave it out of the text"
    for message in prompt.messages or ():
        if gone := lost(message["content"], prompt.text):
            yield (
                f"loses text of the role {message['role']!r} in the chat template of {model}: {gone}: use "
                "`chat: false` and write the turns into `template`, or take that text out"
            )


def _of_problem(prompter: Prompter, prompt: Prompt, row: Any, split: str) -> Iterator[tuple[str, str]]:
    tokenizer = prompter.tokenizer
    yield "prompt", f"{split} {row.prompt_id!r}, {of_ids(tokenizer, prompt.token_ids)}"
    yield "gold", visible(row.gold)
    if row.solution is not None:
        yield "solution", of_ids(tokenizer, prompter.solution(prompt, row.solution))


def look_at_preferences(found: Found, given: dict[str, Any]) -> None:
    """`given` has the `plan` (fields of PreferencePlan) and `sources`, each with its `name`, its first `rows` and of
    how many these are the first (`of`)."""
    from orchestrator.records import PreferencePlan
    from workers.preference_tokens import Pairs

    pairs = Pairs(PreferencePlan(**given["plan"]))
    for source in given["sources"]:
        if found.refused:
            return
        _look_at_source(found, pairs, source)


def _look_at_source(found: Found, pairs: Pairs, source: dict[str, Any]) -> None:
    rows, name, faults = source["rows"], source["name"], _Faults()
    tokenizer, model = pairs.tokenizer, pairs.plan.model
    conversational = not isinstance(rows[0]["prompt"], str)
    pairs.check_template(conversational)
    if conversational and pairs.plan.date is None:
        pairs.texts(rows[0])  # whether the template takes it at all
        if _differs(lambda day: pairs.texts(rows[0], day)):
            found.refused.append(_clock(model))
            return
    known, counts, shown = _special_texts(tokenizer), Counter[str](), False
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        for row, pair in zip(batch, pairs.pairs(batch), strict=True):
            where = f"pair {row['pair_id']!r}"
            fault = pairs.fault(pair)
            counts[fault or "pairs"] += 1
            if fault is None and not shown:
                shown = True
                if all(label != "pair" for label, _ in found.shown):
                    found.shown += _of_pair(tokenizer, pair, name, row["pair_id"])
            if tokenizer.bos_token_id is not None and pair.prompt[:2] == [tokenizer.bos_token_id] * 2:
                faults.add(
                    f"begins with {tokenizer.bos_token!r} twice: leave it out of the data, or of `stages.template`",
                    where,
                )
            for text in _special_in(known, row, tokenizer.eos_token):
                cure = "take it out of the data" if conversational else "take it out, if it is not meant to be one"
                faults.add(f"holds {text!r}, which becomes that special token: {cure}", where, not conversational)
            if conversational:
                for text, is_warning in _losses(pairs, row):
                    faults.add(text, where, is_warning)
    for text, is_warning in faults.told(f"stages.sources: {name}"):
        (found.warned if is_warning else found.refused).append(text)
    first = f" of the first {len(rows)}" if len(rows) < source["of"] else f" of {len(rows)}"
    out = {reason: count for reason, count in counts.items() if reason != "pairs"}
    if out:
        said = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in sorted(out.items()))
        found.warned.append(f"stages.sources: {name}:{first} pairs will be left out as token ids: {said}")
    if not shown and len(rows) == source["of"]:
        found.refused.append(f"stages.sources: {name} has no pair that can be used")


def _losses(pairs: Pairs, row: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """What the chat template leaves out of a row of messages; and whether a model can do without it."""
    asked, *wholes = pairs.texts(row)
    template = f"in the chat template of {pairs.plan.model}"
    cure = "give the rows as plain text, with the turns written out, or a model folder with another chat template"
    for message in row["prompt"]:
        if gone := lost(message["content"], asked):
            # Thoughts of earlier turns are left out on purpose, when the model is asked, too.
            is_warning = message["role"] == "assistant"
            yield f"loses text of the role {message['role']!r} of its prompt {template}: {gone}: {cure}", is_warning
    for name, whole in zip(("chosen", "rejected"), wholes, strict=True):
        for message in row[name]:
            if gone := lost(message["content"], whole):
                yield f"loses text of {name!r} {template}: {gone}: {cure}", False
        if not whole.startswith(asked.rstrip()):
            common = next((n for n, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(whole))
            end = visible(asked[common:], 80)
            yield f"is asked with {end} at the end, which stands before no answer {template}: {cure}", False


_REASONS = {
    "too_long": "too long (train.max_tokens, or the model's context)",
    "empty": "with an empty side",
    "equal": "with equal sides",
    "no_prompt": "without a prompt",
}


def _of_pair(tokenizer: Any, pair: Any, name: str, pair_id: str) -> Iterator[tuple[str, str]]:
    yield "pair", f"{pair_id} of {name}"
    for part in ("prompt", "chosen", "rejected"):
        yield part, of_ids(tokenizer, getattr(pair, part))


class _Faults:
    """Faults of rows, each with its first row and the number of rows that have it."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, bool], list[str]] = {}

    def add(self, text: str, where: str, is_warning: bool = False) -> None:
        self._rows.setdefault((text, is_warning), []).append(where)

    def told(self, key: str) -> Iterator[tuple[str, bool]]:
        for (text, is_warning), where in self._rows.items():
            more = f" ({len(where)} rows in all)" if len(where) > 1 else ""
            yield f"{key}: {where[0]} {text}{more}", is_warning


def _on_day(prompter: Prompter, row: Any) -> Callable[[str], str]:
    prompter.prompt(row)  # whether the template takes it at all
    return lambda day: prompter.prompt(row, day).text


def _differs(render: Callable[[str], Any]) -> bool:
    """Whether what a chat template makes depends on the day."""
    first, second = map(render, _DAYS)
    return bool(first != second)


def lost(content: str, text: str) -> str:
    """What a chat template has made of a message: nothing where all of it stands in the text, else what is missing,
    shown. White space around it does not count."""
    if content.strip() in text:
        return ""
    kept = next(
        (line for line in reversed(content.strip().splitlines()) if line.strip() and line.strip() in text), None
    )
    gone = content.strip().partition(kept)[0] if kept else content.strip()
    return visible(gone.strip() or content.strip(), 80)


def _clock(model: str) -> str:
    return (
        f"data.date: the chat template of {model} writes today's date into every prompt, so that prompts of one run "
        "would differ from day to day: set the day that it is to write, such as `date: 2026-11-27`"
    )


def _special_texts(tokenizer: Any) -> list[str]:
    """Texts that become a special token wherever they stand."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens))


def _beyond(known: Iterable[str], text: str, literal: str) -> Iterator[str]:
    """Special tokens that stand in a text more often than the job itself has put them there."""
    yield from (token for token in known if text.count(token) > literal.count(token))


def _special_in(known: Iterable[str], row: dict[str, Any], eos: str) -> Iterator[str]:
    """Special tokens in a row of preference data; EOS at a side's end closes it, as is usual with plain text."""
    parts = []
    for name in ("prompt", "chosen", "rejected"):
        side = row[name]
        if isinstance(side, str):
            parts.append(side.removesuffix(eos) if name != "prompt" else side)
        else:
            parts += [message["content"] for message in side]
    yield from (token for token in known if any(token in part for part in parts))


def of_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids for people: how many, the text with its special tokens, and the first and last ids."""
    ends = [*map(str, ids)]
    if len(ids) > 2 * _SHOWN_IDS:
        ends = [*ends[:_SHOWN_IDS], "...", *ends[-_SHOWN_IDS:]]
    return f"{len(ids)} tokens: {visible(tokenizer.decode(list(ids)))} [{' '.join(ends)}]"


def visible(text: str, limit: int = _SHOWN_TEXT) -> str:
    """A text in quotes on one line, without its middle where it is long."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return json.dumps(text, ensure_ascii=False)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to tell about the prompts and pairs of a request; orchestrator/preview.py makes these."""
    from workers.tokenizing import UnusableModel

    found = Found()
    try:
        if (lengths := request["lengths"]) is not None:
            found.refused += _limits(request["model"], lengths["max_model_len"], lengths["limits"])
        if request["splits"] and not found.refused:
            look_at_prompts(found, request["splits"], request["literal"])
        if request["preferences"] and not found.refused:
            look_at_preferences(found, request["preferences"])
    except UnusableModel as error:
        found.refused.append(str(error))
    return {"shown": found.shown, "warned": found.warned, "refused": found.refused}


def main() -> None:
    """Answer the request of the input."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes transformers do without
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
