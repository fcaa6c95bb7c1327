"""The access token: out of a file or the environment, never of the command line, which other users can list."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

from medprompt.core.errors import InputError

TOKEN_VARIABLE = "MEDPROMPT_TOKEN"
MIN_TOKEN = 16
"""Characters: a shorter token can be guessed."""


def token_from(file: Path | None) -> str | None:
    """The token of a file, or else of the environment; None where there is none.

    Raises:
        InputError: It cannot be read, or is no token.
    """
    if file is None and not os.environ.get(TOKEN_VARIABLE):
        return None
    try:
        token = os.environ[TOKEN_VARIABLE] if file is None else file.read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise InputError(
            "The token cannot be read.", where=str(file), expected="a file with one line of ASCII"
        ) from error
    words = token.split()
    if len(words) != 1 or len(words[0]) < MIN_TOKEN or not words[0].isascii():
        raise InputError(
            "The access token is no good.",
            where=TOKEN_VARIABLE if file is None else str(file),
            expected=f"one word of at least {MIN_TOKEN} characters, such as openssl rand -hex 32 makes",
        )
    return words[0]


def token_for(host: str, file: Path | None, *, open_to_all: bool = False) -> str | None:
    """The token of a server that listens on ``host``; None where it needs none.

    Raises:
        InputError: See ``token_from``; or there is none, and more than this machine can ask.
    """
    token = token_from(file)
    if token is None and not (open_to_all or is_loopback(host)):
        raise InputError(
            "Other machines could ask this server, and there is no access token.",
            where="host",
            expected=f"token_file=, or the variable {TOKEN_VARIABLE}",
            got=host,
            fix="give a token; or say no_token=True where something else decides who may ask",
        )
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
