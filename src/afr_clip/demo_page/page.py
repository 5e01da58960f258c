"""The page itself: Gradio's components, and a server that only this machine reaches."""

import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import TYPE_CHECKING, Any

from afr_clip import api
from afr_clip.demo_page import photographs
from afr_clip.demo_page.photographs import CALIBRATION, COCO, SCORES, Chosen, Session
from afr_clip.files import counted
from afr_clip.inspection.detector import Detector
from afr_clip.inspection.record import Inspected
from afr_clip.reports.inspection_page import score_chart
from afr_clip.reports.layout.html import render

if TYPE_CHECKING:  # the extra is imported where it is used, so that this module can be read without it
    import gradio as gr
    from fastapi import FastAPI

LOOPBACK = "127.0.0.1"

NOTHING = "nothing"

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; connect-src 'self' blob:; "
    "frame-ancestors 'none'"
)
"""A browser then loads nothing from elsewhere, whatever a version of Gradio asks for."""

HEADERS = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]

KEY = {"normal": "normal", "undecided": "undecided", "anomalous": "anomalous", "plain": "good parts"}

INTRODUCTION = """\
# What is wrong in these photographs?

Drop photographs of one kind of thing and say what it is. Everything is computed on this machine, and nothing is sent.
"""

LIFE_SECONDS = 3600
"""How long photographs and results of a page that was closed are kept; all of them are removed with the server."""

Update = dict[Any, Any]
"""New values by component."""


@dataclass(frozen=True)
class Half:
    """The components that belong to one model."""

    column: "gr.Column"
    model: "gr.Dropdown"
    session: "gr.State"
    folder: "gr.State"
    threshold: "gr.Slider"
    outline: "gr.Slider"
    notice: "gr.HTML"
    found: "gr.HTML"
    pictures: "gr.Gallery"
    table: "gr.HTML"
    files: "Mapping[str, gr.DownloadButton]"

    @property
    def sliders(self) -> "list[gr.Slider]":
        """What decides."""
        return [self.threshold, self.outline]

    @property
    def shown(self) -> list[Any]:
        """What changes with what was found."""
        texts = [self.notice, self.found, self.table]
        return [self.session, self.folder, *self.sliders, *texts, self.pictures, *self.files.values()]


class Models:
    """Detectors by name, each loaded when it is first used."""

    def __init__(self, names: Sequence[str], device: str) -> None:
        self.names, self._device = list(names), device
        self._loaded: dict[str, Detector] = {}
        self._lock = Lock()

    def __getitem__(self, name: str) -> Detector:
        """Load a detector, once."""
        if name not in self.names:
            msg = f"The page offers {', '.join(self.names)}, got {name}. Start it with --checkpoint {name}."
            raise ValueError(msg)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = api.load(name, device=self._device)
            return self._loaded[name]


def build_page(models: Models, work: Path) -> "gr.Blocks":
    """Lay out the page.

    Args:
        work: A folder for overlays and files.
    """
    import gradio as gr  # noqa: PLC0415

    with gr.Blocks(title="AFR-CLIP", analytics_enabled=False, delete_cache=(60, LIFE_SECONDS)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                many: dict[str, Any] = {"file_count": "multiple", "file_types": ["image"]}
                dropped = gr.File(label="Photographs", height=180, elem_id="photographs", **many)
                category = gr.Textbox(label="What they show", placeholder="metal nut", max_lines=1)
                model = gr.Dropdown(models.names, value=models.names[0], label="Model")
                other = gr.Dropdown([NOTHING, *models.names], value=NOTHING, label="Compare with")
                start = gr.Button("Inspect", variant="primary", elem_id="inspect")
                with gr.Accordion("Calibrate with good parts", open=False):
                    gr.Markdown(
                        "Photographs of good parts only, each part once, give a threshold with a bound on false alarms."
                    )
                    good = gr.File(label="Good parts", height=140, elem_id="good", **many)
                    percent = gr.Slider(1, 50, value=5, step=1, label="False alarms that you accept, in percent")
                    calibrate = gr.Button("Calibrate", elem_id="calibrate")
            with gr.Column(scale=5, min_width=600), gr.Row():
                halves = [_half(model, "first", is_visible=True), _half(other, "second", is_visible=False)]
        other.change(lambda name: gr.Column(visible=name != NOTHING), other, halves[1].column, api_visibility="private")
        for half in halves:
            asked = [dropped, category, half.model, half.session, *half.sliders]
            of_good = [good, percent, category, half.model, half.session]
            moved = [half.session, half.folder, *half.sliders]
            private: dict[str, Any] = {"api_visibility": "private"}
            start.click(_inspecting(models, half, work), asked, half.shown, trigger_mode="always_last", **private)
            calibrate.click(
                _calibrating(models, half, work), of_good, half.shown, trigger_mode="always_last", **private
            )
            # Gradio closes a page's stream of answers when its queue is empty, and loses the answer to what arrives at
            # that moment. Sliders move often, so they are answered without the queue; of the moves
            # made during an answer, only the last is answered next.
            half.threshold.input(
                _moving(models, half, draws=False), moved, half.shown, trigger_mode="always_last",
                show_progress="hidden", queue=False, **private,
            )  # fmt: skip
            half.outline.release(
                _moving(models, half, draws=True), moved, half.shown, trigger_mode="always_last", queue=False, **private
            )
    return page


def _half(model: "gr.Dropdown", name: str, *, is_visible: bool) -> Half:
    import gradio as gr  # noqa: PLC0415

    with gr.Column(min_width=260, visible=is_visible, elem_id=name) as column:
        notice = gr.HTML(elem_id=f"{name}-notice")
        found = gr.HTML(elem_id=f"{name}-found")
        start, step = photographs.GUESS, photographs.SAME
        threshold = gr.Slider(
            0, 1, value=start, step=step, label="Anomalous above the score", elem_id=f"{name}-threshold"
        )
        outline = gr.Slider(
            0, 1, value=start, step=step, label="Outlined above the map value", elem_id=f"{name}-outline"
        )
        table = gr.HTML(elem_id=f"{name}-table")
        with gr.Row():
            labels = {SCORES: "CSV", COCO: "COCO", CALIBRATION: "Calibration"}
            files = {
                file: gr.DownloadButton(label, size="sm", interactive=False, min_width=80, elem_id=f"{name}-{label}")
                for file, label in labels.items()
            }
        pictures = gr.Gallery(
            label="Heat maps", columns=2, height="auto", object_fit="contain", buttons=["fullscreen"],
            interactive=False, elem_classes=["pictures"], format="jpeg",
        )  # fmt: skip
        session = gr.State(Session(), time_to_live=LIFE_SECONDS)
        folder = gr.State("", time_to_live=LIFE_SECONDS)
    return Half(column, model, session, folder, threshold, outline, notice, found, pictures, table, files)


def _answering(half: Half, answer: Callable[..., Update]) -> Callable[..., Update]:
    """Let a function show our sentences on the page; anything else is a bug, and keeps its traceback in the log."""

    @wraps(answer)
    def answered(*values: Any) -> Update:  # noqa: ANN401 - whatever the components hold
        try:
            return {half.notice: "", **answer(*values)}
        except (ValueError, OSError) as error:
            return {half.notice: render("demo_notice.html", sentence=str(error))}

    return answered


def _inspecting(models: Models, half: Half, work: Path) -> Callable[..., Update]:
    def inspect(
        files: list[str] | None, category: str, model: str, before: Session, threshold: float, outline: float
    ) -> Update:
        if model == NOTHING:
            return {}
        session = photographs.inspect(models[model], model, category, files or [], before)
        is_forgotten = before.calibration is not None and session.calibration is None
        chosen = Chosen() if is_forgotten else Chosen(threshold, outline)
        return _shown(models[model], half, session, chosen, Path(mkdtemp(dir=work)))

    return _answering(half, inspect)


def _calibrating(models: Models, half: Half, work: Path) -> Callable[..., Update]:
    def calibrate(files: list[str] | None, percent: float, category: str, model: str, before: Session) -> Update:
        if model == NOTHING:
            return {}
        session = photographs.calibrate_with(models[model], model, category, files or [], percent, before)
        assert session.calibration is not None, "it was just made"
        chosen = Chosen(session.calibration.image.threshold, session.calibration.map_high)
        return _shown(models[model], half, session, chosen, Path(mkdtemp(dir=work)))

    return _answering(half, calibrate)


def _moving(models: Models, half: Half, *, draws: bool) -> Callable[..., Update]:
    def move(session: Session, folder: str, threshold: float, outline: float) -> Update:
        if not folder:
            return {}
        chosen = Chosen(threshold, outline)
        return _shown(models[session.model], half, session, chosen, Path(folder), draws=draws)

    return _answering(half, move)


def _shown(
    detector: Detector, half: Half, session: Session, chosen: Chosen, folder: Path, *, draws: bool = True
) -> Update:
    """Return what the components show.

    Args:
        folder: For overlays and files.
        draws: Whether outlines changed, so that overlays are drawn again.
    """
    import gradio as gr  # noqa: PLC0415

    judged = photographs.judge(detector, session, chosen)
    update: Update = {half.session: session, half.folder: str(folder), half.found: found_html(session, judged, chosen)}
    if draws:
        photographs.draw_overlays(session, judged, chosen, folder)
        low, high = session.ends
        update[half.threshold] = gr.Slider(minimum=low, maximum=high, value=round(chosen.threshold, 4))
        update[half.outline] = round(chosen.outline, 4)
    decided = [f"{one.image}: {one.image_score:.3f}, {one.decision and one.decision.value}" for one in judged]
    worst = sorted(range(len(judged)), key=lambda number: -judged[number].image_score)
    update[half.pictures] = [(str(photographs.overlay_path(folder, number)), decided[number]) for number in worst]
    update[half.table] = render("demo_table.html", rows=[judged[number] for number in worst]) if worst else ""
    files = photographs.write_files(detector, session, judged, folder)
    for name, button in half.files.items():
        update[button] = gr.DownloadButton(value=files.get(name), interactive=name in files)
    return update


def found_html(session: Session, judged: Sequence[Inspected], chosen: Chosen) -> str:
    """Write sentences and histogram of what was found."""
    scores = [(one.image_score, "" if one.decision is None else one.decision.value) for one in judged]
    scores += [(score, "") for score, _ in session.good]
    kinds = {kind or "plain" for _, kind in scores}
    name = counted(len(judged), "photograph")
    if session.good:
        name = f"{name} and {counted(len(session.good), 'good part')}"
    return render(
        "demo.html",
        sentences=photographs.summary(session, judged, chosen),
        charts=[score_chart(scores, chosen.threshold, session.ends)._replace(name=name)] if scores else [],
        key=[(kind, label) for kind, label in KEY.items() if kind in kinds],
    )


class _Headers:
    """Adds the headers that keep a browser to this machine."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Update, receive: Any, send: Callable[[Update], Awaitable[None]]) -> None:  # noqa: ANN401
        async def send_with_headers(message: Update) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def build_server(models: Models, work: Path) -> "FastAPI":
    """Mount the page behind headers that keep it to this machine."""
    import gradio as gr  # noqa: PLC0415
    from fastapi import FastAPI  # noqa: PLC0415
    from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: PLC0415

    server = FastAPI(openapi_url=None)
    # A page of another origin could otherwise reach the server under a name of its own that leads here.
    server.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])

    server.add_middleware(_Headers)
    page = build_page(models, work)
    page.queue(max_size=16)
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        server, page, "/", server_name=LOOPBACK, footer_links=[], allowed_paths=[str(work)], theme=theme, css=css,
        ssr_mode=False, enable_monitoring=False, mcp_server=False,
    )  # fmt: skip


def serve(models: Models, work: Path, port: int, announce: Callable[[str], object]) -> None:
    """Serve the page until the process is stopped.

    Args:
        port: 0 for any that is free.
        announce: Told the address once it is known.

    Raises:
        ValueError: If the port is in use.
    """
    import uvicorn  # noqa: PLC0415

    os.environ["GRADIO_TEMP_DIR"] = str(work)  # photographs that are dropped go there too
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError as error:
            msg = f"Port {port} cannot be used: {error.strerror}. Choose another: --port 0 takes any free one."
            raise ValueError(msg) from error
        config = uvicorn.Config(build_server(models, work), log_level="warning", access_log=False)
        listening.listen()  # from here on the address answers
        announce(f"http://{LOOPBACK}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])
