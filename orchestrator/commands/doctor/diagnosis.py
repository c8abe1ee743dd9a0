"""What `ratchet doctor` makes of what it sees. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from packaging.version import InvalidVersion, Version

from orchestrator.config import Job
from orchestrator.driver.nodes import Node, room
from orchestrator.driver.wiring import ENGINE
from orchestrator.errors import last_line
from orchestrator.rounds.space import GIB, Need, gib
from orchestrator.text.counts import many

Level = Literal["pass", "warn", "FAIL"]
Facts = dict[str, Any]

PACKAGES = ("ray", *ENGINE.packages, "torch", "deepspeed", "transformers", "mlflow", "pyarrow")
BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")
_LITTLE_MEMORY, _LITTLE_SHM = 2 * GIB, GIB
_LONGEST_TEXT = 500  # characters of a line, of which some libraries' errors have thousands


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check says. Example: Finding("warn", "/dev/shm has 0.1 GiB on n1", "start its container with more")"""

    level: Level
    text: str
    cure: str = ""
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """A finding with the name of its check and the seconds it took."""

    name: str
    seconds: float
    finding: Finding

    def line(self) -> str:
        """The check in one line for people, cut to a length that a terminal shows, with its cure."""
        text = " ".join(self.finding.text.split())
        text = text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 4] + " ..."
        cure = f". {self.finding.cure[:1].upper()}{self.finding.cure[1:]}" if self.finding.cure else ""
        return f"{self.finding.level:<5} {self.name:<14} {text}{cure}"

    def as_json(self) -> Facts:
        return {"name": self.name, "seconds": round(self.seconds, 3)} | asdict(self.finding)


def worst(problems: Sequence[Finding], otherwise: Finding) -> Finding:
    """One finding for many: those of the worst level together, or `otherwise` where there is no problem."""
    levels: tuple[Level, ...] = ("FAIL", "warn")
    for level in levels:
        if chosen := [p for p in problems if p.level == level]:
            cures = list(dict.fromkeys(p.cure for p in chosen if p.cure))
            text = "; ".join(dict.fromkeys(p.text for p in chosen))
            return Finding(level, text, "; ".join(cures), otherwise.facts)
    return otherwise


def nodes_text(count: int) -> str:
    """ "1 node", "2 nodes"."""
    return f"{count} node{'s' if count != 1 else ''}"


def asked(told: Mapping[Node, Any]) -> str:
    """Who was asked, for the end of a sentence."""
    return f"the driver and {nodes_text(len(told))}" if told else "the driver alone, for want of a cluster"


def passed(text: str, answers: Mapping[Node, Any], facts: Facts) -> Finding:
    """What holds everywhere; no more than a warning where no node could be asked."""
    return Finding("pass" if answers else "warn", text, "", facts)


def silent(answers: Mapping[Node, Any]) -> list[Finding]:
    """A failure for each node that answered with an exception."""
    return [
        Finding("FAIL", f"{node.name}: {_reason(answer)}", _cure(answer))
        for node, answer in answers.items()
        if isinstance(answer, Exception)
    ]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {last_line(error) if str(error).strip() else ''}"


def _cure(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            "install Ratchet with its requirements on every node, or submit it: ray job submit --working-dir . -- "
            "ratchet doctor"
        )
    return ""


# Versions


def _is(version: str | None, low: str, below: str) -> bool:
    try:
        return version is not None and Version(low) <= Version(version) < Version(below)
    except InvalidVersion:
        return False


def _cpu(version: str | None) -> bool:
    return version is not None and version.endswith("+cpu")


def bad_combinations(versions: Mapping[str, str]) -> list[Finding]:
    """What is known not to work together. Each has its reason."""
    torch = versions.get("torch")
    cuda_builds = [
        f"{p} {versions[p]}" for p in BESIDE_TORCH if p in versions and _cpu(torch) and not _cpu(versions[p])
    ]
    on_cpu = [f"{p} {versions[p]}" for p in ENGINE.cpu_packages if p in versions]
    table = [
        (
            _is(versions.get("deepspeed"), "0.17.6", "0.18.3"),
            Finding(
                "FAIL",
                f"deepspeed {versions.get('deepspeed')} computes wrong ZeRO-2 gradients (0.17.6 to before 0.18.3)",
                "install the pinned release: make setup",
            ),
        ),
        (
            bool(cuda_builds),
            Finding(
                "FAIL",
                f"{', '.join(cuda_builds)} beside torch {torch}: CUDA builds break at import there "
                "(operator torchvision::nms does not exist)",
                f"they are not needed: pip uninstall {' '.join(name.split()[0] for name in cuda_builds)}",
            ),
        ),
        (
            bool(on_cpu) and torch is not None and not _cpu(torch),
            Finding(
                "warn",
                f"{', '.join(on_cpu)} beside torch {torch}, while it is built for torch's CPU build",
                "make setup installs that; for accelerators, make setup-gpu installs "
                + " or ".join(p for p in ENGINE.packages if p not in ENGINE.cpu_packages)
                + " instead",
            ),
        ),
    ]
    missing = [p for p in ("ray", "torch", "deepspeed", "transformers", "pyarrow") if p not in versions]
    missing += [] if any(p in versions for p in ENGINE.packages) else [" or ".join(ENGINE.packages)]
    if missing:
        table.append((True, Finding("FAIL", f"{', '.join(missing)} not installed", "make setup, or make setup-gpu")))
    return [finding for applies, finding in table if applies]


def diagnose_versions(driver: Mapping[str, str], answers: Mapping[Node, Any]) -> Finding:
    """The same versions everywhere, and none of the bad combinations. Of the driver's own packages, only those
    that nodes have as well are compared: a driver needs no torch."""
    nodes = {node.name: answer for node, answer in answers.items() if not isinstance(answer, Exception)}
    problems = silent(answers)
    for package in ("python", *PACKAGES):
        by_version: dict[str, list[str]] = {}
        for name, versions in nodes.items():
            by_version.setdefault(versions.get(package, "none"), []).append(name)
        if package in driver:
            by_version.setdefault(driver[package], []).append("the driver")
        if len(by_version) > 1:
            where = ", ".join(f"{version} on {' and '.join(names)}" for version, names in by_version.items())
            problems.append(Finding("FAIL", f"{package}: {where}", "install the same requirements everywhere"))
    for name, versions in nodes.items() or {"the driver": dict(driver)}.items():
        problems += [Finding(p.level, f"{name}: {p.text}", p.cure) for p in bad_combinations(versions)]
    sample = next(iter(nodes.values()), driver)
    listed = ", ".join(f"{package} {sample[package]}" for package in ("python", *PACKAGES) if package in sample)
    facts = {"driver": dict(driver), "nodes": nodes}
    return worst(problems, passed(f"{listed}; on {asked(answers)}", answers, facts))


# Files


def diagnose_model(model: str, sizes_here: Mapping[str, int], answers: Mapping[Node, Any]) -> Finding:
    """Every node sees the same files of the model folder."""
    problems = silent(answers)
    for node, sizes in answers.items():
        if not isinstance(sizes, Exception) and sizes != sizes_here:
            what = f"{node.name} sees other files there" if sizes else f"{node.name} does not see it"
            problems.append(Finding("FAIL", f"{model}: {what}", "put the model where all nodes see it under one path"))
    text = f"{model} ({gib(sum(sizes_here.values()))}), seen from {asked(answers)}"
    return worst(problems, passed(text, answers, {"model": model}))


def diagnose_shared(folder: str, answers: Mapping[Node, Any], unseen: Sequence[Node]) -> Finding:
    """`unseen`: nodes whose file the driver does not see."""
    cure = "set RATCHET_HOME or run_dir to a folder that all nodes mount under this path"
    problems = [Finding("FAIL", p.text, p.cure or cure) for p in silent(answers)]
    problems += [Finding("FAIL", f"the driver does not see what {node.name} wrote", cure) for node in unseen]
    text = f"{folder} has hard links, and is read and written by {asked(answers)}"
    return worst(problems, passed(text, answers, {"folder": folder}))


def diagnose_space(folder: str, free: int, need: Need | None, rounds: int) -> Finding:
    """Whether `free` bytes at `folder` hold what the rounds write; `need` is None without a job."""
    if need is None:
        return Finding("pass", f"{gib(free)} free at {folder}", "", {"free": free})
    text = (
        f"{gib(free)} free at {folder}; up to {gib(need.total)} for {many(rounds, 'round')} "
        f"({gib(need.checkpoints)} of checkpoints, {gib(need.states)} of saved training states, {gib(need.rows)} of "
        "samples and pairs)"
    )
    cure = "free some, or set RATCHET_HOME or run_dir to a larger file system"
    level: Level = "FAIL" if free < need.total else "warn" if free < 2 * need.total or free < GIB else "pass"
    return Finding(level, text, "" if level == "pass" else cure, {"free": free, "need": asdict(need)})


# Machines


def diagnose_machines(answers: Mapping[Node, Any], job: Job, accelerated: bool, has_job: bool) -> Finding:
    """Memory, shared memory and accelerators of each node (`answers`: what `workers.doctor.machine` says, or what it
    raised) against what the job's workers want."""
    machines = {node: answer for node, answer in answers.items() if not isinstance(answer, Exception)}
    problems = silent(answers)
    for node, machine in machines.items():
        problems += _machine_problems(node, machine, job, accelerated, has_job)
    facts = {n.name: {k: v for k, v in m.items() if k != "processes"} for n, m in machines.items()}
    if not machines:
        return worst(problems, Finding("warn", "no node told anything"))
    devices = [device for machine in machines.values() for device in machine["accelerators"]]
    kinds = sorted({device["name"] for device in devices})
    text = (
        f"{nodes_text(len(machines))}: {sum(m['cores'] for m in machines.values())} cores; least free memory "
        f"{gib(min(m['memory_available'] for m in machines.values()))}, smallest /dev/shm "
        f"{gib(min(m['shm_total'] for m in machines.values()))}; "
    )
    if devices:
        text += f"{len(devices)} x {', '.join(kinds)}, least free memory {gib(min(d['free'] for d in devices))}"
        if without := [node.name for node, m in machines.items() if m["accelerators"] and not m["cuda"]["nvcc"]]:
            text += f"; no nvcc on {', '.join(without)}, so engines sample there without FlashInfer"
    else:
        text += "no accelerators, so everything runs on CPU"
    return worst(problems, Finding("pass", text, "", facts))


def _machine_problems(
    node: Node, machine: Mapping[str, Any], job: Job, accelerated: bool, has_job: bool
) -> list[Finding]:
    problems = []
    if machine["memory_available"] < _LITTLE_MEMORY:
        text = f"{node.name}: {gib(machine['memory_available'])} of {gib(machine['memory_total'])} memory free"
        problems.append(Finding("warn", text, "end what holds it, or take a larger node"))
    by_node = node.gpus if job.train.ranks is None else job.train.ranks
    several = accelerated and max(by_node, job.generate.spread) > 1
    if machine["shm_total"] < _LITTLE_SHM:
        # NCCL moves data between the devices of a node through it; containers get 64 MiB by default.
        level: Level = "FAIL" if several and machine["shm_total"] < _LITTLE_SHM / 4 else "warn"
        text = f"{node.name}: /dev/shm has {gib(machine['shm_total'])}"
        problems.append(
            Finding(level, text, "start its container with --shm-size=16g, or with the host's (--ipc=host)")
        )
    devices = machine["accelerators"]
    if job.cluster.accelerators == "auto" and len(devices) > node.gpus:
        text = f"{node.name}: Ray gives out {node.gpus} of its {len(devices)} accelerators"
        problems.append(Finding("warn", text, f"start Ray there with --num-gpus={len(devices)}"))
    if job.cluster.accelerators == "auto":
        fatal = [problem for problem in machine["cuda"]["problems"] if problem["fatal"]]  # of the others, see the text
        problems += [Finding("FAIL", f"{node.name}: {problem['text']}", problem["cure"]) for problem in fatal]
    if accelerated:
        share = float(job.generate.engine.get(ENGINE.memory_argument, ENGINE.memory_share))
        for device in devices:
            if device["free"] < share * device["total"]:
                text = (
                    f"{node.name}: accelerator {device['index']} has {gib(device['free'])} of {gib(device['total'])} "
                    f"free, and an engine takes {share:.0%} of it"
                )
                cure = f"end what holds it (nvidia-smi), or lower generate.engine.{ENGINE.memory_argument}"
                problems.append(Finding("FAIL" if has_job else "warn", text, cure))
    return problems


def diagnose_fit(
    needs: Mapping[str, tuple[int, int, int]], nodes: Sequence[Node], free: tuple[int, int], why: Sequence[str] = ()
) -> Finding:
    """`needs`: by key of the job, how many workers and each one's cores and accelerators. Each fits in one node. `why`
    tells of what was left to the machine."""
    problems, fitting = [], []
    for key, (count, cpus, gpus) in needs.items():
        fit = room(nodes, cpus, gpus)
        each = f"{cpus} CPU" + (f" and {gpus} GPU" if gpus else "")
        have = f"{sum(n.cpus for n in nodes)} CPU and {sum(n.gpus for n in nodes)} GPU on {nodes_text(len(nodes))}"
        text = f"{key}: {count} x {each}, room for {fit} ({have})"
        if fit < count:
            cure = f"set {key} to at most {fit}, or add nodes" if fit else f"no node has {each}; add one that has"
            if gpus and sum(node.gpus // gpus for node in nodes) >= count:
                which = "cpus_per_engine" if key == "generate.engines" else "cpus_per_rank"
                cure = f"lower cluster.{which}, since there are accelerators enough"
            problems.append(Finding("FAIL", text, cure))
        elif count * cpus > free[0] or count * gpus > free[1]:
            text = f"{key}: {count} x {each}, while only {free[0]} CPU and {free[1]} GPU are free now"
            problems.append(Finding("warn", text, "wait for the cluster's other jobs, or ask for fewer"))
        fitting.append(text)
    facts = {"needs": {key: list(need) for key, need in needs.items()}, "free": list(free)}
    return worst(problems, Finding("pass", "; ".join([*fitting, *why]), "", facts | {"why": list(why)}))


def diagnose_all_reduce(by_rank: Sequence[Mapping[str, Any]]) -> Finding:
    """Whether the sum over the training ranks was right on each; `by_rank` is theirs, by rank."""
    seconds, first = max(t["seconds"] for t in by_rank), by_rank[0]
    text = f"{first['backend']} over {len(by_rank)} rank{'s' if len(by_rank) > 1 else ''}: "
    facts = {"ranks": len(by_rank), "seconds": seconds, "bytes": first["bytes"], "backend": first["backend"]}
    if wrong := [rank for rank, t in enumerate(by_rank) if not t["correct"]]:
        text += f"the sum of {gib(first['bytes'])} is wrong on ranks {', '.join(map(str, wrong))}"
        return Finding("FAIL", text, "run NCCL's own tests; NCCL_P2P_DISABLE=1 tells whether it is the link", facts)
    return Finding("pass", f"{text}{gib(first['bytes'])} summed right in {1000 * seconds:.1f} ms", "", facts)


def diagnose_memory_back(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[Node, Any], held: Mapping[Node, Any]
) -> Finding:
    """Is every node's memory free again? `before`: what `machines` told, by name; `held`: processes since then."""
    problems = silent(after)
    for node, machine in after.items():
        if isinstance(machine, Exception) or node.name not in before:
            continue
        answer = held.get(node, [])
        processes = [] if isinstance(answer, Exception) else answer
        lost = [
            f"{gib(old['free'] - new['free'])} of accelerator {new['index']}"
            for old, new in zip(before[node.name]["accelerators"], machine["accelerators"], strict=False)
            if old["free"] - new["free"] > 512 * 2**20
        ]
        missing = before[node.name]["memory_available"] - machine["memory_available"]
        if missing > max(GIB, 0.05 * machine["memory_total"]):
            lost.append(f"{gib(missing)} of memory")
        ours = [process for process in processes if process["ours"]]
        named = ", ".join(
            f"{p['pid']} {p['name']} ({gib(p['memory'] + p['device_memory'])})" for p in ours or processes
        )
        if ours:
            text, cure = (
                f"{node.name}: not given back by {named}",
                f"end them: kill {' '.join(str(p['pid']) for p in ours)}",
            )
            problems.append(Finding("FAIL", text, cure))
        elif lost:
            # Others work on a node as well; of the devices' memory, containers often hide who holds it.
            text = (
                f"{node.name}: {' and '.join(lost)} less than before, held by {named or 'no process that is visible'}"
            )
            level: Level = "FAIL" if any("accelerator" in what for what in lost) and not processes else "warn"
            problems.append(Finding(level, text, "look whether that is another job; otherwise restart the node's Ray"))
    return worst(problems, Finding("pass", f"memory is free again on {nodes_text(len(after))}"))
