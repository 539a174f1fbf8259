"""Receivers: what each kind may say, in jobs and in the configuration, and how they are called."""

from __future__ import annotations

from typing import Any

import pytest

from daqlib import errors, job, receivers

Document = dict[str, Any]
SOURCE = {"type": "fitsKeywords", "sourceName": "k", "keywords": []}


@pytest.mark.parametrize(("receiver", "told"), [
    ({"type": "directoryReceiver", "path": "/a", "template": "../{OBJECT}"}, "component '..'"),
    ({"type": "directoryReceiver", "path": "/a", "template": "{object}"}, "{object} names nothing"),
    ({"type": "directoryReceiver", "template": "x"}, "'path' is a required property"),
    ({"type": "commandReceiver", "command": "ingest"}, "receiver command 'ingest'"),
    ({"type": "commandReceiver", "command": "/x", "args": [1]}, "is not of type 'string'"),
    ({"type": "commandReceiver", "command": "/x", "args": ["a\0b"]}, "argument"),
    ({"type": "commandReceiver", "command": "/x", "args": ["a" * 3000] * 2}, "are too long"),
    ({"type": "directoryReceiver", "path": "/a", "template": "rc"}, "does not end in .fits"),
    ({"type": "rsyncReceiver", "path": "/x"}, "neither a host nor a url"),
    ({"type": "rsyncReceiver", "url": "rsync://-h/m/"}, "host '-h'"),
    ({"type": "rsyncReceiver", "url": "http://h/m/"}, "receiver url"),
    ({"type": "rsyncReceiver", "url": "rsync://h/m/../x"}, "'..'"),
    ({"type": "rsyncReceiver", "url": "rsync://h/m/", "host": "h"}, "has host and path in it"),
    ({"type": "rsyncReceiver", "host": "h", "path": "/x", "options": {"bandwidth": 0}},
     "bandwidth"),
    ({"type": "olasReceiver", "path": "/x", "options": {"required": "yes"}}, "required"),
    ({"type": "fax", "path": "/x"}, "is not one of"),
    ({"type": "olasReceiver", "path": "/x", "options": []}, "is not of type 'object'"),
])
def test_wrong_receivers_of_jobs(receiver: Document, told: str) -> None:
    with pytest.raises(errors.BadData) as caught:
        job.check({"sources": [SOURCE], "receivers": [receiver]})
    assert told in str(caught.value)


@pytest.mark.parametrize(("receiver", "told"), [
    (7, "not known"), ({}, "not known"), ({"type": ["olasReceiver"]}, "not known"),
    ({"type": "olasReceiver"}, "olasReceiver: path is missing"),
    ({"type": "olasReceiver", "path": 7}, "path 7 is not allowed; give text"),
    ({"type": "olasReceiver", "path": "/x", "host": None}, "host None is not allowed"),
    ({"type": "olasReceiver", "path": "/x", "options": 1}, "options 1 is not allowed"),
    ({"type": "olasReceiver", "path": "/x", "options": {"allowSymlink": 1}}, "give true or false"),
    ({"type": "commandReceiver", "command": "/x", "args": "a"}, "args 'a' is not allowed"),
    ({"type": "rsyncReceiver", "url": "rsync://h/m", "options": {"bandwidth": True}}, "a number"),
])
def test_wrong_receivers_of_the_configuration(receiver: Any, told: str) -> None:
    """No schema has been asked."""
    with pytest.raises(errors.BadData) as caught:
        receivers.check(receiver)
    assert told in str(caught.value)


@pytest.mark.parametrize(("receiver", "label", "host"), [
    ({"type": "olasReceiver", "path": "/x/"}, "/x/", ""),
    ({"type": "olasReceiver", "path": "/x", "host": "u@h"}, "u@h:/x", "u@h"),
    ({"type": "directoryReceiver", "path": "/x/"}, "/x/{fileId}.fits", ""),
    ({"type": "directoryReceiver", "path": "/x", "template": "{A}.fits", "host": "h"},
     "h:/x/{A}.fits", "h"),
    ({"type": "commandReceiver", "command": "/x", "args": ["a b", "c"]}, "/x 'a b' c", ""),
    ({"type": "rsyncReceiver", "url": "rsync://u@h:1/m/d/"}, "rsync://u@h:1/m/d/",
     "rsync://u@h:1/m"),
    ({"type": "rsyncReceiver", "url": "rsync://h/m"}, "rsync://h/m", "rsync://h/m"),
])
def test_how_a_receiver_is_called(receiver: Document, label: str, host: str) -> None:
    receivers.check(receiver)
    assert (receivers.label(receiver), receivers.host(receiver)) == (label, host)


@pytest.mark.parametrize("receiver", [
    {}, {"type": 7}, {"type": "commandReceiver", "args": 7}, {"type": "rsyncReceiver", "url": "x"},
    {"type": "olasReceiver", "path": [], "options": 7}, {"type": "directoryReceiver"}])
def test_what_is_wrong_has_a_name_all_the_same(receiver: Document) -> None:
    """A job in bad/ can say anything."""
    assert receivers.label(receiver) and receivers.host(receiver) == ""
    assert receivers.option(receiver, "required", 3) == 3
    assert receivers.unknown([receiver]) == []


def test_which_are_in_effect() -> None:
    one, two = ({"type": "olasReceiver", "path": path} for path in ("/a", "/b"))
    assert receivers.in_effect({}, {}) == receivers.in_effect({"receivers": 7}, {}) == []
    assert receivers.in_effect({}, {"receivers": [one, 7, two, dict(one)]}) == [one, two]
    assert receivers.in_effect({"receivers": []}, {"receivers": [one]}) == []
    assert receivers.in_effect({"receivers": [two]}, {"receivers": [one]}) == [two]
