"""What a reference of a resource names."""

from __future__ import annotations


def referenced(reference: object, resource_type: str, base_url: str) -> str | None:
    """The id in a literal reference to ``resource_type`` on this server: ``Patient/1``, or absolute below ``base_url``."""
    text = reference.get("reference") if isinstance(reference, dict) else None
    if not isinstance(text, str):
        return None
    relative = text.removeprefix(f"{base_url}/").split("/_history/")[0]
    kind, _, found = relative.partition("/")
    return found if kind == resource_type and found and "/" not in found else None
