"""Where records go: files that get each exactly once, a webhook and an MQTT broker that get each at least once."""

import csv
import hashlib
import hmac
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from afr_clip import __version__
from afr_clip.files import append_whole, as_cell, shown

SECRET = "AFR_CLIP_WEBHOOK_SECRET"
MQTT_USER, MQTT_PASSWORD = "AFR_CLIP_MQTT_USERNAME", "AFR_CLIP_MQTT_PASSWORD"
"""Environment variables; a command line would show them to other users."""

ANSWER_SECONDS = 10.0
"""For a webhook or a broker to answer."""

COLUMNS = (
    "id", "time", "model", "file", "category", "decision", "image_score", "threshold", "calibrated", "regions",
    "area_px", "error",
)  # fmt: skip


class SinkError(OSError):
    """A sink does not take records now; it is tried again."""


class Sink(ABC):
    """Gets records in order.

    Attributes:
        name: Under which the journal keeps what it has got.
        most: Records that it gets at a time.
    """

    name: str
    most: int

    def start(self) -> dict[str, Any]:
        """Return the state of a sink that has got nothing yet."""
        return {}

    @abstractmethod
    def deliver(self, records: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
        """Deliver records, each a JSON object, and return the new state.

        Raises:
            OSError: If not all of them were taken; then all are delivered again.
        """

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End connections."""


class FileSink(Sink):
    """Appends to a file; each record is in it exactly once.

    The journal knows how long the file is with the records that were delivered. What lies behind that was written
    before a kill, and is the beginning of what comes next: only the rest is written. A file that was moved away, as
    logrotate does, is begun again.
    """

    most = 200

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = f"file:{shown(path.resolve())}"

    def start(self) -> dict[str, Any]:
        """Begin behind what the file holds."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            found = os.fstat(file.fileno())
        return {"inode": found.st_ino, "length": found.st_size}

    def deliver(self, records: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
        """Append what is missing, and wait until it is on disk."""
        try:
            return self._appended(records, state)
        except OSError as error:
            if isinstance(error, SinkError):
                raise
            msg = f"{shown(self._path)} cannot be written: {error.strerror}."
            raise SinkError(msg) from error

    def _appended(self, records: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
        with self._path.open("ab+", buffering=0) as file:
            found = os.fstat(file.fileno())
            is_same = found.st_ino == state["inode"] and found.st_size >= state["length"]
            length = state["length"] if is_same else 0
            content = b"".join(self.encode(json.loads(record), record) for record in records)
            content = (self.head() if length == 0 else b"") + content
            file.seek(length)
            written = file.read(len(content) + 1)
            if not content.startswith(written):
                msg = f"{shown(self._path)} was changed by something else. Move it away, and it is begun again."
                raise SinkError(msg)
            append_whole(file, content[len(written) :])
            os.fsync(file.fileno())
        return {"inode": found.st_ino, "length": length + len(content)}

    def head(self) -> bytes:
        """Return what a file begins with."""
        return b""

    @abstractmethod
    def encode(self, record: Mapping[str, Any], text: str) -> bytes:
        """Return a record, which ``text`` holds as JSON, as it is written; always the same bytes."""


class JsonLines(FileSink):
    """One JSON object on each line."""

    def encode(self, record: Mapping[str, Any], text: str) -> bytes:
        """Return a line."""
        del record
        return f"{text}\n".encode()


class Csv(FileSink):
    """One row for each photograph; its regions as their number and area."""

    def head(self) -> bytes:
        """Return the names of the columns."""
        return _row(COLUMNS)

    def encode(self, record: Mapping[str, Any], text: str) -> bytes:
        """Return a row."""
        del text
        regions = record["regions"]
        summary = {"regions": len(regions), "area_px": sum(region["area_px"] for region in regions)}
        return _row([{**record, **summary}[name] for name in COLUMNS])


def _row(values: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow("" if value is None else as_cell(str(value)) for value in values)
    return text.getvalue().encode()


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a signed record is for the address that was typed."""

    def redirect_request(self, *_: object) -> None:
        return None


class Webhook(Sink):
    """Posts each record as JSON; its id is also the ``Idempotency-Key``, by which a receiver knows what came twice.

    Its name has the host and a hash, since paths and queries of webhooks are often secrets.

    Args:
        secret: With it, ``X-Signature`` is ``sha256=`` and the HMAC of timestamp, a full stop and body.
    """

    most = 1

    def __init__(self, url: str, secret: str | None) -> None:
        self._url, self._secret = url, secret
        place, name = urlsplit(url), hashlib.sha256(url.encode()).hexdigest()[:8]
        self.name = f"webhook:{place.scheme}://{place.netloc}#{name}"
        self._opener = urllib.request.build_opener(_Stay)

    def deliver(self, records: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
        """Post records, one after the other; any status but 2xx is a failure."""
        for record in records:
            self._post(record.encode(), json.loads(record)["id"])
        return dict(state)

    def _post(self, body: bytes, key: str) -> None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key, "User-Agent": f"afr-clip/{__version__}"}
        if self._secret is not None:
            timestamp = str(int(time.time()))
            headers |= {"X-Timestamp": timestamp, "X-Signature": signature(self._secret, timestamp, body)}
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS):
                pass
        except urllib.error.HTTPError as error:
            with error:
                msg = f"The webhook answered {error.code} {error.reason}."
            raise SinkError(msg) from error
        except (OSError, HTTPException) as error:
            msg = f"The webhook cannot be reached: {getattr(error, 'reason', error)}."
            raise SinkError(msg) from error


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Sign the body of a webhook.

    Example:
        >>> signature("secret", "1700000000", b"{}")[:23]
        'sha256=b8569b78799ff9e3'
    """
    signed = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={signed.hexdigest()}"


class Mqtt(Sink):
    """Publishes each record with QoS 1: the broker has confirmed all that the journal counts as delivered.

    Args:
        url: ``mqtt://HOST[:PORT]/TOPIC``, or ``mqtts://`` with TLS.
        login: User and password.
    """

    most = 100

    def __init__(self, url: str, login: tuple[str, str] | None) -> None:
        parts = urlsplit(url)
        self._host, self._topic = str(parts.hostname), unquote(parts.path.removeprefix("/"))
        self._has_tls = parts.scheme == "mqtts"
        self._port = parts.port or (8883 if self._has_tls else 1883)
        self._login = login
        self.name = f"mqtt:{url}"
        self._client: Any = None

    def deliver(self, records: Sequence[str], state: Mapping[str, Any]) -> dict[str, Any]:
        """Publish records and wait until all are confirmed; after a failure it reconnects."""
        try:
            client = self._connected()
            sent = [client.publish(self._topic, record.encode(), qos=1) for record in records]
            until = time.monotonic() + ANSWER_SECONDS
            for one in sent:
                one.wait_for_publish(max(0.01, until - time.monotonic()))
            if not all(one.is_published() for one in sent):
                msg = f"The broker at {self._host}:{self._port} confirmed nothing for {ANSWER_SECONDS:g} s."
                raise SinkError(msg)
        except (OSError, ValueError, RuntimeError) as error:  # what paho raises
            self.close()
            if isinstance(error, SinkError):
                raise
            msg = f"The broker at {self._host}:{self._port} cannot be reached: {error}."
            raise SinkError(msg) from error
        return dict(state)

    def _connected(self) -> Any:  # noqa: ANN401 - paho's own
        if self._client is not None and self._client.is_connected():
            return self._client
        self.close()
        from paho.mqtt.client import Client  # noqa: PLC0415 - an extra
        from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

        client = Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(self.most)
        if self._login is not None:
            client.username_pw_set(*self._login)
        if self._has_tls:
            client.tls_set()
        answered, codes = threading.Event(), []

        def answer(_client: object, _data: object, _flags: object, code: object, _properties: object) -> None:
            codes.append(code)
            answered.set()

        client.on_connect = answer
        client.connect_timeout = ANSWER_SECONDS
        client.connect(self._host, self._port)
        client.loop_start()
        self._client = client
        if not answered.wait(ANSWER_SECONDS) or not client.is_connected():
            reason = f"refused the login: {codes[0]}" if codes else "did not answer"
            msg = f"The broker at {self._host}:{self._port} {reason}."
            raise SinkError(msg)
        return client

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
