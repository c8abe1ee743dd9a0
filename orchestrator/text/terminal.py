"""Whatever a command prints goes through here: text is shown as text, and a terminal that goes away ends nothing.

`shielded` puts two streams in the place of the standard ones. What cannot be written to them is lost, quietly: the
reader of a pipe left, the terminal was closed, the device is full, the stream never was open. From then on the stream's
own descriptor leads to nowhere, so that libraries, and processes started later, can go on writing to it, too.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from orchestrator.errors import cut, first_line
from orchestrator.text import shown

_WHO = "ratchet: "
_LONGEST_LINE = 8000  # characters, which holds the longest path, and no file that an error quotes whole
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)
"""Nobody is there to read any more, which is nobody's fault."""


class Lasting(io.TextIOBase):
    """A standard stream; writing to it never fails."""

    def __init__(self, under: Any) -> None:
        self._under = under
        self.lost: Exception | None = None
        """Why nothing is written any more."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # such as a capturing test's
            under.reconfigure(errors="backslashreplace")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._under, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        return "backslashreplace"

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        with contextlib.suppress(OSError, ValueError):
            return self._under is not None and self.lost is None and bool(self._under.isatty())
        return False

    def fileno(self) -> int:
        """That of the stream below.

        Raises:
            io.UnsupportedOperation: there never was one.
        """
        if self._under is None:
            raise io.UnsupportedOperation("fileno")
        number: int = self._under.fileno()
        return number

    def close(self) -> None:
        """It is not ours to close."""

    def write(self, said: str) -> int:
        """All of it is taken, whatever comes of it."""
        if self._under is not None:
            self._do(lambda under: under.write(said))
        return len(said)

    def flush(self) -> None:
        """As far as that can be done."""
        if self._under is not None:
            self._do(lambda under: under.flush())

    def _do(self, what: Callable[[TextIO], object]) -> None:
        assert self._under is not None
        try:
            what(self._under)
        except (BlockingIOError, UnicodeEncodeError):
            pass  # a slow reader of a pipe that does not wait: this piece is lost, and the next may not be
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self.lost = self.lost or error
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._under.fileno())
                os.close(nowhere)


class _Shown(Lasting):
    """The same, for whoever prints without us (warnings, a library's progress bar): what a terminal would obey is shown
    as text, but for colours."""

    def __init__(self, lasting: Lasting) -> None:
        self.lasting = lasting
        super().__init__(lasting)

    def write(self, said: str) -> int:
        if not isinstance(said, str):  # libraries ask whether a stream takes bytes
            raise TypeError(f"write() argument must be str, not {type(said).__name__}")
        self.lasting.write(shown.styled(said, self.lasting.isatty()))
        return len(said)


class Shield:
    """The standard streams of a command."""

    def __init__(self, out: Lasting, err: Lasting) -> None:
        self._out, self._err = out, err

    @property
    def unprinted(self) -> str | None:
        """Why what was printed has not come to its reader, if that is worth a word: the device is full, say."""
        error = self._out.lost
        return None if error is None or getattr(error, "errno", errno.EBADF) in _GONE else str(error)


@contextlib.contextmanager
def shielded() -> Iterator[Shield]:
    """Put the two streams in place, for as long as a command runs."""
    _open_all()
    _forget_false_sizes()
    before = sys.stdout, sys.stderr
    out, err = Lasting(sys.stdout), Lasting(sys.stderr)
    sys.stdout, sys.stderr = _Shown(out), _Shown(err)
    hook, threading.excepthook = threading.excepthook, _thread_ended
    try:
        yield Shield(out, err)
    finally:
        threading.excepthook = hook
        for stream in (out, err):
            stream.flush()
        sys.stdout, sys.stderr = before


def _thread_ended(of: threading.ExceptHookArgs) -> None:
    """A thread, of ours or of a library, has ended by an error that it does not handle. The command goes on."""
    if of.exc_value is None or of.exc_type is SystemExit:
        return
    frames = traceback.extract_tb(of.exc_traceback)
    at = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    said = f"{of.exc_type.__name__}: {first_line(of.exc_value)}{at}"
    failure(f"the thread {of.thread.name if of.thread else 'of a library'!r} has ended, and the rest goes on: {said}")


def _open_all() -> None:
    """A descriptor that is closed would be given to the next file that is opened, a record of the ledger perhaps, and
    whatever a library prints would go there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # which gets the lowest free number


def _forget_false_sizes() -> None:
    """rich takes any digits of the environment for a width: 0, which prints nothing, and what no memory holds."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("([1-9][0-9]{0,3})?", os.environ.get(name, "")):
            del os.environ[name]


def _stream(err: bool) -> TextIO:
    stream: Any = sys.stderr if err else sys.stdout
    return getattr(stream, "lasting", stream) or io.StringIO()


def echo(line: object, err: bool = False) -> None:
    """Print one line."""
    block(shown.line(cut(str(line), _LONGEST_LINE)), err)


def failure(error: object, given: Sequence[str] = ()) -> None:
    """Why a command, `given` so, has failed. An error may have lines of its own; no text of a name begins one: the
    line feeds of what was given are written out, and what comes after any other stands below the first line's text.
    Notes on the error stand below it."""
    said = "\n".join([str(error), *getattr(error, "__notes__", ())])
    for name in given:
        if "\n" in name:
            said = said.replace(name, shown.line(name))
    said = "\n".join(cut(line, _LONGEST_LINE) for line in said.split("\n"))
    block(f"{_WHO}{said}".replace("\n", f"\n{' ' * len(_WHO)}"), err=True)


def block(text: object, err: bool = False) -> None:
    """Print text of several lines."""
    said, stream = shown.text(text), _stream(err)
    stream.write(said if said.endswith("\n") else f"{said}\n")
    stream.flush()


def echo_json(document: Any) -> None:
    """Print a JSON value."""
    block(shown.as_json(document))


def echo_traceback() -> None:
    """Print the error that is being handled, which is a bug."""
    block(traceback.format_exc(), err=True)


def asks() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def is_lost() -> bool:
    """Whether nobody reads any more what is printed; also where nothing was printed since the reader left."""
    stream = _stream(err=False)
    if getattr(stream, "lost", None) is not None:
        return True
    asked = select.poll()
    try:
        asked.register(stream.fileno(), 0)  # asked for nothing, it tells of a pipe or terminal at whose end nobody is
    except (OSError, ValueError):  # such as a test's, which is no file
        return False
    return any(told & (select.POLLERR | select.POLLHUP) for _, told in asked.poll(0))


def can_be_drawn_on() -> bool:
    """Whether standard output is a terminal on which a picture can be drawn anew and anew, and not one that only
    prints, or that this process may not have for itself."""
    stream = _stream(err=False)
    if not stream.isatty() or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return False
    if "utf" not in (stream.encoding or "").lower():
        return False
    with contextlib.suppress(OSError):  # no terminal of this session's: somebody else's, who decides
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    return True


def watched() -> bool:
    """Whether somebody looks at a progress bar."""
    return _stream(err=True).isatty()


class Screen(Console):
    """Tables and progress bars; strings are no markup, and whatever is rendered is text."""

    def __init__(self, err: bool = False, file: Lasting | None = None, **options: Any) -> None:
        """On a standard stream, or on what is given as `file`, writing to which must not fail."""
        super().__init__(file=cast(TextIO, file) or _stream(err), highlight=False, markup=False, emoji=False, **options)

    def say(self, line: object) -> None:
        """Print one line, however long."""
        self.print(shown.line(line), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string, made text before a table measures it."""
        return super().render_str(shown.text(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, with the text of each part made text; codes that rich itself puts there stay."""
        for said, style, control in super().render(renderable, options):
            yield Segment(said if control else shown.text(said), style, control)


def unfailing(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say`, for who has more to do than to tell: an error of the one who is told ends nothing."""

    def told(line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            say(line)

    return told
