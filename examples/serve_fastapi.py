"""An HTTP service over one artifact.

    pip install "dllmc[serve]"
    DLLMC_ARTIFACT=model.dllm uvicorn serve_fastapi:app --app-dir examples

    curl -i localhost:8000/generate -H 'content-type: application/json' \
        -d '{"prompt": "copy: a b c", "task": "copy"}'

The headers of an answer say which tuning record decided how it was decoded, and how well that
record fits. Requests are decoded one at a time; there is no batching here.
"""

from __future__ import annotations

import os
from threading import Lock

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import dllmc


class Request(BaseModel):
    """What is asked for; see `Engine.generate`."""

    prompt: str
    max_new_tokens: int | None = None
    task: str | None = None


class Answer(BaseModel):
    """What comes back."""

    text: str
    tokens: list[int]
    evaluations: int
    seconds: float


class Service:
    """The artifact, and one request at a time on it."""

    def __init__(self, artifact: str) -> None:
        self.engine = dllmc.load(artifact)
        # Two steps side by side share the cores: each takes twice as long.
        self.turn = Lock()

    def generate(self, request: Request, response: Response) -> Answer:
        with self.turn:
            out = self.engine.generate(
                request.prompt, max_new_tokens=request.max_new_tokens, task=request.task
            )
        response.headers["x-dllmc-record"] = out.record or "none"
        response.headers["x-dllmc-match"] = out.match
        return Answer(text=out.text, tokens=out.tokens, evaluations=out.nfe, seconds=out.seconds)

    def health(self) -> dict[str, str]:
        return {"model": self.engine.name, "execution": self.engine.execution}


def wrong_request(_: object, error: Exception) -> JSONResponse:
    """What the client can mend: the message says how."""
    return JSONResponse({"detail": str(error)}, status_code=422)


def create_app(artifact: str) -> FastAPI:
    """The service over the artifact at this path."""
    service, made = Service(artifact), FastAPI(title="dllmc")
    made.post("/generate")(service.generate)
    made.get("/health")(service.health)
    for error in (dllmc.PromptError, dllmc.UsageError, dllmc.ConfigError):
        made.exception_handler(error)(wrong_request)
    return made


if "DLLMC_ARTIFACT" in os.environ:
    app = create_app(os.environ["DLLMC_ARTIFACT"])
