"""YAML files of ours, read so that every complaint names file, line and what was expected."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from fhir_writeback_dagster.errors import ConfigError, describe

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice (YAML 1.1 keeps the last, silently); `off`, `yes` and dates stay words."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, dict | list):  # `tenant: {{ name }}` of a template that nobody rendered
            raise yaml.constructor.ConstructorError(None, None, "a key that is a mapping or a list", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_PLAIN_WORDS = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:bool"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _PLAIN_WORDS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The 1-based line of the deepest part of ``loc`` that the document has."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            hit = next(((k, v) for k, v in node.value if getattr(k, "value", None) == str(part)), None)
            if hit is None:
                continue  # pydantic adds names of union members and models to a location
            line, node = hit[0].start_mark.line + 1, hit[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def load_yaml(path: Path, model: type[M]) -> M:
    """Read ``path`` into ``model`` (frozen, as it is shared): parsed anew only when the file has changed.

    Sensors read every tenant and contract every few seconds, and a contract takes 80 ms to parse (measured).

    :raises ConfigError: the file is missing, not YAML, or not as the model says; with ``file:line`` and the expectation.
    """
    try:
        at = path.stat()
    except OSError:
        return _load(path, model)
    return cast("M", _load_once(path, model, (at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)))


@lru_cache(maxsize=1024)
def _load_once(path: Path, model: type[BaseModel], _state: tuple[int, ...]) -> BaseModel:
    return _load(path, model)


def _load(path: Path, model: type[M]) -> M:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("file_missing", "there is no such file", where=str(path), fix="create it or fix the name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file_unreadable", type(error).__name__, where=str(path), fix="make it readable UTF-8") from None
    try:
        node = yaml.compose(text, _Loader)
        data = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError("bad_yaml", str(problem), where=f"{path}:{line}", fix="fix the YAML") from None
    except (RecursionError, ValueError, TypeError, OverflowError) as error:  # numbers and nesting that no configuration has
        raise ConfigError("bad_yaml", f"not YAML ({type(error).__name__})", where=f"{path}:1", fix="fix the YAML") from None
    if not isinstance(data, dict):
        raise ConfigError("bad_yaml", "expected a mapping of keys to values", where=f"{path}:1", fix="fix the YAML")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)
        complaints = "; ".join(_complaint(model, e["loc"], e["type"], e["msg"]) for e in first[:5])
        place = f"{path}:{_line(node, first[0]['loc'])}"
        raise ConfigError("bad_config", complaints, where=place, fix="fix the named key") from None
    except Exception as error:  # noqa: BLE001 - whatever one file brings about is that file's, and nobody else's
        raise ConfigError("bad_config", describe(error), where=f"{path}:1", fix="fix the file") from None


def _complaint(model: type[BaseModel], loc: tuple[int | str, ...], kind: str, message: str) -> str:
    if kind == "extra_forbidden" and (names := _names(model, loc[:-1])):
        message = f"unknown key; expected one of {', '.join(names)}"
    return f"{'.'.join(map(str, loc)) or 'file'}: {message}"


def _names(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the part of ``model`` at ``loc``, through lists and mappings; none where it is no model."""
    here: Any = model
    for part in loc:
        if isinstance(here, type) and issubclass(here, BaseModel) and part in here.model_fields:
            here = here.model_fields[str(part)].annotation
        parts = [one for one in get_args(here) if isinstance(one, type) and issubclass(one, BaseModel)]
        here = parts[0] if parts else here
    return sorted(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def line_of(path: Path, loc: tuple[int | str, ...]) -> int:
    """The 1-based line of a part of a file that :func:`load_yaml` has read, for complaints that the model cannot make."""
    return _line(yaml.compose(path.read_text(encoding="utf-8"), _Loader), loc)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes: the identity of a version of a mapping, suite or policy."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
