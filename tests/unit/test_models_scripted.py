from __future__ import annotations

from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from evolvent.agents.errors import ModelUnavailableError
from evolvent.agents.models.protocol import Scorer
from evolvent.agents.models.scripted import ScriptedChatModel, ScriptedScorer, UnscriptedError, by_rules, from_file

KWARGS = {"temperature": 0.7, "max_tokens": 5, "stop": ["\n"], "seed": 3}


async def test_replies_come_in_order_and_requests_are_kept() -> None:
    model = ScriptedChatModel(["one", "two"])
    assert [(await model.ainvoke([HumanMessage(text)], **KWARGS)).text for text in ("a", "b")] == ["one", "two"]
    assert [request[0].text for request in model.requests] == ["a", "b"]


async def test_one_request_too_many_fails_and_names_the_prompt() -> None:
    model = ScriptedChatModel(["only"])
    await model.ainvoke("first")
    with pytest.raises(UnscriptedError, match=r"Call 2 is one too many for 1 replies.*second"):
        await model.ainvoke("second")


def test_a_function_replies_to_the_whole_prompt() -> None:
    model = ScriptedChatModel(lambda messages: f"{len(messages)} messages")
    assert model.invoke([SystemMessage("s"), HumanMessage("h")]).text == "2 messages"


def test_the_first_rule_that_matches_replies() -> None:
    model = ScriptedChatModel(by_rules([("rust", "oil"), ("rust|crack", "glue")], default="wait"))
    assert [model.invoke(prompt).text for prompt in ("a crack", "some rust", "a dent")] == ["glue", "oil", "wait"]


def test_a_prompt_that_no_rule_matches_fails_and_shows_it() -> None:
    with pytest.raises(UnscriptedError, match="a dent"):
        ScriptedChatModel(by_rules([("rust", "oil")])).invoke("a dent")


async def test_usage_counts_words() -> None:
    message = await ScriptedChatModel(["two words"]).ainvoke("three words here")
    assert message.usage_metadata == {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


async def test_only_the_scorer_scores() -> None:
    model = ScriptedScorer([], score=lambda messages, options: [-float(len(option)) for option in options])
    assert isinstance(model, Scorer)
    assert not isinstance(ScriptedChatModel([]), Scorer)
    scores = await model.logprobs([HumanMessage("which one")], ["a", "bcd"])
    assert scores.logprobs == ((-1.0,), (-3.0,))
    with pytest.raises(ValueError, match="none of them empty"):
        await model.logprobs([HumanMessage("which one")], ["a", ""])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("script.yaml", "rules:\n  - {match: 'r.st', reply: oil}\ndefault: wait\n"),
        ("script.json", '{"rules": [{"match": "r.st", "reply": "oil"}], "default": "wait"}'),
    ],
)
def test_a_script_is_read_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    model = from_file(tmp_path / name)
    assert [model.invoke(prompt).text for prompt in ("the rust", "the dent")] == ["oil", "wait"]


@pytest.mark.parametrize("text", ["rules: [{match: '(', reply: x}]", "nonsense: 1", "[", "rules: 3", ""])
def test_a_file_that_is_no_script_is_told_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "script.yaml").write_text(text)
    with pytest.raises(ModelUnavailableError, match="is no script") as caught:
        from_file(tmp_path / "script.yaml")
    assert "\n" not in str(caught.value)
