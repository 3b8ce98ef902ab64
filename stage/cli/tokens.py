"""`stage keys`: tokens for callers, and keys for the contents at rest."""

from __future__ import annotations

import os
from pathlib import Path

import click

from stage.cli.failure import Failure

MODE = 0o600
TOKEN = ".token"  # noqa: S105 - the end of a file's name
ACCEPT = ".accept"
USED = "#used"
"""The line above a key that --use has put first: no key waits for a further --use then."""


@click.group()
def keys() -> None:
    """Tokens by which callers show their names."""


@keys.command()
@click.argument("name", metavar="NAME")
@click.option("--folder", default="keys", show_default=True, metavar="FOLDER")
@click.option("--rotate", is_flag=True, help="Accept the token of before as well, for a while.")
def new(name: str, folder: str, rotate: bool) -> None:
    """Write a new token and the hash that recognises it.

    NAME.token goes to the caller: its token_file, or --token-file. NAME.accept stays here, or goes
    to the stage that is called: its accept_file. With --rotate both files are there already; take
    the second line out of NAME.accept when the caller shows the new token.
    """
    from secrets import token_urlsafe

    from stage.config.values import peer_name
    from stage.wire.tokens import TOKEN_BYTES, accept_line

    try:
        name = peer_name(name)
    except ValueError as error:
        raise Failure(str(error)) from None
    token_file, accept_file = Path(folder, name + TOKEN), Path(folder, name + ACCEPT)
    token = token_urlsafe(TOKEN_BYTES)
    before = _line_in_use(accept_file, token_file) if rotate else ""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        # First, so that no token is shown that is not accepted yet.
        _write(accept_file, f"{accept_line(token)}\n{before}", replace=rotate)
        _write(token_file, token + "\n", replace=rotate)
    except FileExistsError as error:
        raise Failure(f"there is {error.filename} already: give --rotate to replace it") from None
    except OSError as error:
        raise Failure(f"{error.filename} cannot be written: {error.strerror}") from None
    click.echo(f"{token_file}: for the caller to show")
    click.echo(f"{accept_file}: for the stage that is called, to recognise it")


@keys.command()
@click.argument("file", metavar="FILE")
@click.option("--add", is_flag=True, help="Add a key that decrypts alone, for the next --use.")
@click.option("--use", is_flag=True, help="Let the key that was added encrypt from now on.")
def payload(file: str, add: bool, use: bool) -> None:
    """Write the payload_key_file of a stage, or rotate it in two steps.

    The first key encrypts, all of them decrypt. Give every replica the file with the added key
    before one of them uses it. Without the keys the contents of the database are lost: keep the
    file apart from the database and from its backups.
    """
    try:
        from stage.store.sealed import new_key_line, parse_keys
    except ImportError:
        raise Failure(
            "this needs the library cryptography: pip install 'saga-stage[encryption]'"
        ) from None
    path = Path(file)
    try:
        lines = path.read_text("utf-8-sig").split() if add or use else []
        stays = use and not add and USED in lines
        if use and not add:
            lines = lines if stays else [USED, lines.pop(), *lines]
        else:
            lines = [*(line for line in lines if line != USED), new_key_line()]
        found = parse_keys("\n".join(lines))
        _write(path, "\n".join(lines) + "\n", replace=add or use)
    except FileExistsError:
        raise Failure(f"there is {path} already: rotate it with --add and --use") from None
    except OSError as error:
        raise Failure(f"{path} cannot be used: {error.strerror}") from None
    except (ValueError, IndexError) as error:
        raise Failure(f"{path} {error}") from None
    others = ", ".join(key.id.hex() for key in found[1:])
    also = f", {others} may decrypt as well" if others else ""
    already = " already, and no key was added since" if stays else ""
    click.echo(f"{path}: {found[0].id.hex()} encrypts{already}{also}")


def _line_in_use(accept_file: Path, token_file: Path) -> str:
    """The line of the token that is shown now: a rotation that failed has left another above it.

    Where the token is not in its file any more, it is the latest line.
    """
    from stage.wire.tokens import accept_line, is_accepted, parse_accept_lines

    try:
        digests = parse_accept_lines(accept_file.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise Failure(f"{accept_file} cannot be rotated: {error}") from None
    try:
        token = token_file.read_text("utf-8-sig").strip()
    except (OSError, ValueError):
        token = ""
    if token and is_accepted(token, digests):
        return f"{accept_line(token)}\n"
    return f"sha256:{digests[0].hex()}\n" if digests else ""


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write a file that only its owner reads; one that is there is replaced in one step."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    target = path.with_name(path.name + ".new") if replace else path
    if replace:
        target.unlink(missing_ok=True)
    with os.fdopen(os.open(target, flags, MODE), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    if replace:
        target.rename(path)
