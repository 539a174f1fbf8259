"""The interfaces of daq-ctl and daq-watch: their commands as requests, their data as types.

Names are those of ``daqif.OcmDaqControl``, ``daqif.DpmControl``, ``daqif.DpmDaqControl``
(ESO-396401, sections 13.1 to 13.4) and ``stdif.StdCmds`` (section 11.4), so that a sequencer
written for one reads like one for the other.
What sends a request, and what a client does with the answer, is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

Document = dict[str, Any]
T = TypeVar("T")

#: Seconds that a reply may take longer than the wait that it answers.
AWAIT_MARGIN_S = 2.0


class DaqState(StrEnum):
    """State of a data acquisition (DaqState)."""

    StateAcquiring = "StateAcquiring"
    StateMerging = "StateMerging"
    StateCompleted = "StateCompleted"
    StateUndefined = "StateUndefined"

    @classmethod
    def _missing_(cls, value: object) -> DaqState:
        # a newer server may know more states than this client
        return cls.StateUndefined


class DaqSubState(StrEnum):
    """Substate of a data acquisition (DaqSubState), in the order of a life."""

    NotStarted = "NotStarted"
    Starting = "Starting"
    Acquiring = "Acquiring"
    Stopping = "Stopping"
    Stopped = "Stopped"
    Aborting = "Aborting"
    Aborted = "Aborted"
    NotScheduled = "NotScheduled"
    Scheduled = "Scheduled"
    Collecting = "Collecting"
    Merging = "Merging"
    Releasing = "Releasing"
    Completed = "Completed"
    Undefined = "Undefined"

    @classmethod
    def _missing_(cls, value: object) -> DaqSubState:
        return cls.Undefined


@dataclass(frozen=True)
class Alert:
    """A condition that needs attention.

    Attributes:
        id: names the condition and what it is about, such as ``source-failed:dcs``.
        severity: ``error``, ``warning`` or ``info``.
        description: one sentence.
        timestamp: since when, seconds since the Unix epoch.
    """

    id: str
    severity: str
    description: str
    timestamp: float


@dataclass(frozen=True)
class DaqReply:
    """Reply to the commands that change an acquisition.

    Attributes:
        id: of the acquisition.
        error: it has issues; the status tells which.
    """

    id: str
    error: bool


@dataclass(frozen=True)
class DaqStatus:
    """Status of an acquisition.

    Attributes:
        id: of the acquisition.
        fileId: from which the archive file name is made.
        state: top-level state.
        substate: the state in detail.
        timestamp: of the last change, seconds since the Unix epoch.
        error: an alert of severity error is active.
        message: the active alerts, a JSON list.
        result: path of the data product, empty until it is there.
    """

    id: str
    fileId: str
    state: DaqState
    substate: DaqSubState
    timestamp: float
    error: bool
    message: str
    result: str

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The active alerts, oldest first."""
        try:
            listed = json.loads(self.message)
            return tuple(Alert(str(alert["id"]), str(alert["severity"]),
                               str(alert["description"]), float(alert["timestamp"]))
                         for alert in listed)
        except (ValueError, KeyError, TypeError):
            return ()  # another server's message may be prose


@dataclass(frozen=True)
class InternalDaqStatus(DaqStatus):
    """What daq-watch knows of a job besides; the manual leaves its structure open.

    Attributes:
        place: directory of the spool that the job lies in.
        stage: the stage that it is in, or that a resting job left.
        tries: of that stage.
        due: not before then is it tried again, seconds since the Unix epoch.
        receipts: one for each delivery: ``receiver``, ``path``, ``how``, ``size``, ``sha256``,
            ``time``.
        holder: who is at work on it: ``pid``, ``stage``, ``since``; empty: nobody.
    """

    place: str
    stage: str
    tries: int
    due: float
    receipts: tuple[Document, ...]
    holder: Document


@dataclass(frozen=True)
class StorageStatus:
    """Space of a file system, in bytes.

    Attributes:
        capacity: its size.
        free: what is free.
        available: what of it an unprivileged process can use.
    """

    capacity: int
    free: int
    available: int


@dataclass(frozen=True)
class AwaitDaqReply:
    """Reply to AwaitDaqState.

    Attributes:
        timeout: time ran out first.
        status: the status when the reply was sent.
        reached: the acquisition has been in the awaited state (ours). Neither this nor
            ``timeout``: the state can no longer be reached.
    """

    timeout: bool
    status: DaqStatus
    reached: bool


@dataclass(frozen=True)
class Status:
    """Status of the application (``stdif.Status``).

    Attributes:
        status: state and substate, such as ``Operational;Idle``.
        source: name of the server's process instance.
    """

    status: str
    source: str


@dataclass(frozen=True)
class LogInfo:
    """What SetLogLevel takes (``stdif.LogInfo``).

    Attributes:
        level: ERROR, WARNING, STATE, EVENT, ACTION, INFO, DEBUG or TRACE.
        logger: such as ``daq.ocm.controller``; empty for all.
    """

    level: str
    logger: str = ""


@dataclass(frozen=True)
class Request(Generic[T]):
    """A command with its parameters, ready to be sent.

    Attributes:
        service: path of the interface below the request endpoint.
        command: its name.
        params: by name.
        result: makes the result from the JSON document of the reply; raises KeyError, TypeError
            or ValueError when that is something else.
        patience_s: what the reply may take at least.
    """

    service: str
    command: str
    params: Document
    result: Callable[[Any], T]
    patience_s: float = 0.0


def daq_status(document: Any) -> DaqStatus:
    """Return a status from its JSON document.

    Raises:
        KeyError: a member is missing.
        TypeError: it is no object, or the timestamp no number.
        ValueError: likewise.
    """
    return DaqStatus(
        id=str(document["id"]), fileId=str(document["fileId"]), state=DaqState(document["state"]),
        substate=DaqSubState(document["substate"]), timestamp=float(document["timestamp"]),
        error=bool(document["error"]), message=str(document["message"]),
        result=str(document["result"]))


def internal_daq_status(document: Any) -> InternalDaqStatus:
    """Return an internal status from its JSON document; raises as :func:`daq_status`."""
    return InternalDaqStatus(
        **vars(daq_status(document)), place=str(document["place"]), stage=str(document["stage"]),
        tries=int(document["tries"]), due=float(document["due"]),
        receipts=tuple(document["receipts"]), holder=dict(document.get("holder", {})))


def storage_status(document: Any) -> StorageStatus:
    """Return a storage status from its JSON document; raises as :func:`daq_status`."""
    return StorageStatus(capacity=int(document["capacity"]), free=int(document["free"]),
                         available=int(document["available"]))


def std_status(document: Any) -> Status:
    """Return an application's status from its JSON document; raises as :func:`daq_status`."""
    return Status(status=str(document["status"]), source=str(document["source"]))


def _reply(document: Any) -> DaqReply:
    return DaqReply(id=str(document["id"]), error=bool(document["error"]))


def _await_reply(document: Any) -> AwaitDaqReply:
    timeout = bool(document["timeout"])
    return AwaitDaqReply(timeout=timeout, status=daq_status(document["status"]),
                         reached=bool(document.get("reached", not timeout)))


def _statuses(document: Any) -> list[DaqStatus]:
    return [daq_status(one) for one in document]


def _json(given: Any) -> str:
    """Return JSON text of a value; text is taken as JSON already."""
    return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


def _sources(given: str | Iterable[str]) -> str:
    return given if isinstance(given, str) else " ".join(given)


class OcmDaqControl:
    """The commands of ``daqif.OcmDaqControl``, each as the request for it."""

    @staticmethod
    def StartDaq(id: str = "", file_prefix: str = "", prim_sources: str | Iterable[str] = "",
                 meta_sources: str | Iterable[str] = "",
                 properties: str | Mapping[str, Any] = "", *,
                 allow_shared: bool = False) -> Request[DaqReply]:
        """Create and start an acquisition with the version 1 merge heuristics.

        Args:
            id: of the new acquisition; empty: its file id.
            file_prefix: begins the product's file name.
            prim_sources: ``name@uri`` of primary sources, separated by blanks or as a list.
            meta_sources: the same of metadata sources.
            properties: StartDaq properties, an object or its JSON text.
            allow_shared: permit primary sources that another acquisition uses.
        """
        params = {"id": id, "file_prefix": file_prefix, "prim_sources": _sources(prim_sources),
                  "meta_sources": _sources(meta_sources),
                  "properties": _json(properties) if properties else ""}
        return Request("daq", "StartDaq", _shared(params, allow_shared), _reply)

    @staticmethod
    def StartDaqV2(specification: str | Mapping[str, Any], *,
                   allow_shared: bool = False) -> Request[DaqReply]:
        """Create and start an acquisition from a specification, an object or its JSON text."""
        params = {"specification": _json(specification)}
        return Request("daq", "StartDaqV2", _shared(params, allow_shared), _reply)

    @staticmethod
    def StopDaq(id: str) -> Request[DaqReply]:
        """Stop the sources and keep the data."""
        return Request("daq", "StopDaq", {"id": id}, _reply)

    @staticmethod
    def ForceStopDaq(id: str) -> Request[DaqReply]:
        """Stop and keep the data, even if sources fail."""
        return Request("daq", "ForceStopDaq", {"id": id}, _reply)

    @staticmethod
    def AbortDaq(id: str) -> Request[DaqReply]:
        """Abort and discard the data."""
        return Request("daq", "AbortDaq", {"id": id}, _reply)

    @staticmethod
    def ForceAbortDaq(id: str) -> Request[DaqReply]:
        """Abort and discard the data, even if sources fail."""
        return Request("daq", "ForceAbortDaq", {"id": id}, _reply)

    @staticmethod
    def PauseDaq(id: str) -> Request[DaqReply]:
        """Pause the recordings of the primary sources (ours)."""
        return Request("daq", "PauseDaq", {"id": id}, _reply)

    @staticmethod
    def ContinueDaq(id: str) -> Request[DaqReply]:
        """Continue the recordings after a pause (ours)."""
        return Request("daq", "ContinueDaq", {"id": id}, _reply)

    @staticmethod
    def UpdateKeywords(id: str, keywords: str | Iterable[Mapping[str, Any]]) -> Request[DaqReply]:
        """Add or replace keywords, a list of objects or its JSON text."""
        given = keywords if isinstance(keywords, str) else list(keywords)
        return Request("daq", "UpdateKeywords", {"id": id, "keywords": _json(given)}, _reply)

    @staticmethod
    def AwaitDaqState(id: str, state: str, substate: str, timeout: float) -> Request[AwaitDaqReply]:
        """Wait until the acquisition has been in a state, or no longer can be.

        Args:
            id: of the acquisition.
            state: a :class:`DaqState` or its name.
            substate: a :class:`DaqSubState` or its name; empty for any of the state.
            timeout: seconds, above 0.
        """
        params = {"id": id, "state": str(state), "substate": str(substate), "timeout": timeout}
        return Request("daq", "AwaitDaqState", params, _await_reply, timeout + AWAIT_MARGIN_S)

    @staticmethod
    def GetStatus(id: str) -> Request[DaqStatus]:
        """Return the status of an acquisition, also of one that has ended."""
        return Request("daq", "GetStatus", {"id": id}, daq_status)

    @staticmethod
    def GetDaqStatus(id: str) -> Request[DaqStatus]:
        """Return the status of an acquisition; the older name of GetStatus."""
        return Request("daq", "GetDaqStatus", {"id": id}, daq_status)

    @staticmethod
    def GetActiveList() -> Request[list[DaqStatus]]:
        """Return the status of every acquisition that is not in StateCompleted."""
        return Request("daq", "GetActiveList", {}, _statuses)


def _shared(params: Document, allow_shared: bool) -> Document:
    return {**params, "allow_shared": True} if allow_shared else params


class DpmControl:
    """The commands of ``daqif.DpmControl``, each as the request for it."""

    @staticmethod
    def QueryStorageStatus() -> Request[StorageStatus]:
        """Return the space of the spool's file system."""
        return Request("dpm", "QueryStorageStatus", {}, storage_status)

    @staticmethod
    def Exit() -> Request[str]:
        """End the watcher, or a server without one."""
        return Request("dpm", "Exit", {}, str)


class DpmDaqControl:
    """The commands of ``daqif.DpmDaqControl``, each as the request for it."""

    @staticmethod
    def QueueDaq(specification: str | Mapping[str, Any]) -> Request[DaqReply]:
        """Queue a Data Product Specification, an object or its JSON text."""
        return Request("daq", "QueueDaq", {"specification": _json(specification)}, _reply)

    @staticmethod
    def AbortDaq(id: str) -> Request[DaqReply]:
        """Abort the merging and discard the data."""
        return Request("daq", "AbortDaq", {"id": id}, _reply)

    @staticmethod
    def GetDaqStatus(id: str) -> Request[DaqStatus]:
        """Return the status of a job that was queued and has not ended."""
        return Request("daq", "GetDaqStatus", {"id": id}, daq_status)

    @staticmethod
    def GetActiveDaqs() -> Request[list[DaqStatus]]:
        """Return the status of every job that was queued and has not ended."""
        return Request("daq", "GetActiveDaqs", {}, _statuses)

    @staticmethod
    def GetInternalDaqStatus(id: str) -> Request[InternalDaqStatus]:
        """Return what is known of a job that was queued and has not ended."""
        return Request("daq", "GetInternalDaqStatus", {"id": id}, internal_daq_status)


def _std(command: str, **params: Any) -> Request[str]:
    return Request("std", command, params, str)


class StdCmds:
    """The commands of ``stdif.StdCmds``, each as the request for it."""

    @staticmethod
    def Init() -> Request[str]:
        """Go to NotOperational;Ready."""
        return _std("Init")

    @staticmethod
    def Enable() -> Request[str]:
        """Go to Operational: acquisitions are served."""
        return _std("Enable")

    @staticmethod
    def Disable() -> Request[str]:
        """Leave Operational; acquisitions that run go on."""
        return _std("Disable")

    @staticmethod
    def Reset() -> Request[str]:
        """Go back to NotOperational;NotReady."""
        return _std("Reset")

    @staticmethod
    def Stop() -> Request[str]:
        """Leave Operational as Disable does."""
        return _std("Stop")

    @staticmethod
    def Exit() -> Request[str]:
        """End the server; sources that record go on recording."""
        return _std("Exit")

    @staticmethod
    def GetState() -> Request[str]:
        """Return the state, such as ``Operational;Idle``."""
        return _std("GetState")

    @staticmethod
    def GetStatus() -> Request[str]:
        """Return the status of the application."""
        return _std("GetStatus")

    @staticmethod
    def GetVersion() -> Request[str]:
        """Return the server's version."""
        return _std("GetVersion")

    @staticmethod
    def SetLogLevel(info: LogInfo) -> Request[str]:
        """Set how much a logger says."""
        return _std("SetLogLevel", info={"level": info.level, "logger": info.logger})
