"""What became of an exposure: the events of a camera, from our command to the end.

The state that a camera shows when one connects is that of its last exposure, and a definition may
come again at any time. Only a *set* that follows our own command counts.
"""

from __future__ import annotations

from daq_ctl.sources import ENDED, FAILED
from daq_ctl.sources.indi.client import Client, Vector

PROPERTY, ELEMENT = "CCD_EXPOSURE", "CCD_EXPOSURE_VALUE"


class Exposure:
    """An exposure of a camera.

    Attributes:
        busy: whether it was seen to begin.
        verdict: ENDED or FAILED once it is over, else empty.
        fault: why it failed, or empty.
    """

    def __init__(self, client: Client, device: str) -> None:
        """Listen to a camera; nothing counts before :meth:`arm`."""
        self._client, self._device = client, device
        self._armed, self.busy, self.verdict, self.fault = False, False, "", ""
        client.subscribe(self._hear)

    def arm(self, *, busy: bool = False) -> None:
        """Take events for those of our exposure from now on.

        Args:
            busy: it has begun already.
        """
        self._armed, self.busy, self.verdict, self.fault = True, busy, "", ""

    def fail(self, fault: str) -> None:
        """Take it for lost, unless it is over already."""
        if not self.verdict:
            self.verdict, self.fault = FAILED, fault

    def end(self) -> None:
        """Take it for ended as it should, unless it is over already."""
        self.verdict = self.verdict or ENDED

    def _hear(self, what: str, vector: Vector) -> None:
        if not self._armed or vector.device != self._device:
            return
        if what == "del" and vector.name == PROPERTY:
            self.fail("its device was disconnected, or its driver ended, during the exposure")
        elif what == "set" and vector.name == PROPERTY:
            self._progress(vector.state)
        elif what == "set" and vector.name == "CONNECTION" and not vector.elements.get("CONNECT"):
            self.fail("its device was disconnected during the exposure")

    def _progress(self, state: str) -> None:
        if state == "Busy":
            self.busy = True
        elif state == "Alert":
            self.fail(f"its exposure {'failed' if self.busy else 'was refused'}"
                      f"{self._client.said(self._device)}")
        elif self.busy and state == "Ok":
            self.end()
        elif self.busy:
            self.fail("its exposure was aborted")
