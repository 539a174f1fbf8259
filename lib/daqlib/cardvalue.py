"""The value of a keyword as FITS writes it: made from JSON, and read back.

FITS Standard 4.0, section 4.2. A keyword may carry a format, an ANSI C conversion such as
``%.3f`` (ESO's Data Interface Control Document). A value is rounded to its format, never changed
in another way: what does not survive its format is refused.
"""

from __future__ import annotations

from daqlib.cardname import Unfit

Value = str | bool | int | float | complex | None

#: Smallest and largest integer that a reader may have to hold.
INTEGERS = (-(2**63), 2**64 - 1)

_LENGTHS = frozenset(("", "h", "hh", "l", "ll", "L"))


class Format:
    """An ANSI C conversion.

    Attributes:
        text: without length modifiers, which say nothing about a text.
        letter: one of ``diufFeEsc``.
        precision: the number behind the point, or None.
    """

    __slots__ = ("letter", "precision", "text")

    def __init__(self, text: str, letter: str, precision: int | None) -> None:
        self.text = text
        self.letter = letter
        self.precision = precision

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Format({self.text!r})"

    @property
    def is_integer(self) -> bool:
        """Whether it writes integers."""
        return self.letter in "diu"

    @property
    def is_real(self) -> bool:
        """Whether it writes reals."""
        return self.letter in "fFeE"


_known: dict[str, Format] = {}


def parse_format(text: str, label: str) -> Format:
    """Parse a format.

    Raises:
        Unfit: it is no ANSI C conversion, or one that a FITS value cannot have.
    """
    found = _known.get(text)
    if found is None:
        found = _conversion(text)
        if found is None:
            if text.startswith("%") and text[-1:] in "gG":
                raise Unfit(label, f"format {text} is not allowed: use %f or %e in place of %g")
            raise Unfit(label,
                        f"format {short(text)} is no conversion such as %d, %.3f, %.20s or %c")
        if len(_known) < 1000:  # formats come from outside; a daemon lives for months
            _known[text] = found
    return found


def _conversion(text: str) -> Format | None:
    letter = text[-1:]
    if text[:1] != "%" or len(text) < 2 or letter not in "diufFeEsc" or not text.isascii():
        return None
    rest = text[1:-1].lstrip("-+ #0")
    flags = text[1:len(text) - 1 - len(rest)]
    plain = rest.rstrip("hlL")
    width, point, digits = plain.partition(".")
    if rest[len(plain):] not in _LENGTHS or not (_is_short(width) and _is_short(digits)):
        return None
    return Format(f"%{flags}{plain}{letter}", letter, int(digits or 0) if point else None)


def _is_short(number: str) -> bool:
    return number == "" or (len(number) <= 2 and number.isdigit())


def token(value: object, label: str, layout: str = "") -> str:
    """Return how FITS writes a value, without blanks before it.

    Args:
        value: a str, bool, int or float; an int becomes a FITS integer, a float a real.
        label: which keyword, for errors.
        layout: a format, or empty for the standard one.

    Raises:
        Unfit: FITS cannot hold the value, or it does not survive the format.
    """
    if layout:
        return _formatted(value, parse_format(layout, label), label)
    if isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            check_text(value, f"{label}: value {short(value)}")
        return quoted(value)
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(_bounded(value, label))
    if isinstance(value, float):
        return _real(value, label)
    raise Unfit(f"{label}: value {short(value)}", "a value is a string, a logical or a number")


def _formatted(value: object, layout: Format, label: str) -> str:
    if isinstance(value, bool):
        wanted, fits = "%c", layout.letter == "c"
    elif isinstance(value, str):
        wanted, fits = "%s", layout.letter == "s"
    else:
        wanted, fits = "a number's, such as %d or %.3f", layout.is_integer or layout.is_real
    if not fits:
        raise Unfit(f"{label}: value {short(value)}", f"format {layout.text} is not {wanted}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _integer(value, layout, label) if layout.is_integer else (
            _fraction(value, layout, label))
    if isinstance(value, str) and layout.precision is not None and len(value) > layout.precision:
        raise Unfit(f"{label}: value {short(value)}",
                    f"has {len(value)} characters, format {layout.text} allows {layout.precision}")
    return token(value, label)


def _integer(value: float, layout: Format, label: str) -> str:
    if isinstance(value, float) and not value.is_integer():  # so are NaN and infinity
        raise Unfit(f"{label}: value {value!r}", f"format {layout.text} wants a whole number")
    if value < 0 and layout.letter == "u":
        raise Unfit(f"{label}: value {value!r}", f"format {layout.text} wants no negative number")
    return (layout.text % _bounded(int(value), label)).strip()


def _fraction(value: float, layout: Format, label: str) -> str:
    number = as_real(value, label)
    check_finite(number, label)
    mantissa, exponent, digits = (layout.text % number).strip().upper().partition("E")
    return (mantissa if "." in mantissa else mantissa + ".") + exponent + digits


def as_real(value: float, label: str) -> float:
    """Return an int or float as float.

    Raises:
        Unfit: no float is equal to this int.
    """
    try:
        if isinstance(value, float) or float(value) == value:
            return float(value)
    except OverflowError:
        pass  # an int beyond all floats
    raise Unfit(f"{label}: value {short(value)}", "loses digits as a real number")


def _bounded(value: int, label: str) -> int:
    if not INTEGERS[0] <= value <= INTEGERS[1]:
        raise Unfit(f"{label}: value {short(value)}", "an integer has at most 64 bits")
    return value


def check_finite(value: float, label: str) -> None:
    """Refuse what is no number.

    Raises:
        Unfit: it is NaN or infinite.
    """
    if value - value != 0:
        raise Unfit(f"{label}: value {value}", "FITS has no NaN and no infinity")


def _real(value: float, label: str) -> str:
    written = float.__repr__(value)  # the shortest that is read back as this very number
    if "e" not in written and "n" not in written:  # nor NaN nor infinity
        return written
    check_finite(value, label)
    mantissa, exponent, digits = written.upper().partition("E")
    # fixed format wants the decimal point also where Python leaves it out (1E+16)
    return (mantissa if "." in mantissa else mantissa + ".0") + exponent + digits


def quoted(text: str) -> str:
    """Return a string as FITS writes it; '' is a null string, blanks are an empty one (4.2.1.1)."""
    body = text.rstrip(" ").replace("'", "''")
    return f"'{body:<8}'" if text else "''"


def unquoted(body: str) -> str:
    """Return the text of a string from what stands between its quotes."""
    return body.replace("''", "'").rstrip(" ")


def split(text: str, label: str) -> tuple[str, str]:
    """Return value, as it is written, and comment of what stands behind ``=`` on a card.

    Args:
        text: what stands behind ``=``.
        label: which keyword or card, for errors.

    Raises:
        Unfit: a string without closing quote.
    """
    text = text.strip()
    if not text.startswith("'"):
        value, _, comment = text.partition("/")
        return value.rstrip(), comment.strip()
    end = 1
    while (end := text.find("'", end)) >= 0 and text[end + 1:end + 2] == "'":
        end += 2
    if end < 0:
        raise Unfit(label, "its string has no closing quote")
    return text[:end + 1], text[end + 1:].partition("/")[2].strip()


def read(written: str, label: str) -> Value:
    """Return the value that a card says; None when it has none.

    Args:
        written: from :func:`split`.
        label: which card, for errors.

    Raises:
        Unfit: it is no FITS value.
    """
    if written in ("T", "F"):
        return written == "T"
    if written.startswith("'"):
        return unquoted(written[1:-1])
    if _is_integer(written):
        return int(written)
    if _is_number(written):
        return float(written.upper().replace("D", "E"))
    if written.startswith("(") and written.endswith(")"):
        parts = [part.strip() for part in written[1:-1].split(",")]
        if len(parts) == 2 and _is_number(parts[0]) and _is_number(parts[1]):
            return complex(*(float(part.upper().replace("D", "E")) for part in parts))
    if not written:
        return None
    raise Unfit(label, f"{short(written)} is no FITS value")


def _is_integer(text: str) -> bool:
    digits = text[1:] if text[:1] in ("+", "-") else text
    return digits.isdigit() and digits.isascii()


def _is_number(text: str) -> bool:
    """Whether it is an integer or a real (FITS Standard 4.0, sections 4.2.3 and 4.2.4)."""
    for letter in "EDed":
        mantissa, found, exponent = text.partition(letter)
        if found:
            break
    if found and not _is_integer(exponent):
        return False
    digits = mantissa[1:] if mantissa[:1] in ("+", "-") else mantissa
    whole, _, fraction = digits.partition(".")
    both = whole + fraction
    return both.isdigit() and both.isascii()


def check_text(text: str, label: str) -> None:
    """Refuse a text that a header cannot hold.

    Raises:
        Unfit: it is not printable ASCII.
    """
    if not (text.isascii() and text.isprintable()):
        raise Unfit(label, "FITS headers hold printable ASCII only")


def short(value: object) -> str:
    """Return a value for a message, cut when it is long."""
    text = hex(value) if type(value) is int and value.bit_length() > 4096 else repr(value)
    return text if len(text) <= 64 else text[:60] + "..."
