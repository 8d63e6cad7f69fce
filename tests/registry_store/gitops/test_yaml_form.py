"""YAML as the folder has it: JSON values, each with its line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdp.core.json.equality import same_json
from registry_store.gitops.yaml_form import YamlFormError, documents, dump

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0")) | st.sampled_from(
    [
        "no",
        "on",
        "~",
        "null",
        "",
        "17:00",
        "1e5",
        "017",
        "0x1F",
        "1_000",
        "2026-01-31",
        ".inf",
        "=",
        "<<",
        "- a",
        "a: b",
    ]
)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def read(text: str) -> Any:
    """The value of a text's only document, which has no problems."""
    (found,) = documents(text)
    assert not found.problems
    return found.value


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
def test_what_is_written_is_read_again(value: dict[str, Any]) -> None:
    """Whatever JSON holds: texts that look like something else, numbers of any size, every character."""
    assert same_json(read(dump(value)), value)


@given(st.lists(st.dictionaries(TEXTS, TEXTS, min_size=1), min_size=1, max_size=4))
def test_documents_of_one_text_stay_apart(values: list[dict[str, Any]]) -> None:
    """However many there are."""
    assert [found.value for found in documents(dump(*values))] == values


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_read_or_refused(text: str) -> None:
    """With a line that it has."""
    try:
        found = list(documents(text))
    except YamlFormError as error:
        assert 1 <= error.line <= text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
    else:
        assert all(document.line >= 1 for document in found)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("17:00", "17:00"),
        ("no", "no"),
        ("017", "017"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("2026-01-31", "2026-01-31"),
        ("1e5", 100_000),
        ("True", True),
        ("~", None),
        ("'true'", "true"),
        ("! 1", "1"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_takes_it_for(text: str, value: Any) -> None:
    """A time of day is a text and no number to base sixty, `no` is no falsehood."""
    assert read(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "line", "path", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "a", "duplicate key"),
        ("a: &x [1]\nb: *x\n", 2, "b", "is an alias: write it out"),
        ("a: &x [*x]\n", 1, "a[0]", "is an alias: write it out"),
        ("a:\n  1: x\n", 2, "a.1", "the key is not a string: quote it"),
        ("a:\n  - ? [x]\n    : y\n", 2, "a[0].?", "the key is not a string: quote it"),
        ("a: !!binary aGk=\n", 1, "a", "has the tag `tag:yaml.org,2002:binary`: tags are not supported"),
        ("a:\n- !!python/object:os.system {}\n", 2, "a[0]", "has the tag"),
        (f"a: {'9' * 500}\n", 1, "a", "has more than 400 digits"),
    ],
)
def test_what_json_cannot_say_is_a_problem_of_its_line(text: str, line: int, path: str, message: str) -> None:
    """And never an object of Python, a silent overwrite, or a text that grows without end."""
    (found,) = documents(text)
    (problem,) = found.problems
    assert (problem.path, found.line_of(problem.path)) == (path, line)
    assert message in problem.message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: [\n", 3, "not YAML: did not find expected node content"),
        ("a: 1\nb: \x01\n", 2, "not YAML: "),
        ("a:\n  " + "[" * 100_000, 2, "nested more than 64 levels deep"),
        ("- " * 10_000, 1, "nested more than 64 levels deep"),
        ("[" * 1_100, 1, "nested more than 64 levels deep"),
    ],
)
def test_what_is_no_yaml_is_refused_by_its_line(text: str, line: int, message: str) -> None:
    """Without the depth of the text becoming that of the stack."""
    with pytest.raises(YamlFormError) as refused:
        list(documents(text))
    assert refused.value.line == line
    assert message in str(refused.value)


def test_a_path_that_is_not_there_has_the_line_of_what_is_around_it() -> None:
    """Of a field that is missing, the object that should have it."""
    (found,) = documents("a:\n  - b: 1\n  - c:\n      d.e: 1\n")
    assert [found.line_of(path) for path in ("a[1].x", "a[1].c.d.e", "a[1].c.y.z", "q", "")] == [3, 4, 3, 1, 1]


def test_empty_documents_are_none() -> None:
    """A file of comments declares nothing."""
    assert list(documents("# nothing\n---\n---\n# here\n")) == []
