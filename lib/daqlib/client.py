"""Acquisition control from Python, for sequencers: a blocking client and one for asyncio.

    with DaqClient() as ocm:
        reply = ocm.StartDaq(prim_sources="dcs1@zpb.rr://127.0.0.1:12090/rec")
        ocm.AwaitDaqState(reply.id, DaqState.StateAcquiring, DaqSubState.Stopped, 60)

Methods have the names and parameters of ``daqif.OcmDaqControl`` (ESO-396401, section 13.1); those
of ``stdif.StdCmds`` are below ``std``, because both interfaces have a GetStatus. The interfaces of
``daq-watch --serve`` (sections 13.2 and 13.3) have a client of their own, :class:`DpmClient`.
Importing this module loads nothing that is slow to load; the first request loads ZeroMQ.
"""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from daqlib import rpc, uri
from daqlib.interface import (
    Alert,
    AwaitDaqReply,
    DaqReply,
    DaqState,
    DaqStatus,
    DaqSubState,
    DpmControl,
    DpmDaqControl,
    InternalDaqStatus,
    LogInfo,
    OcmDaqControl,
    Request,
    Status,
    StdCmds,
    StorageStatus,
    daq_status,
    internal_daq_status,
    std_status,
    storage_status,
)

__all__ = ["Alert", "AsyncDaqClient", "AsyncDpmClient", "AwaitDaqReply", "DaqClient",
           "DaqException", "DaqReply", "DaqState", "DaqStatus", "DaqSubState", "DpmClient",
           "InternalDaqStatus", "LogInfo", "NotOperational", "Status", "StorageStatus"]

P = ParamSpec("P")
T = TypeVar("T")
Sample = DaqStatus | Status | StorageStatus
Topics = dict[str, Callable[[Any], Sample]]

_TOPICS: Topics = {"/daq/status": daq_status, "/std/status": std_status}
_DPM_TOPICS: Topics = {"/daq/status": daq_status, "/dpm/storage": storage_status,
                       "internal/daq/status": internal_daq_status}


class DaqException(rpc.RemoteError):
    """The server refused a command, or it failed (``daqif.DaqException``).

    ``id`` names the acquisition, ``message`` what is wrong, ``remedy`` what to do.
    """


class NotOperational(rpc.RemoteError):
    """The server is not Operational, so that it does not serve the acquisition control."""


def request_endpoint(given: str | None = None, file: str | None = None) -> str:
    """Return where requests go: what is given, ``$OCM_REQUEST_EP``, the configuration.

    Args:
        given: the endpoint, if the caller names one.
        file: the configuration, see :func:`daqlib.config.load`.

    Raises:
        errors.BadConfig: the configuration is not usable.
    """
    return _endpoint(given or os.environ.get("OCM_REQUEST_EP"), "req_endpoint", file)


def topic_endpoint(given: str | None = None, file: str | None = None) -> str:
    """Return where topics come from: what is given, ``$OCM_PUBLISH_EP``, the configuration."""
    return _endpoint(given or os.environ.get("OCM_PUBLISH_EP"), "pub_endpoint", file)


def _endpoint(given: str | None, key: str, file: str | None) -> str:
    if given:
        return given
    from daqlib import config  # not for who names the endpoint: it is slow to load

    return str(config.load(file)[key])


class _Command(Generic[P, T]):
    """A method that sends the request which a function of the interface makes."""

    def __init__(self, build: Callable[P, Request[T]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__


class _Blocking(_Command[P, T]):
    def __get__(self, sender: Any, owner: Any = None) -> Callable[P, T]:
        @functools.wraps(self.build)
        def send(*arguments: P.args, **named: P.kwargs) -> T:
            result: T = sender.send(self.build(*arguments, **named))
            return result

        return send


class _Awaiting(_Command[P, T]):
    def __get__(self, sender: Any, owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(self.build)
        async def send(*arguments: P.args, **named: P.kwargs) -> T:
            result: T = await sender.send(self.build(*arguments, **named))
            return result

        return send


class _Addresses:
    """Where the server is, and how long to wait for it."""

    def __init__(self, requests: str | None, topics: str | None, timeout_s: float, *,
                 dpm: bool) -> None:
        self._requests = uri.parse(_endpoint(requests, "dpm.req_endpoint", None) if dpm else
                                   request_endpoint(requests))
        self._topics, self._dpm = topics, dpm
        self.timeout_s = timeout_s

    def service(self, request: Request[Any]) -> str:
        """Return the endpoint of the service that a request is for."""
        return str(uri.with_path(self._requests, request.service))

    def limit(self, request: Request[Any]) -> float:
        """Return how long to wait for the reply, seconds."""
        return max(self.timeout_s, request.patience_s)

    def topics(self) -> str:
        """Return the endpoint of the topics; only who subscribes needs one."""
        return (_endpoint(self._topics, "dpm.pub_endpoint", None) if self._dpm else
                topic_endpoint(self._topics))


@contextlib.contextmanager
def _as_exceptions(request: Request[Any]) -> Iterator[None]:
    """Turn a refusal into the interface's exception."""
    try:
        yield
    except rpc.Lost:
        if request.command != "Exit":  # which has ended the server, faster than its reply
            raise
    except rpc.RemoteError as error:
        kind = (NotOperational if error.exception == "rpc::NotEnabled" else
                DaqException if error.exception.startswith("daqif::") else None)
        if kind is None:
            raise
        raise kind(error.message, exception=error.exception, id=error.id, code=error.code,
                   remedy=error.remedy, rpc_code=error.rpc_code) from None


def _result(request: Request[T], document: Any) -> T:
    try:
        return request.result(document)
    except (KeyError, TypeError, ValueError) as error:
        raise rpc.BadReply(f"the reply to {request.command} is not one of the interface: "
                           f"{type(error).__name__} {error}",
                           "check that the endpoint is the right server's") from error


def _sample(topics: Topics, topic: str, document: Any) -> Sample | None:
    read = topics.get(topic)
    try:
        return read(document) if read else None
    except (KeyError, TypeError, ValueError):
        return None  # another program's publisher on our port


class _BlockingStd:
    """``stdif.StdCmds``."""

    def __init__(self, send: Callable[[Request[Any]], Any]) -> None:
        self.send = send

    Init = _Blocking(StdCmds.Init)
    Enable = _Blocking(StdCmds.Enable)
    Disable = _Blocking(StdCmds.Disable)
    Reset = _Blocking(StdCmds.Reset)
    Stop = _Blocking(StdCmds.Stop)
    Exit = _Blocking(StdCmds.Exit)
    GetState = _Blocking(StdCmds.GetState)
    GetStatus = _Blocking(StdCmds.GetStatus)
    GetVersion = _Blocking(StdCmds.GetVersion)
    SetLogLevel = _Blocking(StdCmds.SetLogLevel)


class _Client:
    """Sends requests and subscribes, and blocks meanwhile."""

    _topics = _TOPICS

    def __init__(self, addresses: _Addresses) -> None:
        self._addresses = addresses
        self._open: weakref.WeakSet[Generator[Any]] = weakref.WeakSet()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End the subscriptions."""
        for samples in list(self._open):
            with contextlib.suppress(ValueError):  # another thread is in it, and ends it
                samples.close()

    def send(self, request: Request[T]) -> T:
        """Send a request and return its result."""
        answer: Any = "OK"
        with _as_exceptions(request):
            answer = rpc.call(self._addresses.service(request), request.command, request.params,
                              self._addresses.limit(request))
        return _result(request, answer)

    def subscribe(self, timeout_s: float | None = None) -> Generator[Sample]:
        """Yield every status that is published from the first use of the iterator on.

        Use it to show what happens; to wait for something use AwaitDaqState, which also knows
        what happened before.

        Args:
            timeout_s: after which the iteration ends; None: never.
        """
        made = self._samples(timeout_s)
        self._open.add(made)
        return made

    def _samples(self, timeout_s: float | None) -> Generator[Sample]:
        for topic, document in rpc.subscribe(self._addresses.topics(), tuple(self._topics),
                                             timeout_s):
            sample = _sample(self._topics, topic, document)
            if sample is not None:
                yield sample


class DaqClient(_Client):
    """Acquisition control that blocks until the reply is there.

    Every command raises :class:`DaqException` when the server refuses it or it fails,
    :class:`NotOperational` when the server does not serve acquisitions, and
    :class:`daqlib.errors.Unavailable` when nobody answers. A client may be used by several
    threads.

    Attributes:
        std: the commands of ``stdif.StdCmds``.
    """

    def __init__(self, requests: str | None = None, topics: str | None = None, *,
                 timeout_s: float = 60.0) -> None:
        """Note where the server is; nothing is sent yet.

        Args:
            requests: request endpoint (default: ``$OCM_REQUEST_EP``, then the configuration).
            topics: publish endpoint (default: ``$OCM_PUBLISH_EP``, then the configuration).
            timeout_s: the longest to wait for a reply; longer for AwaitDaqState when its own
                time is longer.

        Raises:
            errors.BadData: an endpoint is not allowed.
            errors.BadConfig: the configuration is not usable.
        """
        super().__init__(_Addresses(requests, topics, timeout_s, dpm=False))
        self.std = _BlockingStd(self.send)

    StartDaq = _Blocking(OcmDaqControl.StartDaq)
    StartDaqV2 = _Blocking(OcmDaqControl.StartDaqV2)
    StopDaq = _Blocking(OcmDaqControl.StopDaq)
    ForceStopDaq = _Blocking(OcmDaqControl.ForceStopDaq)
    AbortDaq = _Blocking(OcmDaqControl.AbortDaq)
    ForceAbortDaq = _Blocking(OcmDaqControl.ForceAbortDaq)
    PauseDaq = _Blocking(OcmDaqControl.PauseDaq)
    ContinueDaq = _Blocking(OcmDaqControl.ContinueDaq)
    UpdateKeywords = _Blocking(OcmDaqControl.UpdateKeywords)
    AwaitDaqState = _Blocking(OcmDaqControl.AwaitDaqState)
    GetStatus = _Blocking(OcmDaqControl.GetStatus)
    GetDaqStatus = _Blocking(OcmDaqControl.GetDaqStatus)
    GetActiveList = _Blocking(OcmDaqControl.GetActiveList)

    def stop(self, id: str, timeout_s: float = 60.0) -> DaqStatus:
        """Stop an acquisition, keep its data, and return once it is Stopped.

        It never aborts. One that has stopped by itself meanwhile is no error.

        Args:
            id: of the acquisition.
            timeout_s: the longest to wait for Stopped after the sources acknowledged the stop.

        Raises:
            DaqException: it could not be stopped, or is aborted.
        """
        refused: DaqException | None = None
        try:
            self.StopDaq(id)
        except DaqException as error:
            refused = error
        return _stopped(refused, self.AwaitDaqState(*_wait_for_stop(id, timeout_s, refused)))


class DpmClient(_Client):
    """The interfaces of ``daq-watch --serve``: what is queued, merged and released.

    It blocks, and raises, as :class:`DaqClient` does.
    """

    _topics = _DPM_TOPICS

    def __init__(self, requests: str | None = None, topics: str | None = None, *,
                 timeout_s: float = 60.0) -> None:
        """Note where the server is; nothing is sent yet.

        Args:
            requests: request endpoint (default: ``cfg/dpm/req_endpoint``).
            topics: publish endpoint (default: ``cfg/dpm/pub_endpoint``).
            timeout_s: the longest to wait for a reply.

        Raises:
            errors.BadData: an endpoint is not allowed.
            errors.BadConfig: the configuration is not usable.
        """
        super().__init__(_Addresses(requests, topics, timeout_s, dpm=True))

    QueryStorageStatus = _Blocking(DpmControl.QueryStorageStatus)
    Exit = _Blocking(DpmControl.Exit)
    QueueDaq = _Blocking(DpmDaqControl.QueueDaq)
    AbortDaq = _Blocking(DpmDaqControl.AbortDaq)
    GetDaqStatus = _Blocking(DpmDaqControl.GetDaqStatus)
    GetActiveDaqs = _Blocking(DpmDaqControl.GetActiveDaqs)
    GetInternalDaqStatus = _Blocking(DpmDaqControl.GetInternalDaqStatus)


class _AsyncStd:
    """``stdif.StdCmds``."""

    def __init__(self, send: Callable[[Request[Any]], Coroutine[Any, Any, Any]]) -> None:
        self.send = send

    Init = _Awaiting(StdCmds.Init)
    Enable = _Awaiting(StdCmds.Enable)
    Disable = _Awaiting(StdCmds.Disable)
    Reset = _Awaiting(StdCmds.Reset)
    Stop = _Awaiting(StdCmds.Stop)
    Exit = _Awaiting(StdCmds.Exit)
    GetState = _Awaiting(StdCmds.GetState)
    GetStatus = _Awaiting(StdCmds.GetStatus)
    GetVersion = _Awaiting(StdCmds.GetVersion)
    SetLogLevel = _Awaiting(StdCmds.SetLogLevel)


class _AsyncClient:
    """Sends requests and subscribes without blocking the loop."""

    _topics = _TOPICS

    def __init__(self, addresses: _Addresses) -> None:
        self._addresses = addresses
        self._open: weakref.WeakSet[AsyncGenerator[Any]] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        """End the subscriptions."""
        for samples in list(self._open):
            with contextlib.suppress(RuntimeError):  # another task is in it, and ends it
                await samples.aclose()

    async def send(self, request: Request[T]) -> T:
        """Send a request and return its result."""
        answer: Any = "OK"
        with _as_exceptions(request):
            answer = await rpc.acall(self._addresses.service(request), request.command,
                                     request.params, self._addresses.limit(request))
        return _result(request, answer)

    def subscribe(self, timeout_s: float | None = None) -> AsyncGenerator[Sample]:
        """Yield every status that is published; see :meth:`DaqClient.subscribe`."""
        made = self._samples(timeout_s)
        self._open.add(made)
        return made

    async def _samples(self, timeout_s: float | None) -> AsyncGenerator[Sample]:
        async for topic, document in rpc.asubscribe(self._addresses.topics(), tuple(self._topics),
                                                    timeout_s):
            sample = _sample(self._topics, topic, document)
            if sample is not None:
                yield sample


class AsyncDaqClient(_AsyncClient):
    """Acquisition control for asyncio: the same commands as :class:`DaqClient`, to be awaited.

    Attributes:
        std: the commands of ``stdif.StdCmds``.
    """

    def __init__(self, requests: str | None = None, topics: str | None = None, *,
                 timeout_s: float = 60.0) -> None:
        """Note where the server is; arguments and errors are those of :class:`DaqClient`."""
        super().__init__(_Addresses(requests, topics, timeout_s, dpm=False))
        self.std = _AsyncStd(self.send)

    StartDaq = _Awaiting(OcmDaqControl.StartDaq)
    StartDaqV2 = _Awaiting(OcmDaqControl.StartDaqV2)
    StopDaq = _Awaiting(OcmDaqControl.StopDaq)
    ForceStopDaq = _Awaiting(OcmDaqControl.ForceStopDaq)
    AbortDaq = _Awaiting(OcmDaqControl.AbortDaq)
    ForceAbortDaq = _Awaiting(OcmDaqControl.ForceAbortDaq)
    PauseDaq = _Awaiting(OcmDaqControl.PauseDaq)
    ContinueDaq = _Awaiting(OcmDaqControl.ContinueDaq)
    UpdateKeywords = _Awaiting(OcmDaqControl.UpdateKeywords)
    AwaitDaqState = _Awaiting(OcmDaqControl.AwaitDaqState)
    GetStatus = _Awaiting(OcmDaqControl.GetStatus)
    GetDaqStatus = _Awaiting(OcmDaqControl.GetDaqStatus)
    GetActiveList = _Awaiting(OcmDaqControl.GetActiveList)

    async def stop(self, id: str, timeout_s: float = 60.0) -> DaqStatus:
        """Stop an acquisition and keep its data; see :meth:`DaqClient.stop`."""
        refused: DaqException | None = None
        try:
            await self.StopDaq(id)
        except DaqException as error:
            refused = error
        reply = await self.AwaitDaqState(*_wait_for_stop(id, timeout_s, refused))
        return _stopped(refused, reply)


class AsyncDpmClient(_AsyncClient):
    """The interfaces of ``daq-watch --serve`` for asyncio; see :class:`DpmClient`."""

    _topics = _DPM_TOPICS

    def __init__(self, requests: str | None = None, topics: str | None = None, *,
                 timeout_s: float = 60.0) -> None:
        """Note where the server is; arguments and errors are those of :class:`DpmClient`."""
        super().__init__(_Addresses(requests, topics, timeout_s, dpm=True))

    QueryStorageStatus = _Awaiting(DpmControl.QueryStorageStatus)
    Exit = _Awaiting(DpmControl.Exit)
    QueueDaq = _Awaiting(DpmDaqControl.QueueDaq)
    AbortDaq = _Awaiting(DpmDaqControl.AbortDaq)
    GetDaqStatus = _Awaiting(DpmDaqControl.GetDaqStatus)
    GetActiveDaqs = _Awaiting(DpmDaqControl.GetActiveDaqs)
    GetInternalDaqStatus = _Awaiting(DpmDaqControl.GetInternalDaqStatus)


def _wait_for_stop(id: str, timeout_s: float, refused: DaqException | None,
                   ) -> tuple[str, DaqState, DaqSubState, float]:
    # what refused the stop may be that it has stopped already: only a look, no wait
    return (id, DaqState.StateAcquiring, DaqSubState.Stopped, 0.001 if refused else timeout_s)


def _stopped(refused: DaqException | None, reply: AwaitDaqReply) -> DaqStatus:
    if reply.reached:
        return reply.status
    raise refused or DaqException(
        f"not Stopped but {reply.status.substate}", exception="daqif::DaqException",
        id=reply.status.id, remedy="see its alerts; stop again, or force it")
