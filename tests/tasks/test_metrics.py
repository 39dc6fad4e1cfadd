from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dllmc.spec import TaskError
from dllmc.tasks import metrics

RIGHT = [
    ("exact", "a b", "a b"),
    ("exact", "a b", "  a\n b "),
    ("one-of", ("a b", "c"), "c"),
    ("one-of", ("a b", "c"), " a  b"),
    ("numeric", "18", "so 3 * 6 = 18."),
    ("numeric", "1234", "it costs $1,234"),
    ("numeric", "1,234", "1234.0"),
    ("numeric", "-5", "x = -5"),
    ("numeric", "-5", "x = \N{MINUS SIGN}5"),
    ("numeric", "4", "10-4"),
    ("numeric", "0.3333333", "1/3 is .33333331"),
    ("numeric", "2.5e3", "about 2500"),
    ("numeric", "3", "1,2,3"),
    ("regex", "a+b?", " aaab\n"),
    ("regex", "yes|no", "no"),
    ("json-equal", '{"a": 1, "b": [true]}', '{"b":[true],"a":1}'),
    ("json-equal", "1", "1.0"),
]
WRONG = [
    ("exact", "a b", "a b c"),
    ("exact", "a b", "ab"),
    ("exact", "a b", "A b"),
    ("exact", "a", ""),
    ("one-of", ("a b", "c"), "a"),
    ("one-of", ("a b", "c"), "a b c"),
    ("numeric", "18", "18 of 20"),
    ("numeric", "18", "none"),
    ("numeric", "18", ""),
    ("numeric", "5", "-5"),
    ("numeric", "1000000000", "1000000001"),
    ("numeric", "0.5", "0.50001"),
    ("regex", "a+", "aab"),
    ("regex", "a+", "xaa"),
    ("json-equal", '{"a": 1}', '{"a": 1'),
    ("json-equal", '{"a": 1}', '{"a": 2}'),
    ("json-equal", '{"a": 1}', '{"a": true}'),
    ("json-equal", '{"a": 1}', '{"a": 2, "a": 1}'),
    ("json-equal", '{"a": 1}', '{"a": "1"}'),
    ("json-equal", "[1, 2]", "[2, 1]"),
    ("json-equal", "1", "NaN"),
    pytest.param("json-equal", "1", "[" * 100_000, id="deeply-nested"),
    ("json-equal", "1", ""),
]


@pytest.mark.parametrize(("metric", "reference", "answer"), RIGHT)
def test_accepts(metric: str, reference: metrics.Reference, answer: str) -> None:
    assert metrics.score(metric, reference, answer)


@pytest.mark.parametrize(("metric", "reference", "answer"), WRONG)
def test_rejects(metric: str, reference: metrics.Reference, answer: str) -> None:
    assert not metrics.score(metric, reference, answer)


@pytest.mark.parametrize(
    ("metric", "reference", "message"),
    [
        ("exakt", "a", "`exakt` is not a metric; did you mean `exact`?"),
        ("one-of", "a", "`one-of` needs a list of strings as reference, not 'a'"),
        ("one-of", (), "`one-of` needs a list of strings"),
        ("exact", ("a", "b"), "only `one-of` takes a list as reference"),
        ("numeric", "about 5", "`numeric` needs one number as reference, not 'about 5'"),
        ("numeric", "", "`numeric` needs one number"),
        ("regex", "(a", "'(a' is not a regular expression"),
        ("json-equal", "{", "`json-equal` needs JSON as reference, not '{'"),
    ],
)
def test_refuses_a_metric_or_reference_that_cannot_judge(
    metric: str, reference: metrics.Reference, message: str
) -> None:
    with pytest.raises(TaskError) as caught:
        metrics.judge_of(metric, reference)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(metrics.METRICS)), st.text())
def test_no_answer_makes_a_metric_fail(metric: str, answer: str) -> None:
    reference = {"one-of": ("a",)}.get(metric, "1")
    assert metrics.score(metric, reference, answer) in (True, False)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_equals_itself_in_a_sentence(number: float) -> None:
    assert metrics.score("numeric", repr(number), f"the answer is {number!r}.")
