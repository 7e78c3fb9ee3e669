"""Whether a config's value is of the type that its field is annotated with, said in the words of a config.

pydantic judges, strictly: a text is no number, 1.5 no whole number, true no 1. Ranges are the objects' own business.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic_core import SchemaError

_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
_ONE = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null",
}  # fmt: skip
_MANY: dict[object, str] = {int: "whole numbers", float: "numbers", str: "names"}


class Misfit(NamedTuple):
    """``.key`` of the value that is wrong (of a mapping; else nothing), what it must be, and what it is."""

    key: str
    rule: str
    value: object


def misfit(factory: Callable[..., object], name: str, value: object) -> Misfit | None:
    """Why the argument `name` of `factory` cannot be `value`; None where it can, or nobody can tell.

    A list comes as a tuple (`config.instantiate`). Which of several names is right (`Literal`) the object itself tells.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return Misfit("", "finite", value)
    hint, check = _fields(factory).get(name, (None, None))
    if check is None:
        return None
    wrong = _wrong(check, value)
    if wrong is None or (isinstance(value, tuple) and _wrong(check, list(value)) is None):
        return None
    if isinstance(value, Mapping) and len(inside := get_args(hint)) == 2 and wrong and wrong[0] in value:
        return Misfit(f".{wrong[0]}", said(inside[1]), value[wrong[0]])
    return Misfit("", said(hint), value)


def _wrong(check: TypeAdapter[Any], value: object) -> tuple[int | str, ...] | None:
    """Where in `value` the first thing is that does not fit; None where all does."""
    try:
        check.validate_python(value)
    except ValidationError as error:
        found = error.errors()
        named = isinstance(value, str) and {each["type"] for each in found} == {"literal_error"}
        return None if named else found[0]["loc"]
    return None


@cache
def _fields(factory: Callable[..., object]) -> Mapping[str, tuple[object, TypeAdapter[Any]]]:
    """Argument -> its annotation and what checks it; arguments that cannot be checked are not in it."""
    plain_class = inspect.isclass(factory) and not is_dataclass(factory)
    try:
        hints = get_type_hints(factory.__init__ if plain_class else factory)  # type: ignore[misc]
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}
    found = {}
    for name in inspect.signature(factory).parameters.keys() & hints.keys():
        hint = hints[name]
        try:
            # A dataclass has its own strictness; here only an instance of it will do.
            check = TypeAdapter(InstanceOf[hint]) if is_dataclass(hint) else TypeAdapter(hint, config=_STRICT)  # type: ignore[misc, valid-type]
            found[name] = (hint, check)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, SchemaError):
            continue  # a protocol that no `isinstance` can tell
    return found


def said(hint: object) -> str:
    """An annotation as a config's reader would say it."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(said(each) for each in inside))
    if origin is Literal:
        return ("one of " if len(inside) > 1 else "") + ", ".join(map(str, inside))
    if hint in _ONE:
        return _ONE[hint]  # type: ignore[index]
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        of = inside[1] if len(inside) > 1 else object
        return "a mapping" if of in (object, Any) else f"a mapping whose values are each {said(of)}"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        of = get_origin(inside[0]) or inside[0] if inside else None
        many = "mappings" if inspect.isclass(of) and issubclass(of, Mapping) else _MANY.get(of)
        return f"a list of {many}" if many else "a list"
    name = getattr(kind, "__name__", str(kind))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name} (a mapping with _target_)"
