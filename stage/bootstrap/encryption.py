"""The codec of the contents at rest, as the operator has configured it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.ports.codec import Codec
from stage.store.codec import PLAIN
from stage.telemetry import logs

if TYPE_CHECKING:
    from stage.store.sealed import SealedCodec

FILE_BYTES_MAX = 65_536
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def codec_of(config: Config) -> Codec:
    """Plain without a payload_key_file. Raises ConfigurationError with the fix."""
    return sealed_codec(config.payload_key_file) if config.payload_key_file else PLAIN


def sealed_codec(path: str) -> SealedCodec:
    """The codec under the keys of a file. Raises ConfigurationError, and quotes no key."""
    try:
        from stage.store.sealed import SealedCodec, parse_keys
    except ImportError as error:
        raise ConfigurationError(
            "payload_key_file needs the library cryptography: pip install 'saga-stage[encryption]'"
        ) from error
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            body = stream.read(FILE_BYTES_MAX + 1)
        if len(body) > FILE_BYTES_MAX:
            raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes: shorten it")
        keys = parse_keys(body.decode("utf-8-sig", "replace"))
    except OSError as error:
        raise ConfigurationError(
            f"payload_key_file {path} cannot be read ({error.strerror}): let `stage keys payload`"
            " write it, readable by this user"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"payload_key_file {path} {error}") from None
    if mode & OTHERS:
        logs.default_logger().warning(
            "payload_key_file",
            detail=f"{path} may be read by others (mode {stat.S_IMODE(mode):04o}): chmod 600 it",
        )
    return SealedCodec(keys)
