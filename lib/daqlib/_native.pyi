"""The interface of the optional C extension, see ``_native.c``."""

import os

from daqlib.checksum import Buffer

def ones_sum(buffer: Buffer, /) -> int: ...
def rename_noreplace(source: str | bytes | os.PathLike[str],
                     target: str | bytes | os.PathLike[str], /) -> None: ...
