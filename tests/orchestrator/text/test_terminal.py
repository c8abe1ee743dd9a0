"""Streams that fail, are closed or know few letters; and that nothing is printed around `text.terminal`."""

from __future__ import annotations

import ast
import fcntl
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
from rich.progress import Progress
from rich.table import Table

from orchestrator.cli import app, command, main
from orchestrator.text import terminal
from orchestrator.text.terminal import Screen, block, echo, shielded, unfailing
from tests.support.sample_run import two_rounds
from tests.support.strangers_text import EVIL, require_text

PROJECT = Path(__file__).parents[3]


def without_reader() -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def full() -> TextIO:
    return open("/dev/full", "w")


def hung_up() -> TextIO:
    """A terminal that was closed."""
    master, slave = os.openpty()
    os.close(master)
    return os.fdopen(slave, "w")


def closed() -> TextIO:
    stream = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    stream.close()
    return stream


def closed_below() -> TextIO:
    """Of which nobody knows that its descriptor is closed."""
    low = os.open(os.devnull, os.O_WRONLY)
    stream = os.fdopen(fcntl.fcntl(low, fcntl.F_DUPFD, 900), "w")  # a number that nothing else is given meanwhile
    os.close(low)
    os.close(stream.fileno())
    return stream


def ratchet(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_rounds(tmp_path_factory.mktemp("runs") / "sample").root


READING: list[tuple[str, ...]] = [("status",), ("status", "--json"), ("verify",), ("gc", "--dry-run")]


@pytest.mark.parametrize(
    "lost", [without_reader, hung_up, closed, None], ids=lambda lost: getattr(lost, "__name__", "")
)
@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_whose_reader_left_says_no_more_and_ends_as_it_would_have(
    run: Path, command: tuple[str, ...], lost: Callable[[], TextIO] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    expected = ratchet(command[0], run, *command[1:])
    monkeypatch.setattr(sys, "stdout", lost and lost())
    assert ratchet(command[0], run, *command[1:]) == expected
    assert told.getvalue() == ""


@pytest.mark.parametrize("command", [("status",), ("status", "--json"), ("docs",), ("compare", "--json")], ids=" ".join)
def test_what_cannot_be_written_to_a_full_device_is_told_in_one_line(
    run: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr(sys, "stdout", full())
    assert ratchet(command[0], *([] if command == ("docs",) else [run]), *command[1:]) == 1
    assert told.getvalue() == "ratchet: what it prints cannot be written: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("lost", [without_reader, full, hung_up, closed, closed_below])
def test_a_message_that_cannot_be_told_changes_no_exit_code(
    tmp_path: Path, lost: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := lost())
    assert ratchet("status", tmp_path) == 2
    assert ratchet("status", "--no-such-option") == 2
    monkeypatch.undo()
    if lost is closed_below:
        with suppress(OSError):
            stream.close()


@pytest.mark.parametrize("lost", [without_reader, full, hung_up])
def test_once_a_stream_is_lost_its_descriptor_leads_to_nowhere(
    lost: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries in C, and processes that are started later, write there too."""
    monkeypatch.setattr(sys, "stdout", stream := lost())
    with shielded():
        for _ in range(3):
            echo("line")
            print("another", flush=True)
            os.write(stream.fileno(), b"third")
    print("after it", flush=True)
    stream.close()


@pytest.mark.parametrize("lost", [without_reader, hung_up])
def test_a_reader_that_left_is_noticed_before_anything_is_printed(
    lost: Callable[[], TextIO], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--follow` of a quiet run would wait for ever for a line by which to notice."""
    reading, writing = os.pipe()
    with open(tmp_path / "file", "w") as file, os.fdopen(writing, "w") as pipe, lost() as gone:
        for stream, noticed in ((file, False), (pipe, False), (io.StringIO(), False), (gone, True)):
            monkeypatch.setattr(sys, "stdout", stream)
            with shielded():
                assert terminal.is_lost() == noticed
            monkeypatch.undo()
    os.close(reading)


def test_an_encoding_with_few_letters_raises_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1"):
        for errors in ("strict", "surrogateescape"):
            monkeypatch.setattr(sys, "stdout", out := io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors))
            assert ratchet("docs") == 0
            assert ratchet("status", run) == 0
            with shielded():
                echo("三 – ≤")
                print("三 – ≤")
            assert out.buffer.getvalue().count("三 – ≤".encode(encoding, "backslashreplace")) == 2  # type: ignore[attr-defined]


def read_now(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1_000_000)
    except BlockingIOError:
        return b""


def test_a_slow_reader_loses_what_it_has_no_room_for_and_gets_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    os.set_blocking(reading, False)
    monkeypatch.setattr(sys, "stdout", stream := os.fdopen(writing, "w"))
    with shielded():
        block("x" * 1_000_000)
        while read_now(reading):
            pass
        echo("the end")
        got = b""
        while chunk := read_now(reading):
            got += chunk
        assert b"the end" in got
    stream.close()
    os.close(reading)


def test_what_others_print_is_text_too(capsys: pytest.CaptureFixture[str]) -> None:
    with shielded():
        print(EVIL)
        print(EVIL, file=sys.stderr)
        handler = logging.StreamHandler()
        handler.emit(logging.LogRecord("library", logging.ERROR, "", 0, EVIL, None, None))
    out, err = capsys.readouterr()
    require_text(out)
    require_text(err)
    assert out.count("\\x1b]52") == 1 and err.count("\\x1b]52") >= 2


def test_tables_and_bars_show_markup_and_escapes_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    with shielded():
        table = Table(EVIL)
        table.add_row(f"[bold]{EVIL}[/bold] [link=http://evil.test]z[/link] :smile:")
        Screen(width=1000).print(table)
        Screen(width=1000).print(f"[red]{EVIL}")
        Screen(width=1000).say(f"[red]{EVIL}\nsecond")
        with Progress(f"{EVIL}", console=Screen(err=True, force_terminal=False)) as progress:
            progress.add_task("", total=1)
    out, err = capsys.readouterr()
    require_text(out)
    require_text(err)
    assert "[bold]" in out and "[link=http://evil.test]" in out and ":smile:" in out and out.count("[red]") == 6
    assert "\\nsecond" in out


def test_a_bug_is_told_with_its_traceback_as_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shielded():
        try:
            raise RuntimeError(EVIL)
        except RuntimeError:
            terminal.echo_traceback()
    err = capsys.readouterr().err
    require_text(err)
    assert "RuntimeError: \\x1b]52" in err


def test_a_pipe_of_another_kind_that_breaks_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    @app.command()
    def breaks() -> None:
        raise BrokenPipeError(EVIL)

    command.cache_clear()  # the others are there already
    try:
        assert ratchet("breaks") == 1
    finally:
        app.registered_commands.pop()
        command.cache_clear()
    err = capsys.readouterr().err
    require_text(err)
    assert "BrokenPipeError: \\x1b]52" in err


def test_a_thread_that_ends_by_an_error_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has started it, and also one that was not to be ended so."""

    def breaks() -> None:
        raise RuntimeError(f"{EVIL}\nsecond")

    with shielded():
        (thread := threading.Thread(target=breaks, name="sign of life")).start()
        thread.join()
        (thread := threading.Thread(target=lambda: sys.exit(3))).start()
        thread.join()
    err = capsys.readouterr().err
    require_text(err)
    assert err.count("\n") == 1 and "RuntimeError: \\x1b]52" in err and "(test_terminal.py:" in err
    assert err.startswith("ratchet: the thread 'sign of life' has ended, and the rest goes on: ")


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "hung up"), ValueError("closed")])
def test_who_listens_cannot_end_who_says(error: Exception) -> None:
    def say(_: str) -> None:
        raise error

    unfailing(say)("line")


def printing(tree: ast.AST) -> Iterator[str]:
    """What prints around our streams, by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "Console", "typer.echo", "typer.secho", "click.echo", "rich.print", "print_json"):
                yield f"line {node.lineno}: {name}"
            if name in ("sys.stdout.write", "sys.stderr.write", "os.write", "traceback.print_exc"):
                yield f"line {node.lineno}: {name}"


def test_nothing_is_printed_but_through_the_terminal() -> None:
    files = [file for file in (PROJECT / "orchestrator").rglob("*.py") if file.name != "terminal.py"]
    assert {file.name: found for file in files if (found := list(printing(ast.parse(file.read_text()))))} == {}
    assert list(printing(ast.parse("import typer\ntyper.echo(1)\nprint(2)\nConsole().print(3)"))) != []


SHELL = {
    "its reader left": ("{} docs | head -c 10 > /dev/null; echo ${{PIPESTATUS[0]}}", "0"),
    "full": ("{} docs > /dev/full; echo $?", "1"),
    "closed": ("{} docs >&-; echo $?", "0"),
    "all closed": ("{} version <&- >&- 2>&-; echo $?", "0"),
}


@pytest.mark.parametrize("case", SHELL)
def test_the_interpreter_ends_quietly_too(case: str) -> None:
    line, code = SHELL[case]
    done = subprocess.run(
        ["bash", "-c", line.format(f"{sys.executable} -m orchestrator")],
        capture_output=True,
        text=True,
        cwd=PROJECT,
    )
    assert done.stdout.strip() == code
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (done.stderr == "") == (case != "full"), done.stderr


@pytest.mark.parametrize("width", ["0", "²", "-5", "wide", "9" * 20])
def test_a_width_of_the_environment_that_no_terminal_has_is_none(
    width: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, 0 printed nothing, and what no memory holds was a traceback."""
    two_rounds(tmp_path / "run")
    for given in (["--help"], ["status", str(tmp_path / "run")]):
        said = []
        for columns in (None, width):
            monkeypatch.delenv("COLUMNS", raising=False)
            if columns is not None:
                monkeypatch.setenv("COLUMNS", columns)
            with pytest.raises(SystemExit) as left:
                main(given)
            assert left.value.code == 0
            said.append(capsys.readouterr().out)
        assert said[0] == said[1] != ""
