"""Seals headers: compares what a source states with the sum of its data, and writes both sums.

FITS Standard 4.0, section 4.4.2.7 and appendix J. An HDU that arrives sealed and sound, and to
which nothing is added, leaves as it came. A wrong DATASUM is never silently made right: the card of
the product says that the source had another one.
"""

from __future__ import annotations

from daqlib import alerts, checksum, errors
from daqlib.fitsfile import CARD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from daq_merge.layout import Part
    from daq_merge.plan import Alert

_ZEROS = "0" * 16
_VALUE_AT = 11
_MODULUS = 0xFFFFFFFF
_COMMENT = 47  # what a value of 30 columns leaves for it


class Damaged(errors.BadData):
    """Data of a source do not match the sum that it states, and that was to be an error."""


class Sealer:
    """Makes the final headers of a product.

    Attributes:
        alerts: what was found on the way.
        damaged: index of each HDU whose source does not match its sums, with the reason.

    Args:
        stamp: time to note in the comments, ISO 8601.
        sums: see :data:`daq_merge.how.SUMS`.
    """

    def __init__(self, stamp: str, sums: str) -> None:
        self.alerts: list[Alert] = []
        self.damaged: dict[int, str] = {}
        self._trusting = sums == "trust"
        self._strict = sums == "strict"
        self._datasum_comment = f" / sum of the data unit, {stamp}"
        self._checksum = _card(f"CHECKSUM= '{_ZEROS}'", f" / sum of the HDU, {stamp}")

    def believed(self, part: Part) -> int:
        """Return the sum that need not be computed, or -1."""
        # fill that is added may change the sum
        if not self._trusting or (part.hdu is not None and part.hdu.short):
            return -1
        return part.header.stated_sum

    def seal(self, part: Part, total: int) -> bytes | bytearray:
        """Return the final header of a part.

        Args:
            part: the HDU.
            total: the sum of its data unit, 0 to 2^32 - 1.

        Raises:
            Damaged: the source states another sum and the sums are strict.
        """
        header = part.header
        wrong = ""
        if header.stated or header.has_checksum:
            wrong, sound = self._judge(part, total)
            if sound and part.index and header.is_untouched:
                return header.draft()
        raw = header.draft()
        if wrong or not header.stated or not header.keeps_datasum:
            raw[header.datasum_at:header.datasum_at + CARD] = self._datasum(total, header.stated,
                                                                            wrong)
        raw[header.checksum_at:header.checksum_at + CARD] = self._checksum
        text = checksum.encode(checksum.add(checksum.data_sum(raw), total))
        at = header.checksum_at + _VALUE_AT
        raw[at:at + 16] = text.encode("ascii")
        return raw

    def _judge(self, part: Part, total: int) -> tuple[str, bool]:
        """Return what is wrong with the sums of a source, and whether both are there and right.

        DATASUM decides where it is; a CHECKSUM alone covers data and header together. A missing or
        empty value says nothing.
        """
        header, hdu, wrong = part.header, part.hdu, ""
        if hdu is None:
            return "", False
        sound = header.has_checksum and checksum.add(
            checksum.data_sum(hdu.header), total) in (0, _MODULUS)
        # 0 and 2^32 - 1 are the same number in this arithmetic
        if header.stated and (header.stated_sum < 0
                              or header.stated_sum % _MODULUS != total % _MODULUS):
            wrong = f"DATASUM is {header.stated}, the data sum to {total}"
        elif not header.stated and not sound:
            wrong = "CHECKSUM does not match header and data"
        if wrong:
            self.damaged[part.index] = wrong
            self._alert(part, wrong)
        return wrong, sound and header.stated != "" and not wrong

    def _datasum(self, total: int, stated: str, wrong: str) -> bytes:
        comment = self._datasum_comment
        if wrong:
            plain = "".join(char if " " <= char <= "~" else "?" for char in stated)
            comment = (f" / sum of data; MISMATCH: source had {plain or 'a wrong CHECKSUM'}"
                       [:_COMMENT + 3])
        return _card(f"DATASUM = '{total:<8}'", comment)

    def _alert(self, part: Part, wrong: str) -> None:
        one, hdu = part.input, part.hdu
        if one is None or hdu is None:
            return
        text = (f"source {one.source}: HDU {hdu.index} of {one.location} is damaged or was "
                f"changed after it was sealed: {wrong}")
        if self._strict:
            raise Damaged(text, "deliver the file again, or merge without strict sums")
        self.alerts.append(alerts.make("datasum", f"{one.label}[{hdu.index}]", text))


def _card(value: str, comment: str) -> bytes:
    return f"{value:<30}{comment}".ljust(CARD).encode("ascii")
