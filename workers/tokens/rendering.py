"""What prompts and preference pairs will look like to the model, looked at before a run:
`python -m workers.tokens.rendering` reads a request as JSON from its input and writes what it found.

A process of its own: transformers stays out of the driver, and torch out of this process, since a tokenizer needs none
and importing it takes ten seconds.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.records import golds
from workers.supervision.parent import end_with_parent
from workers.tokens.faults import Fault, Faults
from workers.tokens.special_tokens import beyond, in_written, special_in, special_texts
from workers.tokens.tokenizer import UnusableModel, decoded

if TYPE_CHECKING:
    from workers.tokens.preferences import Pairs
    from workers.tokens.prompts import Prompt, Prompter

_MOMENTS = ("2001-02-03", "2019-10-30T17:45:31")
"""Of which no part is the same, time and day of the week included."""
_SHOWN_TEXT, _SHOWN_IDS = 600, 6
_MEASURED = 1000  # solutions


@dataclass
class Findings:
    """What there is to tell: `shown` are name and text of what is trained on, `refused` would spoil the run."""

    num_prompts: int = 1
    """How many of the first set's prompts are shown."""
    shown: list[tuple[str, str]] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    """Ids of the prompts that are shown of the first set, in order."""
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean tokens of what is not left out, by the key of its set, or by that of preference data, and part."""


def look_at_prompts(findings: Findings, sets: Sequence[dict[str, Any]], written: Mapping[str, str]) -> None:
    """Each set of prompts has its `key` in the job, a `name`, its `plan` and `rows` (fields of TokenizingPlan and
    Problem), of how many these are the first (`of`), and `literal`, the text that the job itself puts into each of its
    prompts: null where another set has been looked at for what its rows hold. `written` is more of the job's text."""
    from orchestrator.records.rows import Problem, TokenizingPlan
    from workers.tokens.prompts import Prompter, ends_beyond

    for number, given in enumerate(sets):
        plan = given["plan"]
        examples = tuple((prompt, completion) for prompt, completion in plan["examples"])
        prompter = Prompter(TokenizingPlan(**(plan | {"examples": examples})))
        if not number and prompter.encoder.appends_eos:
            findings.warned.append(
                f"the tokenizer of {plan['model']} closes every text with its EOS token; it is left off the prompts"
            )
        if not number and (beyond_rows := ends_beyond(prompter.config, plan["model"])):
            findings.warned.append(beyond_rows)
        rows = [Problem(**row) for row in given["rows"]]
        if prompter.plan.chat and prompter.plan.date is None and _differs(_on_day(prompter, rows[0])):
            findings.refused.append(_clock(plan["model"]))
        if not number:
            asked = prompter.prompt(rows[0])
            of_messages = " ".join(message["content"] for message in asked.messages or ())
            turns = list(beyond(special_texts(prompter.tokenizer), asked.text, of_messages))
            _look_at_written(findings, written, prompter.tokenizer, turns if plan["chat"] else None)
        if findings.refused:
            return
        _look_at_set(findings, given, prompter, rows)


def _limits(model: str, max_model_len: int | None, limits: Mapping[str, int]) -> Iterator[str]:
    """Lengths that the job asks for, by key, against the model's context."""
    from workers.tokens.prompts import load_config

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


def _look_at_set(findings: Findings, prompts: Mapping[str, Any], prompter: Prompter, rows: Sequence[Any]) -> None:
    key, of, chat, faults = prompts["key"], prompts["of"], prompter.plan.chat, Faults()
    known, too_long, kept = special_texts(prompter.tokenizer), 0, list[int]()
    first = not prompts["name"] and not findings.shown
    for row in rows:
        prompt, where = prompter.prompt(row), f"problem {row.prompt_id!r}"
        prompter.check_embedded(row.prompt_id, prompt.token_ids)
        for fault in _faults_of_prompt(prompter, prompt):
            faults.add(fault, where)
        if prompts["literal"] is not None:
            solution = (row.solution or "").removesuffix(prompter.tokenizer.eos_token)
            for text in beyond(known, f"{row.text} {solution}", prompts["literal"]):
                faults.add(_special(text, chat), where, not chat)
        if len(prompt.token_ids) > prompter.longest:
            too_long += 1
            continue
        kept.append(len(prompt.token_ids))
        if len(kept) <= (findings.num_prompts if first else bool(prompts["name"])):
            findings.shown += _of_problem(prompter, prompt, row, prompts["name"], key.rpartition(".")[2])
            if first:
                findings.prompts.append(row.prompt_id)
    if not prompts["name"]:
        findings.lengths[key] = {"prompt": _mean(kept)} | _solution_length(prompter, rows)
    for text, is_warning in faults.told(key):
        (findings.warned if is_warning else findings.refused).append(text)
    most = prompter.plan.max_tokens
    limit = "the model's context" if prompter.plan.max_model_len is None else "generate.max_model_len"
    room = f"with {most} more tokens (the longest answer) it must fit {most + prompter.longest} ({limit})"
    if too_long and not kept and len(rows) == of:
        findings.refused.append(f"{key}: every prompt is too long: {room}")
    elif too_long:
        among = f" of the first {len(rows)}" if len(rows) < of else f" of {of}"
        findings.warned.append(f"{key}: {too_long}{among} prompts are too long and will be left out: {room}")


def _solution_length(prompter: Prompter, rows: Sequence[Any]) -> dict[str, float]:
    """Mean tokens of the worked solutions of the first rows, where they have any."""
    worked = [row for row in rows[:_MEASURED] if row.solution is not None]
    sizes = [len(prompter.solution(prompter.prompt(row), row.solution)) for row in worked]
    return {"solution": _mean(sizes)} if sizes else {}


def _mean(sizes: Sequence[int]) -> float:
    return round(sum(sizes) / max(1, len(sizes)), 2)


def _look_at_written(
    findings: Findings, written: Mapping[str, str], tokenizer: Any, turns: Iterable[str] | None
) -> None:
    for text, may_be_meant in in_written(written, tokenizer, turns):
        texts = findings.warned if may_be_meant else findings.refused
        if text not in texts:  # of another source
            texts.append(text)


def _special(text: str, is_message: bool) -> Fault:
    cure = "take it out of the data" if is_message else "take it out, if it is not meant to be one"
    return Fault(f"holds {text!r}, which becomes that special token", cure)


def _faults_of_prompt(prompter: Prompter, prompt: Prompt) -> Iterator[Fault]:
    tokenizer, model = prompter.tokenizer, prompter.plan.model
    bos, eos, ids = tokenizer.bos_token_id, tokenizer.eos_token_id, prompt.token_ids
    if bos is not None and ids[:2] == [bos, bos]:
        if prompt.messages:
            what = f"begins with {tokenizer.bos_token!r} twice after the chat template of {model}"
            yield Fault(what, "leave one out there")
        else:
            what = f"begins with {tokenizer.bos_token!r}, which the tokenizer writes by itself"
            yield Fault(what, "leave it out of the text")
    end = len(ids)
    while end and not decoded(tokenizer, [ids[end - 1]]).strip():
        end -= 1
    if end and ids[end - 1] == eos and ids[:end] != [bos]:
        if prompt.messages and not prompter.plan.opening:
            yield Fault(
                f"ends in {tokenizer.eos_token!r}: the chat template of {model} opens no answer "
                "(add_generation_prompt)",
                "use `chat: false` and write the turns into `template`, or another template",
            )
        else:
            what = f"ends in EOS, {tokenizer.eos_token!r}, after which nothing is asked"
            yield Fault(what, "leave it out of the text")
    for message in prompt.messages or ():
        if gone := lost(message["content"], prompt.text):
            yield Fault(
                f"loses text of the role {message['role']!r} in the chat template of {model}",
                "use `chat: false` and write the turns into `template`, or take that text out",
                gone,
            )


def _of_problem(
    prompter: Prompter, prompt: Prompt, row: Any, name: str | None, split: str
) -> Iterator[tuple[str, str]]:
    tokenizer = prompter.tokenizer
    if name:
        yield name, f"{row.prompt_id!r}, {of_ids(tokenizer, prompt.token_ids)}"
        return
    yield "prompt", f"{split} {row.prompt_id!r}, {of_ids(tokenizer, prompt.token_ids)}"
    yield "gold", visible(golds.shown(row.gold)) if row.gold else "none"
    if row.solution is not None:
        yield "solution", of_ids(tokenizer, prompter.solution(prompt, row.solution))


def look_at_preferences(findings: Findings, preferences: dict[str, Any], written: Mapping[str, str]) -> None:
    """`preferences` has the `plan` (fields of PreferencePlan), `literal` and `system`, the texts that the job itself
    puts into a row, and `sources`, each with its `name`, its first `rows` and of how many these are the first
    (`of`)."""
    from orchestrator.records.rows import PreferencePlan
    from workers.tokens.preferences import Pairs

    pairs = Pairs(PreferencePlan(**preferences["plan"]))
    for source in preferences["sources"]:
        if findings.refused:
            return
        _look_at_source(
            findings, pairs, source | {"literal": preferences["literal"], "system": preferences["system"]}, written
        )


def _look_at_source(findings: Findings, pairs: Pairs, source: dict[str, Any], written: Mapping[str, str]) -> None:
    rows, name, faults = source["rows"], source["name"], Faults()
    tokenizer, model = pairs.tokenizer, pairs.plan.model
    conversational = not isinstance(rows[0]["prompt"], str)
    pairs.check_template(conversational)
    if conversational and pairs.plan.date is None:
        pairs.texts(rows[0])  # whether the template takes it at all
        if _differs(lambda day: pairs.texts(rows[0], day)):
            findings.refused.append(_clock(model))
            return
    known, counts, shown = special_texts(tokenizer), Counter[str](), False
    sizes: dict[str, list[int]] = {"prompt": [], "chosen": [], "rejected": []}
    of_messages = " ".join(message["content"] for message in rows[0]["prompt"]) if conversational else ""
    turns = list(beyond(known, pairs.texts(rows[0])[0], of_messages)) if conversational else None
    _look_at_written(findings, written, tokenizer, turns)
    for start in range(0, len(rows), 64):
        batch = rows[start : start + 64]
        for row, pair in zip(batch, pairs.pairs(batch), strict=True):
            where = f"pair {row['pair_id']!r}"
            fault = pairs.fault(pair)
            counts[fault or "pairs"] += 1
            if fault is None:
                for part, found in sizes.items():
                    found.append(len(getattr(pair, part)))
            if fault is None and not shown:
                shown = True
                if all(label != "pair" for label, _ in findings.shown):
                    findings.shown += _of_pair(tokenizer, pair, name, row["pair_id"])
            if tokenizer.bos_token_id is not None and pair.prompt[:2] == [tokenizer.bos_token_id] * 2:
                cure = "leave it out of the data, or of `stages.template`"
                faults.add(Fault(f"begins with {tokenizer.bos_token!r} twice", cure), where)
            for text in special_in(known, row, tokenizer.eos_token, source["literal"], source["system"]):
                faults.add(_special(text, conversational), where, not conversational)
            if conversational:
                for lost_text, is_warning in _losses(pairs, row):
                    faults.add(lost_text, where, is_warning)
    findings.lengths[f"stages.sources: {name}"] = {part: _mean(found) for part, found in sizes.items()}
    for text, is_warning in faults.told(f"stages.sources: {name}"):
        (findings.warned if is_warning else findings.refused).append(text)
    first = f" of the first {len(rows)}" if len(rows) < source["of"] else f" of {len(rows)}"
    out = {reason: count for reason, count in counts.items() if reason != "pairs"}
    if out:
        said = ", ".join(f"{count} {_REASONS[reason]}" for reason, count in sorted(out.items()))
        findings.warned.append(f"stages.sources: {name}:{first} pairs will be left out as token ids: {said}")
    if not shown and len(rows) == source["of"]:
        findings.refused.append(f"stages.sources: {name} has no pair that can be used")


def _losses(pairs: Pairs, row: dict[str, Any]) -> Iterator[tuple[Fault, bool]]:
    """What the chat template leaves out of a row of messages; and whether a model can do without it."""
    asked, *wholes = pairs.texts(row)
    template = f"in the chat template of {pairs.plan.model}"
    cure = "give the rows as plain text, with the turns written out, or a model folder with another chat template"
    for message in row["prompt"]:
        if gone := lost(message["content"], asked):
            # Thoughts of earlier turns are left out on purpose, when the model is asked, too.
            is_warning = message["role"] == "assistant"
            what = f"loses text of the role {message['role']!r} of its prompt {template}"
            yield Fault(what, cure, gone), is_warning
    for name, whole in zip(("chosen", "rejected"), wholes, strict=True):
        for message in row[name]:
            if gone := lost(message["content"], whole):
                yield Fault(f"loses text of {name!r} {template}", cure, gone), False
        if not whole.startswith(asked.rstrip()):
            common = next((n for n, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(whole))
            end = visible(asked[common:], 80)
            yield Fault(f"is asked with a text at the end that stands before no answer {template}", cure, end), False


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


def _on_day(prompter: Prompter, row: Any) -> Callable[[str], str]:
    prompter.prompt(row)  # whether the template takes it at all
    return lambda day: prompter.prompt(row, day).text


def _differs(render: Callable[[str], Any]) -> bool:
    """Whether what a chat template makes depends on the day, or on its time."""
    first, second = map(render, _MOMENTS)
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
        f"data.date: the chat template of {model} writes the date or the time into every prompt, so that prompts of "
        "one run would differ: set the day that it is to write, such as `date: 2026-11-27`"
    )


def of_ids(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token ids for people: how many, the text with its special tokens, and the first and last ids."""
    ends = [*map(str, ids)]
    if len(ids) > 2 * _SHOWN_IDS:
        ends = [*ends[:_SHOWN_IDS], "...", *ends[-_SHOWN_IDS:]]
    return f"{len(ids)} tokens: {visible(decoded(tokenizer, ids))} [{' '.join(ends)}]"


def visible(text: str, limit: int = _SHOWN_TEXT) -> str:
    """A text in quotes on one line, without its middle where it is long."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
    return json.dumps(text, ensure_ascii=False)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """What there is to tell about the prompts and pairs of a request; orchestrator/driver/preview.py makes these."""
    findings = Findings(request.get("num_prompts", 1))
    try:
        if (lengths := request["lengths"]) is not None:
            findings.refused += _limits(request["model"], lengths["max_model_len"], lengths["limits"])
        if request["sets"] and not findings.refused:
            look_at_prompts(findings, request["sets"], request["written"])
        if request["preferences"] and not findings.refused:
            look_at_preferences(findings, request["preferences"], request["written"])
    except UnusableModel as error:
        findings.refused.append(str(error))
    told = ("shown", "warned", "refused", "prompts", "lengths")
    return {name: getattr(findings, name) for name in told}


def _limit_memory() -> None:
    """A chat template is a program of the model's, and may ask for all memory of the machine."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


MOST_MEMORY = 8 << 30
"""Bytes of the process that looks at prompts."""


def main() -> None:
    """Answer the request of the input."""
    end_with_parent()
    _limit_memory()
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes transformers do without
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
