"""A cook who plans one skill at a time, has it checked, and lets a controller walk: ProAgent (arXiv 2308.11339).

The model is asked when there is no skill to go on with. What it plans is checked against the preconditions of the
skill; what fails is explained, and it plans again with the explanation and its newest messages in view. Between plans
moves come from a search for ways. All of it is read off the steps before, so nothing can outlive an episode.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Literal

from evolvent.agents.solutions.act import Acted, Policy
from evolvent.agents.solutions.named_parts import named_parts
from evolvent.agents.solutions.scratchpad import assistant
from evolvent.agents.types import CallTag
from evolvent.environments.kitchen_grid import STAY, Scene, scene_in
from evolvent.environments.kitchen_skills import LIBRARY, Skill, finished, flaw, next_move, read_skills
from evolvent.environments.types import Action, Cost, Message, Observation, Sampling, Step, Trajectory, conversation

PLAN, EXPLAIN = "plan", "explain"
"""Purposes of the calls."""
WAIT = Skill("wait", "1")
"""What is done after a plan that cannot be read, or after too many that cannot be carried out."""
Verification = Literal["model", "code", "silent", "none"]
_LIBRARY = (
    "You plan one skill at a time; it is then carried out for you, step by step. The skills and what they need:\n"
    "{skills}\n\nExample. You hold nothing, your partner holds an onion, the pot holds 1 of 3 onions.\n"
    "Analysis: The pot lacks two onions, and my partner brings one.\n{intention}Plan: pickup(onion)\n\n"
    "Example. You hold nothing, your partner holds an onion, the pot cooks a soup.\n"
    "Analysis: The soup needs a dish, and my partner's hands are full.\n{waiting}Plan: pickup(dish)\n"
)
_ASK = (
    'Answer as in the examples: one line "Analysis:", {intention}one line "Plan:" with exactly one skill for yourself.'
)
_ASK_INTENTION = 'one line "Intention:" with the skill your partner does next, '
_FAILED = "{skill} cannot be carried out now. {why}"
_WHY = "Which precondition of {skill} fails in this scene, and why? Answer in one sentence."
_EXPECTED = "You expected your partner to do: {skills}."
_REALLY = "Your partner really finished: {skills}."
_SECTION = re.compile(r"\b(analysis|intention|plan)\b[^\w\n]*:", re.IGNORECASE)


def library(*, intention: bool, wait_limit: int) -> str:
    """The knowledge a planner begins with: skills, preconditions and two examples of a plan."""
    skills = "\n".join(f"- {text.format(limit=wait_limit)}" for text in LIBRARY.values())
    expected = [f"Intention: {skill}\n" if intention else "" for skill in ("put_onion_in_pot()", "wait(5)")]
    return _LIBRARY.format(skills=skills, intention=expected[0], waiting=expected[1])


@dataclass(frozen=True, slots=True)
class Planned:
    """What a planner's reply says."""

    own: Skill | None
    """The first skill of the plan; None where there is none."""
    partner: Skill | None = None
    """The skill that the partner is expected to do."""


def read_plan(reply: str) -> Planned:
    """The sections of a reply; where none is called a plan, what stands before all others is taken for one.

    Of a section that comes twice the first counts: models run on.
    """
    sections, before = named_parts(reply, _SECTION), _SECTION.split(reply, maxsplit=1)[0]
    own, partner = read_skills(sections.get("plan", before)), read_skills(sections.get("intention", ""))
    return Planned(own[0] if own else None, partner[0] if partner else None)


@dataclass(frozen=True, slots=True)
class Proactive:
    """A manner of cooking."""

    verification: Verification = "model"
    """Who says why a skill fails: the model, or the check itself. Silent says that it does; none checks nothing."""
    intention: bool = False
    """The partner's next skill is a part of the reply."""
    belief: bool = False
    """Expected skills of the partner and those it really finished are told, with their steps."""
    recent: int = 1
    """K: earlier messages that are shown after a failure."""
    replans: int = 3
    """Plans after one that failed, before a step is waited."""
    wait_limit: int = 20
    skill_limit: int = 40
    """Steps after which a skill that did not come to its end is given up."""
    queries: int | None = None
    """Steps of an episode in which the planner is turned to, at most; after that the cook stands still."""

    async def __call__(
        self,
        policy: Policy,
        observation: Observation,
        new: tuple[Message, ...],
        earlier: Sequence[Step],
        tag: CallTag,
        rng: random.Random,
    ) -> Acted:
        scene = scene_in(observation.arrays)
        skill = self.at_work(earlier, scene)
        wrong = self.flaw(skill, scene) if skill is not None else ""
        cost, said = Cost(), Step(observation.player, observation, (), "", Action(STAY), history_from=len(earlier))
        if skill is None or wrong:
            if self.queries is not None and sum(map(asked, earlier)) >= self.queries:
                return Acted(said, cost)
            planning = _Planning(self, policy, observation, scene, new, earlier, tag, rng)
            said = await planning.planned(skill, wrong)
            skill, cost = self.decided(said), planning.cost
        move = next_move(skill, scene, [_at(step) for step in earlier[-2:]], rng)
        malformed = asked(said) and read_plan(said.reply).own is None
        return Acted(replace(said, action=Action(move)), cost, malformed=malformed)

    def at_work(self, earlier: Sequence[Step], scene: Scene) -> Skill | None:
        """The skill that was decided on last; None where it has come to an end.

        A wait ends with its steps, any other skill when what the cook holds has changed.
        """
        age, last = next(((age, step) for age, step in enumerate(reversed(earlier), 1) if asked(step)), (0, None))
        if last is None:
            return None
        skill, begun = self.decided(last), scene_in(last.observation.arrays)
        if skill.name == "wait":
            return skill if age < min(skill.steps, self.wait_limit) else None
        return skill if age < self.skill_limit and scene.cooks[0].held == begun.cooks[0].held else None

    def decided(self, step: Step) -> Skill:
        """What came of a step at which the planner was asked."""
        skill = read_plan(step.reply).own or WAIT
        return WAIT if self.flaw(skill, scene_in(step.observation.arrays)) else skill

    def illegal_steps(self, trajectory: Trajectory) -> int:
        """Steps that were spent on a skill which lacked its preconditions."""
        wrong = 0
        for number, step in enumerate(trajectory.steps):
            scene = scene_in(step.observation.arrays)
            skill = self.decided(step) if asked(step) else self.at_work(trajectory.steps[:number], scene)
            wrong += skill is not None and bool(flaw(skill, scene, self.wait_limit))
        return wrong

    def flaw(self, skill: Skill, scene: Scene) -> str:
        """Why a skill is not carried out; empty where it is."""
        return "" if self.verification == "none" else flaw(skill, scene, self.wait_limit)


def asked(step: Step) -> bool:
    """Whether the planner was asked at a step."""
    return bool(step.messages)


def remembered(earlier: Sequence[Step], recent: int) -> list[Message]:
    """The planner's last messages of an episode, in order. A step that showed some already reaches back as far."""
    found: list[Message] = []
    for step in reversed(earlier):
        if len(found) >= recent:
            break
        turns = [message for message in step.messages if message.part == "history"]
        if turns:
            found = [*turns, assistant(step.reply), *found]
        if len(turns) > 1:
            break
    return found[-recent:] if recent else []


def beliefs(earlier: Sequence[Step], observation: Observation) -> str:
    """What was expected of the partner and what it really finished, each with the step at which that was."""
    scenes = [scene_in(seen.arrays) for seen in (*(step.observation for step in earlier), observation)]
    expected = [
        (scene.step, skill)
        for step, scene in zip(earlier, scenes, strict=False)
        if asked(step) and (skill := read_plan(step.reply).partner) is not None
    ]
    really = [
        (now.step, skill)
        for before, now in pairwise(scenes)
        if (skill := finished(before.other, now.other)) is not None
    ]
    told = ("; ".join(f"step {at}: {skill.text}" for at, skill in each) or "nothing yet" for each in (expected, really))
    return "\n".join(line.format(skills=skills) for line, skills in zip((_EXPECTED, _REALLY), told, strict=True))


@dataclass(slots=True)
class _Planning:
    """One step at which the planner is asked, until a plan can be carried out."""

    manner: Proactive
    policy: Policy
    observation: Observation
    scene: Scene
    new: tuple[Message, ...]
    earlier: Sequence[Step]
    tag: CallTag
    rng: random.Random
    cost: Cost = field(default_factory=Cost)

    async def planned(self, failed: Skill | None, wrong: str) -> Step:
        """The last plan, as a step without its move.

        Args:
            failed: the skill at work that cannot go on, for the reason that is `wrong`.
        """
        recent, explanation, failures = self.manner.recent, "", 0
        memory = remembered(self.earlier, recent)
        while True:
            if failed is not None and wrong:
                failures += 1
                explanation = _FAILED.format(skill=failed.text, why=await self._explained(failed, wrong)).strip()
            prompt = self._prompt(memory[-recent:] if explanation and recent else [], explanation)
            reply = await self._reply(prompt, PLAN)
            failed = read_plan(reply).own or WAIT
            wrong = self.manner.flaw(failed, self.scene)
            if not wrong or failures >= self.manner.replans:
                return Step(
                    self.observation.player,
                    self.observation,
                    prompt,
                    reply,
                    Action(STAY),
                    sampling=Sampling(self.policy.temperature, "generate"),
                    history_from=len(self.earlier),
                )
            memory += [prompt[-1], assistant(reply)]

    def _prompt(self, memory: Sequence[Message], explanation: str) -> tuple[Message, ...]:
        """What this step adds: in an episode's first one the head, after a failure the newest messages, the scene."""
        manner = self.manner
        lines = [
            self.observation.text,
            beliefs(self.earlier, self.observation) if manner.belief else "",
            explanation,
            _ASK.format(intention=_ASK_INTENTION if manner.intention else ""),
        ]
        head = takewhile(lambda message: message.part != "history", self.new)
        return (*head, *memory, Message("user", "history", "\n".join(line for line in lines if line)))

    async def _explained(self, skill: Skill, wrong: str) -> str:
        """Why a skill cannot be carried out, in the model's words or those of the check; empty where nobody says."""
        if self.manner.verification != "model":
            return wrong if self.manner.verification == "code" else ""
        head = takewhile(lambda message: message.part != "history", self.new)
        question = f"{self.observation.text}\n{_WHY.format(skill=skill.text)}"
        return (await self._reply((*head, Message("user", "history", question)), EXPLAIN)).strip()

    async def _reply(self, prompt: tuple[Message, ...], purpose: str) -> str:
        sent = conversation(self.earlier, prompt, len(self.earlier))
        reply = await self.policy.write(sent, replace(self.tag, purpose=purpose), self.rng)
        self.cost += reply.cost
        return reply.text


def _at(step: Step) -> tuple[int, int]:
    return scene_in(step.observation.arrays).cooks[0].at
