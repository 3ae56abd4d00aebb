"""ChatEval's signature, line by line, through whole runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from pydantic import ValidationError
from systems.referees import EYES, Panel, Request, marks, pairs, read, referees
from systems.runs import calls, generations, handed_in, memory_of, play, prompt, visited

from evolvent.agents.evaluation.agreement import Agreement, agreement
from evolvent.agents.feedback.score_lines import ASKED_AGAIN, LINES, by_majority, by_total, marks_in
from evolvent.agents.models.scripted import ScriptedChatModel
from evolvent.agents.recipes.chateval import PRESETS, REFEREES, Config
from evolvent.agents.rollout import run_sync
from evolvent.agents.run import RunConfig, create, execute
from evolvent.environments.judging import deal_of, pair_of
from evolvent.environments.types import Task

MODES = ("one-by-one", "simultaneous", "summarized")


def config(tasks: int = 1, generations: int = 1, **settings: Any) -> RunConfig:
    return RunConfig(
        recipe="chateval",
        environment="judging",
        tasks=tasks,
        generations=generations,
        settings=settings,
        embedder="hash",
    )


def numbered(ending: str = "") -> ScriptedChatModel:
    """Every message is a remark that no other repeats; the last ones end with marks."""
    number = count(1)
    return referees(lambda request: f"Remark {next(number)}.{ending}{marks(5, 5, '') if request.last else ''}")


def said_by(run: Path, task: Task, turn: int, seat: int, order: str = "given") -> dict[str, Any]:
    """The call of a referee's message."""
    (found,) = calls(run, purpose=f"{order}/{turn}", task=task.id, attempt=seat)
    return found


def messages_of(run: Path) -> list[dict[str, Any]]:
    """Calls of the referees' messages, in order."""
    return [row for row in calls(run, phase="train") if re.fullmatch(r"(given|swapped)/\d", row["purpose"])]


def of_task(run: Path, task: Task) -> list[dict[str, Any]]:
    return calls(run, phase="train", task=task.id)


def verdicts(run: Path) -> list[dict[str, Any]]:
    return list(generations(run)[-1]["verdicts"].values())


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One pair, three referees and two turns in every mode; one call at a time, so what was said could be heard."""
    folder = tmp_path_factory.mktemp("talks")
    setups = {mode: config(mode=mode, referees=3).model_copy(update={"concurrency": 1}) for mode in MODES}
    return {mode: play(folder / mode, setup, {"actor": numbered()}) for mode, setup in setups.items()}


@pytest.mark.signature("chateval", 0)
def test_one_by_one_the_second_referee_has_heard_the_first_and_at_once_it_has_not(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    for mode, run in talks.items():
        opening = said_by(run, task, 0, 0)["reply"]
        assert (opening in prompt(said_by(run, task, 0, 1))) == (mode == "one-by-one")
        assert (opening in prompt(said_by(run, task, 1, 1))) == (mode != "summarized")


@pytest.mark.signature("chateval", 1)
@pytest.mark.parametrize("mode", MODES)
def test_marks_are_asked_for_in_the_last_turn_alone_and_earlier_ones_are_ignored(tmp_path: Path, mode: str) -> None:
    """Two referees and two turns: there the released code asks in the first turn too where all speak at once."""

    def reply(request: Request) -> str:
        early = request.shown[0] == pair_of(pairs(config())[0]).answers[0]
        liked = early != request.last  # first A, and in the end B, in both orders
        return marks(9, 2) if liked else marks(2, 9)

    run = play(tmp_path / "run", config(mode=mode), {"actor": referees(reply)})
    for row in messages_of(run):
        assert (LINES in prompt(row)) == row["purpose"].endswith("/1")
    assert handed_in(run) == ["B"]


@pytest.mark.signature("chateval", 2)
def test_every_referee_has_a_role_of_its_own_and_each_turn_and_order_is_one_call_of_it(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    assert len({speaker.role for speaker in REFEREES}) == len(REFEREES) == 5
    for mode, run in talks.items():
        made = Counter(row["purpose"] for row in calls(run, phase="train"))
        summaries = {"given/summary": 2, "swapped/summary": 2} if mode == "summarized" else {}
        assert made == {"given/0": 3, "given/1": 3, "swapped/0": 3, "swapped/1": 3, **summaries}
        for seat, speaker in enumerate(REFEREES[:3]):
            for turn in (0, 1):
                text = prompt(said_by(run, task, turn, seat))
                assert [each.role in text for each in REFEREES] == [each == speaker for each in REFEREES]
        assert generations(run)[0]["calls_per_pair"] == 12 + sum(summaries.values())


@pytest.mark.signature("chateval", 3)
@pytest.mark.parametrize("decide", ["marks", "majority"])
def test_two_referees_of_opposite_minds_come_to_a_tie_and_a_third_decides(tmp_path: Path, decide: str) -> None:
    (task,) = pairs(config())
    first, _ = pair_of(task).answers

    def fixed(request: Request) -> str:
        likes_a = request.speaker != "Critic"
        return marks(8, 3) if likes_a == (request.shown[0] == first) else marks(3, 8)

    for number, outcome in ((2, "tie"), (3, "A")):
        setup = config(referees=number, decide=decide)
        run = play(tmp_path / str(number), setup, {"actor": referees(fixed)})
        assert handed_in(run) == [outcome]
        assert verdicts(run)[0]["referees"] == ["A", "B", "A"][:number]


@pytest.mark.signature("chateval", 4)
def test_a_judge_who_always_prefers_the_answer_shown_first_ends_in_a_tie(tmp_path: Path) -> None:
    biased = referees(lambda request: marks(10, 1))
    assert handed_in(play(tmp_path / "swap", config(tasks=2, turns=1), {"actor": biased})) == ["tie", "tie"]
    assert handed_in(play(tmp_path / "once", config(tasks=2, turns=1, swap=False), {"actor": biased})) == ["A", "A"]


@pytest.mark.signature("chateval", 5)
@pytest.mark.parametrize("mode", ["one-by-one", "summarized"])
def test_no_prompt_about_a_pair_holds_anything_of_another(tmp_path: Path, mode: str) -> None:
    setup = config(tasks=3, generations=2, mode=mode)
    run = play(tmp_path / "run", setup, {"actor": numbered()})
    tasks = [*pairs(setup, 1), *pairs(setup, 2)]
    # Both orders of a pair are tasks, which share their answers and nothing that is said of them.
    said = {
        task.id: [row["reply"].splitlines()[0] for row in calls(run, phase="train", task=task.id)] for task in tasks
    }
    for task in tasks:
        strange = [text for other in tasks if other.id != task.id for text in said[other.id]]
        others = [pair_of(other) for other in tasks if deal_of(other) != deal_of(task)]
        strange += [text for pair in others for text in (pair.question, *pair.answers)]
        for row in of_task(run, task):
            assert not [text for text in strange if text in prompt(row)]
    with memory_of(run) as memory:
        assert not memory.records()
        assert not memory.ledger.commits()


# -- who hears what ----------------------------------------------------------------------------------------------------


def test_others_speak_by_name_in_a_user_s_text_and_only_its_own_words_are_a_referee_s(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    for mode in ("one-by-one", "simultaneous"):
        run = talks[mode]
        own, others = said_by(run, task, 0, 1)["reply"], [said_by(run, task, 0, seat)["reply"] for seat in (0, 2)]
        turns = said_by(run, task, 1, 1)["messages"]
        assert [each["role"] for each in turns] == ["user", "assistant", "user"]
        assert turns[1]["content"] == own
        heard = turns[0]["content"] + turns[2]["content"]
        assert [f"{REFEREES[seat].name} said: {text}" in heard for seat, text in zip((0, 2), others, strict=True)] == [
            True,
            True,
        ]


def test_one_by_one_the_last_message_of_whoever_came_before_is_heard_too(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    for mode, heard in (("one-by-one", [True, True, False]), ("simultaneous", [False] * 3)):
        text = prompt(said_by(talks[mode], task, 1, 2))
        assert [said_by(talks[mode], task, 1, seat)["reply"] in text for seat in range(3)] == heard


def test_where_a_turn_is_summed_up_the_summary_is_all_that_is_heard(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    run = talks["summarized"]
    first, after = calls(run, purpose="given/summary", task=task.id)
    spoken = [said_by(run, task, 0, seat)["reply"] for seat in range(3)]
    assert all(text in prompt(first) for text in spoken)
    for seat in range(3):
        text = prompt(said_by(run, task, 1, seat))
        assert first["reply"] in text
        assert not [each for each in spoken if each in text]
    assert not [row for row in messages_of(run) if after["reply"] in prompt(row)], "the last one is for people"


def test_both_orders_are_debated_apart(talks: dict[str, Path]) -> None:
    (task,) = pairs(config())
    for run in talks.values():
        for row in messages_of(run):
            order = row["purpose"].partition("/")[0]
            first, second = pair_of(task).answers
            assert shown(row) == ((first, second) if order == "given" else (second, first))
            other = [each["reply"] for each in messages_of(run) if not each["purpose"].startswith(order)]
            assert not [text for text in other if text in prompt(row)]


def test_each_phase_is_a_node_of_its_own_and_a_turn_is_a_round_of_the_loop(
    talks: dict[str, Path], tmp_path: Path
) -> None:
    ends = ["score", "verdict", "submit", "evaluate"]
    assert visited(talks["one-by-one"]) == ["tasks", "discuss", "discuss", *ends]
    assert visited(talks["summarized"]) == ["tasks", *["discuss", "summarize"] * 2, *ends]
    setup = config(only_disputed=True, turns=1, generations=2)
    run = play(tmp_path / "run", setup, {"actor": numbered()})
    assert visited(run) == ["tasks", "alone", "discuss", *ends] * 2


class Crowd(ScriptedChatModel):
    """Knows how many calls were open at once."""

    most: int = 0
    now: int = 0

    async def _agenerate(self, messages: list[BaseMessage], *rest: Any, **settings: Any) -> ChatResult:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._agenerate(messages, *rest, **settings)
        finally:
            self.now -= 1


@pytest.mark.parametrize(
    ("mode", "pairs", "at_once"), [("one-by-one", 1, 2), ("one-by-one", 2, 4), ("simultaneous", 1, 6)]
)
def test_what_need_not_wait_runs_at_once(tmp_path: Path, mode: str, pairs: int, at_once: int) -> None:
    """Both orders, all pairs, and the referees where nobody waits for another."""
    crowd = Crowd(lambda _: marks(5, 5), latency_s=0.02)
    play(tmp_path / "run", config(tasks=pairs, mode=mode, referees=3, turns=1), {"actor": crowd})
    assert crowd.most == at_once


def test_a_run_that_was_killed_in_the_middle_of_a_debate_asks_nothing_again(tmp_path: Path) -> None:
    run, answered = tmp_path / "run", count()

    def reply(request: Request) -> str:
        if next(answered) == 7:  # of two pairs in two orders, one by one: the second pair's first turn is half done
            raise KeyboardInterrupt
        return marks(5, 5) if request.last else "Hm."

    create(config(tasks=2).model_copy(update={"concurrency": 1}), run)
    with pytest.raises(KeyboardInterrupt):
        run_sync(execute(run, models={"actor": referees(reply)}))
    again = referees(lambda request: marks(5, 5) if request.last else "Now.")
    run_sync(execute(run, models={"actor": again}))  # the killed call stands in the trace with its error
    debated = [messages for messages in again.requests if read(messages).speaker]
    assert len(debated) == 2 * 8 - 7
    assert "General Public said: Hm." in read(debated[0]).heard


# -- what becomes of the marks -----------------------------------------------------------------------------------------


def test_marks_that_cannot_be_read_are_asked_for_again(tmp_path: Path) -> None:
    def reply(request: Request) -> str:
        tries = request.heard.count(ASKED_AGAIN)
        return marks(3, 8) if tries == 2 else f"No marks from me, {tries}."

    (task,) = pairs(config())
    run = play(tmp_path / "run", config(turns=1, swap=False, referees=1, parse_retries=3), {"actor": referees(reply)})
    again = calls(run, purpose="given/0 again/0", task=task.id)
    assert len(again) == 2
    assert [each["content"] for each in again[1]["messages"] if each["role"] == "assistant"] == [
        "No marks from me, 0.",
        "No marks from me, 1.",
    ]
    assert handed_in(run) == ["B"]


def test_without_any_marks_there_is_no_verdict_and_that_is_no_tie(tmp_path: Path) -> None:
    run = play(tmp_path / "run", config(tasks=6, turns=1, parse_retries=1), {"actor": referees(lambda _: "Well.")})
    assert handed_in(run) == [""] * 6
    (row,) = generations(run)
    assert set(map(tuple, row["scores"].values())) == {(0.0,)}
    assert (row["unread"], row["agreement"]["after"]["share"]) == (12, 0.0)
    assert all(each["after"] not in ("A", "B", "tie") for each in verdicts(run))


def test_a_referee_that_is_read_in_one_order_only_is_left_out(tmp_path: Path) -> None:
    (task,) = pairs(config())
    first, _ = pair_of(task).answers

    def reply(request: Request) -> str:
        if request.speaker == "Critic" and request.shown[0] != first:
            return "Both are bad."
        # The critic's marks for the first answer shown would outweigh the other's.
        return (
            marks(10, 1) if request.speaker == "Critic" else marks(*((5, 6) if request.shown[0] == first else (6, 5)))
        )

    run = play(tmp_path / "run", config(turns=1, parse_retries=0), {"actor": referees(reply)})
    assert handed_in(run) == ["B"]
    assert verdicts(run)[0]["referees"] == ["B", None]
    assert generations(run)[0]["unread"] == 1


def test_calls_that_fail_lose_no_pair(tmp_path: Path) -> None:
    def reply(request: Request) -> str:
        if request.speaker == "Critic":
            raise ValueError("no such model")
        return marks(2, 9) if request.last else "Hm."

    create(config(tasks=2, swap=False), tmp_path / "run")
    run_sync(execute(tmp_path / "run", models={"actor": referees(reply)}))
    assert handed_in(tmp_path / "run") == ["B", "B"]
    assert not [row for row in calls(tmp_path / "run", phase="train") if "Critic said" in prompt(row)]


def test_the_majority_of_referees_may_overrule_the_sum_of_their_marks(tmp_path: Path) -> None:
    given = {"General Public": (10, 1), "Critic": (4, 5), "News Author": (4, 5)}

    def reply(request: Request) -> str:
        return marks(*given[request.speaker])

    for decide, outcome in (("marks", "A"), ("majority", "B")):
        setup = config(referees=3, turns=1, swap=False, decide=decide)
        assert handed_in(play(tmp_path / decide, setup, {"actor": referees(reply)})) == [outcome]


def test_only_what_is_disputed_is_debated_where_that_is_asked_for(tmp_path: Path) -> None:
    setup = config(tasks=4, only_disputed=True)
    disputed = set(pair_of(pairs(setup)[0]).answers)

    def reply(request: Request) -> str:
        if set(request.shown) != disputed or request.speaker == "General Public":
            return marks(7, 7)
        return (
            marks(9, 9)
            if "said" in request.heard
            else marks(*((9, 2) if request.shown[0] == min(disputed) else (2, 9)))
        )

    run = play(tmp_path / "run", setup, {"actor": referees(reply)})
    (row,) = generations(run)
    debated = {task.id for task in pairs(setup) if set(pair_of(task).answers) == disputed}
    assert {each["task"] for each in messages_of(run)} == debated
    assert (row["debated"], row["calls_per_pair"]) == (2, 4 + 8 * 2 / 4)
    assert handed_in(run) == ["tie"] * 4, "the two that were split came to agree"


def test_a_row_tells_what_the_debate_changed_and_how_well_it_agrees_with_the_truth(tmp_path: Path) -> None:
    setup = config(tasks=12, turns=1)
    tasks = pairs(setup)
    truths = {pair_of(task).answers: task.data["truth"] for task in tasks}

    def knowing(request: Request) -> str:
        return marks(*{"A": (9, 2), "B": (2, 9), "tie": (5, 5)}[truths[request.shown]])

    run = play(tmp_path / "run", setup, {"actor": referees(knowing, direct="tie")})
    (row,) = generations(run)
    ties = sum(truth == "tie" for truth in truths.values())
    assert row["agreement"]["after"] == {"share": 1.0, "kappa": 1.0, "n": 12}
    assert row["agreement"]["before"] == {"share": ties / 12, "kappa": 0.0, "n": 12}
    assert {name: each["after"] for name, each in row["verdicts"].items()} == {t.id: t.data["truth"] for t in tasks}
    assert {each["before"] for each in row["verdicts"].values()} == {"tie"}
    assert row["transitions"]["wrong_to_right"] == 12 - ties


# -- its effect, simulated ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., float]:
    """The share of right verdicts on 18 pairs in both orders with these settings, measured once."""
    folder, known = tmp_path_factory.mktemp("arms"), dict[str, float]()

    def share(panel: Mapping[str, Any] = {}, **settings: Any) -> float:
        name = f"{sorted(settings.items())} {panel}"
        if name not in known:
            setup = config(tasks=36, **settings).model_copy(update={"seed": 1})
            model = Panel(pairs(setup), seed=1, **panel).model
            run = play(folder / str(len(known)), setup, {"actor": model})
            known[name] = float(generations(run)[0]["agreement"]["after"]["share"])
        return known[name]

    return share


ALONE = {"turns": 1, "mode": "simultaneous"}


def test_the_swap_gains_and_two_roles_beat_one_at_as_many_calls(arms: Callable[..., float]) -> None:
    once, swap = arms(**ALONE, referees=1, swap=False), arms(**ALONE, referees=1)
    same_calls, one_role, two_roles = arms(**ALONE, referees=4, roles="same"), arms(roles="same"), arms()
    assert swap >= once + 0.1
    assert two_roles >= one_role + 0.1
    assert two_roles >= same_calls + 0.1


def test_two_roles_with_the_same_eyes_gain_nothing(arms: Callable[..., float]) -> None:
    """The control: other names and other words, and both see what one alone sees."""
    alike = {"General Public": EYES["General Public"]}
    assert arms({"eyes": alike}) <= arms(**ALONE, referees=4, roles="same")


def test_referees_who_believe_all_that_others_say_lose_by_it(arms: Callable[..., float]) -> None:
    assert arms({"convinced": 1.0, "fooled": 1.0}) < arms()


# -- its parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Score of answer 1: 7\nScore of answer 2: 4.5\nThat is all I have to say.", (7, 4.5)),
        ("The score of Assistant 1: **8**\n**The score of Assistant 2:** 9/10", (8, 9)),
        ("Score of answer 1: 2\nScore of answer 2: 2\nNo.\nScore of answer 2 is 6\nScore of answer 1: 3", (3, 6)),
        ("Score of answer 1: 11\nScore of answer 2: 4", None),
        ("Score of answer 1: 0\nScore of answer 2: 4", None),
        ("Score of answer 1: 8", None),
        (LINES, None),
        ("7 and 4", None),
        ("", None),
    ],
)
def test_marks_are_read_wherever_both_lines_stand(message: str, found: tuple[float, float] | None) -> None:
    assert marks_in(message) == found


def test_sums_and_majorities_of_equals_are_ties() -> None:
    assert [by_total(each) for each in ([(7.1, 7.2), (7.2, 7.1)], [(8, 7)], [(1, 2)], [])] == ["tie", "A", "B", "tie"]
    cases: list[Sequence[Any]] = [["A", "B"], ["A", "tie", "A"], ["B"], ["A", "A", "B", "B", "tie"], []]
    assert [by_majority(each) for each in cases] == ["tie", "A", "B", "tie", "tie"]


def test_kappa_is_what_agreement_is_worth_beyond_chance() -> None:
    """Of 50 items 35 alike, where chance makes 25: Cohen's kappa is 0.4."""
    one = {str(n): "yes" if n < 25 else "no" for n in range(50)}
    other = {str(n): "yes" if n < 20 or 25 <= n < 35 else "no" for n in range(50)}
    found = agreement(one, other)
    assert (found.share, found.n) == (0.7, 50)
    assert found.kappa == pytest.approx(0.4)
    assert agreement({"a": "A"}, {"a": "A", "b": "B"}) == Agreement(1.0, None, 1)
    assert agreement({}, {"a": "A"}) == Agreement(0.0, None, 0)


def test_a_sixth_role_is_refused_by_number_and_the_same_role_is_not() -> None:
    with pytest.raises(ValidationError, match="5 different roles: set referees=5 or roles=same"):
        Config(referees=6)
    speakers = Config(referees=6, roles="same").panel
    assert len({each.name for each in speakers}) == 6
    assert {each.role for each in speakers} == {REFEREES[0].role}


def test_presets_have_the_paper_s_figures_and_a_small_machine_s_calls() -> None:
    paper, small = PRESETS["paper"], PRESETS["small"]
    assert (paper.referees, paper.turns, paper.mode, paper.temperature) == (2, 2, "one-by-one", 0)
    assert (paper.reply_tokens, paper.parse_retries, paper.swap, paper.roles) == (512, 3, True, "diverse")
    messages = small.referees * small.turns * 2
    assert 8 * (messages + small.referees * 2 * small.parse_retries + 1) <= 110, "eight pairs, all asked again"


def shown(row: dict[str, Any]) -> tuple[str, str]:
    found = re.search(r"Answer 1:\n(.*?)\n\nAnswer 2:\n(.*?)\n\nReferees judge", prompt(row), re.DOTALL)
    assert found is not None
    return found[1], found[2]
