from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evolvent.environments.errors import MalformedCallError
from evolvent.environments.tool_calls import LONGEST, read_call, write_call
from evolvent.environments.types import ToolCall

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
NUMBERS = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.builds(ToolCall, NAMES, st.dictionaries(NAMES, VALUES, max_size=4)))
@example(ToolCall("post", {"content": 'a "quoted"\n\\line\\n, \t\x00 and 😀\u2028'}))
def test_a_call_that_was_written_is_read_again(call: ToolCall) -> None:
    assert read_call(write_call(call)) == call


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("get_balance()", ToolCall("get_balance")),
        (" pay ( to = 'O\\'Neil' , amount=-1.5e2,) ", ToolCall("pay", {"to": "O'Neil", "amount": -150.0})),
        (
            "pay(now=True, again=false, note=None, cc=null)",
            ToolCall("pay", {"now": True, "again": False, "note": None, "cc": None}),
        ),
        (
            'mail(to=["a@x.org", "b@x.org"], about={"n": [1, []]})',
            ToolCall("mail", {"to": ["a@x.org", "b@x.org"], "about": {"n": [1, []]}}),
        ),
        ('save(text="""two\nlines, "quoted".""")', ToolCall("save", {"text": 'two\nlines, "quoted".'})),
        ('save(text="a, b=(c) # answer: no")', ToolCall("save", {"text": "a, b=(c) # answer: no"})),
        (r'find(path="C:\d \u00e9 \ud83d\ude00")', ToolCall("find", {"path": "C:\\d é 😀"})),
        ('```python\nfind(path="x")\n```', ToolCall("find", {"path": "x"})),
        ('`find(path="x")`', ToolCall("find", {"path": "x"})),
        ('{"name": "pay", "arguments": {"amount": 3, "now": true}}', ToolCall("pay", {"amount": 3, "now": True})),
        ('{"name": "get_balance"}', ToolCall("get_balance")),
    ],
)
def test_a_call_is_read_in_pythons_spelling_and_in_jsons(text: str, call: ToolCall) -> None:
    assert read_call(text) == call


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the name of a tool, not the end"),
        ("I will look.", "This cannot be read: '.'"),
        ("pay", r"Expected '\(', not the end"),
        ("pay(3)", r"as in pay\(argument=value\), not '3'"),
        ("pay(to=Ann)", "in quotes if it is text, not 'Ann'"),
        ("pay(to=open('x'))", "in quotes if it is text, not 'open'"),
        ("pay(n=1+1)", "cannot be read: '"),
        ("pay(n=1, n=2)", "n is given twice"),
        ("pay(n=1e999)", "not '1e999'"),
        ("pay(n=1) pay(n=2)", "not 'pay' after it"),
        ("pay(n=1", "Expected ',', not the end"),
        ('pay(to="Ann)', "cannot be read"),
        ("pay(to={1: 2})", "A key is text in quotes, not 1"),
        ("pay(to=" + "[" * 99 + "]" * 99 + ")", "at most 20 deep"),
        ("pay(n=" + "9" * 5000 + ")", "cannot be read"),
        ("x" * (LONGEST + 1), "at most 10,000 characters, not 10,001"),
        ('{"tool": "pay"}', 'holds a "name"'),
        ('{"name": "pay", "arguments": "all"}', 'holds a "name"'),
        ("().__class__", "cannot be read"),
        ("()", "the name of a tool"),
        ("a.b(c=1)", "cannot be read"),
    ],
)
def test_what_is_no_call_is_told_its_fault(text: str, fault: str) -> None:
    with pytest.raises(MalformedCallError, match=fault):
        read_call(text)


@given(st.text("ab_1.\"'\\(){}[],:=`\n ", max_size=60))
def test_any_text_is_a_call_or_told_its_fault(text: str) -> None:
    try:
        call = read_call(text)
    except MalformedCallError as error:
        fault = str(error)
    else:
        fault = "" if call.name else "a call of nothing"
    assert len(fault) < 200
    assert fault == "" or fault.endswith((".", "?"))
