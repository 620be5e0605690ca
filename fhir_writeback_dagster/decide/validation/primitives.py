"""The primitive types of R4 as JSON schemas, as strict as the text of the specification (R4, datatypes)."""

from __future__ import annotations

from typing import Any

_YEAR = r"(?:[1-9]\d{3}|0[1-9]\d{2}|00[1-9]\d|000[1-9])"
_LEAP = r"(?:(?:\d\d(?:0[48]|[2468][048]|[13579][26]))|(?:0[48]|[2468][048]|[13579][26])00)"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?"
_ZONE = r"(?:Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00))"
_MONTH = rf"{_YEAR}-(?:0[1-9]|1[0-2])"
#: R4 datatypes, string: nothing below U+0020 but tab, line feed and carriage return, and some content beside whitespace.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f]*[^\s\x00-\x1f][^\x00-\x08\x0b\x0c\x0e-\x1f]*$"
_BASE64 = (
    r"^(?:(?:\s*[0-9A-Za-z+/]){4})*(?:(?:\s*[0-9A-Za-z+/]){4}|(?:\s*[0-9A-Za-z+/]){3}\s*=|(?:\s*[0-9A-Za-z+/]){2}(?:\s*=){2})\s*$"
)
#: RFC 2045: type/subtype and parameters; `mimetypes` (BCP 13) cannot be enumerated.
_MIME_TEXT = r"^[\w.+-]+/[\w.+*-]+(?:\s*;\s*[\w.-]+=(?:[\w.:+-]+|\"[^\"]*\"))*$"


def _string(pattern: str, **more: object) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


_INT32 = 2**31 - 1
PRIMITIVES: dict[str, dict[str, Any]] = {
    "base64Binary": _string(_BASE64),
    "boolean": {"type": "boolean"},
    "canonical": _string(r"^[^\s\x00-\x1f]+$"),
    "code": _string(r"^[^\s\x00-\x1f]+(?: [^\s\x00-\x1f]+)*$"),
    "date": _string(rf"^(?:{_YEAR}|{_MONTH}|{_DAY})$"),
    "dateTime": _string(rf"^(?:{_YEAR}|{_MONTH}|{_DAY}|{_DAY}T{_TIME}{_ZONE})$"),
    "decimal": {"type": "number"},
    "id": _string(r"^[A-Za-z0-9\-.]{1,64}$"),
    "instant": _string(rf"^{_DAY}T{_TIME}{_ZONE}$"),
    "integer": {"type": "integer", "minimum": -_INT32 - 1, "maximum": _INT32},
    "markdown": _string(_TEXT, maxLength=1_048_576),
    "oid": _string(r"^urn:oid:[0-2](?:\.(?:0|[1-9]\d*))+$"),
    "positiveInt": {"type": "integer", "minimum": 1, "maximum": _INT32},
    "string": _string(_TEXT, maxLength=1_048_576),
    "time": _string(rf"^{_TIME}$"),
    "unsignedInt": {"type": "integer", "minimum": 0, "maximum": _INT32},
    "uri": _string(r"^[^\s\x00-\x1f]+$"),
    "url": _string(r"^[^\s\x00-\x1f]+$"),
    "uuid": _string(r"^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"),
    "xhtml": _string(r"^\s*<div[\s>][\s\S]*</div>\s*$|^\s*<div[^>]*/>\s*$"),
}

#: Of a `code` bound to MIME types.
MIME = _string(_MIME_TEXT)
