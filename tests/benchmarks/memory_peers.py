"""langmem and mem0 as memories of an agent like any other: what they are told, what they find, and the recipe round it.

    pip install -c constraints.txt 'evolvent[peers]'

A peer's recipe is made of the nodes that our systems share: attempt → learn → evaluate. Learning hands the exchange to
the peer's own store, under the task's user where a world has users; the seat shows what the peer's own search finds for
the task's prompt, oldest first. In qa, a stream with labels, the exchange ends with the right answer, as ours are told.

- `langmem`: the tools of its hot path, `create_manage_memory_tool` and `create_search_memory_tool`, over LangGraph's
  `InMemoryStore`. Its store manager extracts memories by tool calls, which the embedded model cannot write, so the
  exchange itself is what is remembered.
- `mem0ai`: `Memory.add` with its extraction, by the same chat model through its langchain provider, and
  `Memory.search`. Its prompt alone is 34,000 characters; a reply that is no JSON leaves nothing behind, and
  `held.json` shows that.
- `mem0ai-verbatim`: the same with `infer=False`: messages are kept as they are, and no model is asked.

All of it is local: the store, the embedder, and no telemetry (mem0's notices, which would fetch a file, go with it).
mem0 would also download spaCy's English model where spaCy is there without it; it is kept from that, and then searches
by meaning alone, without its word and entity scores, as it does where the extra's packages are all there is.
"""

from __future__ import annotations

import asyncio
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from evolvent.agents.context import Context
from evolvent.agents.evolution import State, cycle
from evolvent.agents.remembering import (
    Remembering,
    attempt,
    baseline_of,
    evaluation,
    experience,
    learned,
    tasks,
    turn,
    user,
)
from evolvent.agents.solutions.act import Policy
from evolvent.agents.solutions.demonstration import right_actions
from evolvent.agents.solutions.found import Showing
from evolvent.agents.solutions.recall import Fixed, Recollection
from evolvent.agents.types import CallTag
from evolvent.environments.types import Message, Task, Trajectory
from evolvent.memory.embedding import Embedder
from evolvent.memory.rendering import render

PEERS = {"langmem": "langmem", "mem0ai": "mem0", "mem0ai-verbatim": "mem0"}
"""Rows and what is imported for them."""
INSTALL = "pip install -c constraints.txt 'evolvent[peers]'"
FOUND = 5
"""Memories shown before a task at most."""
EXTRACTED_TOKENS = 512
"""Of a reply in which mem0 wants its facts."""
_LABELLED = ("qa",)
_EVERYBODY = "everybody"


class Peer(Protocol):
    """A memory that is told exchanges and searched by user."""

    def add(self, who: str, exchange: Sequence[tuple[str, str]]) -> None:
        """Remember (role, text) turns; may wait for a model, so it is called in a thread."""
        ...

    def search(self, who: str, query: str) -> list[str]:
        """At most `FOUND` memories for a query, oldest first."""
        ...

    def held(self, who: str) -> list[str]:
        """All it holds of somebody."""
        ...


def missing(row: str) -> str:
    """Why a peer cannot be played here, and what to do; empty where it can."""
    return "" if find_spec(PEERS[row]) else f"not installed: {INSTALL}"


class LangMem:
    def __init__(self, embedder: Embedder) -> None:
        from langgraph.store.memory import InMemoryStore

        self._store = InMemoryStore(
            index={"dims": embedder.dim, "embed": lambda texts: embedder.embed(list(texts)).tolist()}
        )

    def add(self, who: str, exchange: Sequence[tuple[str, str]]) -> None:
        from langmem import create_manage_memory_tool

        tool = create_manage_memory_tool(("memories", who), store=self._store)
        tool.invoke({"content": "\n".join(text for _, text in exchange), "action": "create"})

    def search(self, who: str, query: str) -> list[str]:
        from langmem import create_search_memory_tool

        tool = create_search_memory_tool(("memories", who), store=self._store)
        found = json.loads(tool.invoke({"query": query, "limit": FOUND}))
        return [each["value"]["content"] for each in sorted(found, key=lambda each: each["created_at"])]

    def held(self, who: str) -> list[str]:
        return [item.value["content"] for item in self._store.search(("memories", who), limit=100_000)]


class Mem0:
    """
    Args:
        model: that extracts; None keeps messages as they are.
        folder: of its history and settings.
    """

    def __init__(self, embedder: Embedder, model: BaseChatModel | None, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Read when it is first imported.
        os.environ |= {"MEM0_TELEMETRY": "False", "MEM0_DIR": str(folder)}
        from langchain_core.embeddings import Embeddings
        from langchain_core.language_models import FakeListChatModel
        from mem0 import Memory
        from mem0.utils import spacy_models
        from qdrant_client import QdrantClient

        class Ours(Embeddings):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                return [[float(x) for x in vector] for vector in embedder.embed(texts)]

            def embed_query(self, text: str) -> list[float]:
                return self.embed_documents([text])[0]

        if find_spec("en_core_web_sm") is None:
            spacy_models._load_failed_full = spacy_models._load_failed_lemma = True  # or it would be downloaded
        # A local Qdrant has no payload indexes, and says so of each that mem0 asks for.
        warnings.filterwarnings("ignore", "Payload indexes have no effect", UserWarning)
        self._infer = model is not None
        # In memory, because it is written in one thread and read in another, which its files do not allow.
        store = {"client": QdrantClient(":memory:"), "embedding_model_dims": embedder.dim, "path": str(folder)}
        self._memory = Memory.from_config(
            {
                "vector_store": {"provider": "qdrant", "config": store},
                "embedder": {"provider": "langchain", "config": {"model": Ours()}},
                "llm": {"provider": "langchain", "config": {"model": model or FakeListChatModel(responses=[""])}},
                "history_db_path": str(folder / "history.db"),
            }
        )

    def add(self, who: str, exchange: Sequence[tuple[str, str]]) -> None:
        from mem0.exceptions import LLMError

        messages = [{"role": role, "content": text} for role, text in exchange]
        with suppress(LLMError):  # The trace has the cause; what could not be extracted is not remembered.
            self._memory.add(messages, user_id=who, infer=self._infer)

    def search(self, who: str, query: str) -> list[str]:
        found = self._memory.search(query, top_k=FOUND, filters={"user_id": who})["results"]
        return [each["memory"] for each in sorted(found, key=lambda each: each["created_at"])]

    def held(self, who: str) -> list[str]:
        found = self._memory.get_all(filters={"user_id": who}, top_k=100_000)["results"]
        return [each["memory"] for each in found]


class Asked(BaseChatModel):
    """A chat model for somebody else's library, whose calls are counted and traced like ours.

    Called in a thread of its own, while the loop in which our models work goes on.
    """

    ask: Callable[[Sequence[Message]], Any]
    """A coroutine that gives the reply's text."""
    loop: Any

    @property
    def _llm_type(self) -> str:
        return "evolvent-asked"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        roles = {"system": "system", "ai": "assistant"}
        turns = [Message(roles.get(each.type, "user"), "history", str(each.text)) for each in messages]  # type: ignore[arg-type]  # one of three
        text = asyncio.run_coroutine_threadsafe(self.ask(turns), self.loop).result()
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


def open_peer(row: str, embedder: Embedder, folder: Path, ask: Callable[[Sequence[Message]], Any]) -> Peer:
    """A peer with nothing in it. Called in a running loop.

    Args:
        ask: gives the reply of our chat model to what the peer asks it.
    """
    if row == "langmem":
        return LangMem(embedder)
    model = None if row == "mem0ai-verbatim" else Asked(ask=ask, loop=asyncio.get_running_loop())
    return Mem0(embedder, model, folder)


def build(row: str, folder: Path) -> StateGraph[State, Context, State, State]:
    """baseline, then per generation: tasks → (answer → learn)* → evaluate."""
    config = Remembering()
    opened: dict[str, Peer] = {}
    learning: list[CallTag] = []  # for whom the peer asks; it learns of one task after the other

    def peer(context: Context) -> Peer:
        async def ask(turns: Sequence[Message]) -> str:
            reply = await context.model("reflector").generate(turns, learning[-1], max_tokens=EXTRACTED_TOKENS)
            return reply.text

        if row not in opened:
            opened[row] = open_peer(row, context.memory.embedder, folder, ask)
        return opened[row]

    def seat(context: Context, showing: Showing) -> Policy:
        return Policy(context.model("actor"), _FromPeer(peer(context)))

    async def learn(state: State, runtime: Runtime[Context]) -> State:
        """What was said, done and answered goes to the peer's own store."""
        context = runtime.context
        done = turn(context, state)
        labelled = context.objective.environment.name in _LABELLED
        spec = context.objective.environment_at(state["generation"])
        labels = await right_actions(context, done, spec) if labelled else [[]] * len(done)
        for task, label in zip(done, labels, strict=True):
            trajectory = experience(context, state, task).trajectory
            learning.append(CallTag("reflector", "train", state["generation"], task.id, purpose="remember"))
            exchange = _exchange(trajectory, "; ".join(label))
            await asyncio.to_thread(peer(context).add, _whose(task), exchange)
        return learned(context, state, [])

    def row_of(context: Context, state: State) -> Mapping[str, Any]:
        held = {who: peer(context).held(who) for who in _people(context)}
        (context.directory / "held.json").write_text(json.dumps(held, indent=1), encoding="utf-8")
        return {"held": sum(map(len, held.values()))}

    return cycle(
        {"baseline": baseline_of(seat)},
        {
            "tasks": tasks,
            "answer": attempt(seat, config),
            "learn": learn,
            "evaluate": evaluation(seat, config, row_of),
        },
        loops={"learn": "answer"},
    )


@dataclass(frozen=True, slots=True)
class _FromPeer:
    peer: Peer

    def __call__(self, task: Task, player: str, rng: Any) -> Recollection:
        found = self.peer.search(_whose(task), task.prompt)
        return Fixed(head="What you remember:\n" + "\n".join(found) if found else "")


def _exchange(trajectory: Trajectory, label: str) -> list[tuple[str, str]]:
    """Our turns as a chat: the task as the user's, what was done and came of it as the assistant's."""
    task, _, acted = render(trajectory).partition("\n")
    told = [("user", f"The right answer is: {label}")] if label else []
    return [("user", task.removeprefix("Task: ")), ("assistant", acted), *told]


def _whose(task: Task) -> str:
    return user(task) or _EVERYBODY


def _people(context: Context) -> list[str]:
    learned_from = [each.trajectories[0].task for each in context.memory.ledger.episodes(phase="train")]
    return sorted({_whose(task) for task in learned_from})
