"""The body of a request, read within limits: a form, or JSON with a photograph or the name of a file."""

import asyncio
import base64
import binascii
import json
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from afr_clip.files import shown
from afr_clip.serving.settings import ServingSettings

ROOM_FOR_FIELDS = 64 * 2**10
"""Bytes of a body in addition to its photograph."""

FIELDS = ("image", "path", "file", "model", "category", "map")
"""What a body may hold; a form has the photograph's name in its part."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        content: An encoded photograph.
        file: Its name, or its path below the folder; ``None`` if it has none.
        wants_map: Whether the answer has the anomaly map.
    """

    content: bytes
    file: str | None
    model: str | None
    category: str | None
    wants_map: bool


class _InMemory(MultiPartParser):
    """A parser of forms that writes nothing to disk; the size of the body is limited before."""

    spool_max_size = 2**62


async def read_asked(request: Request, settings: ServingSettings) -> Asked:
    """Read the body of a request.

    Raises:
        HTTPException: 400, 403, 404, 408, 413, 415 or 422, with a sentence.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        msg = f"Content-Type must be multipart/form-data or application/json, got {kind[:100] or 'none'}."
        raise HTTPException(415, msg)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(415, "Content-Encoding must be identity. Send the photograph's own file.")
    # Base64 has 4 characters for 3 bytes.
    most = (settings.max_bytes if kind == "multipart/form-data" else settings.max_bytes * 4 // 3) + ROOM_FOR_FIELDS
    reading = _form(request, most) if kind == "multipart/form-data" else _json(request, most)
    try:
        fields = await asyncio.wait_for(reading, settings.body_timeout)
    except asyncio.TimeoutError:
        msg = f"The request must arrive within {settings.body_timeout:g} s, and did not. Send it again."
        raise HTTPException(408, msg, {"connection": "close"}) from None
    return await asyncio.get_running_loop().run_in_executor(None, _asked, fields, settings)


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """Pass a body on; what its header claims is checked first, what arrives is counted."""
    claimed, size = request.headers.get("content-length", ""), 0
    msg = f"The body must have at most {most} bytes, got more. Send a smaller photograph."
    too_large = HTTPException(413, msg, {"connection": "close"})
    if claimed.isdecimal() and int(claimed) > most:
        raise too_large
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk


async def _form(request: Request, most: int) -> dict[str, Any]:
    try:
        parser = _InMemory(request.headers, _limited(request, most), max_files=1, max_fields=len(FIELDS))
        form = await parser.parse()
    except MultiPartException as error:
        msg = f"The form cannot be read: {error.message}"
        raise HTTPException(400, msg) from error
    except (KeyError, UnicodeDecodeError, ValueError) as error:  # the parser lets through what odd headers cause
        msg = "The form cannot be read. Its parts must have the boundary that Content-Type names."
        raise HTTPException(400, msg) from error
    fields: dict[str, Any] = dict(form.items())
    image = fields.get("image")
    if isinstance(image, UploadFile):
        fields["image"], fields["file"] = await image.read(), image.filename or None
    await form.close()
    if "map" in fields:
        fields["map"] = {"true": True, "false": False}.get(str(fields["map"]).lower(), fields["map"])
    return fields


async def _json(request: Request, most: int) -> dict[str, Any]:
    content = b"".join([chunk async for chunk in _limited(request, most)])
    try:
        fields = await asyncio.get_running_loop().run_in_executor(None, json.loads, content)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body cannot be read: it must be JSON in UTF-8.") from error
    if not isinstance(fields, dict):
        raise HTTPException(422, f"The body must be a JSON object, got {type(fields).__name__}.")
    return fields


def _asked(fields: dict[str, Any], settings: ServingSettings) -> Asked:
    _require_types(fields)
    file, content = fields.get("file"), fields.get("image")
    if "path" in fields:
        file = fields["path"]
        content = _read_below(settings, file)
    elif isinstance(content, str):
        content = _from_base64(content)
    elif not isinstance(content, bytes):
        raise HTTPException(422, f"image must be a file or base64, got {type(content).__name__}.")
    if len(content) > settings.max_bytes:
        msg = f"A photograph must have at most {settings.max_bytes} bytes, got {len(content)}. Send a smaller one."
        raise HTTPException(413, msg)
    name = file[:255] if isinstance(file, str) else None
    return Asked(content, name, fields.get("model"), fields.get("category"), fields.get("map", False))


def _require_types(fields: dict[str, Any]) -> None:
    if unknown := sorted(set(fields) - {*FIELDS}):
        raise HTTPException(422, f"The fields are {', '.join(FIELDS)}; got {unknown[0][:100]!r}.")
    for field in ("file", "model", "category"):
        if not isinstance(fields.get(field), str | None):
            raise HTTPException(422, f"{field} must be text, got {type(fields[field]).__name__}.")
        if not _is_text(fields.get(field) or ""):
            raise HTTPException(422, f"{field} must be text in UTF-8, got half of a surrogate pair.")
    if not isinstance(value := fields.get("map", False), bool):
        got = shown(value[:100]) if isinstance(value, str) else type(value).__name__
        raise HTTPException(422, f"map must be true or false, got {got}.")
    if ("image" in fields) == ("path" in fields):
        raise HTTPException(422, "The request must have image, a photograph, or path, a file of the server; not both.")


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold a text; JSON can also name half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, "image must be the photograph's file in base64, got other characters.") from error


def _read_below(settings: ServingSettings, name: object) -> bytes:
    """Read a file below the folder of the server, one part of its path after the other, following no link."""
    missing = HTTPException(404, "There is no such file below the server's folder. Links are not followed.")
    if settings.folder is None:
        raise HTTPException(403, "This server reads no files. Send the photograph itself as image.")
    if not isinstance(name, str) or "\0" in name:
        raise HTTPException(422, "path must be the path of a file below the server's folder.")
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise missing
    try:
        return _contents(settings.folder, parts, settings.max_bytes)
    except (OSError, ValueError) as error:
        raise missing from error


def _contents(folder: Path, parts: tuple[str, ...], most: int) -> bytes:
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            outer, place = place, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(outer)
        # Without O_NONBLOCK a pipe would wait for somebody to write into it.
        with os.fdopen(os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                msg = "not a file"
                raise ValueError(msg)
            return file.read(most + 1)
    finally:
        os.close(place)
