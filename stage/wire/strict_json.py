"""JSON that can be read in one way only (RFC 7493), or not at all (rule 25).

Codes: 413 for a body over its limit; 400 for what is not I-JSON: empty, a byte order mark, not
UTF-8, not JSON, NaN and Infinity, text behind the value, a member named twice, a lone surrogate, a
number that a double does not hold as it is written (protocol 3.1); 422 for good JSON that we do
not take: not an object, too deep, too many values, a string too long. JSON that is nested too deep
or holds too many values to be parsed at all is 422, whatever stands behind.

A double holds a number when reading it and writing it again gives the same number: integers up to
2**53 - 1 either way, decimals of at most 15 significant digits and many longer ones. Any other
number would be changed in silence by some reader in the chain.

The good case is one pass of the C decoder, one walk over the containers, one count and one search
in the body. Only when these leave a doubt is the body read a second time.
"""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from stage.wire.flood import has_more_exponents, has_more_values
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.problem import WireError

INTEGER_MAX = 2**53 - 1
INTEGER_MIN = -INTEGER_MAX

_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
_QUOTED_CHARS_MAX = 100
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)

# A number with more than 15 significant digits, or with an exponent: it may be rounded. Strings
# that look like one are found as well, which only costs the second reading.
_MAY_BE_ROUNDED = re.compile(rb"[:,\[ \t\r\n]-?(?:[0-9.]{17}|[0-9.]+[eE])")
# The pattern for what our own encoder wrote: a float that is a whole number, such as 1.0 or 1e22.
_WHOLE_FLOAT = re.compile(rb"[:,\[]-?[0-9]+(?:\.0[,\]}]|(?:\.[0-9]+)?e)")
# Both of them need one of these. To look for them in a body with a 0 for each digit and each point
# takes a tenth of their time, and most bodies have none.
_AS_ZERO = bytes.maketrans(b"123456789.E", b"0000000000e")
_LONG, _EXPONENTIAL = b"0" * 17, b"0e"
_LONG_INTEGER = b"0" * 16
"""As many digits as INTEGER_MAX has."""
PLAIN_BYTES_MAX = 4_096
PLAIN_BRACKETS_MAX = 16

_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder(order="deterministic")


def decode_object(body: bytes, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The JSON object in a body. Raises WireError, and nothing else, for whatever is not one."""
    if len(body) > limits.body_bytes_max:
        raise WireError(
            413,
            "Body too large",
            f"the body has {len(body)} bytes",
            hint=f"send at most {limits.body_bytes_max} bytes",
        )
    refuse_flood(body, limits)
    try:
        value = _decoder.decode(body)
    except RecursionError:
        _refuse_depth(limits)
    except (msgspec.MsgspecError, ValueError):
        _explain(body, limits)
    if type(value) is not dict:
        raise WireError(
            422, "Not an object", f"the body holds {_kind_of(value)}", hint="send one JSON object"
        )
    members = members_kept(value, limits)
    # A string is never longer than the body it came in.
    if len(body) > limits.string_chars_max:
        _check_strings(value, limits)
    # The decoder keeps one member of each name: as many kept as written, then none was repeated.
    if members_written(body) != members:
        _refuse_duplicates(body, limits)
    if may_be_rounded(body):
        refuse_rounded(body, limits)
    return value


def refuse_flood(body: bytes, limits: Limits) -> None:
    """Raise WireError (422) for a body of too many values or exponents, before they are made."""
    if has_more_values(body, limits.values_max):
        _refuse_values(limits)
    if has_more_exponents(body, limits.exponents_max):
        _refuse_exponents(limits)


def may_be_rounded(body: bytes) -> bool:
    """False when every number of the body is certainly held by a double as it is written."""
    zeros = body.translate(_AS_ZERO)
    doubt = _LONG in zeros or _EXPONENTIAL in zeros
    return doubt and _MAY_BE_ROUNDED.search(body) is not None


def refuse_rounded(body: bytes, limits: Limits) -> None:
    """Raise WireError (400) for a number that a double rounds. The body is known to be JSON."""
    try:
        json.loads(body.decode(), parse_int=str, parse_float=_unrounded)
    except RecursionError:  # the caller's own stack is nearly used up
        _refuse_depth(limits)


def members_written(body: bytes) -> int:
    """The number of members that a body of JSON writes; more where a string looks like one."""
    # Every member has its name's closing quote, and the colon, with nothing but space between.
    return body.translate(None, _SPACE).count(b'":')


def members_kept(root: dict[str, Any], limits: Limits, levels_above: int = 0) -> int:
    """The number of members of a decoded object and of all below it, level by level.

    Raises WireError for an object that is too deep or holds too many values, and for integers that
    are too large.
    """
    members = 0
    left = limits.values_max
    level: list[Any] = [root]
    for _ in range(limits.depth_max - levels_above):
        below: list[Any] = []
        for node in level:
            left -= len(node)
            if left < 0:
                _refuse_values(limits)
            if type(node) is dict:
                members += len(node)
                node = node.values()
            for item in node:
                kind = type(item)
                if kind is dict or kind is list:
                    below.append(item)
                elif kind is int and not INTEGER_MIN <= item <= INTEGER_MAX:
                    _refuse_number(str(item))
        if not below:
            return members
        level = below
    _refuse_depth(limits)


def values_kept(root: Any) -> int:
    """The number of members and items of decoded JSON, at every level."""
    values = 0
    nodes: list[Any] = [root] if isinstance(root, dict | list) else []
    while nodes:
        node = nodes.pop()
        values += len(node)
        below = node.values() if type(node) is dict else node
        nodes.extend(item for item in below if type(item) is dict or type(item) is list)
    return values


def encode_object(value: Any, data: Any) -> bytes:
    """The JSON of a value: the same value, the same bytes. `data` is what others put into it.

    Members of objects are sorted, those of Structs stand as declared. Raises ValueError for what
    cannot be read back whatever the limits: NaN and Infinity (which the encoder would turn into
    null), lone surrogates, integers beyond 2**53 - 1, names that are not strings, foreign types.
    """
    try:
        body = _encoder.encode(value)
    except RecursionError:
        raise ValueError("nested too deep for JSON, or within itself") from None
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None
    _check_sayable(data)
    return body


def is_plain(body: bytes) -> bool:
    """True when `decode_object` certainly takes JSON of our encoder, within some objects more.

    It is small, flat, and has neither an exponent nor a long number, in no text either.
    """
    zeros = body.translate(_AS_ZERO)
    return (
        len(body) <= PLAIN_BYTES_MAX
        and body.count(b"{") + body.count(b"[") <= PLAIN_BRACKETS_MAX
        and _LONG_INTEGER not in zeros
        and _EXPONENTIAL not in zeros
    )


def encode_canonical(data: Any) -> bytes:
    """The JSON of data in which equal numbers are written in one way: 1, 1.0 and 1e0 are 1.

    For comparing payloads that `decode_object` has read: JSON libraries write a number that they
    read as they like.
    """
    body = _encoder.encode(data)
    doubt = b".0" in body or _EXPONENTIAL in body.translate(_AS_ZERO)
    if not doubt or _WHOLE_FLOAT.search(body) is None:
        return body
    return _encoder.encode(_whole(data))


def _whole(node: Any) -> Any:
    """The value with every float that is a whole number, and exact, as an integer."""
    if isinstance(node, dict):
        return {name: _whole(item) for name, item in node.items()}
    if isinstance(node, list | tuple):
        return [_whole(item) for item in node]
    if type(node) is float and node.is_integer() and INTEGER_MIN <= node <= INTEGER_MAX:
        return int(node)
    return node


def quoted(text: str) -> str:
    """Foreign text as it may stand in a message: plain ASCII, escaped, cut."""
    return json.dumps(text[:_QUOTED_CHARS_MAX] + ("..." if len(text) > _QUOTED_CHARS_MAX else ""))


def _check_strings(root: dict[str, Any], limits: Limits) -> None:
    chars_max = limits.string_chars_max
    nodes: list[Any] = [root]
    while nodes:
        node = nodes.pop()
        if type(node) is dict:
            nodes.extend(node)
            nodes.extend(node.values())
        elif type(node) is list:
            nodes.extend(node)
        elif type(node) is str and len(node) > chars_max:
            raise WireError(
                422,
                "String too long",
                f"a string has {len(node)} characters: {quoted(node)}",
                hint=f"send strings of at most {chars_max} characters",
            )


def _check_sayable(root: Any) -> None:
    level: list[Any] = [root if type(root) is dict else (root,)]
    while level:
        below: list[Any] = []
        for node in level:
            for item in node.values() if type(node) is dict else node:
                kind = type(item)
                if kind is str:
                    continue
                if kind is dict or kind is list or kind is tuple:
                    below.append(item)
                elif (kind is float and not math.isfinite(item)) or (
                    kind is int and not INTEGER_MIN <= item <= INTEGER_MAX
                ):
                    raise ValueError(
                        "JSON holds no NaN, no Infinity and no integer beyond 2**53 - 1"
                    )
        level = below


def _refuse_duplicates(body: bytes, limits: Limits) -> None:
    """Refuse a member that is named twice in one object. The body is known to be JSON."""

    def members(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise WireError(
                    400,
                    "Member named twice",
                    f"the member {quoted(name)} stands twice in one object",
                    hint="readers would not agree on which one holds: send it once",
                )
            seen.add(name)

    try:
        # Numbers are left as text: they were judged already.
        json.loads(body.decode(), object_pairs_hook=members, parse_int=str, parse_float=str)
    except RecursionError:  # the caller's own stack is nearly used up
        _refuse_depth(limits)


def _explain(body: bytes, limits: Limits) -> NoReturn:
    """Say what is wrong with a body that the decoder refused. Not on the hot path."""
    if not body.strip(_SPACE):
        raise WireError(400, "Empty body", "the body is empty", hint="send one JSON object")
    if body.startswith(_BOM):
        raise WireError(
            400,
            "Byte order mark",
            "the body begins with a byte order mark",
            hint="send UTF-8 without a byte order mark",
        )
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise WireError(
            400,
            "Not UTF-8",
            f"the body is not UTF-8 at byte {error.start}",
            hint="send JSON in UTF-8",
        ) from None
    try:
        # The lenient reader tells apart what the strict one only refuses.
        json.loads(text, parse_constant=_refuse_constant, parse_int=str, parse_float=_unrounded)
    except RecursionError:
        _refuse_depth(limits)
    except json.JSONDecodeError as error:
        raise _not_json(error) from None
    if _LONE_SURROGATE.search(text):
        raise WireError(
            400,
            "Lone surrogate",
            "a string holds half of a surrogate pair",
            hint="escape characters beyond U+FFFF as two halves, or send them as UTF-8",
        )
    _refuse_number()


def _not_json(error: json.JSONDecodeError) -> WireError:
    if error.msg == "Extra data":
        return WireError(
            400,
            "Text behind the value",
            f"more text begins at character {error.pos}",
            hint="send one JSON object and nothing else",
        )
    return WireError(
        400,
        "Not JSON",
        f"{error.msg} at character {error.pos}",
        hint="send one JSON object (RFC 8259)",
    )


def _refuse_constant(name: str) -> NoReturn:
    raise WireError(400, "Not a number", f"{name} is not JSON", hint="send null, or a number")


def _unrounded(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or Decimal(text) != Decimal(repr(number)):
        _refuse_number(text)
    return number


def _refuse_number(text: str = "") -> NoReturn:
    raise WireError(
        400,
        "Number out of range",
        f"the number {text[:_QUOTED_CHARS_MAX] or 'in the body'} is not kept as it is written",
        hint="send integers up to 2**53 - 1 and decimals of at most 15 digits, or use strings",
    )


def _refuse_depth(limits: Limits) -> NoReturn:
    raise WireError(
        422,
        "Nested too deep",
        f"the body is nested deeper than {limits.depth_max} levels",
        hint=f"send at most {limits.depth_max} levels, the outermost object counted",
    )


def _refuse_values(limits: Limits) -> NoReturn:
    raise WireError(
        422,
        "Too many values",
        f"the body holds more than {limits.values_max} members and items",
        hint=f"send at most {limits.values_max}; put long lists elsewhere, and send their address",
    )


def _refuse_exponents(limits: Limits) -> NoReturn:
    raise WireError(
        422,
        "Too many exponents",
        f"more than {limits.exponents_max} numbers of the body have a large exponent",
        hint="each takes long to read: send them without, or as strings",
    )


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "a number"
