"""A seat that manages its own memory by calls: what its window holds, and the chain of calls that ends in a message.

After MemGPT (arXiv 2310.08560). The window is main memory: two core blocks that the model itself edits, a queue of
messages led by a summary of those that left it, and how much lies outside. Everything else it has to search for. What
it writes holds at once for its own next prompt; whoever gave the window decides what of it is kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evolvent.agents.solutions.act import Acted, Policy, read_action, written_step
from evolvent.agents.types import CallTag
from evolvent.environments.errors import MalformedCallError
from evolvent.environments.tool_calls import read_call
from evolvent.environments.types import Cost, Message, Observation, Step, ToolCall, conversation
from evolvent.memory.paging import page

CHARS_PER_TOKEN = 4
BLOCKS = ("persona", "human")
BLOCK_CHARS, RESULT_CHARS, PAGE = 2000, 3000, 5
FUNCTIONS: Mapping[str, tuple[str, ...]] = {
    "send_message": ("message",),
    "core_memory_append": ("block", "text"),
    "core_memory_replace": ("block", "old", "new"),
    "archival_memory_insert": ("text",),
    "archival_memory_search": ("query", "page"),
    "conversation_search": ("query", "page"),
    "conversation_search_date": ("day", "page"),
}
"""Arguments of each; `page` may be left out."""
HEARTBEAT = "heartbeat"
"""The argument, true or false, that asks for another call before anybody speaks again."""
TOLD = (
    "You remember by calling functions. Think if you like, and end with one call on a line of its own. Only what you "
    "send with send_message is heard. Add heartbeat=true to a call to be asked again at once.\n"
    'send_message(message="…")\n'
    'core_memory_append(block="human", text="…") and core_memory_replace(block="human", old="…", new="…") change what '
    'you always see; block is "persona" (you) or "human" (them).\n'
    'archival_memory_insert(text="…") puts something away; archival_memory_search(query="…", page=1) finds it.\n'
    'conversation_search(query="…", page=1) and conversation_search_date(day=1, page=1) find old messages.'
)
NEXT = "Call a function."

Search = Callable[[str, str], Sequence[str]]
"""Function and what is looked for → everything found, best first."""


@dataclass(slots=True)
class Window:
    """What one episode sees of memory, and what it does to it. Made new for each episode."""

    core: dict[str, str]
    """By block."""
    summary: str
    """Of the messages that left the queue; empty where none did."""
    queue: Sequence[str]
    """Messages, oldest first."""
    outside: Mapping[str, int]
    """How many items lie in each storage that has to be searched."""
    search: Search
    inserted: list[str] = field(default_factory=list)
    """What was put away in this episode."""

    def text(self) -> str:
        """The window as it stands in a prompt."""
        blocks = [f"<{name}>{self.core.get(name, '')}</{name}>" for name in BLOCKS]
        stored = ", ".join(f"{count} in {name}" for name, count in self.outside.items())
        messages = [*([self.summary] if self.summary else []), *self.queue]
        return "\n".join(["Core memory:", *blocks, f"Out of sight: {stored}.", "Messages:", *messages])

    def call(self, wanted: ToolCall) -> str:
        """Do what a call asks for, but `send_message`, and say what came of it.

        Raises:
            MalformedCallError: unknown function or arguments, a full block, a text that is not there.
        """
        given = {name: value for name, value in wanted.arguments.items() if name != HEARTBEAT}
        _check(wanted.name, given)
        match wanted.name:
            case "core_memory_append":
                self._set(given["block"], "\n".join(part for part in (self._block(given), given["text"]) if part))
            case "core_memory_replace":
                if given["old"] not in self._block(given):
                    raise MalformedCallError(f"{given['block']} does not hold {given['old'][:80]!r}.")
                self._set(given["block"], self._block(given).replace(given["old"], given["new"]))
            case "archival_memory_insert":
                self.inserted.append(given["text"])
            case _:
                return self._found(wanted.name, str(given.get("query", given.get("day"))), given.get("page", 1))
        return "Done."

    def _found(self, name: str, query: str, number: object) -> str:
        if not isinstance(number, int) or number < 1:
            raise MalformedCallError(f"page is a whole number from 1, not {number!r}.")
        every = [*self.search(name, query)]
        shown = page(every, number, PAGE)
        pages = -(-len(every) // PAGE)
        return "\n".join([f"Page {number} of {pages}, {len(every)} found.", *shown]) if shown else "Nothing found."

    def _block(self, given: Mapping[str, str]) -> str:
        if given["block"] not in BLOCKS:
            raise MalformedCallError(f"There is no block {given['block'][:40]!r}. There are: {', '.join(BLOCKS)}.")
        return self.core.get(given["block"], "")

    def _set(self, block: str, text: str) -> None:
        if len(text) > BLOCK_CHARS:
            raise MalformedCallError(
                f"{block} would have {len(text)} characters, {BLOCK_CHARS} at most. Replace something in it first."
            )
        self.core[block] = text


@dataclass(frozen=True, slots=True)
class Chain:
    """A manner: calls are made until one neither fails nor asks for another; what was sent is the action.

    Plain text reaches nobody. A chain that does not end is cut after `most` calls, or where the prompt would outgrow
    `window_tokens`; for these the oldest turns of a long episode leave the prompt, too.
    """

    windows: Mapping[str, Window]
    """By task id."""
    most: int = 8
    window_tokens: int = 8192

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        window = self.windows[tag.task]
        start = self._in_sight(policy, earlier, new)
        # The functions are told where an episode begins, and again where that has left the prompt.
        turns: list[Message] = [*new, _told(NEXT if earlier and not start else f"{TOLD}\n{NEXT}")]
        sent: list[str] = []
        cost, failed, reply = Cost(), 0, ""
        for number in range(self.most):
            prompt = conversation(earlier, tuple(_seen(turns, window)), start)
            purpose = "act" if not number else f"act-{number}"
            answer = await policy.write(prompt, replace(tag, purpose=purpose), rng)
            cost, reply = cost + answer.cost, answer.text
            result, again = self._done(window, reply, sent)
            failed += result.startswith(FAILED)
            room = self.window_tokens - tokens(prompt) - tokens([Message("assistant", "history", reply)])
            if not again or number + 1 == self.most or room <= policy.max_reply_tokens:
                break
            most = min(RESULT_CHARS, max(0, room - policy.max_reply_tokens) * CHARS_PER_TOKEN)
            turns += [Message("assistant", "history", reply), _told(result[:most])]
        action, known = read_action("\n".join(sent), observation)
        step = written_step(policy, observation, tuple(_seen(turns, window)), reply, action, start)
        return Acted(step, cost, malformed=not known)

    def _in_sight(self, policy: Policy, earlier: Sequence[Step], new: tuple[Message, ...]) -> int:
        """The first turn of the episode that still fits the window, before what leads it and beside a reply."""
        told = (*new, _told(f"{TOLD}\n{NEXT}"))
        for start in range(len(earlier)):
            if tokens(conversation(earlier, told, start)) + policy.max_reply_tokens <= self.window_tokens:
                return start
        return len(earlier)

    def _done(self, window: Window, reply: str, sent: list[str]) -> tuple[str, bool]:
        """What came of a reply, and whether the model is asked again at once."""
        try:
            wanted = call_in(reply)
            if wanted.name == "send_message":
                _check(wanted.name, {name: value for name, value in wanted.arguments.items() if name != HEARTBEAT})
                sent.append(wanted.arguments["message"])
                result = "Sent."
            else:
                result = window.call(wanted)
        except MalformedCallError as error:
            return f"{FAILED} {error}", True
        return result, wanted.arguments.get(HEARTBEAT) is True


FAILED = "That did not work:"


def call_in(reply: str) -> ToolCall:
    """The call that a reply ends with; what stands before it is thought.

    Raises:
        MalformedCallError: its last line is no call.
    """
    lines = [line.strip() for line in reply.strip().splitlines() if line.strip()]
    if not lines:
        raise MalformedCallError("There was no call.")
    return read_call(lines[-1])


def calls_of(step: Step) -> list[ToolCall]:
    """The calls of a step that could be read, in order, `send_message` among them."""
    replies = [message.text for message in step.messages if message.role == "assistant"]
    found = []
    for reply in (*replies, step.reply):
        try:
            found.append(call_in(reply))
        except MalformedCallError:
            continue
    return found


def tokens(messages: Sequence[Message]) -> int:
    """Of a prompt, at four characters each."""
    return sum(len(message.text) + 1 for message in messages) // CHARS_PER_TOKEN


def _check(name: str, given: Mapping[str, object]) -> None:
    if name not in FUNCTIONS:
        raise MalformedCallError(f"There is no function {name[:40]!r}. There are: {', '.join(FUNCTIONS)}.")
    needed = [each for each in FUNCTIONS[name] if each != "page"]
    wrong = [each for each in needed if each not in given] + [each for each in given if each not in FUNCTIONS[name]]
    wrong += [each for each in needed if each != "day" and not isinstance(given.get(each, ""), str)]
    if wrong:
        raise MalformedCallError(f"{name} takes {', '.join(FUNCTIONS[name])}; look at {', '.join(wrong)}.")


def _seen(turns: Sequence[Message], window: Window) -> list[Message]:
    """The prompt with the window as it is now."""
    return [replace(each, text=window.text()) if each.part == "memory" and each.text else each for each in turns]


def _told(text: str) -> Message:
    return Message("user", "history", text)
