"""The wire format of a vLLM server, spoken by a small one over bytes: which tokens are asked for, which are read.

It stands in for the real engine, which needs a package of several hundred megabytes.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from evolvent.agents.models.openai import GarbledAnswerError
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.vllm import VllmChatModel


class ByteServer(BaseHTTPRequestHandler):
    """A token is a byte; its log-probability is minus its place in the whole text."""

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            text = body["prompt"] if "prompt" in body else "".join(m["content"] for m in body["messages"]) + ">"
            answer: dict[str, Any] = {"tokens": list(text.encode())}
        elif body["model"] == "silent":
            answer = {"choices": []}
        else:
            answer = {
                "choices": [
                    {
                        "index": i,
                        "prompt_logprobs": [None, *({str(t): {"logprob": -at}} for at, t in enumerate(ids[1:], 1))],
                    }
                    for i, ids in reversed(list(enumerate(body["prompt"])))
                ]
            }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), ByteServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


async def test_the_tokens_of_a_continuation_are_scored_behind_the_whole_prompt(url: str) -> None:
    model = VllmChatModel(model="bytes", base_url=url)
    assert isinstance(model, Scorer)
    scores = await model.logprobs([HumanMessage("abc")], ["xy", "z"])
    assert scores.logprobs == ((-4.0, -5.0), (-4.0,))
    assert scores.tokens_in == len("abc>") + len("xy") + len("z")


async def test_an_answer_without_log_probabilities_is_garbled(url: str) -> None:
    with pytest.raises(GarbledAnswerError):
        await VllmChatModel(model="silent", base_url=url).logprobs([HumanMessage("abc")], ["xy"])
