"""Receivers of data products: what each kind may say (ESO-396401, section 9.3.6).

The shape is in ``schema/receivers.json``; this is what a schema cannot tell, for jobs and for the
configuration alike. How a product gets there is ``daq-release``'s.
"""

from __future__ import annotations

from typing import Any

from daqlib import errors, names

#: The kinds of receivers.
KINDS = ("olasReceiver",)


def check(receiver: Any) -> None:
    """Check a receiver.

    Raises:
        errors.BadData: it is none of the known kinds, or its path or host is not allowed.
    """
    kind = receiver.get("type") if isinstance(receiver, dict) else None
    if kind not in KINDS:
        raise errors.BadData(f"receivers of type {kind!r} are not known",
                             f"use {', '.join(KINDS)}")
    names.check_path(receiver.get("path", ""), "receiver path")
    if receiver.get("host"):
        names.check_host(receiver["host"])
