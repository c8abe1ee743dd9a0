"""What is known of a round, as its health and its symptoms are judged by: facts of the ledger, and what only its files
tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.reward import lacks_golds
from orchestrator.ledger.ledger import State
from orchestrator.records.counts import BY_PROMPT, TRENDS, trend
from orchestrator.reports.rounds import RoundStatus, rounds


@dataclass(frozen=True)
class Evidence:
    """One round's facts, with its training metrics by update and its diversity where they are known."""

    round: RoundStatus
    metrics: Mapping[str, Sequence[Any]] | None = None
    diversity: tuple[float, float] | None = None
    """Share of prompts with a correct sample; mean number of distinct answers a prompt. Needed of rounds whose facts do
    not tell it."""
    loss_form: str = "sigmoid"
    """As config.Loss has it."""
    golds: bool = True
    """Whether every problem should have a gold answer; else samples of those that have none are no part of shares."""

    def figures(self, name: str) -> Mapping[str, Any] | None:
        """Part of the evaluation: gate, test or probe."""
        found: Mapping[str, Any] | None = self.round.facts.get("evaluation", {}).get(name)
        return found

    @property
    def further(self) -> Mapping[str, Mapping[str, Any]]:
        """The evaluation on further test sets, by name."""
        found: Mapping[str, Mapping[str, Any]] = self.round.facts.get("evaluation", {}).get("tests", {})
        return found

    @property
    def promotion(self) -> Mapping[str, Any]:
        """The gate's word; empty while it has not spoken."""
        return self.round.promotion or {}

    @property
    def graded(self) -> int:
        """Samples that have a verdict, whatever it is, but for those of problems without a gold answer."""
        every = sum(self.round.count("verdicts", verdict) for verdict in ("correct", "wrong", "ungradable"))
        return every if self.golds else max(0, every - self.round.count("verdicts", "gold"))

    @property
    def pass_one(self) -> float | None:
        """Share of samples that are correct: pass@1, as far as a prompt has as many samples as any other."""
        # No more than all of them, whatever a record of somebody else counts.
        return min(1.0, self.round.count("verdicts", "correct") / self.graded) if self.graded else None

    @property
    def pass_any(self) -> float | None:
        """Share of prompts with a correct sample (pass@N)."""
        for phase in ("pairs", "samples"):
            if (value := self.round.facts.get(phase, {}).get("pass_any")) is not None:
                return float(value)
        if kinds := self.kinds:
            return (kinds["prompts_mixed"] + kinds["prompts_all_correct"]) / sum(kinds.values())
        return self.diversity[0] if self.diversity else None

    @property
    def distinct_answers(self) -> float | None:
        """Mean number of different answers a prompt."""
        if kinds := self.kinds:
            return self.round.count("verdicts", "distinct_answers") / sum(kinds.values())
        return self.diversity[1] if self.diversity else None

    @property
    def kinds(self) -> dict[str, int]:
        """How many prompts have verdicts of which kind (counts.by_prompt); empty where that is not known, as of several
        waves of samples: each counts its prompts by its own samples, and a prompt may be in all of them."""
        if len(self.round.waves("verdicts")) > 1:
            return {}
        names = [name for name in BY_PROMPT if self.golds or name != "prompts_gold"]
        known = {name: self.round.known("verdicts", name) for name in names}
        kinds = {name: number for name, number in known.items() if number is not None}
        return kinds if any(kinds.values()) else {}

    @property
    def sample_tokens(self) -> float | None:
        """Mean length of a sample, in tokens; None where no samples are told of."""
        facts = self.round.facts.get("samples", {})
        samples, tokens = (self.round.count("samples", key) for key in ("samples", "tokens"))
        return tokens / samples if facts.get("samples") and "tokens" in facts else None

    @property
    def num_prompts(self) -> int:
        """Prompts that pairs were looked for in."""
        kinds = ("mixed", "all_correct", "all_wrong", "tied", "ungradable")
        return sum(self.round.count("pairs", f"prompts_{kind}") for kind in kinds)

    @property
    def of_steps(self) -> bool:
        """Whether the pairs are of reasoning steps."""
        return "errors" in self.round.facts.get("pairs", {})

    @property
    def num_paired(self) -> int | None:
        """Those of them that give pairs. Earlier versions told of mixed ones alone, which give pairs of whole samples;
        pairs of reasoning steps are of any prompt with a wrong sample, and of how many was not told: None."""
        pairs = self.round.facts.get("pairs", {})
        if "prompts_paired" not in pairs and self.of_steps:
            return None
        told = "prompts_paired" if "prompts_paired" in pairs else "prompts_mixed"
        return min(self.round.count("pairs", told), self.num_prompts)

    @property
    def samples_a_prompt(self) -> float | None:
        """How many samples were drawn of a prompt, which pass@N depends on."""
        num_prompts = sum(self.kinds.values()) or self.num_prompts
        return self.graded / num_prompts if self.graded and num_prompts else None

    @property
    def chosen_logprob(self) -> tuple[float, float] | None:
        """Log-probability of a token of the chosen completions at the end of the training, in nats, and twice its
        standard error; None where that is not known."""
        tokens, ends = self.round.facts.get("pairs", {}).get("chosen_tokens"), self.trend("chosen_logprob")
        return (ends["last"] / tokens, 2 * ends["error"] / tokens) if tokens and "error" in ends else None

    def change(self, column: str) -> tuple[float, float] | None:
        """Mean of a training metric over the first and over the last quarter of the updates."""
        ends = self.trend(column)
        return (ends["first"], ends["last"]) if ends else None

    def fell(self, column: str) -> bool:
        """Whether a training metric fell by more than two standard errors between those quarters."""
        ends = self.trend(column)
        return "error" in ends and ends["first"] - ends["last"] > 2 * ends["error"]

    def trend(self, column: str) -> Mapping[str, float]:
        """What became of a training metric (counts.trend): by the round's metrics, else by its facts."""
        if self.metrics is not None:
            return trend(self.metrics.get(column, ()))
        told: Mapping[str, float] = self.round.facts.get("train", {}).get("trend", {}).get(column, {})
        return told if column in TRENDS else {}


def by_ledger(state: State) -> tuple[Evidence, list[Evidence]]:
    """The base model and each round as the ledger alone tells them: no file is read."""
    job = state.configs[-1]["job"] if state.configs else {}
    form, golds = job.get("loss", {}).get("form", "sigmoid"), not lacks_golds(job)
    return base_of(state), [Evidence(round_, loss_form=form, golds=golds) for round_ in rounds(state)]


def base_of(state: State) -> Evidence:
    """The base model."""
    commits = {phase: state.commits.get(f"baseline/{phase}") for phase in ("evaluation", "repeated", "harness")}
    return Evidence(RoundStatus(0, {phase: commit.facts for phase, commit in commits.items() if commit}))
