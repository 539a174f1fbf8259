from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daqlib import errors, names

#: What no name may be, whatever it names (a file name, an option, an escape sequence).
EVIL = ["", "/", "a/b", "..", "a..b", "../a", ".a", "-a", "--rsh=x", "a\n", "a\nb", "a\tb", "a b",
        "a\x00b", "a\x1b[2J", "é", "a;b", "a$b", "*", "a'b", "x" * 200]
LOCATIONS = ["a.fits", "./a", "../a", "/a/../b", "/..", "", "/a\nb", "/a\x7f", "-a", "host:a",
             "host:../a", "host:", "-h:/a", "--rsh=x:/a", "ho st:/a", "h\n:/a", "h;x:/a", ".h:/a",
             "a@b@c:/a", "@h:/a", "h:/a/../b", "host:/a\u202eb", "/a\u202eb"]


@pytest.mark.parametrize("check", [names.check_id, names.check_source, names.check_instrument,
                                   lambda v: names.check_prefix(v or "/")])
@pytest.mark.parametrize("value", EVIL)
def test_refuses(check: Callable[[str], str], value: str) -> None:
    with pytest.raises(errors.BadData, match="is not allowed; use"):
        check(value)


@pytest.mark.parametrize("check", [names.check_id, names.check_source, names.check_prefix,
                                   names.check_host, names.check_path, names.check_instrument])
@pytest.mark.parametrize("value", [None, 1, ["a"], {"a": 1}, True])
def test_refuses_what_is_no_text(check: Callable[[object], str], value: object) -> None:
    if value is None and check is names.check_prefix:
        return
    with pytest.raises(errors.BadData):
        check(value)


@pytest.mark.parametrize("value", ["a", "TEST.2026-11-21T02:30:00.123", "9-A_+:.", "x" * 128])
def test_allows_ids(value: str) -> None:
    assert names.check_id(value) == value


@pytest.mark.parametrize("value", ["", "_x", "T_", "a.b-c_", "0", "x" * 64])
def test_allows_prefixes(value: str) -> None:
    assert names.check_prefix(value) == value


@pytest.mark.parametrize("value", [":", "a:b", "a+b", "x" * 65, ".x"])
def test_refuses_prefixes(value: str) -> None:
    with pytest.raises(errors.BadData):
        names.check_prefix(value)


@pytest.mark.parametrize("value", ["dcs", "dcs-1.a+b", "_x", "2"])
def test_allows_sources(value: str) -> None:
    assert names.check_source(value) == value


@pytest.mark.parametrize(("value", "parts"), [
    ("/a/b.fits", ("", "/a/b.fits")),
    ("/data/X.2026-11-21T02:30:00.fits", ("", "/data/X.2026-11-21T02:30:00.fits")),
    ("host:/a", ("host", "/a")),
    ("user@host.example:/a b/c:d", ("user@host.example", "/a b/c:d")),
    (":/a", ("", "/a")),
    ("/é", ("", "/é")),
])
def test_splits_locations(value: str, parts: tuple[str, str]) -> None:
    assert names.split_location(value) == parts


@pytest.mark.parametrize("value", LOCATIONS)
def test_refuses_locations(value: str) -> None:
    with pytest.raises(errors.BadData, match="is not allowed"):
        names.split_location(value)


@pytest.mark.parametrize("value", ["-oProxyCommand=x", "a b", "a;b", "a:b", "", "a/b", "[::1]",
                                   "h" * 300, "-l@h", "a\n"])
def test_refuses_hosts(value: str) -> None:
    with pytest.raises(errors.BadData, match="host"):
        names.check_host(value)


@pytest.mark.parametrize(("value", "name"), [
    ("/a/b.fits", "b.fits"), ("/a/b/", "b"), ("x:y", "x:y"), ("/a/b c", "b c")])
def test_makes_file_names(value: str, name: str) -> None:
    assert names.file_name(value) == name


@pytest.mark.parametrize("value", ["/", "", "/a/-x", "/a/.x", "/a/..", "/a/x\ny", "/" + "x" * 201])
def test_refuses_file_names(value: str) -> None:
    with pytest.raises(errors.BadData, match="file name"):
        names.file_name(value)


def test_a_long_file_name_is_told_to_be_long() -> None:
    assert names.file_name("/" + "x" * 200) == "x" * 200
    with pytest.raises(errors.BadData, match="201 characters") as caught:
        names.file_name("/" + "x" * 201)
    assert "at most 200 characters" in caught.value.remedy
    assert len(caught.value.message) < 200


def test_the_message_is_one_printable_line() -> None:
    for value in EVIL:
        with pytest.raises(errors.BadData) as caught:
            names.check_id(value)
        assert str(caught.value).isprintable()


#: What the forms are, as regular expressions.
PATTERNS = [
    (names.ID, r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}"),
    (names.PREFIX, r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}"),
    (names.SOURCE, r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}"),
    (names.INSTRUMENT, r"[A-Za-z0-9_][A-Za-z0-9_+-]{0,31}"),
    (names.HOST, r"(?:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9_][A-Za-z0-9._-]{0,252}"),
]


@pytest.mark.parametrize(("form", "pattern"), PATTERNS)
@given(text=st.one_of(st.text(max_size=6), st.text("aZ09._:+-@\n", max_size=8), st.builds(
    lambda a, n, b: a + "x" * n + b, st.text("a.@-", max_size=2), st.integers(28, 260),
    st.text("a.@-\n", max_size=3)), st.builds(
        lambda n, m: "u" * n + "@" + "h" * m, st.integers(0, 70), st.integers(0, 260))))
def test_the_forms_are_these_patterns(form: names.Form, pattern: str, text: str) -> None:
    assert form.fullmatch(text) == (re.fullmatch(pattern, text) is not None)
