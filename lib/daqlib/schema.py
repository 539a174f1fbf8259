"""Check documents against the JSON Schemas in ``schema/``; one file per document.

``jsonschema`` costs 150 ms to import, so it is loaded by the first check and by nothing else.
"""

from __future__ import annotations

import functools
import json
import os
from typing import TYPE_CHECKING, Any

from daqlib import errors

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

_FOLDER = os.path.join(os.path.dirname(__file__), "schema")
#: The documents that have a schema.
NAMES = ("startdaqv1", "startdaqv2", "job", "dpspec", "keywords", "keyword-rules", "receivers",
         "manifest")


def load(name: str) -> dict[str, Any]:
    """Return a schema as a JSON document; one of :data:`NAMES`."""
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
    import jsonschema
    from referencing import Registry, Resource

    pairs = [(f"daqspool:{n}", Resource.from_contents(load(n))) for n in NAMES]
    registry: Registry[Any] = Registry().with_resources(pairs)
    return jsonschema.Draft202012Validator(load(name), registry=registry)


def _place(path: Any) -> str:
    return "/".join(str(step) for step in path) + ": " if path else ""


def _reason(fault: Any) -> str:
    # the value itself can be a whole document: name it only when it is short
    value = json.dumps(fault.instance, ensure_ascii=False)
    if fault.validator == "pattern" and len(value) <= 80:
        return f"{value} does not match {fault.validator_value}"
    return str(fault.message) if len(fault.message) <= 200 else f"fails '{fault.validator}'"


def unknown(name: str, document: dict[str, Any], extra: tuple[str, ...] = ()) -> list[str]:
    """Return the members of a root object that its schema does not know, to be warned about."""
    known = {*load(name).get("properties", {}), *extra}
    return sorted(set(document) - known)
