"""A vLLM server: a chat model by OpenAI's protocol, a `Scorer` and LoRA adapters by what vLLM adds to it.

What serving adapters with vLLM needs wherever its engine runs is here too: names and refusals.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from langchain_core.messages import BaseMessage, convert_to_openai_messages

from evolvent.agents.errors import BadAdapterError, ModelUnavailableError
from evolvent.agents.models.openai import EndpointChatModel, GarbledAnswerError
from evolvent.agents.models.protocol import Scores

_PLAIN = {"temperature": 0, "top_p": 1, "top_k": 0, "repetition_penalty": 1}
"""What the embedded model does. Unasked, a server does what the model's generation_config.json says."""
_FILES = ("adapter_config.json", "adapter_model.safetensors")
_HASHED = re.compile(r".+@[0-9a-f]{12,}")
_MOVES = {
    "max_lora_rank": "Start vLLM with a max_lora_rank that is as high",
    "No adapter found": "vLLM reads the folder itself: put it where its machine sees it by the same path",
    "not enabled": "Start the server with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True",
    "does not support": "Merge it into the base, or serve it with the embedded model",
    "not yet support": "Merge it into the base, or serve it with the embedded model",
}
"""What to do, by words of vLLM's reason."""


class VllmChatModel(EndpointChatModel):
    """A chat model and `Scorer` at `base_url`, which ends in `/v1`. Greedy, where a call gives no temperature.

    On a CPU a server with LoRA (0.32) dies of two prompts that are scored at once, unless it is told to leave the head
    alone: --lora-target-modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj, or what the layers are called.

    Raises:
        ModelUnavailableError: no server was named.
    """

    adapter: str | None = None
    """Folder of the LoRA adapter that the server knows as `model`; None where `model` was there before."""

    @property
    def path(self) -> str:
        """Of the weights, as the server was told to serve them: its folder or hub id."""
        return self.model

    def model_post_init(self, context: Any, /) -> None:
        if self.base_url is None:
            raise ModelUnavailableError(
                f"vllm:{self.model} names no server; say vllm:{self.model}@http://localhost:8000/v1, where "
                f"'vllm serve {self.model}' answers."
            )
        super().model_post_init(context)

    def with_adapter(self, folder: str | Path, *, name: str | None = None) -> VllmChatModel:
        """This server's base with the adapter in `folder` on top, loaded there now and shared by all who call it.

        The server reads the folder itself, under this path and maybe again later: leave it there while it is served.
        It has to allow this: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora. An adapter of a
        smaller base it takes without a word; `verify` finds that out.

        Args:
            name: what the server knows it by; None is `adapter_name`. One that is loaded there stays, for a name stands
                for one content: vLLM's cache would mix the prompts of two.

        Raises:
            BadAdapterError: the server refuses the adapter; says what to do.
            ModelUnavailableError: the server is not there.
        """
        name = name or adapter_name(folder)
        path = str(Path(folder).absolute())
        response = self._tell("load_lora_adapter", lora_name=name, lora_path=path)
        if not response.is_success and "already been loaded" not in response.text:
            raise refusal(folder, _reason(response))
        return self.model_copy(update={"model": name, "adapter": path})

    def remove_adapter(self) -> None:
        """Take the adapter from the server, whoever loaded it; later calls of this model fail."""
        if self.adapter is not None:
            response = self._tell("unload_lora_adapter", lora_name=self.model)
            if not response.is_success and "cannot be found" not in response.text:
                raise refusal(self.adapter, _reason(response))

    async def logprobs(self, messages: Sequence[BaseMessage], continuations: Sequence[str]) -> Scores:
        if not continuations or not all(continuations):
            raise ValueError(f"Continuations {list(continuations)!r}; expected one or more, none of them empty.")

        async def post(path: str, **body: Any) -> Any:
            async with self._line() as client:
                response = await client.post(f"{self._root}/{path}", json={"model": self.model, **body})
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

    def _request(self, messages: Sequence[BaseMessage], stop: list[str] | None, settings: dict[str, Any]) -> bytes:
        return super()._request(messages, stop, {**_PLAIN, **settings})

    @property
    def _root(self) -> str:
        return str(self.base_url).rstrip("/").removesuffix("/v1")

    def _tell(self, what: str, **body: str) -> httpx.Response:
        try:
            with httpx.Client(**self._settings()) as client:
                return client.post(f"{self._root}/v1/{what}", json=body)
        except httpx.TransportError as error:
            raise ModelUnavailableError(
                f"No vLLM server answers at {self.base_url} ({type(error).__name__}). Start it, or check the address."
            ) from error


def adapter_name(folder: str | Path) -> str:
    """The folder's own name where that is NAME@HASH, as the registry's are; else with a hash of its files behind it.

    Raises:
        BadAdapterError: there is nothing to hash here.
    """
    folder = Path(folder).absolute()
    if _HASHED.fullmatch(folder.name):
        return folder.name
    content = hashlib.sha256()
    for file in _FILES:
        try:
            content.update((folder / file).read_bytes())
        except OSError as error:
            raise BadAdapterError(
                f"Cannot serve the adapter {str(folder)!r}: there is no {file} in it ({error.strerror}). Give a folder "
                "that PEFT saved with safetensors, or the name NAME@HASH of one that only the server sees."
            ) from error
    return f"{folder.name}@{content.hexdigest()[:12]}"


def refusal(folder: str | Path, reason: str) -> BadAdapterError:
    """vLLM's reason in our words, with the next move."""
    move = next((move for words, move in _MOVES.items() if words in reason), None)
    if move is None:
        move = "Copy it again, and check that it was trained on this base"
    reason = reason.strip().splitlines()[-1].rstrip(".") if reason.strip() else "no reason is given"
    return BadAdapterError(f"vLLM does not serve the adapter {str(folder)!r}: {reason[:300]}. {move}.")


def _reason(response: httpx.Response) -> str:
    """Of a refusal. A server without adapters at runtime lacks the whole address."""
    try:
        answer = response.json()
        return str(answer["error"]["message"])
    except (ValueError, TypeError, LookupError):
        if response.status_code == 404:
            return "loading LoRA adapters at runtime is not enabled"
        return f"HTTP {response.status_code}: {response.text}"
