"""Starts the programs of a race, from a process that is smaller than any of them.

The kernel counts the memory of whoever starts a program into that program's peak. This one
imports nothing and runs without ``site`` (``python -I -S starter.py``), so that peaks above
some 9 MiB are the program's own.

A line on standard input is a program: file for its standard output, file for its standard error,
number of settings, the settings (NAME=VALUE), the words; separated by the character 31. A line on
standard output answers: exit status, seconds, processor seconds, peak in KiB.
"""

import os
import sys
import time

SEPARATOR = "\x1f"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_DEFAULT = (13, 25)  # SIGPIPE and SIGXFSZ, which Python ignores and children would inherit


def main() -> None:
    """Start what is asked for, until there is nothing more."""
    for line in sys.stdin:
        output, errors, count, *words = line.rstrip("\n").split(SEPARATOR)
        settings = dict(word.split("=", 1) for word in words[:int(count)])
        words = words[int(count):]
        files = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                 (os.POSIX_SPAWN_OPEN, 1, output, _NEW, 0o600),
                 (os.POSIX_SPAWN_OPEN, 2, errors, _NEW, 0o600)]
        begin = time.perf_counter()
        process = os.posix_spawnp(words[0], words, {**os.environ, **settings}, file_actions=files,
                                  setsigdef=_DEFAULT)
        _, status, used = os.wait4(process, 0)
        took = time.perf_counter() - begin
        print(os.waitstatus_to_exitcode(status), took, used.ru_utime + used.ru_stime,
              used.ru_maxrss, flush=True)


main()
