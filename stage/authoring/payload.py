"""Payload types: msgspec Structs, dataclasses, TypedDicts and pydantic models, to and from JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

import msgspec

from stage.core.errors import DeclarationError
from stage.wire.problem import WireError

P = TypeVar("P")

REFUSALS = (msgspec.MsgspecError, ValueError)
"""How a type refuses a payload; pydantic's error is a ValueError. Anything else is a defect."""

_encoder: Final = msgspec.json.Encoder()
_CHARS_MAX = 300
_QUOTED = re.compile(r"Invalid (?:enum )?value .*", re.DOTALL)
"""msgspec quotes a value that is none of those which an enum or a union has."""


class Codec(Generic[P]):
    """Reads and writes one payload type. Raises DeclarationError for a type it cannot handle."""

    def __init__(self, kind: type[P] | Any) -> None:
        self.kind = kind
        adapter = self._pydantic = _pydantic_adapter(kind)
        self.to_json: Callable[[P], bytes] = encode_json
        """The JSON of a value. Raises NotANumber, and what its encoder raises."""
        self.from_json: Callable[[bytes | msgspec.Raw], P]
        """A value from JSON that this codec wrote."""
        if adapter is not None:
            self.to_json = partial(_pydantic_json, adapter)
            self.from_json = lambda body: adapter.validate_json(bytes(body))
            return
        try:
            self.from_json = msgspec.json.Decoder(kind).decode
            self.schema()  # refuses a class of its own within it, which the decoder takes
        except (TypeError, NameError) as error:
            raise DeclarationError(
                f"payload type {kind!r} cannot be read from JSON: {_last_line(error)}; use a"
                " msgspec Struct, a dataclass, a TypedDict or a pydantic model"
            ) from error

    def from_data(self, data: Any) -> P:
        """A value of the type from decoded JSON; members that it does not name are left alone.

        Raises WireError (422) that names the member.
        """
        try:
            if self._pydantic is not None:
                value: P = self._pydantic.validate_python(data)
                return value
            return msgspec.convert(data, self.kind)
        except Exception as error:  # the author's own check may raise anything
            raise WireError(
                422,
                "Payload not accepted",
                f"data: {mistake_in(error)}",
                hint="GET /.well-known/stage shows the JSON Schema of what is accepted",
            ) from error

    def members(self) -> frozenset[str]:
        """The names of the members that the type reads; empty where it reads whatever comes."""
        schema = self.schema()
        reference = str(schema.get("$ref", ""))
        if reference:
            schema = schema["$defs"][reference.rpartition("/")[2]]
        return frozenset(schema.get("properties", ()))

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the type."""
        if self._pydantic is not None:
            schema: dict[str, Any] = self._pydantic.json_schema()
            return schema
        return msgspec.json.schema(self.kind)


class NotANumber(ValueError):
    """A NaN or an Infinity: JSON has none, and an encoder would write null in its place."""


def encode_json(value: Any) -> bytes:
    """The JSON of a value. Raises NotANumber, and what msgspec raises for what is no JSON."""
    body = _encoder.encode(value)
    if _may_hold_no_number(body):
        _refuse_no_number(msgspec.to_builtins(value))
    return body


def _pydantic_json(adapter: Any, value: Any) -> bytes:
    body = bytes(adapter.dump_json(value))
    if _may_hold_no_number(body):
        _refuse_no_number(adapter.dump_python(value))
    return body


def _may_hold_no_number(body: bytes) -> bool:
    """Whether it holds what encoders write for a number that JSON does not have."""
    return b"null" in body or b"NaN" in body or b"Infinity" in body


def _refuse_no_number(builtins: Any) -> None:
    nodes = [builtins]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            nodes.extend(node.values())
        elif isinstance(node, list | tuple | set | frozenset):
            nodes.extend(node)
        elif isinstance(node, float) and not math.isfinite(node):
            raise NotANumber(f"JSON has no {node}, and null would stand in its place")


def _pydantic_adapter(kind: Any) -> Any:
    if not hasattr(kind, "model_validate"):
        return None
    from pydantic import TypeAdapter  # an author's choice, not a dependency of ours

    return TypeAdapter(kind)


def _last_line(error: Exception) -> str:
    """The mistake itself; msgspec writes how to extend its decoder above it."""
    return str(error).rpartition("\n")[2]


def mistake_in(error: Exception) -> str:
    """Which member is wrong and how, without its value: a neighbour reads it (rule 38)."""
    if isinstance(error, msgspec.ValidationError):
        what, at, path = " ".join(str(error).split()).partition(" - at ")
        if error.__cause__ is not None:  # the text is that of the author's own check
            what = type(error.__cause__).__name__
        return f"{_QUOTED.sub('Invalid value', what)[:_CHARS_MAX]}{at}{path}"
    if hasattr(error, "errors"):  # pydantic's, whose text quotes the input
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        named = (f"{each['type']} at {'.'.join(map(str, each['loc']))}" for each in mistakes)
        return "; ".join(named)[:_CHARS_MAX]
    return type(error).__name__
