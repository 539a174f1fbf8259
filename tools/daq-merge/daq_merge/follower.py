"""Takes the digest of the product while it is being written: a thread that follows.

What is finished is announced in order and read back from the kernel's memory, so that the digest is
that of what was written. Loaded only when a digest is wanted.
"""

from __future__ import annotations

import hashlib
import os
import threading
from queue import SimpleQueue

from daqlib import errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PIECE = 512 * 1024


class Follower:
    """A SHA-256 that is taken behind the work.

    Args:
        path: the product, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._queue: SimpleQueue[tuple[int, int, int] | bytes | None] = SimpleQueue()
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="digest", daemon=True)
        self._thread.start()

    def range(self, fd: int, offset: int, length: int) -> None:
        """Say that a range of a file is finished; it follows all that was said before."""
        self._queue.put((fd, offset, length))

    def bytes(self, data: Any) -> None:
        """Say that these bytes follow."""
        self._queue.put(bytes(data))

    def result(self) -> str:
        """Wait for the rest and return the digest, hexadecimal.

        Raises:
            errors.IoFailure: the product is not as it was written.
            OSError: it cannot be read.
        """
        self._queue.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def cancel(self) -> None:
        """End at once; the descriptors may be closed afterwards."""
        self._stop = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        buffer = memoryview(bytearray(_PIECE))
        try:
            while not self._stop:
                item = self._queue.get()
                if item is None:
                    return
                if isinstance(item, bytes):
                    self._digest.update(item)
                else:
                    self._read(buffer, *item)
        except (OSError, errors.DaqError) as error:
            self._error = error

    def _read(self, buffer: memoryview, fd: int, offset: int, length: int) -> None:
        while length and not self._stop:
            try:
                count = os.preadv(fd, [buffer[:length]], offset)
            except OSError as error:
                if error.filename is None:
                    error.filename = self._path
                raise
            if not count:
                raise errors.IoFailure(f"{self._path}: became shorter while it was read back",
                                       "look who else writes there")
            self._digest.update(buffer[:count])
            offset, length = offset + count, length - count
