"""The folder of a private Ray: closed to other users, cleared after a killed driver, and nothing else with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.driver.own_process import answered
from orchestrator.driver.private_folder import (
    PrivateFolder,
    compiled_environment,
    private_environment,
    remove_leftovers,
)
from orchestrator.errors import RatchetError

PROJECT = Path(__file__).parents[3]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone may")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder for everybody, as /tmp is; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="rt-place-") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


def left_behind(place: Path, name: str = "ratchet-aaaaaaaa", lock: str = "") -> Path:
    """A folder as a killed driver leaves it; without words in its lock, one of an earlier version."""
    folder = place / name
    (folder / "session_2026" / "logs").mkdir(parents=True)
    (folder / "session_2026" / "logs" / "worker-1.out").write_text("said")
    (folder / ".lock").write_text(lock)
    folder.chmod(0o777)
    return folder


def as_another_user(attempt: Callable[[], object]) -> str:
    """What becomes of an attempt of another user's: the name of its error, or "done"."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            attempt()
            os.write(writing, b"done")
        except BaseException as error:
            os.write(writing, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as told:
        return told.read()


@as_root
def test_another_user_reads_and_moves_nothing(place: Path) -> None:
    folder = PrivateFolder(place)
    (folder.ray / "sockets").mkdir()
    log, socket_ = folder.ray / "worker.out", folder.ray / "sockets" / "raylet"
    log.write_text("a prompt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(socket_))
        for open_to_all in (folder.ray, folder.ray / "sockets", socket_):
            open_to_all.chmod(0o777)  # as Ray makes them
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert as_another_user(log.read_text) == "PermissionError"
        assert as_another_user(lambda: socket_.rename(folder.ray / "sockets" / "theirs")) == "PermissionError"
        assert as_another_user(lambda: socket.socket(socket.AF_UNIX).connect(str(socket_))) == "PermissionError"
        folder.path.chmod(0o755)
        assert as_another_user(log.read_text) == "done"  # so it is the folder that keeps them out
    folder.remove()
    assert not folder.path.exists()


def test_what_a_living_driver_holds_stays_and_what_a_killed_one_left_goes(place: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from orchestrator.driver.private_folder import PrivateFolder\n"
        "print(PrivateFolder(Path(sys.argv[1])).path, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(place)]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        folder = Path(driver.stdout.readline().strip())
        (folder / "r" / "session_2026").mkdir()
        remove_leftovers(place)
        assert (folder / "r" / "session_2026").is_dir() and (folder / "t").is_dir()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        remove_leftovers(place)
    assert not list(place.iterdir())


def test_a_leftover_of_an_earlier_version_goes_and_what_its_links_name_stays(place: Path, tmp_path: Path) -> None:
    folder, outside = left_behind(place), tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (folder / "link").symlink_to(outside)
    (folder / "session_2026" / "link").symlink_to(outside)
    (folder / "session_2026" / "file").symlink_to(outside / "file")
    remove_leftovers(place)
    assert not folder.exists()
    assert (outside / "file").read_text() == "kept"


def test_a_link_with_such_a_name_is_not_followed(place: Path, tmp_path: Path) -> None:
    theirs = left_behind(tmp_path, "project", lock="the lock of another program")
    (place / "ratchet-aaaaaaaa").symlink_to(theirs)
    remove_leftovers(place)
    assert (theirs / ".lock").read_text() == "the lock of another program"
    assert (theirs / "session_2026" / "logs" / "worker-1.out").exists()


@pytest.mark.parametrize("lock", ["link", "pipe", "folder", "none"])
def test_a_folder_without_a_lock_of_ours_stays(place: Path, tmp_path: Path, lock: str) -> None:
    folder, precious = left_behind(place), tmp_path / "precious"
    precious.write_text("kept")
    (folder / ".lock").unlink()
    (folder / "rows").mkdir()
    if lock == "link":
        (folder / ".lock").symlink_to(precious)
    elif lock == "pipe":
        os.mkfifo(folder / ".lock")
    elif lock == "folder":
        (folder / ".lock").mkdir()
    remove_leftovers(place)
    assert (folder / "session_2026" / "logs" / "worker-1.out").exists()
    assert precious.read_text() == "kept"


def test_another_hosts_folder_stays(place: Path) -> None:
    there = left_behind(place, lock=json.dumps({"host": "another", "pid": 1}))
    here = left_behind(place, "ratchet-bbbbbbbb", json.dumps({"host": socket.gethostname(), "pid": 1}))
    remove_leftovers(place)
    assert there.exists() and not here.exists()


@as_root
def test_another_users_folder_stays(place: Path) -> None:
    folder = left_behind(place)
    os.chown(folder, NOBODY, NOBODY)
    lock = left_behind(place, "ratchet-bbbbbbbb")
    os.chown(lock / ".lock", NOBODY, NOBODY)
    empty = place / "ratchet-cccccccc"
    empty.mkdir()
    os.chown(empty, NOBODY, NOBODY)
    remove_leftovers(place)
    assert (folder / "session_2026").exists() and (lock / "session_2026").exists() and empty.exists()


def test_an_empty_folder_of_ours_goes_and_one_of_another_kind_stays(place: Path) -> None:
    (place / "ratchet-aaaaaaaa").mkdir()
    (place / "ratchet-bbbbbbbb" / "session_2026" / "logs").mkdir(parents=True)  # made again by Ray's agents
    (place / "ratchet-soak-results").mkdir()
    (place / "ratchet-cccccccc" / "rows").mkdir(parents=True)
    remove_leftovers(place)
    assert sorted(path.name for path in place.iterdir()) == ["ratchet-cccccccc", "ratchet-soak-results"]


def test_nothing_else_is_made_under_a_name_that_others_clear() -> None:
    """A driver that starts takes such a folder for one that a killed driver left."""
    sources = [file for room in ("orchestrator", "workers") for file in (PROJECT / room).rglob("*.py")]
    named = {file.name for file in sources if 'prefix="ratchet' in file.read_text()}
    assert named == set() and "prefix=_PREFIX" in (PROJECT / "orchestrator/driver/private_folder.py").read_text()


def test_what_cannot_be_removed_yet_is_found_again(place: Path) -> None:
    def clean_twice() -> None:
        folder = left_behind(place)
        held = folder / "held"
        held.mkdir()
        (held / "file").write_text("")
        held.chmod(0o500)
        remove_leftovers(place)
        assert (held / "file").exists() and (folder / ".lock").exists()
        held.chmod(0o700)
        remove_leftovers(place)
        assert not folder.exists()

    if os.geteuid():
        clean_twice()
    else:  # whom no rights hold back
        assert as_another_user(clean_twice) == "done"


def test_drivers_that_start_while_others_clean_up_keep_their_folders(place: Path) -> None:
    done, lost = threading.Event(), list[str]()

    def clean() -> None:
        while not done.is_set():
            remove_leftovers(place)

    def drive() -> None:
        for _ in range(25):
            folder = PrivateFolder(place)
            (folder.ray / "session").mkdir()
            if not (folder.temporary.is_dir() and (folder.path / ".lock").is_file()):
                lost.append(str(folder.path))
            folder.remove()
            if folder.path.exists():
                lost.append(f"left: {folder.path}")

    def caught(work: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                lost.append(repr(error))

        return guarded

    drivers = [threading.Thread(target=caught(drive)) for _ in range(3)]
    cleaners = [threading.Thread(target=caught(clean)) for _ in range(2)]
    for thread in drivers + cleaners:
        thread.start()
    for thread in drivers:
        thread.join()
    done.set()
    for thread in cleaners:
        thread.join()
    assert not lost
    assert not list(place.iterdir())


def test_a_folder_that_is_cleared_just_before_it_is_locked_is_not_used(place: Path) -> None:
    # Python tells of a lock before it is taken. In a process of its own, since it never stops telling.
    code = """
import sys
from pathlib import Path
from orchestrator.driver.own_process import answered
from orchestrator.driver.private_folder import PrivateFolder, compiled_environment, remove_leftovers

place, seen = Path(sys.argv[1]), []

def clean_up(event, _):
    if event == "fcntl.flock" and not seen:
        seen.extend(place.iterdir())
        remove_leftovers(place)
        assert not list(place.iterdir())

sys.addaudithook(clean_up)
folder = PrivateFolder(place)
assert len(seen) == 1 and seen != [folder.path] and (folder.path / ".lock").is_file()
folder.remove()
"""
    done = subprocess.run([sys.executable, "-c", code, str(place)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def head(program: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A process of a head's name, told a place below `folder`, that waits."""
    if not program.exists():
        program.write_bytes(Path("/bin/sh").resolve().read_bytes())
        program.chmod(0o755)
    words = [str(program), "-c", "read line", program.name, f"--log_dir={folder}/r/session_2026/logs"]
    return subprocess.Popen(words, stdin=subprocess.PIPE)


def agent(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process of such a name that writes to a log below `folder`."""
    with open(folder / "agent.log", "w") as log:
        words = [name, "-c", "read line"]
        return subprocess.Popen(words, executable="/bin/sh", stdin=subprocess.PIPE, stdout=log)


@on_linux
def test_what_a_killed_driver_left_running_is_ended_and_no_other_process(place: Path, tmp_path: Path) -> None:
    dead = left_behind(place)
    living = PrivateFolder(place)
    tool = tmp_path / "tail"  # somebody looks at the logs
    processes = {
        "left behind": head(tmp_path / "gcs_server", dead),
        "of a living driver": head(tmp_path / "gcs_server", living.path),
        "of another cluster": head(tmp_path / "gcs_server", place / "ray"),
        "of a longer name": head(tmp_path / "gcs_server", Path(f"{dead}a")),
        "another program": head(tool, dead),
        "its agent": agent("ray::DashboardAgent", dead),
        "the agent of a living driver": agent("ray::DashboardAgent", living.path),
        "another program that writes there": agent("tee", dead),
    }
    try:
        remove_leftovers(place)
        gone = [name for name, process in processes.items() if process.poll() is not None]
        assert gone == ["left behind", "its agent"]
        assert not dead.exists()
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
        living.remove()


@as_root
@on_linux
def test_another_users_head_is_not_ended(place: Path, tmp_path: Path) -> None:
    dead = left_behind(place)
    program = place / "gcs_server"
    head(program, dead).communicate(b"\n")
    words = [str(program), "-c", "read line", "gcs_server", f"--log_dir={dead}/r"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, user=NOBODY, group=NOBODY) as theirs:
        remove_leftovers(place)
        assert theirs.poll() is None
        theirs.communicate(b"\n")


# Kept logs


def test_logs_are_kept_and_never_through_links(place: Path, tmp_path: Path) -> None:
    folder = PrivateFolder(place)
    logs, secret, outside = folder.ray / "session_2026" / "logs", tmp_path / "secret", tmp_path / "outside"
    logs.mkdir(parents=True)
    (folder.ray / "session_latest").symlink_to(logs.parent)
    secret.write_text("a key")
    (logs / "worker-1.out").write_text("said")
    (logs / "worker-2.out").symlink_to(secret)
    os.mkfifo(logs / "worker-3.out")
    (logs / "worker-4.out").write_text("")
    (logs / "raylet.out").write_text("not a worker's")
    with open(logs / "worker-5.out", "wb") as long:
        long.truncate(17 * 2**20)
        long.seek(0, os.SEEK_END)
        long.write(b"the end")
    outside.mkdir()
    (outside / "worker-1.out").write_text("kept")
    target = tmp_path / "run" / "logs"
    target.parent.mkdir()
    target.symlink_to(outside)
    folder.keep_logs(target)
    assert (outside / "worker-1.out").read_text() == "kept"
    assert {path.name for path in target.iterdir()} == {"worker-1.out", "worker-5.out"}
    assert (target / "worker-1.out").read_text() == "said"
    end = (target / "worker-5.out").read_bytes()
    assert len(end) == 16 * 2**20 and end.endswith(b"the end")
    (logs / "worker-1.out").write_text("said later")
    folder.keep_logs(target)
    assert (target / "worker-1.out").read_text() == "said later"
    folder.remove()


# A long TMPDIR


def test_a_long_tmpdir_is_named_before_anything_is_made(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    run = tmp_path / "run"
    command = [sys.executable, "-m", "orchestrator", "run", "jobs/irpo.yaml", f"run_dir={run}"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"TMPDIR": str(long)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert f"TMPDIR: {long} has {len(str(long))} characters" in done.stderr
    assert "leaves room for 2" in done.stderr and "TMPDIR=/tmp" in done.stderr and "Traceback" not in done.stderr
    assert not run.exists() and not list(long.iterdir())


def test_what_torch_has_compiled_is_closed_to_others_or_not_used(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is code, which the next run loads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    before = os.umask(0)
    try:
        found = Path(compiled_environment()["TORCHINDUCTOR_CACHE_DIR"])
    finally:
        os.umask(before)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (found.parent, found)] == [0o700, 0o700]
    found.chmod(0o770)
    assert compiled_environment() == {}
    found.rmdir()
    found.symlink_to(place)
    assert compiled_environment() == {}


def test_a_process_of_our_own_has_a_closed_folder_for_temporary_files(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one torch takes a folder in TMPDIR whose name everybody knows."""
    asked = "import json, os, tempfile; above = tempfile.gettempdir(); mode = os.stat(above).st_mode & 0o777"
    (tmp_path / "asked.py").write_text(f"{asked}; print(json.dumps({{'above': above, 'mode': mode}}))")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    found = answered("asked", {}, "it", "it")
    assert Path(found["above"]).parent.parent == place and found["mode"] == 0o700
    assert list(place.iterdir()) == [], "it goes with the process"


def test_a_limit_of_memory_is_named_where_a_process_of_our_own_breaks(tmp_path: Path) -> None:
    asked = "answered('of.nobody', {}, 'the model', 'its config.json')"
    (tmp_path / "asking.py").write_text(
        "import resource\nfrom orchestrator.driver.own_process import answered\n"
        "from orchestrator.errors import RatchetError\n"
        "for limit in (resource.RLIM_INFINITY, 2 << 30):\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))\n"
        f"    try:\n        {asked}\n    except RatchetError as error:\n        print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, tmp_path / "asking.py"], env=environment, capture_output=True, text=True)
    free, limited = done.stdout.splitlines()
    assert free.endswith("Look at its config.json.")
    assert limited.endswith("Look at its config.json, or let it have more than 2048 MiB (`ulimit -v`).")


def test_a_process_of_our_own_that_is_killed_is_told_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killed.py").write_text("import os, sys; print('a warning', file=sys.stderr); os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RatchetError, match="was killed, as the system does for want of memory") as told:
        answered("killed", {}, "the model", "its config.json")
    assert "warning" not in str(told.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-7", "cp037", "ascii", None])
def test_a_process_of_our_own_is_understood_however_streams_are_encoded(tmp_path: Path, encoding: str | None) -> None:
    """Also where the locale is none of UTF-8, and where it fails, with a word that is not in ASCII."""
    (tmp_path / "asked.py").write_text(
        "import json, sys\n"
        "asked = json.load(sys.stdin)\n"
        "if asked['fails']:\n"
        "    sys.exit('\\u00e9 is no template')\n"
        "json.dump({'said': asked['said']}, sys.stdout, ensure_ascii=False)\n",
        encoding="utf-8",
    )
    code = (
        "from orchestrator.driver.own_process import answered\n"
        "from orchestrator.errors import RatchetError\n"
        "said = '+\\u00e9\\u65e5'\n"
        "assert answered('asked', {'said': said, 'fails': False}, 'it', 'it')['said'] == said\n"
        "try:\n"
        "    answered('asked', {'fails': True}, 'it', 'its file')\n"
        "except RatchetError as error:\n"
        "    assert '\\u00e9 is no template. Look at its file' in str(error), ascii(str(error))\n"
    )
    changes = {"PYTHONIOENCODING": encoding} if encoding else {"LC_ALL": "C", "PYTHONUTF8": "0"}
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}", **changes}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.replace(b"\0", b"").decode(errors="replace")


def test_a_limit_of_files_that_rays_store_exceeds_is_named_before_anything_is_made(tmp_path: Path) -> None:
    code = (
        "import resource\nfrom pathlib import Path\nfrom orchestrator import config\n"
        "from orchestrator.driver.cluster import Cluster\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (257 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        f"Cluster(config.Cluster(), Path({str(tmp_path / 'logs')!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        f"Cluster(config.Cluster(address='head:6379'), Path({str(tmp_path / 'logs')!r}))\n"
        f"Cluster(config.Cluster(), Path({str(tmp_path / 'logs')!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert "a file may have 256 MiB at most here" in said and "`ulimit -f unlimited`" in said, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_rays_processes_that_complained_is_quoted_as_text(place: Path, tmp_path: Path) -> None:
    folder = PrivateFolder(place)
    logs = folder.ray / "session_2026-01-01" / "logs"
    logs.mkdir(parents=True)
    assert folder.last_words() == ""
    (tmp_path / "precious.err").write_text("precious")
    (logs / "link.err").symlink_to(tmp_path / "precious.err")
    os.mkfifo(logs / "pipe.err")
    for at, (name, said) in enumerate(
        [
            ("gcs_server.err", ""),
            ("dashboard.err", "x" * 10_000 + "\nWarning: \x1b[31mold\u202e\n\n"),
            ("raylet.err", "what came of it"),
        ]
    ):
        (logs / name).write_text(said, encoding="utf-8")
        os.utime(logs / name, (at, at))
    assert folder.last_words() == r" (the last word of its dashboard: Warning: \x1b[31mold\u202e)"
    (logs / "dashboard.err").write_text("x" * 10_000)
    os.utime(logs / "dashboard.err", (1, 1))
    assert len(folder.last_words()) < 600
    folder.remove()


def test_what_rays_processes_print_is_utf_8(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-16")
    folder = PrivateFolder(place)
    assert private_environment(folder, {})["PYTHONIOENCODING"] == "utf-8"
    folder.remove()
