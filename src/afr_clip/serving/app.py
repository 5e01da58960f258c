"""The web application: routes, who may enter, and what is counted."""

import asyncio
import base64
import hmac
import logging
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import cv2
import numpy as np
from fastapi import FastAPI, Request, Security
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from afr_clip import __version__
from afr_clip.data.disk.picture_files import TooManyPixelsError, decode_picture
from afr_clip.data.errors import DataError
from afr_clip.files import shown
from afr_clip.inspection.detector import Decoded, Inspection
from afr_clip.inspection.scan import InspectionError
from afr_clip.inspection.service import Model, record_of, sentence_of
from afr_clip.serving.answers import BODY, Found, Refusal, Served
from afr_clip.serving.batching import Batcher
from afr_clip.serving.bodies import Asked, read_asked
from afr_clip.serving.log import request_id
from afr_clip.serving.settings import LOOPBACK_NAMES, ServingSettings

logger = logging.getLogger(__name__)

ROUTES = ("/v1/inspect", "/v1/models", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json")
"""Paths that are counted under their own names."""

WITHOUT_TOKEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
"""Paths that tell nothing of the models or the photographs."""

CLIENT_GONE = 499
"""Status in log and metrics where the client hung up before the answer."""

MOST_CATEGORIES = 1000
"""Names that a model takes where none were declared; the embeddings of each stay in memory."""

DECODERS = min(4, os.cpu_count() or 1)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Service:
    """Models that answer requests, and what is known of them.

    Attributes:
        in_hand: Inspections between their first byte and their answer.
        is_ready: Whether new requests are welcome.
    """

    def __init__(self, models: Sequence[Model], settings: ServingSettings) -> None:
        self.settings = settings
        self.in_hand = 0
        self.is_ready = False
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("afr_clip_requests", "Answers", ("route", "status"), registry=registry)
        self.seconds = Histogram("afr_clip_request_seconds", "From first byte to answer", ("route",), registry=registry)
        self.photographs = Counter("afr_clip_photographs", "Inspected", ("model", "decision"), registry=registry)
        sizes = (1, 2, 4, 8, 16, 32, 64)
        self.batches = Histogram("afr_clip_batch_size", "In one pass", ("model",), buckets=sizes, registry=registry)
        Gauge("afr_clip_in_hand", "Inspections in hand", registry=registry).set_function(lambda: self.in_hand)
        self._scorer = ThreadPoolExecutor(1, "scorer")
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self.batchers = {model.name: self._batcher(model) for model in models}
        self._met: dict[str, set[str]] = {model.name: set() for model in models}
        # Bounds the memory of pixels: two batches are decoded, and the others wait as files.
        most = max(model.detector.scanner.scanning.batch_size for model in models)
        self._decoded = asyncio.Semaphore(2 * most)

    def _batcher(self, model: Model) -> Batcher:
        sizes = self.batches.labels(model.name)
        return Batcher(model, self._scorer, self.settings.wait, lambda: self.in_hand, sizes.observe)

    @asynccontextmanager
    async def running(self, _: object = None) -> AsyncIterator[None]:
        """Score as long as the server runs."""
        tasks = [asyncio.create_task(batcher.run()) for batcher in self.batchers.values()]
        self.is_ready = True
        try:
            yield
        finally:
            self.is_ready = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._scorer.shutdown(cancel_futures=True)
            self._decoders.shutdown(cancel_futures=True)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request as in hand, or refuse it if there are too many."""
        if self.in_hand >= self.settings.max_queue:
            msg = f"The server has {self.in_hand} requests in hand and takes no more. Try again in a moment."
            raise HTTPException(429, msg, {"retry-after": "1"})
        self.in_hand += 1
        try:
            yield
        finally:
            self.in_hand -= 1

    def chosen(self, asked: Asked) -> tuple[Batcher, str]:
        """Return the model and the category of a request."""
        names = ", ".join(self.batchers)
        if asked.model is None and len(self.batchers) > 1:
            raise HTTPException(422, f"model must be one of {names}, got none. Name one.")
        name = asked.model if asked.model is not None else next(iter(self.batchers))
        if name not in self.batchers:
            raise HTTPException(404, f"model must be one of {names}, got {shown(name[:100])}.")
        batcher = self.batchers[name]
        try:
            return batcher, batcher.model.category(asked.category)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    def _meet(self, model: Model, category: str) -> None:
        """Let a model take a name that was not declared, once its photograph can be scored, or refuse it."""
        met = self._met[model.name]
        if model.categories or category in met:
            return
        if len(met) >= MOST_CATEGORIES:
            msg = (
                f"The model {model.name} has met {MOST_CATEGORIES} categories and takes no others. Ask the operator to "
                f"declare categories with --category."
            )
            raise InspectionError(msg)
        met.add(category)

    async def inspect(self, request: Request) -> dict[str, Any]:
        """Answer one request."""
        asked = await read_asked(request, self.settings)
        batcher, category = self.chosen(asked)
        try:
            found = await asyncio.wait_for(self._inspected(asked, batcher, category), self.settings.timeout)
        except asyncio.TimeoutError:
            msg = f"The photograph was not inspected within {self.settings.timeout:g} s. Try again later."
            raise HTTPException(503, msg, {"retry-after": "1"}) from None
        decision = found.decision.value if found.decision is not None else "none"
        self.photographs.labels(batcher.model.name, decision).inc()
        key, name = cast("str", request_id.get()), None if asked.file is None else shown(asked.file)
        answer = record_of(found.to_dict(), key=key, model=batcher.model.name, file=name)
        if asked.wants_map:
            answer["map"] = await asyncio.get_running_loop().run_in_executor(self._decoders, _encoded_map, found)
        return answer

    async def _inspected(self, asked: Asked, batcher: Batcher, category: str) -> Inspection:
        name = "The photograph" if asked.file is None else shown(asked.file)
        async with self._decoded:
            try:
                photograph = await asyncio.get_running_loop().run_in_executor(
                    self._decoders, _decoded, asked.content, name, self.settings.max_pixels
                )
                if asked.category is not None:
                    self._meet(batcher.model, category)
                return await batcher.inspect(photograph, category)
            except DataError as error:
                is_large = isinstance(error.__cause__, TooManyPixelsError)
                sentence = sentence_of(error, "This server takes no more. Scale it down.")
                raise HTTPException(413 if is_large else 422, sentence) from error
            except ValueError as error:
                raise HTTPException(422, str(error)) from error
            except MemoryError as error:
                raise HTTPException(503, "The server has not enough memory for this photograph.") from error


def _decoded(content: bytes, name: str, max_pixels: int) -> Decoded:
    # Left in Pillow's memory order, which is what resizing reads fastest.
    return Decoded(name, decode_picture(content, name, max_pixels=max_pixels).rgb.transpose(2, 0, 1))


def _encoded_map(inspection: Inspection) -> str:
    values = np.rint(inspection.scan.anomaly_map * 65535).astype(np.uint16)
    return base64.b64encode(cv2.imencode(".png", values)[1].tobytes()).decode()


class Entrance:
    """Gives each request an id, checks its token and host, and logs and counts its answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        token = service.settings.token
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, started, status = Headers(scope=scope), time.perf_counter(), CLIENT_GONE
        given = headers.get("x-request-id", "")
        key = given if _ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(key)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = key
            await send(message)

        try:
            await (self._refusal(scope["path"], headers) or self._app)(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:
            logger.exception("A request failed.")
            if status == CLIENT_GONE:
                await _refused(500, "The server failed on this request. Its log says why.")(scope, receive, answer)
        finally:
            route = next((one for one in ROUTES if scope["path"] == one), "other")
            seconds = time.perf_counter() - started
            self._service.requests.labels(route, status).inc()
            self._service.seconds.labels(route).observe(seconds)
            client = (scope.get("client") or ("unknown",))[0]
            fields = {"method": scope["method"], "path": scope["path"][:200], "status": status, "client": client}
            logger.info("answered", extra={"fields": {**fields, "seconds": round(seconds, 4)}})

    def _refusal(self, path: str, headers: Headers) -> Response | None:
        settings = self._service.settings
        if self._expected is None:
            host = re.sub(r":\d+$", "", headers.get("host", ""))
            if not settings.is_open and host not in (*LOOPBACK_NAMES, settings.host):
                return _refused(400, "Host must be that of this machine, for example 127.0.0.1.")
        elif path not in WITHOUT_TOKEN and not path.startswith("/docs/"):
            sent = headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(sent, self._expected):
                msg = "The request needs the server's token. Send Authorization: Bearer TOKEN."
                return _refused(401, msg, {"www-authenticate": "Bearer"})
        return None


def _refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence, "id": request_id.get()}, status, headers)


def build_app(models: Sequence[Model], settings: ServingSettings) -> FastAPI:
    """Build the application; it scores while its lifespan is open.

    Args:
        models: Under different names.
    """
    service = Service(models, settings)
    app = FastAPI(
        title="AFR-CLIP", version=__version__, summary="Zero-shot visual anomaly detection", docs_url=None,
        redoc_url=None, lifespan=service.running,
    )  # fmt: skip
    app.state.service = service
    refusals: dict[int | str, dict[str, Any]] = {
        code: {"model": Refusal} for code in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
    }
    # `Entrance` checks the token, before anything is read; this lets the page ask for it.
    guards = [] if settings.token is None else [Security(HTTPBearer(auto_error=False))]

    @app.post("/v1/inspect", response_model=Found, responses=refusals, openapi_extra=BODY, dependencies=guards)
    async def inspect(request: Request) -> JSONResponse:
        """Inspect one photograph: score, decision and regions."""
        with service.admitted():
            return JSONResponse(await service.inspect(request))

    @app.get("/v1/models", response_model=list[Served], dependencies=guards)
    async def models_served() -> JSONResponse:
        """List the models and the categories they take."""
        return JSONResponse([batcher.model.describe() for batcher in service.batchers.values()])

    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """Answer as long as the process lives."""
        return {"status": "alive"}

    @app.get("/readyz", responses={503: {"model": Refusal}})
    async def ready() -> JSONResponse:
        """Answer 200 if requests are welcome, 503 if the server is full or shutting down."""
        if not service.is_ready or service.in_hand >= settings.max_queue:
            return _refused(503, "The server is full or shutting down.")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, dependencies=guards)
    async def metrics() -> Response:
        """Report counts and times for Prometheus."""
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def refuse(_: Request, error: HTTPException) -> JSONResponse:
        return _refused(error.status_code, error.detail, dict(error.headers or {}))

    _add_docs(app)
    app.add_middleware(Entrance, service=service)
    return app


def _add_docs(app: FastAPI) -> None:
    """Serve the page of the API with files of this machine; FastAPI's own loads them from elsewhere."""
    from swagger_ui_bundle import swagger_ui_path  # noqa: PLC0415 - reads its folder when it is imported

    app.mount("/docs/files", StaticFiles(directory=swagger_ui_path), name="docs")

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="AFR-CLIP",
            swagger_js_url="/docs/files/swagger-ui-bundle.js",
            swagger_css_url="/docs/files/swagger-ui.css",
            swagger_favicon_url="/docs/files/favicon-32x32.png",
        )
