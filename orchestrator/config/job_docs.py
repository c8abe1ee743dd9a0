"""The document of the job file, docs/job-file.md, made from the models in config/. Pure: text in, text out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic.fields import FieldInfo

from orchestrator.config import (
    AdaptTemperature,
    Curriculum,
    Data,
    Evaluate,
    Generate,
    Harness,
    Job,
    ProcessModel,
    Reward,
    RewardModel,
    Settings,
    Source,
    Steps,
    is_executing,
)
from orchestrator.config.data import HeldOut
from orchestrator.config.load import resolved_yaml
from orchestrator.config.marks import mark_of, sections_in
from orchestrator.config.methods import PRESETS
from orchestrator.config.own_methods import Row
from orchestrator.config.words import model_of, wanted

EXAMPLE = """\
#!/usr/bin/env -S python -m orchestrator run
name: example
model: models/base
data:
  train: problems/train.jsonl
  gate: problems/gate.jsonl
  test: problems/test.jsonl
  prompts: split
  prompts_per_round: 512
loss:
  beta: [0.1, 0.2]
"""

ESSENTIAL: Mapping[str, str] = {
    "name": "The run's folder is `runs/NAME`.",
    "method": "What is learned from what: [Methods](#methods).",
    "model": "The base model: a folder, `ORG/NAME` on the Hub, or `run:NAME` for what another run has come to.",
    "rounds": "A finished run goes on when this is raised.",
    "data.train": "Problems to sample answers of.",
    "data.gate": "Problems that decide whether a round's model is promoted; some hundreds.",
    "data.test": "Problems that are only reported; some hundreds.",
    "data.answer": "The field with the gold answer.",
    "data.template": "What the model is asked; `{question}` and the like are fields of a row.",
    "data.chat": "`true` for a model that has a chat template.",
    "data.prompts": "`split` takes fresh prompts each round, `same` the same ones.",
    "data.prompts_per_round": "How many, at most; some hundreds to begin with.",
    "stages.sources": "Preference data, for `method: sdpo`; `data` can be left out then.",
    "generate.samples": "Answers a prompt. More make more pairs, and cost as much more.",
    "generate.temperature": "Higher gives more different answers; raise it in later rounds, as in `[0.8, 0.8, 1.3]`.",
    "generate.max_tokens": "What is cut there joins no pair.",
    "grade.graders": "What is equal: `number`, `choice`, `math`, `exact`, ... ([grading.md](grading.md)).",
    "grade.answer": "Where the answer stands in what the model writes.",
    "pairs.per_prompt": "Pairs made of a prompt's samples.",
    "loss.beta": "Higher stays nearer to the reference.",
    "train.learning_rate": "The papers' are for models of many billions; 3e-5 suits some millions, 1e-5 some hundred.",
    "train.batch_pairs": "Pairs an update.",
    "train.precision": "`fp32` for small models, whose updates bfloat16 would round away.",
    "promotion.rule": "`not_worse` stops a run that gets worse, `better` asks for more, `always` refuses nothing.",
}
"""The keys that most jobs need, in the order in which one thinks of them, each with what to know of it first."""

_HEAD = """\
# The job file

Made from `orchestrator/config/` by `ratchet docs > docs/job-file.md`. Do not edit it by hand.

A job file is YAML: one mapping, with sections. Every key but `name`, `model` and `data` has a default,
which can depend on the `method`. Unknown keys,
keys that stand twice and values out of range are refused, all at once, each with its line and column. `ratchet
validate JOB` checks a job file and its data without running anything; `ratchet validate JOB --resolved` prints it
with every default filled in, as it is kept in the run's `resolved.yaml`. A key that nothing reads under the job's other
settings, such as `loss.beta` of a method that imitates, is named by `validate` and `run` in a line `no effect`.

Editors complete and explain keys by a JSON Schema: `ratchet schema > ratchet.schema.json`, and in the job file a line
`# yaml-language-server: $schema=ratchet.schema.json` (VS Code's YAML extension and others read it). Words of papers and
of other programs, such as `lr`, `batch_size` or `num_generations`, are no keys, but the error names the one that is
meant.
"""

_ESSENTIAL = """\
## The keys that most jobs need

`ratchet init` writes a job with these for your own data and model. All others have defaults that suit a first run. The
method may set another default than the one here ([Methods](#methods)); a section's name leads to all of its keys.
"""

_START = """\
## Starting it

| form | needs |
|---|---|
| `ratchet run jobs/irpo.yaml` | the environment, activated |
| `python -m orchestrator run jobs/irpo.yaml` | the same |
| `ratchet run demo` | the same, in any folder: the packaged copy of that job |
| `./jobs/irpo.yaml` | as the first; the file is executable, and its first line is as in the example below |
| `ray job submit --working-dir . -- jobs/irpo.yaml` | a cluster that has the packages, and RATCHET_HOME (see below) |
| `ray job submit jobs/irpo.yaml` | a Ray cluster that was started in the project's folder |

The first four start a private Ray, unless `cluster.address` or RAY_ADDRESS names a cluster. A submitted job runs on
the cluster it was submitted to. Submitting it again resumes it. `ray job stop` interrupts it; the driver has 3
seconds then, or `RAY_JOB_STOP_WAIT_TIME_S` of the job's environment.

## Overrides

Any form takes `key=value` after the job file, as in `ratchet run jobs/irpo.yaml name=hot generate.temperature=1.3`.
The key is dotted, the value is YAML: `null`, `true`, `1e-6`, `'[0.1, 0.2]'`, `'{path: a.jsonl, limit: 5}'`. Of two
overrides of one key the last one counts. A list is replaced as a whole.

## Schedules

Where a key takes "a list of such numbers, one a round", a single number holds for every round, and a list gives one
number for each: `[0.8, 0.8, 1.3]` is 0.8 in rounds 1 and 2, and 1.3 from round 3 on. A longer list than there are
rounds is cut.

## Numbers

`1e-6` is a number here, with or without a decimal point. YAML reads `yes`, `no`, `on` and `off` as true and false,
and `2026-12-05` as a date: put such texts in quotes. `010` (8 to YAML) and `1:30` (90) are refused.

## Where paths are looked for

A path of the job file (`model`, the files of `data`) is absolute, or looked for in the job file's folder first and in
the current folder next. A run lives in `run_dir`. Without one it lives in `runs/NAME`, below the folder that the
environment variable RATCHET_HOME names; else below the project, which is the nearest folder with a `pyproject.toml`
from the current one upwards; else below the current folder. On a cluster of several nodes all of them must see the
run's folder, and the model and data too.

A private Ray, which is what runs where no cluster is named, keeps its sockets, logs and temporary files in a folder in
TMPDIR (else `/tmp`) that is closed to other users, and removed at the end. The path of TMPDIR may have some 24
characters, since the names of sockets are short. It listens on this host's loopback alone. RATCHET_METRICS_PORT sets
the port on which it shows metrics ([deploy/grafana](../deploy/grafana/README.md)).

`ray job submit --working-dir .` runs a copy of the project, which Ray removes again. A run in there is refused. Name
a folder that lasts, for instance with `--runtime-env-json '{"env_vars": {"RATCHET_HOME": "/shared/ratchet"}}'`.

## Going on with a run

`ratchet resume RUN` takes the settings from the newest record of the run's ledger, so that it needs neither the file
nor the overrides that the run was started with, and can be given in any folder; `RUN/job.yaml` as a job file does the
same, and what was changed in it counts. Overrides on the command line come on top, and stay for the next time.
Submitted to a cluster: `ray job submit -- ratchet resume RUN`, with RATCHET_HOME as above.

- The run is in RUN, wherever it was started. Its name stays, and its `run_dir` follows.
- Relative paths are looked for in the folders that they were in when the run was started, and then in the current one.
- Files that were moved are named anew: `data.train.path=FILE`, `model=FOLDER`,
  `'stages.sources=[{path: FILE}, ...]'`. They must hold what they held, which is checked before anything is done. Runs
  of versions that did not record it refuse them.
- What of a run's own settings needs trust (code, addresses, paths outside of it) must have been approved by this user
  on this machine: naming a job file outside of any run does that, and so does `--trust`, once; see
  [threats.md](threats.md). The user's state folder keeps it: $RATCHET_STATE_HOME, else $XDG_STATE_HOME/ratchet, else
  ~/.local/state/ratchet. Where a home folder does not last, as in a cluster's containers, set RATCHET_STATE_HOME to a
  private folder that does; the key that saved training states are sealed with is there, too.
- In MLflow a run that was moved keeps its runs. A copy of a run gets new ones, so that both can go on. A copy on
  another machine that has the same path is taken for the run itself: give it another `tracking.experiment`.

## What may change on a resume
"""

_METHODS = """\
A method is a row of settings, which are the defaults of a job that names it; what the file says goes before them. No
other thing depends on the method's name. What stands nowhere in the row has the default of its section.
"""


_OWN_METHODS = """\
### Methods of your own

A paper's variant needs no code: it is a row of a file of yours, and `method: my_methods.yaml#mild` names it (the file
relative to the job file's folder, else to the current folder). [jobs/methods.yaml](../jobs/methods.yaml) has SPIN,
DPO-VP, SPPO, SimPO, ORPO and SSD as such rows; [jobs/simpo.yaml](../jobs/simpo.yaml) and
[jobs/ssd.yaml](../jobs/ssd.yaml) are jobs of them.

```yaml
mild:
  paper: "Ours, section 3"
  what: IRPO with a looser pull and fresh prompts
  like: irpo
  settings:
    data: {prompts: split}
    loss: {beta: [0.1, 0.05]}
```

What the job file says goes before a row, and a row before what it is `like`. `ratchet validate` tells which row a job
has. A run keeps the row's name and every setting, also in its `job.yaml`: `ratchet resume` and `ratchet fork` do not
read the file again. Started anew with a row that has changed, a run says what differs, as with a job file. Arms of a
comparison name rows in the same way.
"""

_CHANGES = """\
A setting decides what comes out, or only says how the work is executed. A run keeps those that decide: starting it
again with others is refused, with the difference shown. Those that execute may change at every start, since the result
stays the same, or the same but for rounding; a run that is out of memory, or has lost a node, goes on with other ones.
Below they are marked "May change at every start": {wholly} (a section: all of its keys); and some values of {partly}.
Which of them a step was done with stands in the ledger, under `executed` of its record, and there what was left to the
machine (`train.attention: auto`, `cluster.cpus_per_rank` and `cluster.cpus_per_engine`) has the value that it came to.
That value is kept at the next start where it can be, until its setting is changed or the run goes on on another kind of
device; so is half of `train.tokens_per_microbatch`, where a rank has run out of memory. `generate.dtype`, which is left
to the machine too, decides: what it came to is kept on any device. Where the kernel or the device has changed since a
round's reference pass, that is made once more before the training. A training that was cut off goes on from its last
saved state, also with other `train.ranks`, another `train.zero` from 1 to 3, and with `train.offload_optimizer` or
without. One that an earlier version saved is not loaded: that round's training starts over, and says so.
"""


def executing_keys(section: type[Settings], prefix: str = "") -> Iterator[str]:
    """All keys with the mark of what only executes; of a section that has it as a whole, its own key."""
    for name, field in section.file_fields().items():
        if mark_of(field) is not None:
            yield prefix + name
        else:
            for below in sections_in(field.annotation):
                yield from executing_keys(below, f"{prefix}{name}.")


def _by_kind() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"wholly": [], "partly": []}
    for key in executing_keys(Job):
        kinds["wholly" if is_executing(key) else "partly"].append(key)
    return kinds


def job_docs() -> str:
    """The whole document, in Markdown."""
    parts = [
        _HEAD,
        _ESSENTIAL,
        _essential(),
        _START,
        _CHANGES.format(**{kind: ", ".join(f"`{key}`" for key in keys) for kind, keys in _by_kind().items()}),
        "## Top level",
        Job.__doc__ or "",
        _table(Job),
        "## Methods",
        _METHODS,
        *_methods(),
        *_sections(),
        "## An example",
        f"```yaml\n{EXAMPLE}```",
        "The same with every default filled in:",
        f"```yaml\n{resolved_yaml(Job.model_validate(yaml.safe_load(EXAMPLE)))}```",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _essential() -> str:
    rows = ["| key | default | what to know first |", "|---|---|---|"]
    for key, told in ESSENTIAL.items():
        section, _, name = key.rpartition(".")
        model = model_of(Job.file_fields()[section].annotation) if section else Job
        assert model is not None, key
        field = model.file_fields()[name]
        link = f"[`{key}`](#{section or 'top-level'})"
        rows.append(f"| {link} | {_default(field)} | {told} |")
    return "\n".join(rows)


def _methods() -> Iterator[str]:
    lines = ["| method | what | settings | from |", "|---|---|---|---|"]
    for name, preset in PRESETS.items():
        settings = ", ".join(f"`{key}: {json.dumps(value)}`".replace('"', "") for key, value in _flat(preset.settings))
        lines.append(f"| `{name}` | {preset.what} | {settings} | {preset.paper} |")
    yield "\n".join(lines)
    yield _OWN_METHODS
    yield _table(Row)


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


BELOW: Mapping[type[Settings], tuple[str, type[Settings]]] = {
    Data: ("`{}.curriculum`", Curriculum),
    Reward: ("Each of `{}.models`", RewardModel),
    Steps: ("`{}.process`", ProcessModel),
    Generate: ("`{}.adapt_temperature`", AdaptTemperature),
    Evaluate: ("`{}.harness`", Harness),
}
"""Sections that have a section below them, with its heading."""


def _sections() -> Iterator[str]:
    for name, field in Job.file_fields().items():
        if model := model_of(field.annotation):
            yield f"## `{name}`"
            yield _paragraph(model.__doc__ or "")
            yield _table(model)
            if model is Data:
                yield f"### Each of `{name}.train`, `{name}.gate` and `{name}.test`"
                yield _paragraph(Source.__doc__ or "")
                yield _table(Source)
                yield f"### Each of `{name}.tests`"
                yield _paragraph(f"{HeldOut.__doc__} It has the keys of a source, and these:")
                yield _table(HeldOut, without=Source)
            if model in BELOW:
                heading, below = BELOW[model]
                yield f"### {heading.format(name)}"
                yield _paragraph(below.__doc__ or "")
                yield _table(below)


def _table(model: type[Settings], without: type[Settings] = Settings) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.file_fields().items():
        if name in without.model_fields:
            continue
        section = model_of(field.annotation)
        if model is Job and section:
            needed = "required" if field.is_required() else ""
            cells = [f"[`{name}`](#{name})", "a section of keys", needed, _meaning(section.__doc__, field)]
        else:
            value = wanted(field.annotation, field.metadata)
            cells = [f"`{name}`", value, _default(field), _meaning(field.description, field)]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _meaning(text: str | None, field: FieldInfo) -> str:
    mark = mark_of(field)
    return _paragraph(f"{text or ''} {mark.words if mark else ''}")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    shown = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return "`" + (shown.strip('"') if isinstance(value, str) and value.isidentifier() else shown) + "`"


def _paragraph(text: str) -> str:
    return " ".join(text.split())
