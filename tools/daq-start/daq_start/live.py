"""Hand a job with live sources to daq-ctl."""

from __future__ import annotations

import json

from daqlib import clock, config, errors, job


def start(endpoint: str, settings: config.Config, document: job.Document) -> str:
    """Ask daq-ctl to start the acquisition now; return its id.

    Args:
        endpoint: of daq-ctl, or empty for the configured one.
        settings: the configuration.
        document: the job.

    Raises:
        errors.Unavailable: daq-ctl does not answer; it may or may not have started it, which
            ``daq-status`` tells.
        daqlib.rpc.RemoteError: daq-ctl refused, or a source failed to start.
    """
    from daqlib import rpc, uri

    where = uri.with_path(uri.parse(endpoint or settings["req_endpoint"]), "daq")
    try:
        reply = rpc.call(str(where), "StartDaqV2", {"specification": json.dumps(document)},
                         timeout_s=60.0)
    except rpc.Unreachable as error:
        raise errors.Unavailable(f"{error.message}; nothing was started",
                                 "start 'daq-ctl serve', or queue the job with --queue") from error
    return str(reply["id"])


def with_deadline(document: job.Document, seconds: float) -> job.Document:
    """Return a job that daq-ctl refuses when it finds it later than this.

    A shutter must not open hours later because the daemon was down when the job was queued.

    Raises:
        errors.Usage: the time is not positive.
    """
    if not seconds > 0:
        raise errors.Usage(f"--start-by {seconds}: give a number of seconds above 0")
    return {**document, "startBy": clock.iso(clock.now() + seconds) + "Z"}
