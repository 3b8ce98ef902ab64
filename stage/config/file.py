"""Settings from stage.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from stage.config.given import Given, nearest
from stage.config.peers import OPERATOR_KEYS, PEER_KEYS
from stage.config.settings import BY_NAME, Setting
from stage.config.values import file_path

FILE_BYTES_MAX = 1_048_576
_PATHS = frozenset(key.name for key in (*PEER_KEYS, *OPERATOR_KEYS) if key.read is file_path)


def from_file(path: str | Path | None, problems: list[str]) -> Iterator[Given]:
    """The settings of a file; nothing without a path. An unknown name is a problem."""
    if path is None:
        return
    import tomllib

    shown = Path(path).name
    try:
        with open(path, "rb") as stream:
            body = stream.read(FILE_BYTES_MAX + 1)
        if len(body) > FILE_BYTES_MAX:
            problems.append(f"{shown}: is larger than {FILE_BYTES_MAX} bytes: shorten it")
            return
        text = body.decode("utf-8-sig")  # some editors put a mark before the first byte
        table = tomllib.loads(text)
    except OSError as error:
        problems.append(
            f"{path}: cannot be read ({error.strerror}): give the path of a TOML file to --config"
        )
        return
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        problems.append(f"{shown}: is not TOML in UTF-8 ({error}): mend the file")
        return
    for key, value in table.items():
        setting = BY_NAME.get(key)
        origin = _place(shown, text, key)
        if setting is None:
            problems.append(f"{origin}: is not known{nearest(key, BY_NAME)}")
        elif not setting.peers:
            if setting.read is file_path and isinstance(value, str) and value:
                value = str(Path(path).parent / value)
            yield Given(setting, value, origin)
        elif isinstance(value, dict):
            for name, given in value.items():
                yield from _peer(setting, name, given, (Path(path).parent, shown, text))
        else:
            problems.append(
                f'{origin}: {value!r} is not a table: write [{key}] and below it name = "URL"'
            )


def _peer(
    setting: Setting, name: str, value: object, where: tuple[Path, str, str]
) -> Iterator[Given]:
    """One peer: a URL, or a table. Its paths are relative to the folder of the file."""
    folder, shown, text = where
    if not isinstance(value, Mapping):
        yield Given(setting, value, _place(shown, text, name, table=setting.name), peer=name)
        return
    if not value:
        yield Given(setting, None, f"{shown} {setting.name}.{name}", peer=name)
    for key, each in value.items():
        origin = _place(shown, text, key, table=f"{setting.name}.{name}")
        if key in _PATHS and isinstance(each, str) and each:
            each = str(folder / each)
        yield Given(setting, each, origin, peer=name, key=key)


def _place(file: str, text: str, key: str, table: str = "") -> str:
    """`stage.toml line 3 port`. tomllib gives no line numbers: the first that fits is named."""
    inside = not table
    named = f"{table}.{key}" if table else key
    for number, line in enumerate(text.splitlines(), start=1):
        if table and line.lstrip().startswith("["):
            inside = line.strip().strip("[]").strip() == table
        elif inside and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return f"{file} line {number} {named}"
        if not table and re.match(rf"\s*\[\[?\s*{re.escape(key)}\s*\]", line):
            return f"{file} line {number} {named}"
    return f"{file} {named}"
