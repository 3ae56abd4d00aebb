"""What the people of `dialogue_world` speak of: topics, stocks and small talk, in every wording. All of it is ours.

Every statement is one sentence, every question another: the only full stop or question mark stands at its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

POOLS: Mapping[str, Sequence[str]] = {
    "trade": (
        "baker", "cooper", "weaver", "tanner", "potter", "glazier", "saddler", "printer", "roofer", "miner", "tailor",
        "locksmith", "barber", "gardener", "surveyor", "plumber",
    ),
    "dish": (
        "leek soup", "lentil stew", "plum pie", "baked trout", "bean salad", "nettle soup", "onion tart",
        "barley porridge", "fried eel", "pumpkin bread", "cabbage rolls", "mushroom dumplings", "pear cake",
        "smoked cheese", "turnip mash", "cherry soup",
    ),
    "drink": (
        "black tea", "mint tea", "barley coffee", "hot milk", "carrot juice", "apple cider", "cocoa", "ginger water",
        "rosehip tea", "buttermilk", "lemonade", "fennel tea",
    ),
    "instrument": (
        "fiddle", "cello", "flute", "oboe", "zither", "harp", "trumpet", "tuba", "banjo", "lute", "concertina",
        "bassoon",
    ),
    "language": (
        "Finnish", "Welsh", "Basque", "Georgian", "Tamil", "Swahili", "Maltese", "Icelandic", "Quechua", "Armenian",
        "Latvian", "Khmer",
    ),
    "book": (
        "The Copper Gate", "The Salt Road", "Nine Bridges", "The Quiet Mill", "A Winter Ferry", "The Glass Orchard",
        "Letters from the Dyke", "The Last Lamplighter", "Under the Slate Roof", "The Blue Ledger", "Low Water",
        "The Heron Year", "Two Keys", "The Sleeping Harbour",
    ),
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "colour": (
        "red", "green", "yellow", "white", "purple", "grey", "black", "turquoise", "brown", "pink", "navy blue",
        "cream",
    ),
}  # fmt: skip
"""Values that anybody may name, and so may two people. A world adds its own `town`, `dog` and `friend`."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that somebody tells of themselves. Where a text has {}, the value stands."""

    pool: str
    told: tuple[str, ...]
    changed: tuple[str, ...]
    clause: str
    noun: str
    asked: tuple[str, ...]
    """Six wordings: two for each split."""
    forms: tuple[str, ...] = ("{}",)
    """How an answer may be given, the shortest first."""
    single: bool = True
    """Telling another value in the old words already says that the first holds no more."""


@dataclass(frozen=True, slots=True)
class Stock:
    """A number of things that goes up and down."""

    things: str

    @property
    def told(self) -> tuple[str, ...]:
        return (f"I have {{}} {self.things} in the house.", f"My store holds {{}} {self.things}.")

    @property
    def recounted(self) -> tuple[str, ...]:
        return (f"I counted my {self.things} again and there are {{}}.", f"By a new count my {self.things} are {{}}.")

    @property
    def up(self) -> tuple[str, ...]:
        return (f"I was given {{}} more {self.things}.", f"I bought {{}} more {self.things} for the store.")

    @property
    def down(self) -> tuple[str, ...]:
        return (f"I gave away {{}} of my {self.things}.", f"We used up {{}} of my {self.things}.")

    @property
    def asked(self) -> tuple[str, ...]:
        return (
            f"How many {self.things} do I have now?",
            f"How large is my stock of {self.things}?",
            f"What number of {self.things} am I left with?",
            f"What does my store of {self.things} come to?",
            f"How many {self.things} are there in my house at present?",
            f"If you keep count, how many {self.things} are mine?",
        )

    @property
    def forms(self) -> tuple[str, ...]:
        return ("{}", f"{{}} {self.things}")


STOCKS: Mapping[str, Stock] = {things: Stock(things) for things in ("apples", "jars of honey", "candles", "eggs")}

CORRECTED = (
    "I told you something wrong, for {now}, not {old}.",
    "Forget that {before}, because in truth {now}.",
    "I was mistaken the other time, and in fact {now}.",
)
"""An earlier statement is taken back: {before} and {now} are clauses, {old} is the value that does not hold."""
ASKED_DAY = (
    "On which day did I tell you that {clause}?",
    "Which day was it when I said that {clause}?",
    "On what day did you hear from me that {clause}?",
    "You know that I said {clause}, but on which day?",
    "When did I let you know that {clause}, on which day?",
    "Some day or other I said that {clause}, but which day was it?",
)
"""Each value is told once, so there is one such day."""
ASKED_BEFORE = (
    "Before I said that {clause}, what had I named as {noun}?",
    "What did {value} take the place of as {noun}?",
    "What did I give you as {noun} just before it was {value}?",
    "{value} was not the first I named as {noun}, so what came right before?",
    "What had you heard from me about {noun} until I said that {clause}?",
    "By my own words, what was {noun} before {value}?",
)
SMALL_TALK = (
    "The rain kept me awake half the night.",
    "The bus was late again and so was I.",
    "I walked along the canal until it was dark.",
    "My knee is better than it was.",
    "A stranger from {town} asked me the way.",
    "The radio said that {town} will have snow.",
    "Somebody at the market was selling {dish}.",
    "In a dream I was served {dish} by a goose.",
    "The shop had run out of {drink}.",
    "A child in the square was playing the {instrument} rather badly.",
    "There was a film in {language} and I understood nothing.",
    "My neighbour would not stop talking about {book}.",
    "The fair will be on a {weekday} this year.",
    "A {colour} balloon hung in the tree all morning.",
    "The new {trade} in our street whistles at work.",
    "I found a glove on the stairs and nobody wants it.",
    "Somebody called for a dog named {dog} under my window.",
    "I have to be quick today.",
)
"""Tells nothing of the speaker, though it may name what others would tell."""


def _friend(does: str) -> Topic:
    return Topic(
        "friend",
        (f"My friend {{}} {does}.", f"Among my friends it is {{}} who {does}."),
        (f"Of all my friends it is {{}} now who {does}.", f"The friend of mine who {does} is {{}} from now on."),
        f"my friend {{}} {does}",
        f"the friend who {does}",
        (
            f"Which of my friends {does} now?",
            f"Who among my friends {does}?",
            f"What is the name of my friend who {does}?",
            f"Of my friends, who is it that {does} these days?",
            f"Whom should I call on as the friend who {does}?",
            f"Which friend of mine {does}, as things stand?",
        ),
        ("{}", "your friend {}"),
        single=False,  # two friends may well do the same
    )


TOPICS: Mapping[str, Topic] = {
    "town": Topic(
        "town",
        ("I live in {}.", "My own home is in {}."),
        ("I have moved to {}.", "We packed everything and my home is in {} now."),
        "I live in {}",
        "my home town",
        (
            "Which town do I live in now?",
            "Where is my own home these days?",
            "What is the name of the town where I live?",
            "Where would you send a letter to my home, to which town?",
            "In which town would you look for my house?",
            "Which place do I call home at present?",
        ),
        ("{}", "in {}"),
    ),
    "sister": Topic(
        "town",
        ("My sister lives in {}.", "My sister has her home in {}."),
        ("My sister has moved to {}.", "My sister has taken rooms in {} and left her old ones."),
        "my sister lives in {}",
        "the home town of my sister",
        (
            "Which town does my sister live in now?",
            "Where is the home of my sister these days?",
            "What is the name of the town where my sister lives?",
            "Where would you send a letter to my sister, to which town?",
            "In which town would you look for my sister?",
            "Which place does my sister call home at present?",
        ),
        ("{}", "in {}"),
    ),
    "trade": Topic(
        "trade",
        ("I work as a {}.", "By trade I am a {}."),
        ("I have given up my work and am a {} now.", "From this week on I earn my bread as a {}."),
        "I work as a {}",
        "my trade",
        (
            "What do I work as now?",
            "What is my trade these days?",
            "How do I earn my living?",
            "Which occupation is mine at present?",
            "What would I put down as my profession?",
            "Which job do I go to in the morning?",
        ),
        ("{}", "a {}", "as a {}"),
    ),
    "brother": Topic(
        "trade",
        ("My brother works as a {}.", "My brother is a {} by trade."),
        ("My brother has given up his work and is a {} now.", "From this week on my brother earns his bread as a {}."),
        "my brother works as a {}",
        "the trade of my brother",
        (
            "What does my brother work as now?",
            "What is the trade of my brother these days?",
            "How does my brother earn his living?",
            "Which occupation does my brother have at present?",
            "What would my brother put down as his profession?",
            "Which job does my brother go to in the morning?",
        ),
        ("{}", "a {}", "as a {}"),
    ),
    "dog": Topic(
        "dog",
        ("My dog is called {}.", "I have a dog named {}."),
        ("I have another dog now and it is called {}.", "My old dog went to the farm and the new one is {}."),
        "my dog is called {}",
        "the name of my dog",
        (
            "What is my dog called now?",
            "Which name does my dog answer to?",
            "What is the name of my dog?",
            "What do I shout when I want my dog to come?",
            "How is the dog named that I keep at present?",
            "Which name would you put on the collar of my dog?",
        ),
    ),
    "dish": Topic(
        "dish",
        ("My favourite dish is {}.", "Nothing tastes as good to me as {}."),
        ("I have a new favourite dish, which is {}.", "These days I would rather eat {} than my old favourite."),
        "my favourite dish is {}",
        "my favourite dish",
        (
            "What is my favourite dish now?",
            "What would you cook to please me most?",
            "Which food do I like best?",
            "What should be on my plate on a good day?",
            "Which dish is dearest to me at present?",
            "What do I love to eat above all?",
        ),
    ),
    "drink": Topic(
        "drink",
        ("In the morning I drink {}.", "I begin the day with a cup of {}."),
        ("I have changed my morning drink to {}.", "In place of my old drink I have {} at breakfast now."),
        "I drink {} in the morning",
        "my morning drink",
        (
            "What do I drink in the morning now?",
            "What is in my cup at breakfast?",
            "Which drink do I begin the day with?",
            "What would you pour me after I get up?",
            "What is my morning drink at present?",
            "With what do I wash down my breakfast?",
        ),
        ("{}", "a cup of {}"),
    ),
    "instrument": Topic(
        "instrument",
        ("I am learning to play the {}.", "I take lessons on the {}."),
        ("I have sold my instrument and am learning the {} now.", "My music teacher has moved me on to the {}."),
        "I am learning the {}",
        "my instrument",
        (
            "Which instrument am I learning now?",
            "What do I practise in my music lessons?",
            "What do I play, or try to play?",
            "What would you hear me make music on?",
            "On which instrument do I take lessons at present?",
            "What kind of instrument stands in my room?",
        ),
    ),
    "language": Topic(
        "language",
        ("I am studying {} in the evenings.", "I go to a class in {}."),
        ("I have dropped my language class and study {} now.", "My new language class is in {}."),
        "I am studying {}",
        "the language I study",
        (
            "Which language am I studying now?",
            "What is my language class in?",
            "Which foreign tongue do I study?",
            "In which language do I have to learn words?",
            "Which language do I go to a class for at present?",
            "What do I hope to speak one day?",
        ),
    ),
    "book": Topic(
        "book",
        ("I am reading {}.", "The book beside my bed is {}."),
        ("I have finished my book and begun {}.", "My book went back to the library and now I have {}."),
        "I am reading {}",
        "the book I read",
        (
            "Which book am I reading now?",
            "What lies beside my bed to be read?",
            "What is the title of the book I am in?",
            "What do I read before I sleep?",
            "Which book have I open at present?",
            "What am I turning the pages of?",
        ),
    ),
    "choir": Topic(
        "weekday",
        ("My choir meets on {}.", "I sing in my choir every {}."),
        ("My choir has moved its evening to {}.", "From now on my choir comes together on {}."),
        "my choir meets on {}",
        "the evening of my choir",
        (
            "On which weekday does my choir meet now?",
            "Which evening of the week do I sing?",
            "When in the week does my choir come together?",
            "Which weekday must I keep free for my choir?",
            "What is the weekday of my choir at present?",
            "Which evening would you find me at choir?",
        ),
        ("{}", "on {}", "every {}"),
    ),
    "door": Topic(
        "colour",
        ("My front door is {}.", "You know my house by its {} door."),
        ("I have painted my front door {}.", "My front door has a new coat of paint and it is {}."),
        "my front door is {}",
        "the colour of my front door",
        (
            "What colour is my front door now?",
            "How is my front door painted?",
            "Which colour does my front door have?",
            "By what colour would you know my door?",
            "In which colour is my door at present?",
            "What colour do you see when you knock at my house?",
        ),
    ),
    "bees": _friend("keeps bees"),
    "clocks": _friend("mends clocks"),
    "bread": _friend("bakes bread"),
    "chess": _friend("plays chess"),
    "bus": _friend("drives the night bus"),
    "roses": _friend("grows roses"),
    "boats": _friend("builds boats"),
    "kites": _friend("flies kites"),
}
