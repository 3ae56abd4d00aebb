"""MemGPT's signature, line by line, through whole runs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from systems.listener import asked_about, heard, speaker_of
from systems.runs import calls, generations, memory_of, play, prompt, visited

from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.memgpt import Config, build
from evolvent.agents.run import RunConfig, result
from evolvent.environments.key_values import documents
from evolvent.memory.types import Record

_ASKED = re.compile(r"^(\w+ \w+, (?:after )?day \d+: .+)$", re.MULTILINE)
_SAID = re.compile(r"^(\d+)\. user: (.+)$", re.MULTILINE)


def config(
    tasks: int = 6, generations: int = 2, evaluated: int = 8, env: str = "dialogue", **settings: Any
) -> RunConfig:
    return RunConfig(
        recipe="memgpt",
        environment=env,
        options={"characters": 1} if env == "dialogue" else {"pairs": 120, "depth": 2},
        tasks=tasks,
        evaluated=evaluated,
        generations=generations,
        settings={"chain": 8, **settings},
        embedder="hash",
    )


def call(name: str, **arguments: Any) -> str:
    return f"{name}({', '.join(f'{key}={json.dumps(value)}' for key, value in arguments.items())})"


def saying(*replies: str) -> ScriptedChatModel:
    """Whose k-th inference of an event is the k-th of these, the last one again after that."""

    def reply(messages: Any) -> str:
        whole = "\n".join(str(message.text) for message in messages)
        if "leave your sight:" in whole:
            return "It was summed up."
        done = sum(message.type == "ai" for message in messages)
        return replies[min(done, len(replies) - 1)]

    return ScriptedChatModel(reply)


def able(searches: bool = True) -> ScriptedChatModel:
    """Searches by the words of a question, and answers by the newest message in its prompt that tells what is asked."""

    def reply(messages: Any) -> str:
        whole = "\n".join(str(message.text) for message in messages)
        if "leave your sight:" in whole:
            return "They talked."
        (question, *_) = _ASKED.findall(re.sub(r"^\d+\. .*$", "", whole, flags=re.MULTILINE))
        of = asked_about(question)
        if searches and of and "found." not in whole and "Nothing found" not in whole:
            return call("conversation_search", query=question.partition(": ")[2], heartbeat=True)
        told = {
            int(number): value
            for number, turn in _SAID.findall(whole)
            for about, value in heard(turn)
            if about == of and speaker_of(turn) == speaker_of(question)
        }
        if told:
            return call("send_message", message=f"The answer is {told[max(told)].lstrip('=')}.")
        return call("send_message", message="I do not know.")

    return ScriptedChatModel(reply)


def parts(run: Path, part: str) -> list[Record]:
    with memory_of(run) as memory:
        return [record for record in memory.records().values() if record.meta.get("part") == part]


def acting(run: Path, **fields: Any) -> list[dict[str, Any]]:
    return [row for row in calls(run, **fields) if row["purpose"].startswith("act")]


@pytest.mark.signature("memgpt", 0)
def test_plain_text_reaches_nobody_and_a_sent_message_does(tmp_path: Path) -> None:
    replies = ("The answer is Rome.", call("send_message", message="The answer is Oslo."))
    run = play(tmp_path / "run", config(tasks=1, generations=1), {"actor": saying(*replies)})
    with memory_of(run) as memory:
        (episode,) = memory.ledger.episodes(phase="train")
    (step,) = episode.trajectories[0].steps
    assert step.action.text == "The answer is Oslo."
    silent = play(tmp_path / "silent", config(tasks=1, generations=1), {"actor": saying("The answer is Rome.")})
    with memory_of(silent) as memory:
        (episode,) = memory.ledger.episodes(phase="train")
    assert episode.trajectories[0].steps[0].action.text == ""
    assert not [record for record in parts(silent, "message") if record.meta["role"] == "assistant"]


@pytest.mark.signature("memgpt", 1)
@pytest.mark.parametrize(
    ("first", "inferences"),
    [
        (call("core_memory_append", block="human", text="Likes tea."), 1),
        (call("core_memory_append", block="human", text="Likes tea.", heartbeat=True), 2),
        (call("core_memory_append", block="cellar", text="Likes tea."), 2),
        ("core_memory_append(", 2),
    ],
)
def test_a_heartbeat_or_a_failure_calls_the_model_again_and_nothing_else_does(
    tmp_path: Path, first: str, inferences: int
) -> None:
    actor = saying(first, call("send_message", message="Well."))
    run = play(tmp_path / "run", config(tasks=1, generations=1), {"actor": actor})
    assert len(acting(run, phase="train")) == inferences


@pytest.mark.signature("memgpt", 2)
def test_there_is_one_alert_until_a_flush_and_summaries_hold_those_before(tmp_path: Path) -> None:
    asked = config(tasks=14, generations=1, window_tokens=480, warning=0.7, reply_tokens=16, keep_last=3)
    number = iter(range(1000))

    def reply(messages: Any) -> str:
        whole = "\n".join(str(message.text) for message in messages)
        return f"Part {next(number)}." if "leave your sight:" in whole else call("send_message", message="Well. " * 8)

    run = play(tmp_path / "run", asked, {"actor": ScriptedChatModel(reply)})
    summaries = parts(run, "summary")
    assert len(summaries) > 1
    assert [record.status for record in summaries] == ["retired"] * (len(summaries) - 1) + ["active"]
    flushes = calls(run, purpose="summarise")
    for before, row in zip(summaries, flushes[1:], strict=False):
        assert before.meta["said"] in prompt(row)
    alerts = [record.meta["number"] for record in parts(run, "message") if record.meta["role"] == "alert"]
    bounds = [0, *(record.meta["until"] for record in summaries), 10_000]
    assert alerts
    assert max(sum(low < each <= high for each in alerts) for low, high in itertools.pairwise(bounds)) == 1
    for row in acting(run, phase="train"):
        text = prompt(row)
        assert text.startswith("People talk to you day after day")  # the instructions stay
        assert len(text) // 4 <= 480
        if "Summary of the first" in text:
            queue = text.partition("Messages:\n")[2]
            assert queue.startswith("Summary of the first")
            assert len(re.findall(r"^\d+\. ", queue, re.MULTILINE)) >= 3


@pytest.mark.signature("memgpt", 3)
def test_what_left_the_queue_is_out_of_sight_until_it_is_searched_for(tmp_path: Path) -> None:
    asked = config(tasks=12, generations=1, window_tokens=560, reply_tokens=16)
    run = play(tmp_path / "run", asked, {"actor": able()})
    first = parts(run, "message")[0].text
    (summary,) = parts(run, "summary")[-1:]
    assert summary.meta["until"] >= 1
    late = acting(run, phase="eval")
    unsearched = [row for row in late if "found." not in prompt(row)]
    assert unsearched
    assert not [row for row in unsearched if row["generation"] and first in prompt(row)]
    assert [row for row in late if first in prompt(row)], "a search brought it back"


@pytest.mark.signature("memgpt", 4)
def test_core_memory_changes_by_calls_alone_and_is_seen_in_the_very_next_prompt(tmp_path: Path) -> None:
    replies = (
        call("core_memory_append", block="human", text="Likes tea.", heartbeat=True),
        call("core_memory_replace", block="human", old="tea", new="coffee", heartbeat=True),
        call("core_memory_append", block="human", text="x" * 2000, heartbeat=True),
        call("send_message", message="Likes milk."),
    )
    run = play(tmp_path / "run", config(tasks=2, generations=1), {"actor": saying(*replies)})
    first, second, third, fourth, *later = [prompt(row) for row in acting(run, phase="train")]
    assert "<human></human>" in first
    assert "<human>Likes tea.</human>" in second
    assert "<human>Likes coffee.</human>" in third
    assert "That did not work: human would have" in fourth
    assert "<human>Likes coffee.</human>" in later[0], "and for the next event"
    assert "x" * 2000 not in "".join(record.text for record in parts(run, "human"))


@pytest.mark.signature("memgpt", 5)
def test_results_come_in_pages_of_five(tmp_path: Path) -> None:
    replies = (
        call("archival_memory_search", query="Key", page=1, heartbeat=True),
        call("archival_memory_search", query="Key", page=2, heartbeat=True),
        call("send_message", message="Well."),
    )
    run = play(tmp_path / "run", config(tasks=1, generations=1, env="key_values"), {"actor": saying(*replies)})
    text = prompt(acting(run, phase="train")[-1])
    first, second = (re.findall(r"^Key .*$", part, re.MULTILINE) for part in text.split("Page ")[1:])
    assert (len(first), len(second)) == (5, 5)
    assert not set(first) & set(second)
    assert set(first + second) <= set(documents({"pairs": 120, "depth": 2}))


def chains(follow: bool) -> ScriptedChatModel:
    """Looks a key up, and its value again as long as that is a key; or once only."""

    def reply(messages: Any) -> str:
        whole = "\n".join(str(message.text) for message in messages)
        pairs = dict(re.findall(r"Key (\w+): value (\w+)", whole))
        looked = re.findall(r'query="(\w+)"', whole)
        question = re.findall(r"Look up the key (\w+)", whole) if "Call a function" in whole else []
        if not question:
            return "I do not know."  # asked plainly
        key = looked[-1] if looked else question[-1]
        value = pairs.get(key, "")
        if looked and (not follow or not value):
            return call("send_message", message=f"The answer is {value or key}.")
        return call("archival_memory_search", query=value or key, heartbeat=True)

    return ScriptedChatModel(reply)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_chain_of_searches_is_as_right_at_any_depth(tmp_path: Path, depth: int) -> None:
    """The card's simulation (b): nested look-ups, flat in depth for an actor that follows them."""
    asked = config(tasks=1, generations=1, env="key_values", retrieval="bm25", chain=12)
    asked = asked.model_copy(update={"options": {"pairs": 240, "depth": depth}})
    told = result(play(tmp_path / "run", asked, {"actor": chains(follow=True)}))
    assert told["generations"][-1]["held_out"]["success"] == 1.0


def test_one_look_up_is_not_enough_where_values_are_keys(tmp_path: Path) -> None:
    """The negative control of the chain."""
    asked = config(tasks=1, generations=1, env="key_values", retrieval="bm25", chain=12)
    told = result(play(tmp_path / "run", asked, {"actor": chains(follow=False)}))
    assert told["generations"][-1]["held_out"]["success"] == 0.0


def test_searching_answers_more_than_the_queue_and_its_summary_alone(tmp_path: Path) -> None:
    """The card's simulation (a): facts that left the window."""
    sizes: dict[str, Any] = {"tasks": 12, "generations": 2, "evaluated": 30, "window_tokens": 600, "reply_tokens": 16}
    runs: dict[str, Callable[[], ScriptedChatModel]] = {"searching": able, "in sight": lambda: able(searches=False)}
    success = {
        name: result(play(tmp_path / name, config(**sizes), {"actor": make()}))["generations"][-1]["held_out"][
            "success"
        ]
        for name, make in runs.items()
    }
    assert success["searching"] > success["in sight"]


def test_with_proof_core_memory_waits_for_the_gate_and_messages_do_not(tmp_path: Path) -> None:
    replies = (
        call("core_memory_append", block="human", text="Likes tea.", heartbeat=True),
        call("send_message", message="."),
    )
    run = play(tmp_path / "run", config(tasks=2, generations=1, prove=True, gate_pairs=2), {"actor": saying(*replies)})
    assert {record.status for record in parts(run, "human")} == {"retired"}
    assert {record.status for record in parts(run, "message")} == {"active"}


def test_each_phase_is_a_node_of_its_own_and_a_bad_chain_ends(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=2, generations=1, chain=2), {"actor": saying("Hm.")})
    event = ["press", "flush", "answer", "store"]
    assert visited(run) == ["load", "baseline", "tasks", *event * 2, "gate", "evaluate"]
    assert len(acting(run, phase="train")) == 2 * 2
    assert generations(run)[-1]["failed_calls"] == 2, "the last of a chain has nobody to be told"
    assert build(Config()) is not None
