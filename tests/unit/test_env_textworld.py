from __future__ import annotations

from evolvent.environments.splits import game_seed
from evolvent.environments.textworld import TextWorld, _offered, _tidy, _whereabouts


def test_the_games_words_are_kept_and_its_furniture_goes() -> None:
    room = "\n\n-= Bar =-\nYou arrive in a bar.\n\n\n\nThere is an exit to the east.\n\n\n\n>        -= Bar =-0/2"
    assert _tidy(room) == "Bar:\nYou arrive in a bar.\nThere is an exit to the east."
    over = "\nYou take the coin.\n\n\n   *** The End ***\n\nYou scored 1.\n\nWould you like to QUIT?\n>  -= Bar =-0/5"
    assert _tidy(over) == "You take the coin."


def test_looking_round_is_legal_but_not_offered() -> None:
    assert _offered(("examine cookbook", "examine table", "go east", "inventory", "look")) == (
        "examine cookbook",
        "go east",
    )
    assert _offered(("inventory", "look")) == ("inventory", "look")


def test_a_coin_games_situation_names_exits_and_the_last_move_but_no_room() -> None:
    assert _whereabouts(("go west", "go east", "look"), "east") == "Having gone east, with exits east and west"
    assert _whereabouts(("go south", "look"), "north") == "Having gone north, with one exit south"
    assert _whereabouts(("go south", "look"), "") == "With one exit south"
    assert _whereabouts(("go south", "take coin"), "north") == "With the coin in sight"


def test_runs_with_other_seeds_play_games_of_the_same_pool() -> None:
    world = TextWorld()
    pools = [{task.id for task in world.tasks("train", 200, seed)} for seed in (0, 1)]
    assert pools[0] == pools[1]
    assert world.tasks("train", 5, 0) == world.tasks("train", 50, 0)[:5]
    assert world.tasks("train", 5, 0) != world.tasks("train", 5, 1)


def test_a_game_seed_belongs_to_one_split() -> None:
    splits = ("train", "validation", "test")
    seeds = [{game_seed("w", split, seed, index) for seed in range(5) for index in range(200)} for split in splits]
    assert [{seed % 3 for seed in own} for own in seeds] == [{0}, {1}, {2}]
    assert all(0 <= seed < 2**31 for own in seeds for seed in own)
