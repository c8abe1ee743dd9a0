"""A terminal's screen, as far as a live view may use it: whatever else it is told to do is refused."""

from __future__ import annotations

import re

from rich.cells import cell_len

_PART = re.compile(r"\x1b\[(\?25[lh])|\x1b\[([0-9;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)|(\x1b)")


class Screen:
    """Its lines, those that scrolled away too. `styles` are the codes of colours and such that it was given."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.lines: list[str] = [""]
        self.styles: set[str] = set()
        self.widest = 0
        """Columns of the longest text that was written into one line."""
        self._row = self._column = self._top = 0

    def write(self, written: str) -> Screen:
        """Do what a program has written."""
        for cursor, numbers, code, control, text, stray in _PART.findall(written):
            if cursor:
                continue
            if stray:
                raise ValueError(f"it is told something else: {written[max(0, written.find(stray) - 40) :][:80]!r}")
            if code:
                self._obey(numbers, code)
            elif control == "\r":
                self._column = 0
            elif control == "\n":
                self._row, self._column = self._row + 1, 0
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif text:
                self._put(text)
        return self

    def _obey(self, numbers: str, code: str) -> None:
        match code:
            case "m":
                self.styles.add(numbers)
            case "A":
                self._row = max(self._top, self._row - int(numbers or 1))
            case "K":
                self.lines[self._row] = ""
            case "J" if numbers == "2":
                self._top = self._row = len(self.lines)
                self.lines.append("")
                self._column = 0
            case "H" if not numbers:
                self._row, self._column = self._top, 0
            case _:
                raise ValueError(f"it is told {numbers}{code}")

    def _put(self, text: str) -> None:
        line = self.lines[self._row].ljust(self._column)
        self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
        self._column += len(text)
        self.widest = max(self.widest, cell_len(self.lines[self._row].rstrip()))

    @property
    def text(self) -> str:
        """What stands on it, without what was cleared."""
        return "\n".join(line.rstrip() for line in self.lines[self._top :])
