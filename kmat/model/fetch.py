"""A backbone from the hub into a folder: continued where it was cut off, and checked by the digests that the hub tells.

``huggingface_hub`` (2.4) would write to a file of another name each time, deleted when it is cut off, and check sizes
only. The protocol is small: ``ENDPOINT/REPO/resolve/REVISION/FILE`` answers with the file, or leads to it and says its
SHA-256; small files have git's digest as their ETag.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

from kmat.console import counted
from kmat.errors import UserError
from kmat.storage import atomic
from kmat.storage.lock import Lock

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""The first that there is."""
OTHERS = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "vocab.txt",
    "merges.txt",
)
SUMS = "SHA256SUMS"

BLOCK = 2**20
TIMEOUT = 30.0
"""Seconds without a byte."""


class Remote(NamedTuple):
    """A file on the hub; ``digest`` is its SHA-256 or git's SHA-1, in hexadecimal."""

    name: str
    url: str
    size: int
    digest: str
    commit: str


def fetch(repo: str, folder: Path, *, endpoint: str, revision: str = "main") -> list[Remote]:
    """Download an open_clip model; what is there already is checked and kept. Returns the files.

    Beside them there is ``SHA256SUMS``, for ``sha256sum -c`` wherever the folder is copied to.

    Raises
    ------
    UserError
        If the hub cannot be reached, has no such model, or a file is not what it should be.
    """
    if not endpoint.startswith(("http://", "https://")):
        raise UserError(f"--endpoint {endpoint!r}: expected a URL that starts with https:// or http://")

    def look(name: str) -> Remote | None:
        return _look(f"{endpoint.rstrip('/')}/{repo}/resolve/{quote(revision, safe='')}/{name}", name)

    config, weights = look(CONFIG), next((found for name in WEIGHTS if (found := look(name))), None)
    if config is None or weights is None:
        missing = CONFIG if config is None else " or ".join(WEIGHTS)
        raise UserError(f"{endpoint} has no {missing} of {repo} at revision {revision}: is it an open_clip model?")
    files = [config, weights, *(found for name in OTHERS if (found := look(name)))]
    with Lock(folder):
        sums = {file: _sha256(folder / file.name, file) for file in files}
        wanted = [file for file, found in sums.items() if found is None]
        missing_bytes = sum(file.size - _size(_partial(folder, file)) for file in wanted)
        if (free := shutil.disk_usage(folder).free) < missing_bytes:
            raise UserError(f"{folder}: {missing_bytes / 1e6:.0f} MB are to come, but {free / 1e6:.0f} MB are free")
        with counted(f"{repo}, MB", sum(file.size for file in wanted) // BLOCK) as advance:
            for file in wanted:
                sums[file] = _download(file, folder, _in_blocks(advance))
        atomic.write(folder / SUMS, "".join(f"{found}  {file.name}\n" for file, found in sums.items()))
    return files


class _StopAtTheDigest(HTTPRedirectHandler):
    """Follow redirections until one says what it leads to."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        return None if "X-Linked-Etag" in headers else super().redirect_request(req, fp, code, msg, headers, newurl)


def _look(url: str, name: str) -> Remote | None:
    """Ask for a file's size and digest; None if there is no such file."""
    request = Request(url, method="HEAD", headers={"Accept-Encoding": "identity"})  # noqa: S310 (the caller checked)
    try:
        with build_opener(_StopAtTheDigest).open(request, timeout=TIMEOUT) as response:
            headers = response.headers
    except HTTPError as error:
        if error.code == 404:
            return None
        if "X-Linked-Etag" not in error.headers:
            raise UserError(f"{url}: {error}") from error
        headers = error.headers
    except (OSError, HTTPException) as error:
        raise UserError(f"cannot reach {url}: {_reason(error)}") from error
    digest = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest) or not size.isdigit():
        raise UserError(f"{url}: the server tells no digest or no size (ETag {digest!r}, size {size!r})")
    return Remote(name, url, int(size), digest, headers.get("X-Repo-Commit") or "")


def _download(file: Remote, folder: Path, advance: Callable[[int], None]) -> str:
    """Download a file aside, going on for as long as each attempt brings it further; rename it once it is right.

    Returns its SHA-256.
    """
    partial = _partial(folder, file)
    if _size(partial) > file.size:
        partial.unlink()
    advance(_size(partial))
    while (start := _size(partial)) < file.size:
        reason = "the server closed the connection"
        try:
            for count in _append(file, partial, start):
                advance(count)
        except (OSError, HTTPException) as error:
            reason = _reason(error)
        if _size(partial) <= start:
            done = f"{start / 1e6:.1f} of {file.size / 1e6:.1f} MB"
            raise UserError(f"{file.name}: {done}, then {reason}; the same command goes on from there")
    with atomic.naming(partial):
        partial.touch()  # of an empty file there is none yet
        found = _sha256(partial, file)
        if found is None:
            partial.unlink()
            raise UserError(f"{file.url}: its content does not fit its digest {file.digest}; it was deleted, try again")
        partial.replace(folder / file.name)
    return found


def _append(file: Remote, partial: Path, start: int) -> Iterator[int]:
    """Download the rest of a file, or all of it from a server that gives no parts; yields how much has come."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    response: HTTPResponse
    with urlopen(Request(file.url, headers=headers), timeout=TIMEOUT) as response:  # noqa: S310 (as above)
        goes_on = response.status == 206
        with atomic.naming(partial):
            stream = partial.open("ab" if goes_on else "wb")
        with stream:
            while block := response.read(BLOCK):
                with atomic.naming(partial):
                    stream.write(block)
                yield len(block)


def _sha256(path: Path, file: Remote) -> str | None:
    """SHA-256 of what is at a path; None if that is not the file."""
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    sha256, git = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            sha256.update(block)
            git.update(block)
    return sha256.hexdigest() if file.digest in (sha256.hexdigest(), git.hexdigest()) else None


def _partial(folder: Path, file: Remote) -> Path:
    """Where a file grows, under its digest: parts of two versions are never put together."""
    return folder / f"{file.name}.{file.digest[:12]}{atomic.PARTIAL}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _in_blocks(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Count bytes, and pass on whole blocks of them."""
    seen = 0

    def add(count: int) -> None:
        nonlocal seen
        seen += count
        advance(seen // BLOCK - (seen - count) // BLOCK)

    return add


def _reason(error: OSError | HTTPException) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number) if number else str(cause) or type(cause).__name__
