"""Bodies of requests: JSON within bounds, in the form that the operation asks for, or a 400 that says what is wrong with it."""
from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from common.errors import BadRequest, BodyTooLarge

BODY_BYTES_MAX = 114_688                 # as identity services have it; none of our bodies comes near
_DIGITS_MAX = 100
_DEPTH_MAX = 24
_ITEMS_MAX = 20_000
_SHOWN_CHARS = 120


class BodySchema:
    """A compiled JSON schema."""

    __slots__ = ("_validator", "schema")

    def __init__(self, schema: Mapping[str, Any]) -> None:
        Draft202012Validator.check_schema(schema)
        self.schema = schema
        self._validator = Draft202012Validator(schema)

    def check(self, body: object) -> None:
        """Raises `BadRequest` that names the field."""
        if self._validator.is_valid(body):
            return
        error = best_match(self._validator.iter_errors(body))
        assert error is not None
        raise BadRequest(reason=_explain(error)).because("request.schema", field=_path(error))


def parse_json(raw: bytes, *, bytes_max: int = BODY_BYTES_MAX, what: str = "The request body") -> Any:
    """The value of a body, or of JSON inside one: `what` names it, at the beginning of a sentence.

    Raises `BodyTooLarge`, and `BadRequest` for what is no JSON, too deep, or no text that can be stored.
    """
    if len(raw) > bytes_max:
        raise BodyTooLarge(reason=f"Request is too large: a body has at most {bytes_max} bytes.")
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise BadRequest(reason=f"{what} is nested too deeply.") from error
    except ValueError as error:
        raise BadRequest(reason=f"{what} is not valid JSON: {str(error)[:_SHOWN_CHARS]}") from error
    _check_bounds(value, what)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _whole(text: str) -> int:
    """What no database holds is refused in words of ours: Python's own tell of its settings."""
    if len(text) > _DIGITS_MAX:
        raise ValueError("a number has too many digits")
    return int(text)


def _finite(text: str) -> float:
    """1e999 is JSON, but what it becomes here could neither be stored nor shown as JSON again."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _check_bounds(value: Any, what: str) -> None:
    """Breadth first, so that depth costs no stack."""
    level, count = [value], 0
    for _ in range(_DEPTH_MAX + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key, inner in item.items():
                    _check_text(key, what)
                    below.append(inner)
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _check_text(item, what)
            elif isinstance(item, int) and not -(1 << 63) <= item < 1 << 63:
                raise BadRequest(reason=f"{what} has a number that is too large.")
        count += len(below)
        if count > _ITEMS_MAX:
            raise BadRequest(reason=f"{what} has too many values.")
        if not below:
            return
        level = below
    raise BadRequest(reason=f"{what} is nested too deeply.")


def _check_text(text: str, what: str) -> None:
    if text.isascii() and "\0" not in text:
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(reason=f"{what} has a string that is not valid Unicode.") from error
    if "\0" in text:
        raise BadRequest(reason=f"{what} has a string with a NUL character.")


def _path(error: ValidationError) -> str:
    return "/".join(str(part) for part in error.absolute_path)


def _explain(error: ValidationError) -> str:
    """Without the value: it may be a password, and it may be long."""
    where = _path(error) or "the request body"
    rule, want = str(error.validator), cast(Any, error.validator_value)
    if rule == "required":
        missing = [name for name in want if not isinstance(error.instance, Mapping) or name not in error.instance]
        return f"{missing[0] if missing else 'a field'!r} is a required property of {where}."
    if rule == "additionalProperties":
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        extra = sorted(str(name)[:64] for name in cast(Any, error.instance) if name not in known)
        return f"{', '.join(extra)[:_SHOWN_CHARS]} is not a property that {where} may have."
    shown = {"type": f"must be of type {want if isinstance(want, str) else ' or '.join(map(str, want))}" if rule == "type" else "",
             "enum": f"must be one of {want}", "minLength": "is too short", "maxLength": f"is longer than {want} characters",
             "pattern": f"does not match {want!r}", "minimum": f"is less than {want}", "maximum": f"is greater than {want}",
             "minItems": "has too few items", "maxItems": "has too many items", "uniqueItems": "has items that are not unique",
             "minProperties": "is empty"}.get(rule, "is not valid here")
    return f"Invalid input for field '{where}': the value {shown}."


def properties(fields: Mapping[str, Mapping[str, Any]], required: Iterable[str] = (), *, is_closed: bool = False) -> dict[str, Any]:
    """The schema of an object."""
    return {"type": "object", "properties": dict(fields), "required": list(required), "additionalProperties": not is_closed}


def wrapped(name: str, inner: Mapping[str, Any]) -> BodySchema:
    """{"user": {...}}: the usual form of a body."""
    return BodySchema(properties({name: inner}, (name,)))


STRING: Mapping[str, Any] = {"type": "string", "maxLength": 65_536}
TEXT: Mapping[str, Any] = {"type": ["string", "null"], "maxLength": 65_536}
BOOLEAN: Mapping[str, Any] = {"type": "boolean"}
ID: Mapping[str, Any] = {"type": "string", "minLength": 1, "maxLength": 255}
ID_OR_NULL: Mapping[str, Any] = {"type": ["string", "null"], "minLength": 1, "maxLength": 255}


def name_of(chars_max: int) -> dict[str, Any]:
    """A name: some visible character, at most so many."""
    return {"type": "string", "minLength": 1, "maxLength": chars_max, "pattern": r"[\S]"}
