"""The wire format of a vLLM server, spoken by a small one over bytes: which tokens are asked for, which are read.

It stands in for the real engine, whose packages fill gigabytes; `tests/with_vllm` asks that one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from evolvent.agents.errors import BadAdapterError
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
        elif self.path == "/v1/chat/completions":
            answer = {"choices": [{"message": {"content": json.dumps(body)}, "finish_reason": "stop"}]}
        elif self.path != "/v1/completions":
            return self.send_error(404)  # as a server answers that takes no adapters while it runs
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


async def test_a_call_that_says_nothing_is_greedy_like_the_embedded_models(url: str) -> None:
    model = VllmChatModel(model="bytes", base_url=url)
    heard = [json.loads((await model.ainvoke("Hello", **given)).text) for given in ({}, {"temperature": 0.7})]
    assert [body["temperature"] for body in heard] == [0, 0.7]
    assert heard[0]["repetition_penalty"] == heard[0]["top_p"] == 1


def test_a_server_that_takes_no_adapters_is_told_how_to_be_started(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadAdapterError, match="--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        VllmChatModel(model="bytes", base_url=url).with_adapter(tmp_path / "law@0123456789ab")


async def test_an_answer_without_log_probabilities_is_garbled(url: str) -> None:
    with pytest.raises(GarbledAnswerError):
        await VllmChatModel(model="silent", base_url=url).logprobs([HumanMessage("abc")], ["xy"])
