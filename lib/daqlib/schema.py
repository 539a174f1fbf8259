"""Check documents against the JSON Schemas in ``schema/``; one file per document.

``jsonschema`` costs 150 ms to import, so it is loaded by the first check and by nothing else.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from daqlib import errors

if TYPE_CHECKING:
    from jsonschema.protocols import Validator
    from referencing import Registry

_FOLDER = os.path.join(os.path.dirname(__file__), "schema")
#: The documents that have a schema.
NAMES = ("startdaqv1", "startdaqv2", "job", "dpspec", "keywords", "keyword-rules", "receivers",
         "manifest")


@functools.cache
def load(name: str) -> dict[str, Any]:
    """Return a schema as a JSON document, not to be changed; one of :data:`NAMES`."""
    with open(os.path.join(_FOLDER, f"{name}.json"), encoding="utf-8") as file:
        document: dict[str, Any] = json.load(file)
    return document


def check(name: str, document: Any, what: str) -> None:
    """Check a document.

    Args:
        name: the schema, one of :data:`NAMES`.
        document: parsed JSON.
        what: how to call the document in an error.

    Raises:
        errors.BadData: it does not fit; names the place and the rule.
    """
    faults = [f"{_place(fault.absolute_path)}{_reason(fault)}"
              for fault in _validator(name).iter_errors(document)]
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        remedy = "see docs/formats.md" if name == "job" else f"see the schema {name}"
        raise errors.BadData(f"{what} is not valid: {'; '.join(sorted(set(faults))[:3])}{more}",
                             remedy)


@functools.cache
def _validator(name: str) -> Validator:
    from jsonschema import Draft202012Validator, validators

    extend: Callable[..., Any] = validators.extend
    kind: type[Validator] = extend(Draft202012Validator, {"allOf": _all_of})
    return kind(_own(name), registry=_registry())


@functools.cache
def _registry() -> Registry[Any]:
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    empty: Registry[Any] = Registry()
    return empty.with_resources(
        (f"daqspool:{name}", DRAFT202012.create_resource(_own(name))) for name in NAMES)


def _own(name: str) -> dict[str, Any]:
    # without "$schema", which would bring the general validator back behind every reference
    return {key: value for key, value in load(name).items() if key != "$schema"}


def _all_of(validator: Any, members: list[Any], instance: Any, _schema: Any) -> Iterator[Any]:
    """Check against each member; of "if the type is so, then ..." only against the right one.

    That is what the standard says, but without a general answer to every ``if``, which would cost
    half of the time that a check takes.
    """
    kind = instance.get("type") if isinstance(instance, dict) else None
    for number, member in enumerate(members):
        wanted = _type_wanted(member)
        if wanted is None:
            yield from validator.descend(instance, member, schema_path=number)
        elif wanted == kind:
            yield from validator.descend(instance, member["then"], schema_path=number)


def _type_wanted(member: Any) -> str | None:
    """Return the ``type`` that ``if`` asks for, or None when it asks anything else."""
    try:
        wanted = str(member["if"]["properties"]["type"]["const"])
    except (KeyError, TypeError):
        return None
    asked = {"properties": {"type": {"const": wanted}}, "required": ["type"]}
    return wanted if member == {"if": asked, "then": member.get("then")} else None


def _place(path: Any) -> str:
    return "/".join(str(step) for step in path) + ": " if path else ""


def _reason(fault: Any) -> str:
    # the value itself can be a whole document: name it only when it is short
    value = json.dumps(fault.instance, ensure_ascii=False)
    if fault.validator == "pattern" and len(value) <= 80:
        wanted = fault.schema.get("wanted")  # ours: the pattern in words
        return f"{value} is not {wanted}" if wanted else (
            f"{value} does not match {fault.validator_value}")
    return str(fault.message) if len(fault.message) <= 200 else f"fails '{fault.validator}'"


def unknown(name: str, document: dict[str, Any], extra: tuple[str, ...] = ()) -> list[str]:
    """Return the members of a root object that its schema does not know, to be warned about."""
    known = {*load(name).get("properties", {}), *extra}
    return sorted(set(document) - known)


def unknown_in_job(document: dict[str, Any]) -> list[str]:
    """Return the members that neither a StartDaqV2 specification, a job, nor a source of them has.

    Args:
        document: valid or not.
    """
    found = unknown("startdaqv2", document, (*load("job")["properties"], "version"))
    sources = document.get("sources")
    for number, source in enumerate(sources if isinstance(sources, list) else ()):
        known = _members_of_source(source.get("type")) if isinstance(source, dict) else set()
        if known:
            found += sorted(f"sources/{number}/{member}" for member in set(source) - known)
    return found


def _members_of_source(kind: Any) -> set[str]:
    definitions = load("startdaqv2")["$defs"]
    for rule in definitions["Source"]["allOf"]:
        if rule["if"]["properties"]["type"]["const"] == kind:
            return {"type", *definitions[rule["then"]["$ref"].rpartition("/")[2]]["properties"]}
    return set()
