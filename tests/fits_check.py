"""A second opinion on FITS files: splits, sums and compares them, sharing no code with the tools.

Written from the FITS Standard 4.0 (sections 3, 4 and appendix J) alone. It looks at raw bytes:
nothing is read into a number and written again, so nothing can look the same that is not.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

BLOCK, CARD = 2880, 80
#: The cards that the merger writes into every header, and those that it may be asked to.
SEAL = (b"CHECKSUM", b"DATASUM ")
STAMPS = (b"ORIGFILE", b"ARCFILE ")

_MODULUS = 0xFFFFFFFF
_LARGE = 1 << 22
_WHOLE_NUMBER = re.compile(rb"\s*([+-]?[0-9]+)\s*(/.*)?", re.DOTALL)
_LOGICAL = re.compile(rb"\s*([TF])\s*(/.*)?", re.DOTALL)
_GOES_ON = re.compile(rb"(CONTINUE  |[^=]{8,70}= ?) *'.*&' *(/.*)?", re.DOTALL)
_OLD_WORDS = (b"FITS (Flexible Image Transport", b"and Astrophysics', volume 376",
              b"Astrophysics Supplement Series v44", b"Contact the NASA Science Office")
#: What gives meaning to a file's own structure or data: not to be found in another's header.
_OWN = re.compile(
    rb"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|BLOCKED|GROUPS|PCOUNT|GCOUNT|TFIELDS|THEAP"
    rb"|T(FORM|BCOL|TYPE)\d*|BSCALE|BZERO|BLANK|(PTYPE|PSCAL|PZERO)\d+"
    rb"|ORIGFILE|ARCFILE|DATE|CHECKSUM|DATASUM|LONGSTRN|END) *", re.IGNORECASE)


#: What describes an array, and goes with it.
_ARRAY = re.compile(
    rb"(BUNIT|DATAM(IN|AX)|(EXT|HDU)(NAME|VER|LEVEL)|WCS(AXES|NAME)[A-Z]?|(LON|LAT)POLE[A-Z]?"
    rb"|C(TYPE|UNIT|RVAL|RPIX|ROTA|DELT)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    rb"|(EQUINOX|RADESYS)[A-Z]|SPECSYS[A-Z]?|REST(FRQ|WAV)[A-Z]?|Z(IMAGE|TENSION|BITPIX|NAXIS\d*)"
    rb"|T(SCAL|ZERO|NULL|DIM|UNIT|DISP)\d+) *=",
    re.IGNORECASE)


class Unreadable(Exception):
    """These bytes are no FITS file, or one whose structure cannot be told."""


@dataclass(frozen=True)
class Unit:
    """A header-data unit.

    Attributes:
        header: whole blocks.
        cards: those before END.
        data: without fill.
        fill: of the data's last block.
        short: how many bytes of the last block were not in the file; they count as blanks in a
            header and in an ASCII table, as zeros elsewhere.
    """

    header: bytes
    cards: list[bytes]
    data: memoryview
    fill: bytes
    short: int

    @property
    def kind(self) -> bytes:
        """``SIMPLE``, or the value of XTENSION."""
        return _kind(self.cards)


def plain(blob: bytes) -> bytes:
    """Return what a file holds, gzip undone.

    Raises:
        Unreadable: the compressed file is cut or damaged.
    """
    if blob[:2] != b"\x1f\x8b":
        return blob
    found, rest = b"", blob
    while rest:
        member = zlib.decompressobj(31)
        try:
            found += member.decompress(rest)
        except zlib.error as error:
            raise Unreadable(f"gzip: {error}") from error
        if not member.eof:
            raise Unreadable("gzip: cut")
        rest = member.unused_data
    return found


def units(blob: bytes | memoryview) -> list[Unit]:
    """Split a file into its HDUs.

    Raises:
        Unreadable: it is not FITS, or cut within a header or the data proper.
    """
    found: list[Unit] = []
    view, at = memoryview(blob), 0
    while at < len(view) or not found:
        if bytes(view[at:at + 9]) != (b"XTENSION=" if found else b"SIMPLE  ="):
            raise Unreadable(f"byte {at}: no HDU {len(found)} begins here")
        one = _unit(view[at:])
        found.append(one)
        at += len(one.header) + len(one.data) + len(one.fill)
    return found


def _unit(view: memoryview) -> Unit:
    cards: list[bytes] = []
    while (card := bytes(view[len(cards) * CARD:][:CARD])).rstrip(b" ") != b"END":
        if len(card) < CARD:
            raise Unreadable("a header without END")
        cards.append(card)
    length = _whole((len(cards) + 1) * CARD)
    short = max(0, length - len(view))
    header = bytes(view[:length]) + b" " * short
    size = data_size(cards)
    data = view[length:length + size]
    if len(data) < size:
        raise Unreadable(f"{len(data)} of {size} bytes of data")
    room = _whole(size) - size
    fill = bytes(view[length + size:length + size + room])
    blank = b" " if _kind(cards) == b"TABLE" else b"\0"
    return Unit(header, cards, data, fill + blank * (room - len(fill)), short + room - len(fill))


def _whole(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _kind(cards: Sequence[bytes]) -> bytes:
    if cards[0].startswith(b"SIMPLE"):
        return b"SIMPLE"
    return cards[0][10:].partition(b"/")[0].strip(b" '")


def data_size(cards: Sequence[bytes]) -> int:
    """Return the length of the data that a header announces (equations 1, 2 and 4), bytes.

    Raises:
        Unreadable: a card that it takes is missing or no number.
    """
    primary = _kind(cards) == b"SIMPLE"
    if primary and not _is_true(cards, b"SIMPLE"):
        raise Unreadable("SIMPLE is not T")
    bits, naxis = _number(cards, b"BITPIX"), _number(cards, b"NAXIS")
    if bits not in (8, 16, 32, 64, -32, -64) or not 0 <= naxis <= 999:
        raise Unreadable(f"BITPIX is {bits}, NAXIS is {naxis}")
    axes = [_number(cards, b"NAXIS%d" % n) for n in range(1, naxis + 1)]
    if not axes:
        return 0  # whatever PCOUNT and GCOUNT say
    groups = primary and axes[:1] == [0] and _is_true(cards, b"GROUPS")
    extra = groups or not primary
    times, more = (_number(cards, b"GCOUNT", 1), _number(cards, b"PCOUNT", 0)) if extra else (1, 0)
    if min([times, more, *axes]) < 0:
        raise Unreadable("a negative size")
    values = 1
    for axis in axes[groups:]:
        values *= axis
    return abs(bits) // 8 * times * (more + values)


def _find(cards: Iterable[bytes], name: bytes) -> bytes | None:
    return next((card for card in cards if card[:9] == name.ljust(8) + b"="), None)


def _number(cards: Iterable[bytes], name: bytes, default: int | None = None) -> int:
    card = _find(cards, name)
    if card is None and default is not None:
        return default
    found = _WHOLE_NUMBER.fullmatch((card or b"")[10:])
    if not found or (card or b"")[8:10] != b"= ":
        raise Unreadable(f"{name.decode()}: {card!r}")
    return int(found[1])


def _is_true(cards: Iterable[bytes], name: bytes) -> bool:
    found = _LOGICAL.fullmatch((_find(cards, name) or b"")[10:])
    return bool(found) and found[1] == b"T"


# -- sums -----------------------------------------------------------------------------------------


def total(*pieces: bytes | memoryview) -> int:
    """Return the 32-bit ones'-complement sum of pieces of whole words (appendix J)."""
    summed = 0
    for piece in pieces:
        if len(piece) > _LARGE:
            summed += sum(_of_many(memoryview(piece)))
        else:
            summed += int.from_bytes(bytes(piece) + bytes(-len(piece) % 4), "big")
    return summed and (summed % _MODULUS or _MODULUS)


def _of_many(view: memoryview) -> Iterator[int]:
    import numpy

    for at in range(0, len(view), _LARGE):
        piece = bytes(view[at:at + _LARGE])
        yield int(numpy.frombuffer(piece + bytes(-len(piece) % 4), ">u4").sum(dtype="u8"))


def stated_sum(unit: Unit) -> bytes | None:
    """Return the text of a unit's DATASUM card; None without one."""
    card = _find(unit.cards, b"DATASUM")
    return None if card is None else card[10:].partition(b"/")[0].strip().strip(b"'").strip()


def broken_seal(unit: Unit) -> str:
    """Return what is wrong with DATASUM and CHECKSUM, which must both be there, or nothing."""
    for name in SEAL:
        count = sum(card[:9] == name + b"=" for card in unit.cards)
        if count != 1:
            return f"{count} cards {name.decode()}"
    words = len(unit.data) // 4 * 4
    data = total(unit.data[:words], bytes(unit.data[words:]) + unit.fill)
    found = re.match(rb"DATASUM = ' *([0-9]+) *'", _card(unit, b"DATASUM"))
    if not found or int(found[1]) % _MODULUS != data % _MODULUS:
        return f"the data sum to {data}, {_card(unit, b'DATASUM')!r}"
    if not re.match(rb"CHECKSUM= '[0-9A-Za-z]{16}'", _card(unit, b"CHECKSUM")):
        return f"no CHECKSUM: {_card(unit, b'CHECKSUM')!r}"
    whole = (total(unit.header) + data) % _MODULUS
    return "" if whole == 0 else f"the HDU sums to {whole}, not to -0"


def _card(unit: Unit, name: bytes) -> bytes:
    return _find(unit.cards, name) or b""


def is_sealed(unit: Unit) -> bool:
    """Whether a unit carries both sums, and both are right."""
    return not broken_seal(unit)


# -- comparisons ----------------------------------------------------------------------------------


def compare(blob: bytes | memoryview, target: bytes | None, sources: Sequence[bytes], *,
            names: tuple[str, str], stamp_all: bool = False, images: Sequence[str] = ()
            ) -> list[str]:
    """Return what is wrong with a product, in words; an empty list when it is right.

    Args:
        blob: the product.
        target: the file whose primary data and extensions it begins with; None for none.
        sources: the files whose extensions follow.
        names: ORIGFILE and ARCFILE.
        stamp_all: ORIGFILE and ARCFILE are wanted in the extensions, too.
        images: names of the sources, when their primary data are wanted as extensions.

    Raises:
        Unreadable: one of the inputs.
    """
    inputs = [units(plain(file)) for file in ([target] if target is not None else [])]
    inputs += [units(plain(file)) for file in sources]
    try:
        made = units(blob)
    except Unreadable as error:
        return [f"the product: {error}"]
    wrong = [f"HDU {n}: {reason}" for n, unit in enumerate(made) if (reason := broken_seal(unit))]
    if any(unit.short for unit in made):
        wrong.append("its last block is short")
    listed = list(images) or [""] * len(sources)
    named = ["", *listed] if target is not None else listed
    wanted = [(unit, name) for name, file in zip(named, inputs, strict=True)
              for unit in (file if name and _is_image(file[0]) else file[1:])]
    if len(made) != len(wanted) + 1:
        return [*wrong, f"{len(made)} HDUs instead of {len(wanted) + 1}"]
    for number, (got, (want, name)) in enumerate(zip(made[1:], wanted, strict=True), 1):
        found = (_same_image(got, want, name, stamp_all) if want.kind == b"SIMPLE"
                 else _same_extension(got, want, stamp_all))
        wrong += [f"HDU {number}: {text}" for text in found]
    base = inputs[0][0] if target is not None else None
    carried = [[card for card in file[0].cards if not (name and _is_image(file[0])
                                                       and _ARRAY.match(card))]
               for name, file in zip(named, inputs, strict=True)]
    return wrong + [f"primary: {text}" for text in _primary(made[0], base, carried, names)]


def _same_extension(got: Unit, want: Unit, stamp_all: bool) -> Iterator[str]:
    yield from _same_data(got, want)
    if not stamp_all and not want.short and is_sealed(want) and got.header != want.header:
        yield "came sealed and whole, and its header is another"
    ours = SEAL + (STAMPS if stamp_all else ())
    here, there = _masked(got.cards, ours), _masked(want.cards, ours)
    if any(there.count(name) > 1 for name in ours):  # only one of them may stay
        here, there = ([card for card in cards if card.strip(b" ") and card not in ours]
                       for cards in (here, there))
    if here[:len(there)] != there:
        at = next(n for n, card in enumerate(there) if here[n:n + 1] != [card])
        yield f"card {at + 1} of {len(there)} is {here[at:at + 1]}, not {there[at]!r}"
    added = here[len(there):]
    if any(card not in ours for card in added):
        yield f"cards were added: {added}"
    if stamp_all:
        yield from _stamped(got, STAMPS)


def _is_image(unit: Unit) -> bool:
    """Whether a primary HDU has data that are no random groups."""
    return bool(unit.data) and _number(unit.cards, b"NAXIS1") > 0


def _same_image(got: Unit, want: Unit, name: str, stamp_all: bool) -> Iterator[str]:
    """Compare an extension with the primary HDU that it was made of."""
    yield from _same_data(got, want)
    axes = _number(want.cards, b"NAXIS")
    shape = [_find(want.cards, b"BITPIX"), _find(want.cards, b"NAXIS"),
             *(_find(want.cards, b"NAXIS%d" % n) for n in range(1, axes + 1))]
    size = len(shape) + 3
    if (not got.cards[0].startswith(b"XTENSION= 'IMAGE   '") or got.cards[1:size - 2] != shape
            or [_number(got.cards[size - 2:size], word) for word in (b"PCOUNT", b"GCOUNT")]
            != [0, 1]):
        yield f"begins with {got.cards[:size]}"
    gone = re.compile(rb"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|N?EXTEND|BLOCKED"
                      rb"|CHECKSUM|DATASUM%s) *$" % (b"|ORIGFILE|ARCFILE" * stamp_all),
                      re.IGNORECASE)
    here, there = ([entry for entry in _joined(cards) if not gone.match(entry[:8])]
                   for cards in (got.cards[size:], want.cards))
    added = here[:len(here) - len(there)]
    if here[len(added):] != there:
        yield f"its cards are {here}, not {there}"
    if any(entry[:9] not in (b"EXTNAME =", b"EXTVER  =", b"LONGSTRN=") for entry in added):
        yield f"cards were added: {added}"
    if not any(entry[:9].upper() == b"EXTNAME =" for entry in there) and not any(
            entry.startswith(b"EXTNAME = '%-8s'" % name.encode()) for entry in added):
        yield f"is not named {name}: {added}"
    if stamp_all:
        yield from _stamped(got, STAMPS)


def _same_data(got: Unit, want: Unit) -> Iterator[str]:
    if got.data != want.data:
        yield "other data"
    elif got.fill != want.fill:
        yield "the same data, another fill"


def _masked(cards: Sequence[bytes], ours: tuple[bytes, ...]) -> list[bytes]:
    """The cards without blank ones at the end, and of ours only the name.

    A name in lower case is illegal, but who reads headers regardless of case takes it for ours.
    """
    last = max((n for n, card in enumerate(cards, 1) if card.strip(b" ")), default=0)
    return [card[:8].upper() if card[:8].upper() in ours and card[8:9] == b"=" else card
            for card in cards[:last]]


def _stamped(got: Unit, names: Iterable[bytes]) -> Iterator[str]:
    for name in names:
        count = sum(card[:9] == name + b"=" for card in got.cards)
        if count != 1:
            yield f"{count} cards {name.decode()}"


def _primary(got: Unit, base: Unit | None, carried: Sequence[Sequence[bytes]],
             names: tuple[str, str]) -> Iterator[str]:
    if base is None:
        if got.data or [card[:8] for card in got.cards[:3]] != [b"SIMPLE  ", b"BITPIX  ",
                                                                b"NAXIS   "]:
            yield "is no empty primary HDU"
    else:
        yield from _same_data(got, base)
        yield from _same_shape(got, base)
    yield from _stamped(got, (*STAMPS, b"DATE    "))
    for name, text in zip(STAMPS, names, strict=True):
        # a long name goes on in a CONTINUE card
        if not (_find(got.cards, name.rstrip()) or b"")[11:].startswith(text[:60].encode()):
            yield f"{name.decode()} is not {text}"
    whole = b"".join(got.cards)
    for entry in _entries(carried):
        if not _is_on_a_card(whole, entry):
            yield f"lost {entry[:CARD]!r}"


def _same_shape(got: Unit, base: Unit) -> Iterator[str]:
    ours, theirs = ([card for card in unit.cards if re.match(
        rb"(SIMPLE  |BITPIX  |NAXIS[ \d]{3}|GROUPS  |PCOUNT  |GCOUNT  )=", card)]
        for unit in (got, base))
    if ours != theirs:
        yield f"its structure is {ours}, not {theirs}"


def _is_on_a_card(whole: bytes, entry: bytes) -> bool:
    at = whole.find(entry)
    while at >= 0 and at % CARD:
        at = whole.find(entry, at + 1)
    return at >= 0


def _entries(carried: Sequence[Sequence[bytes]]) -> Iterator[bytes]:
    """The keywords that must be carried over as they are: those with a name of their own."""
    found: dict[bytes, list[bytes]] = {}
    for cards in carried:
        for entry in _joined(cards):
            found.setdefault(_name(entry), []).append(entry)
    for name, entries in found.items():
        if not name:
            yield from (entry for entry in entries if not _OWN.fullmatch(entry[:8])
                        and not entry[8:].strip().startswith(_OLD_WORDS))
        elif len(entries) == 1 and not _OWN.fullmatch(name):
            yield from entries


def _joined(cards: Sequence[bytes]) -> list[bytes]:
    """The cards but for blank ones, each with the CONTINUE cards behind it."""
    made: list[bytes] = []
    for card in cards:
        if card.startswith(b"CONTINUE  ") and made and _GOES_ON.fullmatch(made[-1][-CARD:]):
            made[-1] += card
        elif card.strip(b" "):
            made.append(card)
    return made


def _name(entry: bytes) -> bytes:
    """What makes two cards the same keyword; empty for commentary."""
    if entry.startswith(b"HIERARCH ") and b"=" in entry[:CARD]:
        return b" ".join(entry.partition(b"=")[0].split())
    return entry[:8].rstrip() if entry[8:10] == b"= " else b""
