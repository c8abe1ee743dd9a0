"""The settings of a source stand in their section, or with its name: read alike, kept in one way, never given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.commands.compare.file import load_plan
from orchestrator.config import Job, Steps
from orchestrator.config.load import load_job, resolved_yaml
from orchestrator.config.sources import KINDS, kind_of, sections
from orchestrator.errors import BadInput
from orchestrator.ledger import recorded_job
from orchestrator.sources.registry import SOURCES
from orchestrator.tracking.projection import overrides, parameters
from tests.support.stand_ins import StandIns, make_project, run_job


def read(folder: Path, *given: str, **said: Any) -> Job:
    return load_job(make_project(folder, **said), given).job


def test_the_two_registries_have_the_same_sources() -> None:
    assert {*KINDS} == {*SOURCES}
    assert {kind.section for kind in KINDS.values()} - {""} == {*sections()}
    fields = {key: KINDS[name].model_fields for name in KINDS if (key := KINDS[name].section)}
    assert all(list(sections()[key].file_fields()) == list(known)[1:] for key, known in fields.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), {"source": "steps", "steps": {"localiser": "file", "rollouts": 9}}),
        ((), {"source": {"type": "steps", "localiser": "file", "rollouts": 9}}),
        ((), {"source": {"type": "steps", "localiser": "file"}, "steps": {"rollouts": 9}}),
        ((), {"method": "step_dpo", "source": {"localiser": "file", "rollouts": 9}}),
        (("source=steps", "steps.localiser=file", "steps.rollouts=9"), {}),
        (("source.rollouts=9", "source.localiser=file", "source=steps"), {}),
        (("source={type: steps, localiser: file, rollouts: 9}",), {}),
        (("source={type: steps, localiser: file}", "steps.rollouts=9"), {"source": "gold"}),
        (("source.type=steps", "source.localiser=judge", "steps.localiser=file"), {"steps": {"rollouts": 9}}),
        (("source.localiser=file", "method=step_dpo"), {"steps": {"rollouts": 9}}),
        (("steps.localiser=file",), {"source": {"type": "steps", "localiser": "judge", "rollouts": 9}}),
    ],
)
def test_both_ways_are_one(tmp_path: Path, given: tuple[str, ...], said: dict[str, Any]) -> None:
    job = read(tmp_path, *given, **{"pairs": {}, **said})
    assert job.source == Steps(localiser="file", rollouts=9) and job.beside == {}
    kept = job.model_dump(mode="json")
    assert kept["source"] == "steps" and kept["steps"] | {"localiser": "file", "rollouts": 9} == kept["steps"]
    assert {*sections()} < {*kept} and kept["stages"] is None, "as it was always kept"
    assert Job.model_validate(kept) == job and yaml.safe_load(resolved_yaml(job)) == kept
    recorded_job.check(kept)
    assert kind_of(kept) is Steps


@pytest.mark.parametrize(
    ("given", "said", "told"),
    [
        (
            (),
            {"source": {"type": "steps", "localiser": "file"}, "steps": {"localiser": "judge"}},
            r"tiny\.yaml:\d+:3: source\.localiser: `steps\.localiser` stands twice: in `source`, and in `steps`",
        ),
        ((), {"source": {"type": "gold", "rollouts": 9}}, r":3: source\.rollouts: unknown key; `source: gold` has no"),
        ((), {"source": {"type": "steps", "rollout": 9}}, r"steps\.rollout: unknown key; did you mean `rollouts`"),
        (
            (),
            {"source": {"type": "steps", "rollouts": 0}},
            r":3: steps\.rollouts: must be a whole number of at least 1",
        ),
        ((), {"source": {"type": "guess", "rollouts": 9}}, r"source: must be `sample`, .* \(it is 'guess'\)"),
        ((), {"source": ["steps"]}, r"source: must be `sample`, "),
        ((), {"source": {"type": "dataset"}}, r"`source: dataset` needs `stages\.sources`"),
        ((), {"beside": {}}, r"beside: unknown key"),
        (("source.rollouts=9",), {}, r"override 'source\.rollouts=9': source\.rollouts: unknown key; `source: sample`"),
        (("source.x=1",), {"source": "guess"}, r"source: must be `sample`, .* \(it is 'guess'\)"),
    ],
)
def test_what_is_wrong_is_told_where_it_stands(
    tmp_path: Path, given: tuple[str, ...], said: dict[str, Any], told: str
) -> None:
    with pytest.raises(BadInput, match=told):
        read(tmp_path, *given, **said)


def test_arms_of_a_comparison_take_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_HOME", str(tmp_path))
    make_project(tmp_path, source={"type": "steps", "rollouts": 9})
    path = tmp_path / "compare.yaml"

    def plan(**arms: Any) -> list[Job]:
        document = {"name": "compare", "job": "tiny.yaml", "set": {"promotion.rule": "always"}, "arms": arms}
        path.write_text(yaml.safe_dump(document))
        return [planned.file.job for planned in load_plan(path).runs]

    dotted, section, mapping = plan(
        a={"method": "step_dpo", "set": {"source.localiser": "file"}},
        b={"method": "step_dpo", "set": {"steps": {"localiser": "file"}}},
        c={"method": "step_dpo", "set": {"source": {"localiser": "file"}}},
    )
    assert dotted.source == section.source == mapping.source == Steps(localiser="file", rollouts=9)
    [other] = plan(sft={"set": {"data.solution": "answer", "steps.rollouts": 3}})
    assert (other.source.type, other.beside) == ("gold", {"steps": Steps(rollouts=3)}), "arms share settings"
    with pytest.raises(BadInput, match=r"arms\.a\.set: `steps\.localiser` stands twice"):
        plan(a={"method": "step_dpo", "set": {"source": {"localiser": "file"}, "steps": {"localiser": "file"}}})
    with pytest.raises(BadInput, match=r"source\.rollouts: unknown key; `source: gold` has no settings"):
        plan(sft={"set": {"data.solution": "answer", "source.rollouts": 3}})


def test_a_run_goes_on_whichever_way_its_job_is_written(tmp_path: Path) -> None:
    run_job(make_project(tmp_path, rounds=1), StandIns())
    run_job(make_project(tmp_path, rounds=1, source={"type": "sample"}), again := StandIns())
    assert not again.calls
    with pytest.raises(BadInput, match="source: 'sample' in the run, 'gold' now"):
        job = make_project(tmp_path, rounds=1, source={"type": "gold"}, loss={"dpo": 0})
        run_job(job, StandIns(), "data.solution=answer")


def test_tracking_sees_the_job_as_it_always_was(tmp_path: Path) -> None:
    job = read(tmp_path, source={"type": "steps", "localiser": "file"}).model_dump(mode="json")
    found = parameters(job)
    assert (found["source"], found["steps.localiser"], found["self_judge.samples"]) == ("steps", "file", "3")
    assert overrides([{"job": job}, {"job": job}]) == {}
