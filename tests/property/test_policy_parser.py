"""Any text is an expression or a syntax error, never another one; and/or/not mean what Python means by them."""
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control.policy import PolicySyntaxError, parse_expression

WORDS = st.sampled_from(["and", "or", "not", "(", ")", "role:a", "role:b", "'x':%(y)s", "%(", ")s", "@", "!", ":", "rule:r",
                         "None:%(n)s"])
WHO = {"roles": frozenset({"a"}), "user_id": "u"}


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map("".join)))
def test_every_text_is_read_or_refused_and_judged_without_error(text):
    try:
        check = parse_expression(text, {"r": lambda *_: True})
    except PolicySyntaxError:
        return
    try:
        assert check(WHO, {"y": "x"}) in (True, False)
    except KeyError as error:
        assert "rule:" in text, error                    # a rule that is not there, which a Policy refuses beforehand


EXPRESSIONS = st.recursive(st.sampled_from([("role:a", True), ("role:b", False), ("@", True), ("!", False)]),
                           lambda inner: st.one_of(
    st.tuples(inner, inner).map(lambda pair: (f"({pair[0][0]} and {pair[1][0]})", pair[0][1] and pair[1][1])),
    st.tuples(inner, inner).map(lambda pair: (f"({pair[0][0]} or {pair[1][0]})", pair[0][1] or pair[1][1])),
    inner.map(lambda one: (f"not {one[0]}", not one[1]))), max_leaves=12)


@given(EXPRESSIONS)
def test_the_meaning_is_that_of_boolean_algebra(expression):
    text, wanted = expression
    assert parse_expression(text)(WHO, {}) is wanted
