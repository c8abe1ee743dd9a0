"""Grader processes, for real: limits, deaths and what survives them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import Grade
from orchestrator.errors import BadInput
from orchestrator.records.golds import SEPARATOR
from orchestrator.records.rows import CAUSES, GRADERS_VERSION, SAMPLES, VERDICTS, Shard
from workers.grading.pool import Graded, GraderActor, GraderPool
from workers.grading.process import GraderProcess

ROOT = Path(__file__).parents[3]
CANARY = ROOT / "RATCHET_CANARY"
TOUCH = f"touch {CANARY}"
CODE = [
    f"__import__('os').system('{TOUCH}')",
    f"\\text{{__import__('os').system('{TOUCH}')}}",
    f"7 + __import__('os').system('{TOUCH}')",
    f"\\operatorname{{__import__}}('os').system('{TOUCH}')",
    f"\\variable{{__import__('os').system('{TOUCH}')}}",
    f"\\mathrm{{eval}}(\"__import__('os').system('{TOUCH}')\")",
    f"x_{{__import__('os').system('{TOUCH}')}}",
    f"[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0]('{TOUCH}', shell=True)",
    f"lambda x: exec(\"import os; os.system('{TOUCH}')\")",
    f"$(;{TOUCH};)`{TOUCH}`",
    f"1e__import__('os').system('{TOUCH}')",
    f"open('{CANARY}', 'w')",
    f"\\frac{{open('{CANARY}','w')}}{{2}}",
    f"\\sum_{{n=1}}^{{\\infty}} \\variable{{n);__import__('os').system('{TOUCH}')#}}",
    "cos\nsystem\n(S'touch'\ntR.",
    f"@@{CANARY}",
]
TOO_LARGE = ["5^(5^(5^(5^5)))", "9!!!!!!!!", "10000000!", "2^{2^{100}}", "3^{-3^{3^{3^3}}}"]
"""Values out of bounds, which are not computed."""
DEADLY = [
    "\\gcd(10^{10^9},7)",
    "\\gcd(3^{10^8},2^{10^8})",
]
HARMLESS = [
    "a_" * 300,  # this and the next are out of time on slower machines
    "(" * 40 + "7+x" + ")" * 40,
    "{" * 400 + "7+x" + "}" * 400,
    "7" * 1_000_000,
    "(x+y+z+w)^{300}",
    "\\binom{10^9}{5*10^8}",
    *CODE,
    "\u202e7\u202c\u200f" * 500,
    "\\left(" * 200 + "7" + "\\right)" * 200,
    "\\begin{pmatrix}" * 50 + "7" + "\\end{pmatrix}" * 50,
    "a" * 2000 + "!",
    "1,234," * 3000,
    "(" * 10_000 + ")" * 10_000,
    "x\x00\x00",
    "8\ud800\udfff\ud800",
    "\\sqrt{" * 150 + "7" + "}" * 150,
    "\\frac{" * 3000 + "7" + "}{2}" * 3000,
    "{" * 15_000,
    "1e999999999",
    "",
]


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(Grade(timeout=1.0, memory=0.5, processes=2, max_characters=2_000_000)) as pool:
        yield pool


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not all(_gone(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {[pid for pid in pids if not _gone(pid)]}"
        time.sleep(0.05)


def _workers_of(keeper: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()]


def test_every_kind_of_verdict(pool: GraderPool) -> None:
    assert pool.grade(
        [
            ("7", "so\nFinal answer: 7 apples", "stop"),
            ("7", "Final answer: 8", "stop"),
            ("7", "I give up", "stop"),
            ("7", "Final answer: 7", "length"),
        ]
    ) == [
        Graded("correct", "7 apples", "final_answer", None),
        Graded("wrong", "8", "final_answer", "number: '8' is not '7'"),
        Graded("wrong", None, None, "no answer found"),
        Graded("ungradable", None, None, "truncated", "truncated"),
    ]
    assert pool.grade([]) == []


REASONS_TO_ABSTAIN = {
    "truncated": ("60", "Final answer: 60", "length"),
    "unreadable": ("60", "Final answer: the number of eggs that Ann had", "stop"),
    "failed": ("x^2", "Final answer: 9!!!!!!!!", "stop"),
    "gold": ("", "Final answer: 60", "stop"),
}


def test_every_reason_to_abstain_has_its_cause(pool: GraderPool) -> None:
    graded = dict(zip(REASONS_TO_ABSTAIN, pool.grade(REASONS_TO_ABSTAIN.values()), strict=True))
    assert {cause: (one.verdict, one.cause) for cause, one in graded.items()} == {
        cause: ("ungradable", cause) for cause in CAUSES
    }


def test_what_is_unreadable_is_wrong_where_the_job_says_so() -> None:
    """And nothing else: of what is truncated, or a grader has failed on, nothing is known."""
    with GraderPool(Grade(timeout=1.0, processes=1, unreadable="wrong")) as pool:
        graded = dict(zip(REASONS_TO_ABSTAIN, pool.grade(REASONS_TO_ABSTAIN.values()), strict=True))
    assert {name: one.verdict for name, one in graded.items() if one.verdict != "ungradable"} == {"unreadable": "wrong"}
    assert graded["unreadable"].cause is None and graded["unreadable"].reason


@pytest.mark.parametrize("gold", ["7", "x^2"])
def test_nothing_a_model_writes_breaks_the_batch(pool: GraderPool, gold: str) -> None:
    poisons = DEADLY + TOO_LARGE + HARMLESS
    items = []
    for poison in poisons:
        items += [(gold, f"Final answer: {poison}", "stop"), (gold, f"Final answer: {gold}", "stop")]
        items += [(gold, "Final answer: x^3", "stop")]
    graded = pool.grade(items)
    for poison, one in zip(poisons, graded[::3], strict=True):
        assert one.verdict in ("wrong", "ungradable") and one.reason, poison[:40]
    for poison, one in list(zip(poisons, graded[::3], strict=True))[: len(DEADLY)]:
        assert one.verdict == "ungradable", poison
        assert one.extracted == poison
        assert one.reason.startswith(("timeout", "out of memory"))
    for poison, one in list(zip(poisons, graded[::3], strict=True))[len(DEADLY) :][: len(TOO_LARGE)]:
        assert one.verdict == "ungradable", poison
        assert "too large to be computed" in one.reason
    assert all(one.verdict == "correct" for one in graded[1::3])
    assert all(one.verdict == "wrong" for one in graded[2::3])
    assert not CANARY.exists()


@pytest.mark.parametrize("grader", ["exact", "number", "choice", "math", "regex:(.+)", {"all_of": ["exact", "math"]}])
def test_no_grader_runs_what_a_model_writes(grader: Any) -> None:
    with GraderPool(Grade(graders=[grader], answer=["whole"], processes=1)) as pool:
        for gold in ("7", "x^2"):
            for code, one in zip(CODE, pool.grade([(gold, code, "stop") for code in CODE]), strict=True):
                assert one.verdict in ("wrong", "ungradable"), code
                assert "as code" not in (one.reason or "")
    assert not CANARY.exists()


_PIECES = """
\\frac{ }{ } { ( ) [ ] \\sqrt{ ^ _ 1 2 7 x y i \\pi + - * / = < \\le \\cup \\{ \\} , ; : . \\text{ cm and \\infty % $ !
\\begin{pmatrix} \\end{pmatrix} & \\\\ \\sin \\log_2 \\binom{ | \\boxed{ eval( lambda 3:30 1,234 .5 A (B) Paris
seven \\overline{3}
"""
_TEXT = st.lists(
    st.sampled_from([*_PIECES.split(), " ", "\n", "\x00", "\ud800", "\u202e"]) | st.text(max_size=3), max_size=8
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(_TEXT.map("".join), _TEXT.map("".join)), min_size=8, max_size=8))
def test_any_text_has_a_verdict(mixed: GraderPool, pairs: list[tuple[str, str]]) -> None:
    pairs += [(gold, gold) for gold, _ in pairs]
    graded = mixed.grade([(gold, f"Final answer: {answer}", "stop") for gold, answer in pairs])
    for (gold, answer), one in zip(pairs, graded, strict=True):
        assert one.verdict in ("correct", "wrong", "ungradable")
        assert (one.reason is None) == (one.verdict == "correct")
        if gold == answer == one.extracted and SEPARATOR not in gold:  # with it, a gold is several, and no one answer
            assert one.verdict != "wrong", (gold, one)


@pytest.fixture(scope="module")
def mixed() -> Iterator[GraderPool]:
    with GraderPool(Grade(graders=["exact", "number", "choice", "math"], timeout=1.0, processes=2)) as pool:
        yield pool


def test_what_a_grader_process_refuses(tmp_path: Path) -> None:
    script = """
import os, pathlib, socket, subprocess, sys
from workers.graders import guard
target = sys.argv[1]
attempts = [
    lambda: eval("1"),
    lambda: exec("1"),
    lambda: compile("1", "a", "eval"),
    lambda: os.system("touch " + target),
    lambda: subprocess.run(["touch", target]),
    lambda: os.posix_spawn("/usr/bin/touch", ["touch", target], {}),
    lambda: os.execv("/usr/bin/touch", ["touch", target]),
    lambda: os.fork(),
    lambda: open(target, "w"),
    lambda: os.open(target, os.O_CREAT),
    lambda: pathlib.Path(target).touch(),
    lambda: os.mkdir(target),
    lambda: socket.create_connection(("127.0.0.1", 9)),
]
guard.install()
for number, attempt in enumerate(attempts, 1):
    try:
        attempt()
    except guard.Refused:
        pass
    else:
        sys.exit(f"attempt {number} was let")
    assert guard.refusals >= number
with guard.lifted():
    assert eval("7") == 7
import graphlib
open(__file__ if "__file__" in globals() else "/dev/null").close()
"""
    ran = subprocess.run([sys.executable, "-c", script, tmp_path / "made"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert not list(tmp_path.iterdir())


def test_a_user_s_function_is_let_and_found_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_grader.py").write_text(
        "def same(gold, answer):\n    if answer == 'hang':\n        while True: pass\n"
        "    return eval('gold == answer[::-1]')\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = Grade(graders=["python:own_grader:same"], answer=["whole"], processes=1, timeout=1.0)
    with GraderPool(settings) as pool:
        graded = pool.grade([("abc", text, "stop") for text in ("cba", "abc", "hang", "cba")])
    assert [one.verdict for one in graded] == ["correct", "wrong", "ungradable", "correct"]
    settings = Grade(graders=["python:own_grader:other"], processes=1)
    with GraderPool(settings) as pool, pytest.raises(BadInput, match="python:own_grader:other: AttributeError"):
        pool.grade([("7", "\\boxed{7}", "stop")])


INSTALLED = ("encodings", "json", "sympy", "orchestrator", "workers")


@pytest.mark.parametrize(
    ("graders", "planted"),
    [(["math"], (*INSTALLED, "gmpy2", "flint", "not_installed")), (["math", "python:own_grader:same"], INSTALLED)],
)
def test_no_module_of_the_current_folder_takes_an_installed_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graders: list[str], planted: Sequence[str]
) -> None:
    """It may be a stranger's run. Libraries try to import what is not installed, too."""
    (tmp_path / "own_grader.py").write_text("def same(gold, answer):\n    return gold == answer\n")
    for name in planted:
        (tmp_path / f"{name}.py").write_text(f"import posix\nposix.mkdir({str(tmp_path / 'executed')!r})\n")
    monkeypatch.chdir(tmp_path)
    with GraderPool(Grade(graders=graders, answer=["boxed"], processes=1)) as pool:
        graded = pool.grade([("x^2", "\\boxed{x \\cdot x}", "stop")])
    assert [one.verdict for one in graded] == ["correct"] and not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("raise SystemExit(5)", "python:own_grader:same: SystemExit: 5"),
        ("class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute", "Mute: it cannot be said"),
        ("raise ValueError('x' * 10**6)", r"ValueError: x+\.\.\. \(1000000 characters\)"),
        ("import os; os._exit(0)", "did not start within 120 s: it ended before it answered.*neither end the process"),
        ("import os; os.kill(os.getpid(), 9)", "did not start within 120 s"),
    ],
)
def test_a_user_s_module_that_does_not_come_up_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, said: str
) -> None:
    (tmp_path / "own_grader.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    settings = Grade(graders=["python:own_grader:same"], processes=1)
    with GraderPool(settings) as pool, pytest.raises(BadInput, match=said):
        pool.grade([("7", "\\boxed{7}", "stop")])


def test_a_module_that_waits_for_ever_as_it_is_imported_ends_by_a_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody is left who could kill its process. The timer has no handler, so that nothing holds it up."""
    told = "import signal as s\nraise ValueError(s.getitimer(s.ITIMER_REAL)[0] > 60, s.getsignal(s.SIGALRM).name)"
    (tmp_path / "own_grader.py").write_text(told)
    monkeypatch.chdir(tmp_path)
    settings = Grade(graders=["python:own_grader:same"], processes=1)
    with GraderPool(settings) as pool, pytest.raises(BadInput, match=r"ValueError: \(True, 'SIG_DFL'\)"):
        pool.grade([("7", "\\boxed{7}", "stop")])


def test_a_grader_s_pattern_that_never_ends_is_killed() -> None:
    settings = Grade(timeout=1.0, processes=1, graders=["regex:^((?:a|a)*)$"], answer=["whole"])
    with GraderPool(settings) as pool:
        graded = pool.grade([("aa", "a" * 60 + "b", "stop"), ("aa", "aa", "stop")])
    assert [one.verdict for one in graded] == ["ungradable", "correct"]


def test_a_poison_is_paid_for_once_in_a_call() -> None:
    with GraderPool(Grade(timeout=1.0, processes=1)) as pool:
        graded = pool.grade([("y^2", f"{i}\nFinal answer: {DEADLY[0]}", "stop") for i in range(20)])
        stat = Path(f"/proc/{pool.pids()[0]}/stat").read_text().rpartition(")")[2].split()
    assert {one.verdict for one in graded} == {"ungradable"}
    # Processor time of the workers that died: 20 s if each of the twenty had been tried.
    assert sum(map(int, stat[13:15])) / os.sysconf("SC_CLK_TCK") < 5


def test_a_regular_expression_that_never_ends_is_killed() -> None:
    settings = Grade(timeout=1.0, processes=1, answer=["pattern:^(?:a|a)*=(7)$"])
    with GraderPool(settings) as pool:
        graded = pool.grade([("7", "a" * 60, "stop"), ("7", "aa=7", "stop")])
    assert graded[0] == Graded("ungradable", None, None, "timeout: a grader took more than 1 s", "failed")
    assert graded[1].verdict == "correct"


def test_memory_is_limited() -> None:
    # A repeated group keeps every step it could go back to, so that this search fills the memory.
    settings = Grade(timeout=20.0, memory=0.1, processes=1, max_characters=20_000_000, answer=["pattern:((?:ab?)*)c"])
    with GraderPool(settings) as pool:
        graded = pool.grade([("7", "a" * 10_000_000, "stop"), ("aa", "xaac", "stop")])
    assert graded[0] == Graded("ungradable", None, None, "out of memory: a grader took more than 0.1 GiB", "failed")
    assert graded[1].verdict == "correct"


def test_only_the_end_of_a_long_completion_is_read() -> None:
    with GraderPool(Grade(processes=1, max_characters=30, graders=["exact"])) as pool:
        graded = pool.grade([("7", "Final answer: 7" + " " * 30, "stop"), ("7", " " * 99 + "Final answer: 7", "stop")])
    assert [one.verdict for one in graded] == ["wrong", "correct"]


def test_an_answer_whose_mark_is_before_the_end_that_is_read_is_not_called_wrong() -> None:
    long = "7" * 40
    thought = f"<think>{'x' * 40}</think>"
    texts = [f"Final answer: {long}", f"{long}\nno answer", f"{thought}none", f"Final answer:\n{long}", "none"]
    with GraderPool(Grade(processes=1, max_characters=30, graders=["math"])) as pool:
        graded = pool.grade([(long, text, "stop") for text in texts])
    assert [(one.verdict, one.cause) for one in graded] == [
        *(("ungradable", "unreadable"), ("wrong", None), ("wrong", None), ("ungradable", "unreadable"), ("wrong", None))
    ]
    assert graded[0].reason == "too long: its last line has more than 30 characters (grade.max_characters)"


def test_a_worker_that_is_killed_is_replaced_and_its_keeper_too() -> None:
    item = ("7", "Final answer: 7", "stop")
    with GraderPool(Grade(timeout=60, processes=1, graders=["exact"])) as pool:
        assert pool.grade([item])[0].verdict == "correct"
        (keeper,) = pool.pids()
        (worker,) = _workers_of(keeper)
        os.kill(worker, signal.SIGKILL)
        _wait_until_gone([worker])
        assert pool.grade([item])[0].verdict == "correct"
        assert pool.pids() == [keeper]
        os.killpg(keeper, signal.SIGKILL)
        assert pool.grade([item])[0].verdict == "correct"
        assert pool.pids() != [keeper]


def test_a_process_that_does_not_die_by_itself_is_killed_from_outside() -> None:
    item = ("7", "Final answer: 7", "stop")
    with GraderPool(Grade(timeout=0.5, processes=1, graders=["exact"])) as pool:
        pool.grade([item])
        (keeper,) = pool.pids()
        os.killpg(keeper, signal.SIGSTOP)  # stopped processes receive no timer's signal
        assert pool.grade([item])[0].verdict == "correct"
        assert pool.pids() != [keeper]
        _wait_until_gone([keeper])


def test_a_grader_process_is_light_and_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_TEST_TOKEN", "secret")
    process = GraderProcess(5.0, 1.0, ["exact", "number", "math"], ["boxed"])
    try:
        assert process.ask("grade", "7", "7.0")["verdict"] == "correct"
        (worker,) = _workers_of(process.pid)
        limits = Path(f"/proc/{worker}/limits").read_text()
        for name in ("Max cpu time", "Max address space", "Max file size", "Max core file size"):
            assert not re.search(rf"{name} +unlimited", limits), name
        for pid in [process.pid, worker]:
            loaded = Path(f"/proc/{pid}/maps").read_text()
            assert not any(f"/{name}/" in loaded for name in ("torch", "ray", "vllm", "pyarrow", "numpy"))
            assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        process.close()
    listing = "import sys, workers.grading.serve, workers.graders.math as m; m.warm_up(); print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "ray", "vllm", "deepspeed", "transformers", "pyarrow"} & set(modules)


def test_graders_end_when_their_parent_is_killed() -> None:
    script = """
import threading, time
from orchestrator.config import Grade
from orchestrator.errors import BadInput
from workers.grading.pool import GraderPool
pool = GraderPool(Grade(timeout=300, processes=2))
pool.grade([(str(n), "Final answer: 7", "stop") for n in range(50)])
threading.Thread(target=pool.grade, args=([("7", "Final answer: \\\\gcd(10^{10^9},7)", "stop")],)).start()
time.sleep(0.5)
print(*pool.pids(), flush=True)
time.sleep(300)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        keepers = [int(pid) for pid in parent.stdout.readline().split()]
        everyone = keepers + [worker for keeper in keepers for worker in _workers_of(keeper)]
        assert len(everyone) == 4
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    _wait_until_gone(everyone)


def test_a_closed_pool_leaves_nothing_running_and_refuses_work() -> None:
    pool = GraderPool(Grade(processes=2, graders=["exact"]))
    pool.grade([(str(n), "Final answer: 7", "stop") for n in range(50)])
    everyone = pool.pids() + [worker for keeper in pool.pids() for worker in _workers_of(keeper)]
    pool.close()
    pool.close()
    _wait_until_gone(everyone)
    with pytest.raises(RuntimeError):
        pool.grade([("7", "Final answer: 7", "stop")])


def _samples(path: Path) -> Path:
    texts = [
        "Final answer: 1",
        "Final answer: 7",
        "\\boxed{7}",
        "no idea",
        "Final answer: 7",
        "Final answer: 8",
    ]
    reasons = ["stop", "stop", "stop", "stop", "length", "stop"]
    rows = [
        {
            "prompt_id": f"p{i % 2}",
            "sample_index": i,
            "text": text,
            "token_ids": [1, 2],
            "finish_reason": reason,
            "num_tokens": 2,
        }
        for i, (text, reason) in enumerate(zip(texts, reasons, strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLES), path)
    return path


def test_a_shard_becomes_a_file_of_verdicts(tmp_path: Path) -> None:
    source, output = _samples(tmp_path / "samples.parquet"), tmp_path / ".verdicts.parquet"
    actor = GraderActor(Grade(processes=1))
    try:
        counts = actor.grade_shard(Shard(0, str(source), 1, 6, str(output)), {"p0": "7", "p1": "7"})
    finally:
        actor.close()
    assert {name: counts[name] for name in ("correct", "wrong", "ungradable")} == {
        "correct": 2,
        "wrong": 2,
        "ungradable": 1,
    }
    causes = {name: counts[name] for name in (*CAUSES, "graders_version")}
    assert causes == {"truncated": 1, "unreadable": 0, "failed": 0, "gold": 0, "graders_version": GRADERS_VERSION}
    assert counts["rules"] == {"final_answer": 2, "boxed": 1, "none": 2}
    assert counts["file"] == {
        "size": output.stat().st_size,
        "sha256": hashlib.sha256(output.read_bytes()).hexdigest(),
        "inode": output.stat().st_ino,
        "mtime_ns": output.stat().st_mtime_ns,
    }
    table = pq.read_table(output)
    assert table.schema.equals(VERDICTS)
    assert pq.ParquetFile(output).metadata.row_group(0).column(0).compression == "ZSTD"
    assert table["sample_index"].to_pylist() == [1, 2, 3, 4, 5]
    assert table["verdict"].to_pylist() == ["correct", "correct", "wrong", "ungradable", "wrong"]
    assert table["cause"].to_pylist() == [None, None, None, "truncated", None]
    assert table["rule"].to_pylist() == ["final_answer", "boxed", None, None, "final_answer"]
    assert table["reason"].to_pylist()[2:4] == ["no answer found", "truncated"]


def test_a_shard_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source, output = _samples(tmp_path / "samples.parquet"), tmp_path / ".verdicts.parquet"
    with GraderPool(Grade(processes=1, graders=["exact"])) as pool:
        with pytest.raises(ValueError, match="rows 0 to 9"):
            pool.grade_shard(Shard(0, str(source), 0, 9, str(output)), {"p0": "7", "p1": "7"})
        with pytest.raises(ValueError, match="prompt 'p1'"):
            pool.grade_shard(Shard(0, str(source), 0, 6, str(output)), {"p0": "7"})
    assert not output.exists()


def test_an_audit_asks_every_grader_and_changes_no_verdict(tmp_path: Path) -> None:
    texts = ["Final answer: 7", "Final answer: 7.0", "Final answer: 8", "no idea", "Final answer: 9!!!!!!!!"]
    items = [("7", text, "stop") for text in texts]
    settings = Grade(graders=["exact", "number", {"all_of": ["number", "math"]}], timeout=1.0, processes=1)
    with GraderPool(settings) as pool:
        plain = pool.grade(items)
    with GraderPool(settings.model_copy(update={"audit": True})) as pool:
        audited = pool.grade(items)
        rows = [
            {
                "prompt_id": "p",
                "sample_index": i,
                "text": text,
                "token_ids": [1],
                "finish_reason": "stop",
                "num_tokens": 1,
            }
            for i, text in enumerate(texts)
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLES), tmp_path / "samples.parquet")
        shard = Shard(0, str(tmp_path / "samples.parquet"), 0, len(texts), str(tmp_path / "verdicts.parquet"))
        facts = pool.grade_shard(shard, {"p": "7"})
    assert audited == plain
    both = "all_of: number, math"
    assert [one.opinions for one in audited[:4]] == [
        {"exact": "correct", "number": "correct", both: "correct"},
        {"exact": "wrong", "number": "correct", both: "correct"},
        {"exact": "wrong", "number": "wrong", both: "wrong"},
        None,
    ]
    assert [one.disputed for one in audited] == [False, True, False, False, False]
    assert facts["disputed"] == 1
    rows = pq.read_table(shard.output, schema=VERDICTS).to_pylist()
    assert dict(rows[1]["opinions"]) == audited[1].opinions
    assert rows[3]["opinions"] is None


def test_a_problem_without_a_gold_answer_has_no_verdict() -> None:
    """Whatever the answer is, and whether there is one."""
    items = [
        ("", "Final answer: 7", "stop"),
        ("7", "Final answer: 7", "stop"),
        ("", "none", "stop"),
        ("", "x", "length"),
    ]
    with GraderPool(Grade(processes=1, graders=["exact", "number"])) as pool:
        graded = pool.grade(items)
    assert [(one.verdict, one.cause) for one in graded] == [
        ("ungradable", "gold"),
        ("correct", None),
        ("ungradable", "gold"),
        ("ungradable", "truncated"),
    ]
