"""F11: a fixed corpus of malformed HTTP and JSON, each with the code of its refusal.

A case is the bytes of one request. `sent` counts those of a whole request; one without its end is
refused while the rest is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

TRAIL = b'[{"stage":"order","at":"2026-11-23T02:29:58.120Z"}]'
DATA = b'{"order_id":"o-1","amount":100,"currency":"KRW"}'
JSON = b"Content-Type: application/json"


class Malformed(NamedTuple):
    """One request that must not get in, and its refusal."""

    name: str
    sent: bytes
    code: int


def request(
    body: bytes = b"",
    *headers: bytes,
    line: bytes = b"POST /sagas HTTP/1.1",
    usual: bool = True,
    length: bool = True,
) -> bytes:
    """A request; `usual` adds Host and Content-Type, `length` the length of its body."""
    lines = [line]
    lines += [b"Host: 127.0.0.1", JSON] if usual else []
    lines += headers
    lines += [b"Content-Length: %d" % len(body)] if length else []
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def start(
    saga_id: bytes = b'"m-1"', data: bytes = DATA, trail: bytes = TRAIL, more: bytes = b""
) -> bytes:
    """The body of a start."""
    return b'{"saga_id":%s,"data":%s,"trail":%s%s}' % (saga_id, data, trail, more)


NOT_JSON = {
    "empty": b"",
    "space": b" \r\n\t ",
    "open object": b"{",
    "open string": b'{"saga_id":"m-1',
    "half a member": b'{"saga_id":',
    "half a word": start(data=b'{"a":tru}'),
    "single quotes": b"{'saga_id':'m-1'}",
    "comma at the end": start(data=b'{"a":1,}'),
    "comma in a list": start(data=b'{"a":[1,]}'),
    "comment": start(data=b'{"a":1/* one */}'),
    "NaN": start(data=b'{"a":NaN}'),
    "Infinity": start(data=b'{"a":Infinity}'),
    "minus Infinity": start(data=b'{"a":-Infinity}'),
    "leading zero": start(data=b'{"a":01}'),
    "plus": start(data=b'{"a":+1}'),
    "bare fraction": start(data=b'{"a":.5}'),
    "bare point": start(data=b'{"a":1.}'),
    "hexadecimal": start(data=b'{"a":0x10}'),
    "control character": start(data=b'{"a":"\x01"}'),
    "line break in a string": start(data=b'{"a":"\n"}'),
    "unknown escape": start(data=b'{"a":"\\x41"}'),
    "half an escape": start(data=b'{"a":"\\u00"}'),
    "lone high surrogate": start(data=b'{"a":"\\ud800"}'),
    "lone low surrogate": start(data=b'{"a":"\\udc00x"}'),
    "two values": start() + start(),
    "text behind": start() + b"x",
    "byte order mark": b"\xef\xbb\xbf" + start(),
    "UTF-16": start().decode().encode("utf-16"),
    "Latin-1": start(data=b'{"a":"\xe9"}'),
    "overlong UTF-8": start(data=b'{"a":"\xc0\xaf"}'),
    "surrogate in UTF-8": start(data=b'{"a":"\xed\xa0\x80"}'),
    "NUL": start() + b"\x00",
    "member twice": start(more=b',"data":{}'),
    "member of data twice": start(data=b'{"amount":1,"amount":2}'),
    "member twice, once escaped": start(data=b'{"amount":1,"\\u0061mount":2}'),
    "integer of 54 bits": start(data=b'{"a":9007199254740993}'),
    "number too large": start(data=b'{"a":1e400}'),
    "number that is rounded": start(data=b'{"a":0.12345678901234567890}'),
    "name without quotes": b"{saga_id:1}",
    "XML": b"<saga/>",
}
"""400: no JSON, or JSON that two readers understand in two ways."""

NOT_TAKEN = {
    "array": b"[]",
    "string": b'"m-1"',
    "number": b"1",
    "null": b"null",
    "true": b"true",
    "no saga id": b'{"data":{}}',
    "no data": b'{"saga_id":"m-1"}',
    "saga id as a number": start(b"1"),
    "saga id null": start(b"null"),
    "empty saga id": start(b'""'),
    "saga id with a blank": start(b'"a b"'),
    "saga id with a slash": start(b'"a/b"'),
    "saga id of dots": start(b'".."'),
    "saga id with a line break": start(b'"a\\nb"'),
    "saga id beyond ASCII": start('"s\u00e4ga"'.encode()),
    "saga id too long": start(b'"' + b"m" * 129 + b'"'),
    "data null": start(data=b"null"),
    "data as an array": start(data=b"[]"),
    "data as a string": start(data=b'"x"'),
    "trail as an object": start(trail=b"{}"),
    "trail of strings": start(trail=b'["order"]'),
    "trail without a stage": start(trail=b'[{"at":"2026-11-23T02:29:58.120Z"}]'),
    "trail with a bad name": start(trail=b'[{"stage":"Or der","at":"2026-11-23T02:29:58.120Z"}]'),
    "trail too long": start(trail=b"[" + b",".join([TRAIL[1:-1]] * 65) + b"]"),
    "deadline as a word": start(more=b',"deadline":"tomorrow"'),
    "deadline without a zone": start(more=b',"deadline":"2026-11-23T02:29:58"'),
    "too deep": start(data=b'{"a":' + b"[" * 40 + b"]" * 40 + b"}"),
    "too many values": start(data=b'{"a":[' + b",".join([b"1"] * 20_001) + b"]}"),
    "too many exponents": start(data=b'{"a":[' + b",".join([b"1e99"] * 1_001) + b"]}"),
    "string too long": start(data=b'{"a":"' + b"x" * 65_537 + b'"}'),
    "name too long": start(data=b'{"' + b"x" * 65_537 + b'":1}'),
    "amount as a word": start(data=b'{"order_id":"o","amount":"x","currency":"KRW"}'),
    "amount missing": start(data=b'{"order_id":"o","currency":"KRW"}'),
    "own member taken": start(data=DATA[:-1] + b',"payment":{}}'),
}
"""422: JSON that is no start, or no payload of this stage."""

GOOD = start()
HEADERS = {
    "plain text": ((b"Content-Type: text/plain",), 415),
    "a form": ((b"Content-Type: application/x-www-form-urlencoded",), 415),
    "multipart": ((b"Content-Type: multipart/form-data; boundary=x",), 415),
    "another charset": ((b"Content-Type: application/json; charset=latin-1",), 415),
    "UTF-16 by its type": ((b"Content-Type: application/json; charset=utf-16",), 415),
    "no type": ((), 415),
    "gzip": ((JSON, b"Content-Encoding: gzip"), 415),
    "brotli": ((JSON, b"Content-Encoding: br"), 415),
    "an unknown encoding": ((JSON, b"Content-Encoding: x"), 415),
    "another key": ((JSON, b"Idempotency-Key: m-2"), 422),
    "two keys": ((JSON, b"Idempotency-Key: m-1", b"Idempotency-Key: m-2"), 422),
    "a budget in words": ((JSON, b"Saga-Budget-Ms: soon"), 400),
    "a negative budget": ((JSON, b"Saga-Budget-Ms: -1"), 400),
    "a fraction of a budget": ((JSON, b"Saga-Budget-Ms: 1.5"), 400),
    "a budget too long": ((JSON, b"Saga-Budget-Ms: 1" + b"0" * 15), 400),
    "a foreign page": ((JSON, b"Origin: https://evil.example"), 403),
    "another site": ((JSON, b"Sec-Fetch-Site: cross-site"), 403),
    "an unknown expectation": ((JSON, b"Expect: 200-ok"), 417),
    "an expectation that is no text": ((JSON, b"Expect: 200-\xffok"), 417),
}
"""By name: the headers beside Host, and the code."""

CHUNKED = b"Transfer-Encoding: chunked"
FRAMES = {
    "no HTTP": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40 + b"\r\n\r\n",
    "no version": request(line=b"GET /healthz"),
    "version 9": request(line=b"GET /healthz HTTP/9.9"),
    "version in words": request(line=b"GET /healthz HTTP/one"),
    "a blank in the target": request(line=b"GET /heal thz HTTP/1.1"),
    "a byte beyond ASCII in the method": request(line=b"G\xffT /healthz HTTP/1.1"),
    "a target too long": request(line=b"GET /" + b"x" * 9_000 + b" HTTP/1.1"),
    "a header without a colon": request(GOOD, b"Bad Header"),
    "a blank before the colon": request(GOOD, b"X-Y : 1"),
    "a header with NUL": request(GOOD, b"X-Y: a\x00b"),
    "a header without a name": request(GOOD, b": x"),
    "a header too long": request(GOOD, b"X-Y: " + b"x" * 9_000),
    "a length in words": request(GOOD, b"Content-Length: two", length=False),
    "a negative length": request(GOOD, b"Content-Length: -2", length=False),
    "a length with a plus": request(GOOD, b"Content-Length: +2", length=False),
    "a length in hexadecimal": request(GOOD, b"Content-Length: 0x10", length=False),
    "two lengths": request(GOOD, b"Content-Length: 1"),
    "a length and chunks": request(b"0\r\n\r\n", CHUNKED),
    "chunked twice": request(b"0\r\n\r\n", CHUNKED, CHUNKED, length=False),
    "an unknown transfer encoding": request(b"0\r\n\r\n", b"Transfer-Encoding: gzip", length=False),
    "a chunk of no size": request(b"zz\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
    "a chunk of negative size": request(b"-2\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
    "a chunk longer than it says": request(b"1\r\n{}\r\n0\r\n\r\n", CHUNKED, length=False),
}
"""400 of the parser, all of them."""

PATHS = {
    "an unknown path": (b"GET /nothing", 404),
    "a slash at the end": (b"GET /sagas/", 404),
    "no saga id": (b"GET /sagas//compensate", 404),
    "an unknown verb": (b"POST /sagas/m-1/explode", 404),
    "another method": (b"DELETE /sagas", 405),
    "HEAD": (b"HEAD /sagas/m-1", 405),
    "a saga never seen": (b"GET /sagas/m-never", 404),
    "a saga id with a blank": (b"GET /sagas/a%20b", 422),
    "an unknown view": (b"GET /sagas/m-1?view=inside", 400),
    "a limit of none": (b"GET /sagas?limit=0", 400),
    "a limit in words": (b"GET /sagas?limit=all", 400),
    "an unknown state": (b"GET /sagas?state=lost", 400),
    "a journal behind nothing": (b"GET /sagas/m-1?view=journal&after=-1", 400),
    "since a word": (b"GET /sagas?since=ever&with=order", 400),
}

COMMANDS = {
    "no JSON": (b"compensate", b"{", 400),
    "an array": (b"compensate", b"[]", 422),
    "an unknown member": (b"compensate", b'{"requested_by":"order","why":"x"}', 422),
    "a reason as a number": (b"compensate", b'{"requested_by":"order","reason":1}', 422),
    "a reason too long": (b"compensate", b'{"reason":"%s"}' % (b"x" * 1_001), 422),
    "an outcome that is none": (b"compensate", b'{"outcome":"maybe"}', 422),
    "too large": (b"compensate", b'{"reason":"x"%s}' % (b" " * 40_000), 413),
    "settled without a step": (b"settle", b'{"reason":"x","actor":"a"}', 422),
    "forgotten without a reason": (b"forget", b"{}", 422),
    "a verb that is no JSON": (b"retry", b"yes", 400),
}


def corpus() -> Iterator[Malformed]:
    """All cases, each with a name of its own."""
    for name, body in NOT_JSON.items():
        yield Malformed(f"not JSON: {name}", request(body), 400)
    for number, (name, body) in enumerate(NOT_TAKEN.items()):
        own = body.replace(b'"m-1"', b'"untaken-%d"' % number)  # each is buried (decision 0051)
        yield Malformed(f"not taken: {name}", request(own), 422)
    for name, (headers, code) in HEADERS.items():
        sent = request(GOOD, b"Host: 127.0.0.1", *headers, usual=False)
        yield Malformed(f"header: {name}", sent, code)
    yield Malformed(
        "header: a foreign host", request(GOOD, b"Host: evil.example", JSON, usual=False), 403
    )
    yield Malformed("header: no host", request(GOOD, JSON, usual=False), 400)
    for name, sent in FRAMES.items():
        yield Malformed(f"frame: {name}", sent, 400)
    huge = request(b"", b"Content-Length: 99999999", length=False)
    yield Malformed("frame: a body too large", huge, 413)
    for name, (target, code) in PATHS.items():
        yield Malformed(f"path: {name}", request(line=target + b" HTTP/1.1"), code)
    for name, (verb, body, code) in COMMANDS.items():
        line = b"POST /sagas/m-1/" + verb + b" HTTP/1.1"
        yield Malformed(f"command: {name}", request(body, line=line), code)


CORPUS = tuple(corpus())
