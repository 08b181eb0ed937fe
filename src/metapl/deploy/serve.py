"""A trained model as a small web service: health, schema and predictions. It keeps and logs nothing of a request."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from metapl._version import __version__
from metapl.deploy.rows import BadRequestRow, RowReader
from metapl.errors import UserError
from metapl.inference.answers import AnswerForm
from metapl.runs.model_folder import NotFinite, Predictor
from metapl.utils.chunks import rows_at_once

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

INSTALL = 'Install it: pip install "metapl[serve]".'
VALUES = 2**24  # numbers in the rows that are judged at a time
JSON, FORM = "application/json", "multipart/form-data"
BACKLOG = 2048  # connections that may wait to be accepted


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        body: bytes. rows: in one request. pixels: of one image.
        bodies: requests that are read or answered at a time; others wait.
        seconds: in which a body must have arrived.
    """

    body: int = 16 * 2**20
    rows: int = 1000
    pixels: int = 50_000_000
    bodies: int = 64
    seconds: float = 30.0


class Refusal(Exception):
    """A request that is answered by an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Judge:
    """Answers rows, whatever else stands in their batch.

    Args:
        predictor: the trained model.
        limits: ``pixels`` is used.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.predictor, self.reader = predictor, RowReader(predictor.takes, limits.pixels)

    def answers(self, values: Sequence[Any], form: AnswerForm) -> list[dict[str, Any]]:
        """Return one answer per row: label and probability, or ``error`` with the reason."""
        step = rows_at_once(self.predictor.takes.shape, len(values), VALUES)
        return [answer for k in range(0, len(values), step) for answer in self._some(values[k : k + step], form)]

    def _some(self, values: Sequence[Any], form: AnswerForm) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{} for _ in values]
        rows, places = [], list[int]()
        for place, value in enumerate(values):
            try:
                rows.append(self.reader.read(value))
                places.append(place)
            except BadRequestRow as reason:
                answers[place] = _error(422, str(reason))
        if not rows:
            return answers
        stacked, kept = torch.stack(rows), list(range(len(rows)))
        try:
            p = self.predictor.probabilities(stacked)
        except NotFinite as error:
            for k in error.rows:
                answers[places[k]] = _error(422, "a value lies too far from those of the training")
            kept = [k for k in kept if k not in set(error.rows)]
            p = self.predictor.probabilities(stacked[kept])
        for k, row in zip(kept, p):
            answers[places[k]] = self._answer(row, form)
        return answers

    def _answer(self, p: torch.Tensor, form: AnswerForm) -> dict[str, Any]:
        values, classes = p.topk(min(form.top, len(p)))
        best = [
            {"label": self.predictor.class_names[k], "probability": v}
            for k, v in zip(classes.tolist(), values.tolist())
        ]
        label = best[0]["label"] if best[0]["probability"] >= form.abstain_below else None
        answer = {"label": label, "probability": best[0]["probability"]}
        return {**answer, "top": best} if form.top > 1 else answer


def _error(status: int, reason: str) -> dict[str, Any]:
    readable = reason.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return {"error": {"status": status, "reason": readable}}


def describe_service(judge: Judge, form: AnswerForm, limits: Limits) -> dict[str, Any]:
    """Return what goes in and what comes out, as JSON values."""
    row = judge.reader.schema()
    single = {"type": "object", "properties": {"row": row}, "required": ["row"]}
    batch = {"type": "object", "properties": {"rows": {"type": "array", "items": row}}, "required": ["rows"]}
    bodies: dict[str, Any] = {JSON: {"oneOf": [single, batch]}}
    if judge.reader.sized:
        bodies |= {"image/*": "the bytes of one image", FORM: "one file per image"}
    return {
        "metapl": __version__,
        "classes": list(judge.predictor.class_names),
        "POST /predict": {
            "bodies": bodies,
            "query": {"top": form.top, "abstain_below": form.abstain_below},
            "answer": {"label": "text, or null where the model abstains", "probability": "0 to 1", "top": "if top > 1"},
            "answers": "one per row of a batch; a row that cannot be judged has error.status and error.reason",
        },
        "limits": asdict(limits),
    }


def make_app(predictor: Predictor, form: AnswerForm | None = None, limits: Limits | None = None) -> Starlette:
    """Return the service for a trained model, as an ASGI application.

    Args:
        predictor: the model; ``load_model`` gives it.
        form: what is answered where a request does not say.
        limits: what a request may ask for.

    Raises:
        UserError: starlette is not installed, or no threshold is known for the precision that ``form`` asks for.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ImportError as error:
        raise UserError(f"the service needs starlette ({error})", INSTALL, "serve") from error
    usual, limits = (form or AnswerForm()).settled(predictor, lambda _: None), limits or Limits()
    judge, gate, pool = Judge(predictor, limits), asyncio.Semaphore(limits.bodies), ThreadPoolExecutor(1)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def schema(request: Request) -> Response:
        return JSONResponse(describe_service(judge, usual, limits))

    async def predict(request: Request) -> Response:
        wanted = _form(request, usual)
        async with gate:
            values, many = await _values(request, judge.reader.sized, limits)
            answers = await asyncio.get_running_loop().run_in_executor(pool, judge.answers, values, wanted)
        if many:
            return JSONResponse({"answers": answers})
        return JSONResponse(answers[0], answers[0].get("error", {}).get("status", 200))

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return JSONResponse(_error(error.status, error.reason), error.status)

    def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse(_error(error.status_code, error.detail), error.status_code, error.headers)

    def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(_error(500, "the service failed; its log has the reason"), 500)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        pool.shutdown()

    routes = [Route("/health", health), Route("/schema", schema), Route("/predict", predict, methods=["POST"])]
    handlers = {Refusal: refused, HTTPException: unknown, Exception: broken}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=life)


def _form(request: Request, usual: AnswerForm) -> AnswerForm:
    """Return what the query asks for: ``?top=3&abstain_below=0.8``."""
    query = request.query_params
    try:
        top, below = int(query.get("top", usual.top)), float(query.get("abstain_below", usual.abstain_below))
        return replace(usual, top=min(top, 10_000), abstain_below=below)
    except UserError as error:
        raise Refusal(400, str(error)) from None
    except ValueError:
        raise Refusal(400, "top is a whole number and abstain_below a number from 0 to 1") from None


async def _values(request: Request, images: bool, limits: Limits) -> tuple[list[Any], bool]:
    """Return the rows of a request, and whether they are a batch."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    whole = images and (kind.startswith("image/") or kind == "application/octet-stream")
    if not (whole or kind == JSON or (images and kind == FORM)):
        known = f"{JSON}, image/* or {FORM}" if images else JSON
        raise Refusal(415, f"the content type is '{kind[:100]}', not {known}")
    try:
        async with asyncio.timeout(limits.seconds):
            body = await _body(request, limits.body)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.seconds:g} seconds") from None
    if whole:
        return [body], False
    values, many = await _files(request, body, limits.rows) if kind == FORM else _json(body)
    if not values:
        raise Refusal(400, "there is no row in this request")
    if len(values) > limits.rows:
        raise Refusal(413, f"{len(values)} rows are more than {limits.rows}")
    return values, many


async def _body(request: Request, most: int) -> bytes:
    """Return the body; it is not read further than ``most`` bytes."""
    declared = request.headers.get("content-length", "")
    body = bytearray()
    if not (declared.isascii() and declared.isdigit() and int(declared[:20]) > most):
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise Refusal(413, f"the body is larger than {most} bytes")


def _json(body: bytes) -> tuple[list[Any], bool]:
    try:
        content = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON ({' '.join(str(error).split())[:100]})") from None
    if isinstance(content, dict) and content.keys() == {"row"}:
        return [content["row"]], False
    if isinstance(content, dict) and content.keys() == {"rows"} and isinstance(content["rows"], list):
        return content["rows"], True
    raise Refusal(400, 'the body is neither {"row": ...} nor {"rows": [...]}')


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


async def _files(request: Request, body: bytes, most: int) -> tuple[list[Any], bool]:
    """Return the files of a form, in order."""
    from starlette.datastructures import UploadFile
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def whole() -> AsyncIterator[bytes]:
        yield body

    try:
        form = await MultiPartParser(request.headers, whole(), max_files=most, max_fields=0).parse()  # type: ignore[arg-type]
    except MultiPartException as error:
        raise Refusal(400, f"the form cannot be read ({error.message})") from None
    except (KeyError, UnicodeError, ValueError):
        raise Refusal(400, "the form cannot be read") from None
    async with form_closed(form):
        return [await value.read() for _, value in form.multi_items() if isinstance(value, UploadFile)], True


@asynccontextmanager
async def form_closed(form: Any) -> AsyncIterator[None]:
    """Close the files of a form at the end."""
    try:
        yield
    finally:
        await form.close()


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is a free one.

    Raises:
        UserError: the port is taken, or the host is not this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UserError(f"it cannot be served there ({error.strerror})", "Name another.", f"{host}:{port}") from error


def serve_app(app: Starlette, listening: socket.socket) -> None:
    """Serve until a signal; requests that have begun are answered before it ends.

    Raises:
        UserError: uvicorn is not installed.
        KeyboardInterrupt: a signal ended it.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise UserError(f"the service needs uvicorn ({error})", INSTALL, "serve") from error
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, timeout_graceful_shutdown=30
    )
    uvicorn.Server(config).run(sockets=[listening])
