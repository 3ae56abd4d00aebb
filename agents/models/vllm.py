"""A vLLM server: a chat model by OpenAI's protocol, and a `Scorer` by what vLLM adds to it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_openai_messages

from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.models.openai import EndpointChatModel, GarbledAnswerError
from evolvent.agents.models.protocol import Scores


class VllmChatModel(EndpointChatModel):
    """A chat model and `Scorer` at `base_url`, which ends in `/v1`.

    Raises:
        ModelUnavailableError: no server was named.
    """

    def model_post_init(self, context: Any, /) -> None:
        if self.base_url is None:
            install = "" if importlib.util.find_spec("vllm") else "pip install 'evolvent[vllm]', then "
            raise ModelUnavailableError(
                f"vllm:{self.model} names no server. Start one ({install}vllm serve {self.model}) and say "
                f"vllm:{self.model}@http://localhost:8000/v1"
            )
        super().model_post_init(context)

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        if not continuations or not all(continuations):
            raise ValueError(f"Continuations {list(continuations)!r}; expected one or more, none of them empty.")
        assert self.base_url is not None
        root = self.base_url.rstrip("/").removesuffix("/v1")

        async def post(path: str, **body: Any) -> Any:
            async with self._line() as client:
                response = await client.post(f"{root}/{path}", json={"model": self.model, **body})
            response.raise_for_status()
            return response.json()

        try:
            chat = convert_to_openai_messages(list(messages))
            prompt = (await post("tokenize", messages=chat, add_generation_prompt=True))["tokens"]
            options = [
                (await post("tokenize", prompt=text, add_special_tokens=False))["tokens"] for text in continuations
            ]
            whole = [[*prompt, *option] for option in options]
            answer = await post("v1/completions", prompt=whole, max_tokens=1, temperature=0, prompt_logprobs=0)
            scored = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            logprobs = tuple(
                tuple(
                    float(position[str(token)]["logprob"])
                    for token, position in zip(option, choice["prompt_logprobs"][len(prompt) :], strict=True)
                )
                for option, choice in zip(options, scored, strict=True)
            )
        except (ValueError, TypeError, LookupError) as error:
            raise GarbledAnswerError(f"The server's answer gives no log-probabilities: {error!r}"[:300]) from error
        return Scores(logprobs, len(prompt) + sum(map(len, options)))
