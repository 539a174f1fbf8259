"""Hand jobs over to the spool of another host (``cfg/hand_over``) instead of collecting them.

A job is sent as often as it takes; the host there knows it again. What is recorded before and
after tells an abort whether that host may have the job (ESO-396401, section 9.3: NotScheduled).
"""

from __future__ import annotations

from daq_collect import plan
from daqlib import breaker, cli, clock, errors, farhost, handover, history, names
from daqlib.config import Config
from daqlib.crashpoints import passing
from daqlib.spool import Spool
from daqlib.stage import Claim, Outcome, Stage


def work(claim: Claim) -> Outcome:
    """Send the job to the other host.

    Raises:
        errors.HostDown: the host does not answer.
        errors.Patience: it has no space, or is not set up; no job is at fault.
        errors.Conflict: it has another job of this id.
        errors.BadData: something is wrong with the job.
    """
    to = str(claim.settings["hand_over"])
    plan.derive(claim)  # a job that cannot be collected is not sent, either
    parcel = handover.pack(claim.spool, claim.settings, claim.job)
    host = names.split_location(to)[0]
    with (breaker.trying(claim.spool, claim.settings, host),
          farhost.Session(claim.settings, to) as far):
        far.greet()
        claim.log("handing-over", to=to, request=parcel.request, **{"from": parcel.head["from"]})
        passing("handover.announced")
        reply = far.ask(parcel.head, *parcel.bodies)
    if not reply.get("ok"):
        claim.log("handing-over", to=to, refused=True)
        raise farhost.refusal(reply, to)
    passing("handover.delivered")
    handover.contacted(claim.spool, to)
    known = reply.get("known") is True
    claim.log("handed-over", to=to, request=parcel.request, known=known or None,
              farEnd=_end(claim, reply, to, known=known), **{"from": parcel.head["from"]})
    passing("handover.recorded")
    cli.detail(f"{claim.id}: {to} has it" + (", as before" if known else ""))
    return Outcome([], {"handedOver": to})


def _end(claim: Claim, reply: dict[str, object], to: str, *, known: bool) -> int:
    """Return from where on the log there is news; what was told before is not told again."""
    begin = reply.get("end")
    begin = begin if isinstance(begin, int) else 0
    before = history.handed_over(claim.events)
    told = before is not None and before.get("to") == to and known
    return max(begin, history.far_end(claim.events)) if told else begin


def _preflight(claim: Claim) -> None:
    farhost.command(claim.settings, claim.settings["hand_over"])
    handover.own_name(claim.settings)
    breaker.check(claim.spool, claim.settings,
                  names.split_location(claim.settings["hand_over"])[0])


def _anew(_claim: Claim) -> dict[str, str]:
    """Have the job sent whatever was sent before: somebody put it back, or the end is not known."""
    return {"handedOver": f"{clock.now():.6f}"}


STAGE = Stage("collect", "acquire", "remote", work, _preflight, lambda _claim: [], _anew,
              role=history.HAND_OVER)


def news(on: Spool, settings: Config) -> int:
    """Ask once how the jobs are getting on that other hosts have; return the exit code."""
    try:
        handover.news(on, settings)
    except errors.DaqError as error:
        return cli.fail(error)
    return errors.OK
