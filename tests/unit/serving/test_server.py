"""A real server on a real socket of this machine, with a detector that needs no torch."""

import io
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from afr_clip.serving.settings import ServingSettings
from helpers.detectors import bright_model

for needed in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(needed)

from afr_clip.serving import server as serving  # noqa: E402
from afr_clip.serving.server import Server, ServingError, listen_at  # noqa: E402

FORM = "multipart/form-data; boundary=x"


def body() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (90, 90, 90)).save(buffer, "PNG")
    return (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + buffer.getvalue()
        + b"\r\n--x--\r\n"
    )


class Running:
    """A server in a thread."""

    def __init__(self, model, settings: ServingSettings) -> None:
        self.listener = listen_at(settings)
        self.port = self.listener.getsockname()[1]
        self.server = Server([model], settings)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.until(lambda: self.server.started)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()

    def inspect(self) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/inspect", body(), {"content-type": FORM})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    servers: list[Running] = []

    def start(model=None, **settings: float) -> Running:
        servers.append(Running(model or bright_model(), ServingSettings(port=0, **settings)))
        return servers[-1]

    yield start
    for one in servers:
        one.stop()


def test_a_stop_answers_what_is_in_hand_and_takes_nothing_new(running):
    model = bright_model()
    one = running(model)
    model.detector.scanner.gate.clear()
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(one.inspect())) for _ in range(6)]
    for thread in threads:
        thread.start()
    service = one.server.config.app.state.service
    one.until(lambda: service.in_hand == 6)
    one.server.should_exit = True
    one.until(lambda: not one.listener.fileno() > 0)
    with pytest.raises(urllib.error.URLError):
        one.inspect()
    model.detector.scanner.gate.set()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 6
    one.stop()


def test_a_client_whose_headers_do_not_arrive_is_hung_up_on(running, monkeypatch):
    monkeypatch.setattr(serving, "HEADER_SECONDS", 0.5)
    one = running()
    for beginning in (b"", b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
        with one.connect() as client:
            client.sendall(beginning)
            assert client.recv(100) == b""
    with one.connect() as client:  # also between two requests of one connection
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 200 " in client.recv(1000)
        client.sendall(b"GET /healthz HTT")
        while client.recv(1000):
            pass
    assert one.inspect() == 200


def test_a_body_that_does_not_arrive_is_refused_and_leaves_its_place(running):
    one = running(body_timeout=0.6, max_queue=1)
    with one.connect() as client:
        client.sendall(f"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM}\r\n".encode())
        client.sendall(b"Content-Length: 1000\r\n\r\n--x\r\n")
        assert b" 408 " in client.recv(1000)
    assert one.inspect() == 200


def test_a_body_without_length_is_refused_before_its_end_is_sent(running):
    one = running(max_bytes=5000)
    with one.connect() as client:
        client.sendall(b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        client.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + 9 * (b"2710\r\n" + 10_000 * b"a" + b"\r\n"))
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert one.inspect() == 200


@pytest.mark.parametrize(
    "request_head",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 600_000 + b"\r\n\r\n",
        b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
    ],
)
def test_http_that_is_none_is_refused(running, request_head):
    one = running()
    with one.connect() as client:
        client.sendall(request_head)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert one.inspect() == 200


def test_an_address_that_is_taken_is_a_sentence():
    with listen_at(ServingSettings(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ServingError, match=rf"cannot listen at 127.0.0.1:{port}: Address already in use\. Choose an"
        ):
            listen_at(ServingSettings(port=port))
