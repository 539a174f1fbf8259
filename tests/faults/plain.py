"""Error lines in general form: without what differs from run to run and from host to host."""

from __future__ import annotations

import re

_ALIKE: tuple[tuple[str, str], ...] = (
    (r"^daq-\w+: (J1: )?", ""),
    (r"\(pid \d+\)|process \d+|pid \d+", "process N"),
    (r"\[127\.0\.0\.1\]:\d+", "HOST"),
    (r"\b127\.0\.0\.1:\d{5}\b", "HOST:PORT"),
    (r"[\w.-]+@(?=\d+\.\d)", "USER@"),
    (r"\bport \d+:?", "port N:"),
    (r"\b(127|198)\.\d+\.\d+\.\d+\b", "ADDRESS"),
    (r" ?\[(sender|receiver|Receiver|generator|client)(=[\w.]+)?\]", ""),
    (r" at \w+\.c\(\d+\)", ""),
    (r" ?\(\d+ bytes (received|sent) so far\)", ""),
    (r"\bnext try in \d+ s\b", "next try in N s"),
    (r"\b\d+ of \d+ bytes\b", "N of N bytes"),
    (r"\b\d{3,} bytes\b", "N bytes"),
    (r"\.J1\b|\bJ1\b", "ID"),
    (r"\bXYZ\.2026-11-21T02:30:00\.123\b", "FILEID"),
    (r"/\.tmp-\d+-[0-9a-f]+-", "/"),
    (r"(Timeout, server \S+ not responding|rsync: connection unexpectedly closed|Connection (to "
     r"\S+ )?closed by (remote host|\S+ port N:)|client_loop: send disconnect: Broken pipe|"
     r"Read from remote host \S+: [\w ]+)(?= \(rsync)", "the connection was closed"),
    (r"(?<=port N: )(No route to host|Network is unreachable)", "Connection timed out"),
    (r"\(rsync exit code (12|255)\)", "(rsync exit code 12 or 255)"),
    (r"\.a\.fits\.\w{6}", "a.fits"),
    (r"\s+", " "),
)


def plain(line: str, known: list[tuple[str, str]]) -> str:
    """Return an error line in general form.

    Args:
        line: as it was said.
        known: texts, such as paths, and what stands for them.
    """
    for text, word in known:
        line = line.replace(text, word)
    for pattern, word in _ALIKE:
        line = re.sub(pattern, word, line)
    return line.strip().replace("|", "\\|")
