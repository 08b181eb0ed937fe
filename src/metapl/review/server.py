"""The page of a review, on this machine alone: one row at a time, answered by a key or a button.

Every request must name this address as its host and carry the random token; a request that another page sends (by its
Origin or Sec-Fetch-Site) is refused. Rows are asked for by the order of the queue: no path leads to a file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from metapl.report.display import cut, display
from metapl.review.answers import NONE, UNSURE, Answer, AnswerFile
from metapl.review.queue import Question, Review

TEMPLATES = Path(__file__).parent / "templates"
KEYS = "1234567890abcdefghijklmopqrstvwxy"  # of the classes; u, n and z have a meaning of their own
LIMIT = 4096  # bytes of a form
SECONDS = 30.0  # a connection may be silent


class Session:
    """The state of a review: the next question and the answers so far. It is safe to use from several threads."""

    def __init__(self, review: Review, answers: AnswerFile) -> None:
        self.review, self.answers, self.lock = review, answers, threading.Lock()
        self._again: str | None = None  # the row whose answer was taken back
        self._questions = {question.id: question for question in review.questions}

    def next(self) -> Question | None:
        """Return the row to ask about now; None where all are answered."""
        if self._again in self._questions and self._again not in self.answers.given:
            return self._questions[self._again or ""]
        return next((q for q in self.review.questions if q.id not in self.answers.given), None)

    def answer(self, row: str, choice: str) -> bool:
        """Keep an answer: a class number, u or n; z takes the last one back. False where it means nothing."""
        with self.lock:
            if choice == "z":
                if self.answers.last in self._questions:  # not what an earlier review left for the training
                    self._again = self.answers.undo()
                return True
            answer = self._read(choice)
            if answer is None or row not in self._questions:
                return False
            self._again = None
            self.answers.give(row, answer)
            return True

    def _read(self, choice: str) -> Answer | None:
        names = self.review.class_names
        if choice in ("u", "n"):
            return Answer("", UNSURE if choice == "u" else NONE)
        known = choice.isascii() and choice.isdigit() and len(choice) < 6 and int(choice) < len(names)
        return Answer(names[int(choice)]) if known else None

    def progress(self) -> tuple[int, int]:
        """Return how many questions are answered, and how many there are."""
        return sum(q.id in self.answers.given for q in self.review.questions), len(self.review.questions)


def serve(session: Session, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """Return a server on 127.0.0.1 that is bound but not yet serving, and its address with the token.

    Raises:
        OSError: the port is taken.
    """
    token = secrets.token_urlsafe(24)
    server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, session, token))
    server.daemon_threads = True
    return server, f"http://127.0.0.1:{server.server_address[1]}/{token}/"


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version, timeout = "metapl", "", SECONDS

    def __init__(self, session: Session, token: str, *connection: Any) -> None:
        self._session, self._token = session, token
        super().__init__(*connection)

    def do_GET(self) -> None:
        if not self._allowed(""):
            return
        page, policy = render(self._session)
        self._send(HTTPStatus.OK, page, {"Content-Security-Policy": policy, "Content-Type": "text/html; charset=utf-8"})

    def do_POST(self) -> None:
        if not self._allowed("answer"):
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= LIMIT):
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"), max_num_fields=4)
        row, choice = form.get("row", [""])[0], form.get("choice", [""])[0]
        question = self._session.review.questions
        known = row.isascii() and row.isdigit() and len(row) < 12 and int(row) < len(question)
        if not self._session.answer(question[int(row)].id if known else "", choice):
            return self._refuse(HTTPStatus.BAD_REQUEST)
        self._send(HTTPStatus.SEE_OTHER, "", {"Location": f"/{self._token}/"})

    def _allowed(self, page: str) -> bool:
        """Return whether the request comes from this page and asks for ``page``; else it is answered."""
        host = f"127.0.0.1:{self.server.server_address[1]}"  # type: ignore[index]
        origin = self.headers.get("Origin")
        foreign = self.headers.get("Sec-Fetch-Site") not in (None, "same-origin", "none")
        if self.headers.get("Host") != host or origin not in (None, f"http://{host}") or foreign:
            self._refuse(HTTPStatus.FORBIDDEN)
            return False
        token, _, rest = self.path.lstrip("/").partition("/")
        if not hmac.compare_digest(token.encode("utf-8", "replace"), self._token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN)
            return False
        if rest != page:
            self._refuse(HTTPStatus.NOT_FOUND)
            return False
        return True

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self._send(status, f"{status.value} {status.phrase}\n", {"Content-Type": "text/plain; charset=utf-8"})

    def _send(self, status: HTTPStatus, text: str, headers: dict[str, str]) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        fixed = {
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: the address holds the token."""


def render(session: Session) -> tuple[str, str]:
    """Return the page for the row that is asked about now, and its content security policy."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    css, code = (pages.get_template(name).render() for name in ("review.css", "review.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(css)}'; script-src 'sha256-{_digest(code)}'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    with session.lock:
        question, (done, total) = session.next(), session.progress()
    values = {"css": Markup(css), "code": Markup(code), "done": done, "total": total, "question": question}
    if question is not None:
        names = session.review.class_names
        values |= {
            "row": session.review.questions.index(question),
            "name": cut(question.id, 120),
            "reason": cut(question.reason, 300),
            "guess": cut(question.guess, 60),
            "shown": display(session.review.source, np.array([question.index]))[0],
            "choices": [(k, key, cut(name, 60)) for k, (key, name) in enumerate(zip(keys_of(names), names))],
        }
    values["file"] = cut(str(session.answers.path), 200)
    text = pages.get_template("review.html").render(values)
    return text.encode("utf-8", "replace").decode("utf-8"), policy


def keys_of(names: Sequence[str]) -> list[str]:
    """Return one key per class, "" once keys run out; names of one character, such as digits, are their own keys."""
    own = [name.lower() for name in names]
    if all(len(key) == 1 and key in KEYS for key in own) and len(set(own)) == len(own):
        return own
    return [*KEYS, *[""] * len(names)][: len(names)]


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
