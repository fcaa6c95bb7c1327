"""Files that lie elsewhere, by their URI: listed and read through Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from medprompt.core.errors import InputError
from medprompt.core.files import sha256_of_file


def is_same(row: Mapping[str, Any]) -> bool:
    """Whether a file still has the content that an earlier run hashed."""
    name: str = row["file"]
    known: str = row["sha256"]
    try:
        if is_uri(name):
            return sha256(bytes_of(name)).hexdigest() == known
        return sha256_of_file(Path(name)) == known
    except OSError:
        return False


def is_uri(name: Path | str) -> bool:
    """Whether a name is one of an object store."""
    return isinstance(name, str) and "://" in name


def files_below(uri: str) -> list[str]:
    """The files below a URI, or itself.

    Raises:
        InputError: There is no such place, or no leave to read it.
    """
    from pyarrow import fs

    scheme = urlsplit(uri).scheme
    try:
        system, path = fs.FileSystem.from_uri(uri)
        if system.get_file_info(path).type == fs.FileType.File:
            return [uri]
        below = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:
        raise InputError(
            "These images cannot be listed.",
            where=uri,
            expected="a URI that Arrow reads, such as s3://BUCKET/PREFIX",
            got=str(error).splitlines()[0][:300],
            fix="see Arrow's page on file systems for credentials and endpoints",
        ) from error
    found = sorted(one.path for one in below if one.is_file)
    if not found:
        raise InputError("There are no files.", where=uri, expected="images")
    query = f"?{urlsplit(uri).query}" if urlsplit(uri).query else ""
    return [f"{scheme}://{quote(one)}{query}" for one in found]


def bytes_of(uri: str) -> bytes:
    """The content of a file; an ``OSError`` where it cannot be read."""
    from pyarrow import fs

    system, path = fs.FileSystem.from_uri(uri)
    with system.open_input_stream(path) as stream:
        content: bytes = stream.read()
    return content
