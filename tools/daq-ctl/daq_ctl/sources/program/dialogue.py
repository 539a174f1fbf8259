"""What a program says in JSON lines, put together; nothing here touches a file or a process.

The whole state of a recording follows from the lines, so that a later daemon reads them once more
and knows what this one knew.
"""

from __future__ import annotations

from typing import Any

from daqlib import strictjson

#: Bytes of a line.
LONGEST = 1 << 20

_MOST_FAULTS = 3
_MOST_REMARKS = 100
_MOST_FILES = 5000
_MOST_REPORTS = 5000  # of keywords
_LONGEST_TEXT = 500  # characters of a remark or a reason


class Dialogue:
    """The lines of one program so far.

    Attributes:
        started: whether it records, or has recorded.
        done: whether it said that it is over.
        failure: why it failed, by its own words; None when it did not say so.
        files: paths as it told them, in order, each once.
        keywords: what it told of keywords, unchecked, in order.
        remarks: its remarks.
        progress: seconds that passed and seconds in all; None when unknown.
        faults: what is wrong with its lines, the first few.
    """

    def __init__(self) -> None:
        self.started = self.done = False
        self.failure: str | None = None
        self.files: list[str] = []
        self.keywords: list[Any] = []
        self.remarks: list[str] = []
        self.progress: tuple[float, float] | None = None
        self.faults: list[str] = []
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take what the program wrote next; lines that are no objects are mere words."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.lstrip().startswith(b"{") or self._skipping:
                self._line(line)
        if len(rest) > LONGEST:
            self._wrong(f"a line of more than {LONGEST} bytes")
            self._skipping, rest = True, b""
        self._rest = rest

    def end(self) -> None:
        """Take the last line, which may lack its end."""
        self.feed(b"\n")

    def _line(self, line: bytes) -> None:
        if self._skipping or self.done:
            self._skipping = False
            return
        text = line.decode(errors="replace").strip()
        try:
            event = strictjson.loads(line)
        except ValueError as error:
            self._wrong(f"{text[:80]!r} is no JSON: {error}")
            return
        take = _EVENTS.get(str(event.get("event")))
        if take is None:
            self._wrong(f"{text[:80]!r} is no event that is known")
        elif not take(self, event):
            self._wrong(f"{text[:80]!r} lacks what belongs to this event")

    def _wrong(self, what: str) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(f"it said what cannot be used: {what}")

    def _started(self, _event: dict[str, Any]) -> bool:
        self.started = True
        return True

    def _progress(self, event: dict[str, Any]) -> bool:
        done, total = event.get("done", ""), event.get("total", "")
        if not {type(done), type(total)} <= {int, float}:
            return False
        self.progress = float(done), float(total)
        return True

    def _file(self, event: dict[str, Any]) -> bool:
        path = event.get("path")
        if not isinstance(path, str) or not path:
            return False
        if len(self.files) == _MOST_FILES:
            self._wrong(f"more than {_MOST_FILES} files")
        elif path not in self.files:
            self.files.append(path)
        return True

    def _keywords(self, event: dict[str, Any]) -> bool:
        told = event.get("keywords")
        if not isinstance(told, list | dict):
            return False
        if len(self.keywords) == _MOST_REPORTS:
            self._wrong(f"keywords more than {_MOST_REPORTS} times")
        else:
            self.keywords.append(told)
        return True

    def _remark(self, event: dict[str, Any]) -> bool:
        if len(self.remarks) < _MOST_REMARKS:
            self.remarks.append(plain(event.get("text")))
        return isinstance(event.get("text"), str)

    def _ended(self, _event: dict[str, Any]) -> bool:
        self.done = True
        return True

    def _failed(self, event: dict[str, Any]) -> bool:
        self.done, self.failure = True, plain(event.get("reason")) or "it gave no reason"
        return True


_EVENTS = {"started": Dialogue._started, "progress": Dialogue._progress, "file": Dialogue._file,
           "keywords": Dialogue._keywords, "remark": Dialogue._remark, "ended": Dialogue._ended,
           "failed": Dialogue._failed}


def plain(text: Any) -> str:
    """Return a text from outside as a short line without control characters."""
    line = str(text or "").strip()
    return "".join(c if c.isprintable() else " " for c in line)[:_LONGEST_TEXT]
