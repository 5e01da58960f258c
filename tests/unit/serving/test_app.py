import base64
import io
import os
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from afr_clip.serving.settings import ServingSettings
from helpers.detectors import bright_model

TestClient = pytest.importorskip("fastapi.testclient").TestClient
for needed in ("python_multipart", "prometheus_client", "swagger_ui_bundle"):
    pytest.importorskip(needed)

from afr_clip.serving import app  # noqa: E402
from afr_clip.serving.answers import Found, Served  # noqa: E402
from afr_clip.serving.app import build_app  # noqa: E402

INSPECT = "/v1/inspect"


def png(value: int = 100, size: tuple[int, int] = (12, 10)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def started():
    """Start an application in this process; returns a client."""
    open_clients = []

    def start(*models, **settings) -> TestClient:
        limits = ServingSettings(**{"max_bytes": 5000, "max_pixels": 10_000, **settings})
        app = build_app(models or [bright_model(region_threshold=0.3)], limits)
        client = TestClient(app, base_url="http://127.0.0.1")
        open_clients.append(client)
        return client.__enter__()

    yield start
    for client in open_clients:
        client.__exit__(None, None, None)


def test_a_form_and_json_get_the_same_answer_and_it_is_as_described(started):
    client = started()
    form = client.post(
        INSPECT, files={"image": ("a b.png", png())}, data={"category": "cap"}, headers={"x-request-id": "7"}
    )
    encoded = base64.b64encode(png()).decode()
    given = client.post(INSPECT, json={"image": encoded, "file": "a b.png", "category": "cap"})
    answers = [{**answer.json(), "id": "", "time": ""} for answer in (form, given)]
    assert answers[0] == answers[1]
    found = Found.model_validate(form.json())
    assert (found.id, form.headers["x-request-id"], found.file, found.category) == ("7", "7", "a b.png", "cap")
    assert (found.width, found.height, found.model) == (12, 10, "bright")
    assert found.image_score == pytest.approx(100 / 255)
    assert [region.box for region in found.regions] == [[0, 0, 12, 10]]
    assert len(given.headers["x-request-id"]) == 32


def test_the_map_comes_as_a_png_of_16_bits(started):
    answer = started().post(INSPECT, files={"image": png()}, data={"map": "true"}).json()
    values = cv2.imdecode(np.frombuffer(base64.b64decode(answer["map"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16
    assert values / 65535 == pytest.approx(100 / 255, abs=1e-4)


def test_a_photograph_below_the_folder_is_read_and_nothing_else(started, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "deep", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png())
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "linked").symlink_to(outside)
    os.mkfifo(inside / "pipe.png")
    client = started(folder=inside)
    assert client.post(INSPECT, json={"path": "deep/a.png"}).json()["file"] == "deep/a.png"
    for path in ("../outside/a.png", str(outside / "a.png"), "link.png", "linked/a.png", "pipe.png", "deep", "", ".",
                 "deep/../../outside/a.png", "nothing.png", "a" * 5000):  # fmt: skip
        answer = client.post(INSPECT, json={"path": path})
        assert (answer.status_code, answer.json()["error"][:22]) == (404, "There is no such file "), path
    assert client.post(INSPECT, json={"path": "a\0.png"}).status_code == 422
    assert started().post(INSPECT, json={"path": "a.png"}).status_code == 403


CLOSED = {"content-type": "multipart/form-data; boundary=x"}
REFUSED = {
    "text": (415, {"content": b"x", "headers": {"content-type": "text/plain"}}, "Content-Type must be"),
    "compressed": (415, {"json": {}, "headers": {"content-encoding": "gzip"}}, "Content-Encoding must be identity"),
    "not json": (400, {"content": b"{", "headers": {"content-type": "application/json"}}, "it must be JSON"),
    "deep json": (400, {"content": b"[" * 4000, "headers": {"content-type": "application/json"}}, "it must be JSON"),
    "a list": (422, {"json": [1]}, "must be a JSON object, got list"),
    "nothing": (422, {"json": {}}, "must have image, a photograph, or path"),
    "both": (422, {"json": {"image": "", "path": ""}}, "must have image, a photograph, or path"),
    "a number": (422, {"json": {"image": 1}}, "image must be a file or base64, got int"),
    "null": (422, {"json": {"image": None}}, "image must be a file or base64, got NoneType"),
    "not base64": (422, {"json": {"image": "***"}}, "image must be the photograph's file in base64"),
    "unknown field": (422, {"json": {"image": "", "url": "http://x"}}, "got 'url'"),
    "category of a number": (422, {"json": {"image": "", "category": 1}}, "category must be text, got int"),
    "half a character": (
        422,
        {"content": b'{"image": "", "category": "\\ud800"}', "headers": {"content-type": "application/json"}},
        "category must be text in UTF-8",
    ),
    "map of text": (422, {"json": {"image": "", "map": "yes"}}, "map must be true or false, got yes."),
    "blank category": (422, {"files": {"image": png()}, "data": {"category": " "}}, "1 to 100 characters"),
    "unknown model": (404, {"files": {"image": png()}, "data": {"model": "other"}}, "model must be one of bright"),
    "empty file": (422, {"files": {"image": ("a.png", b"")}}, "a.png is empty."),
    "no picture": (422, {"files": {"image": ("a.png", b"abc")}}, "is not a valid image file"),
    "cut off": (422, {"files": {"image": ("a.png", png()[:60])}}, "a.png"),
    "black": (422, {"files": {"image": ("a.png", png(0))}}, "a.png is black."),
    "no boundary": (400, {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "form cannot be read"),
    "odd part": (400, {"content": b"--x\r\nfoo\r\n\r\n", "headers": CLOSED}, "form cannot be read"),
    "many fields": (400, {"files": {str(i): b"" for i in range(9)}}, "form cannot be read"),
    "too many bytes": (413, {"files": {"image": os.urandom(5001)}}, "at most 5000 bytes, got 5001"),
    "too long a body": (413, {"files": {"image": bytes(80_000)}}, "The body must have at most"),
    "too many pixels": (413, {"files": {"image": png(1, (101, 100))}}, "10000. This server takes no more. Scale it"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_is_refused_with_a_status_and_a_sentence(started, name):
    status, request, sentence = REFUSED[name]
    client = started()
    answer = client.post(INSPECT, **request)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert answer.json()["id"] == answer.headers["x-request-id"]
    assert client.post(INSPECT, files={"image": png()}).status_code == 200  # the next one is served


def test_a_picture_is_not_decoded_if_its_header_claims_too_many_pixels(started):
    bomb = bytearray(png(1, (100, 100)))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    answer = started().post(INSPECT, files={"image": bytes(bomb)})
    assert (answer.status_code, "50000 x 50000 pixels" in answer.json()["error"]) == (413, True)


def test_models_stand_side_by_side_each_with_its_categories(started):
    client = started(bright_model("metal nut", "bolt", name="hard"), bright_model(name="any"))
    served = [Served.model_validate(one) for one in client.get("/v1/models").json()]
    assert [(one.name, one.categories) for one in served] == [("hard", ["metal nut", "bolt"]), ("any", [])]
    post = lambda **data: client.post(INSPECT, files={"image": png()}, data=data)  # noqa: E731
    assert post(model="hard").json()["category"] == "metal nut"
    assert post(model="hard", category="bolt").json()["category"] == "bolt"
    assert post(model="any", category="leaf").json()["category"] == "leaf"
    assert post(model="any").json()["category"] == "object"
    assert (post().status_code, post().json()["error"]) == (422, "model must be one of hard, any, got none. Name one.")
    assert "takes the categories metal nut, bolt, got leaf" in post(model="hard", category="leaf").json()["error"]


def test_the_number_of_free_names_is_bounded(started, monkeypatch):
    monkeypatch.setattr(app, "MOST_CATEGORIES", 2)
    client = started()
    for name in ("x", "y", "z"):  # photographs that cannot be read use up none of them
        damaged = client.post(INSPECT, files={"image": png()[:60]}, data={"category": name})
        assert damaged.status_code == 422
    asked = [client.post(INSPECT, files={"image": png()}, data={"category": name}) for name in ("a", "b", "a", "c")]
    assert [answer.status_code for answer in asked] == [200, 200, 200, 422]
    assert asked[-1].json()["error"] == (
        "The model bright has met 2 categories and takes no others. Ask the operator to declare categories with "
        "--category."
    )
    assert client.post(INSPECT, files={"image": png()}).status_code == 200  # the default needs no name


def test_the_token_opens_and_health_needs_none(started):
    client = started(token="t" * 16)
    for headers in (
        {},
        {"authorization": "Bearer " + "u" * 16},
        {"authorization": "t" * 16},
        {"authorization": "Bearer ü"},
    ):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        answer = client.get("/v1/models", headers=encoded)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert client.post(INSPECT, files={"image": png()}).status_code == 401
    assert client.get("/metrics").status_code == 401
    assert [client.get(path).status_code for path in ("/healthz", "/readyz", "/docs", "/openapi.json")] == [200] * 4
    assert client.get("/v1/models", headers={"authorization": "Bearer " + "t" * 16}).status_code == 200


def test_the_page_asks_for_a_token_where_one_is_needed(started):
    described = started(token="t" * 16).get("/openapi.json").json()
    assert [one["scheme"] for one in described["components"]["securitySchemes"].values()] == ["bearer"]
    needed = {path for path, methods in described["paths"].items() for one in methods.values() if "security" in one}
    assert needed == {"/v1/inspect", "/v1/models", "/metrics"}
    assert "securitySchemes" not in started().get("/openapi.json").json()["components"]


def test_a_page_that_calls_this_machine_by_another_name_is_refused(started):
    assert started().get("/healthz", headers={"host": "evil.example:8000"}).status_code == 400
    assert started().get("/healthz", headers={"host": "localhost:8000"}).status_code == 200
    assert started(is_open=True).get("/healthz", headers={"host": "lab.example"}).status_code == 200


def test_a_full_server_refuses_and_then_answers_those_it_has(started):
    model = bright_model()
    scanner = model.detector.scanner
    client = started(model, max_queue=3)
    scanner.gate.clear()
    answers: list[int] = []
    ask = lambda: answers.append(client.post(INSPECT, files={"image": png()}).status_code)  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while client.app.state.service.in_hand < 3 and time.monotonic() < until:
        time.sleep(0.01)
    refused = client.post(INSPECT, files={"image": png()})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200
    scanner.gate.set()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 3
    assert client.get("/readyz").status_code == 200


def test_what_takes_too_long_is_given_up(started):
    model = bright_model()
    client = started(model, timeout=0.6)
    model.detector.scanner.gate.clear()
    late = client.post(INSPECT, files={"image": png()})
    model.detector.scanner.gate.set()
    assert (late.status_code, late.json()["error"][:53]) == (
        503,
        "The photograph was not inspected within 0.6 s. Try ag",
    )
    assert client.post(INSPECT, files={"image": png()}).status_code == 200


def test_an_error_of_ours_is_an_answer_too(started, monkeypatch):
    model = bright_model()
    monkeypatch.setattr(model.detector.scanner, "look", lambda *_: 1 / 0)
    answer = started(model).post(INSPECT, files={"image": png()})
    assert (answer.status_code, answer.json()["error"]) == (500, "The server failed on this request. Its log says why.")


def test_prometheus_reads_what_was_answered(started):
    client = started()
    client.post(INSPECT, files={"image": png()})
    client.post(INSPECT, json={})
    client.get("/a/path/that/somebody/made/up")
    text = client.get("/metrics").text
    assert 'afr_clip_requests_total{route="/v1/inspect",status="200"} 1.0' in text
    assert 'afr_clip_requests_total{route="/v1/inspect",status="422"} 1.0' in text
    assert 'afr_clip_requests_total{route="other",status="404"} 1.0' in text
    assert 'afr_clip_photographs_total{decision="none",model="bright"} 1.0' in text
    assert "made/up" not in text


def test_the_page_of_the_api_loads_nothing_from_elsewhere(started):
    client = started()
    page = client.get("/docs").text
    links = [part.split('"')[0] for part in page.replace("'", '"').split('"') if "/docs/files/" in part]
    assert "://" not in page
    assert len(links) == 3
    assert [client.get(link).status_code for link in links] == [200] * 3
    assert "/v1/inspect" in client.get("/openapi.json").json()["paths"]
