"""What the model can do already, in its own words, to be practised while it learns something new.

The model asks itself and answers itself before it is trained (self-synthesized rehearsal, arXiv 2403.01244; the paper
shows it examples of earlier tasks, here it is shown none, for a base model has no earlier task).
"""

from __future__ import annotations

from evolvent.agents.context import Context
from evolvent.agents.evolution import reply_once
from evolvent.agents.types import CallTag, derive_seed
from evolvent.environments.types import Message
from evolvent.memory.weights.dataset import DataSet
from evolvent.memory.weights.mixing import rehearsal

_THEMES = (
    "a sum", "a difference", "a list", "a place", "a word", "an animal", "a story", "a letter", "the weather",
    "a number", "a recipe", "history", "a poem", "a plan", "a machine", "a rule of grammar",
)  # fmt: skip
_IN_A_WORD = " Answer with one word."


async def rehearsed(context: Context, n: int, *, generation: int, tokens: int = 16) -> DataSet:
    """Up to `n` exchanges of the base model with itself: a question it wrote, and its greedy answer.

    Args:
        tokens: of an answer at most; one that is cut off there is left as it is. Many short answers serve better than
            few long ones: what training changes first is how an answer begins. Every second round of the themes is
            answered in one word, as a question with options is.
    """
    model = context.model("actor")

    async def one(index: int) -> tuple[str, str]:
        key = f"{generation}/rehearse/{index}"
        tag = CallTag("actor", "train", generation, purpose="rehearse", episode=key)
        seed = derive_seed(context.seed, "rehearse", generation, index)
        about = _said(f"Write one short question about {_THEMES[index % len(_THEMES)]}. Write the question only.")
        asked = await reply_once(
            context, f"{key}/question", lambda: model.generate([about], tag, temperature=0.8, max_tokens=24, seed=seed)
        )
        if not asked.text:
            return "", ""
        question = asked.text.splitlines()[0].strip() + (_IN_A_WORD if index // len(_THEMES) % 2 else "")
        answered = await reply_once(
            context, f"{key}/answer", lambda: model.generate([_said(question)], tag, max_tokens=tokens)
        )
        return question, answered.text

    context.say(f"generation {generation}: {n} questions to rehearse")
    found = await context.rollouts.calls(one(index) for index in range(n))
    return rehearsal((question, answer) for question, answer in found if answer)


def _said(text: str) -> Message:
    return Message("user", "task", text)
