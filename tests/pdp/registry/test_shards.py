"""A mapping of which changed copies share what did not change."""

from hypothesis import given
from hypothesis import strategies as st

from pdp.registry.shards import Shards

keys = st.integers(0, 3000).map(str)
changes = st.lists(st.dictionaries(keys, st.none() | st.integers(), max_size=20), max_size=8)


@given(changes)
def test_every_copy_is_the_mapping_that_it_should_be(given: list[dict[str, int | None]]) -> None:
    """A change leaves what was before it as it was; None stands for a key that is taken out, there or not."""
    copies, models = [Shards[int]()], [dict[str, int]()]
    for change in given:
        kept = {key: value for key, value in change.items() if value is not None}
        draft = copies[-1].draft()
        for key, value in change.items():
            if value is None:
                draft.remove(key)
            else:
                draft.put(key, value)
        copies.append(draft.done())
        models.append({key: value for key, value in (models[-1] | kept).items() if key in kept or key not in change})
    for copy, model in zip(copies, models, strict=True):
        assert dict(copy) == dict(copy.entries()) == model
        assert len(copy) == len(model)
        for key in {*model, *(key for change in given for key in change), "another"}:
            assert copy.get(key) == model.get(key)
            assert copy.get(key, -1) == model.get(key, -1)
            assert (key in copy) is (key in model)


def test_a_change_of_one_entry_copies_few_others() -> None:
    """Of 100,000 entries those with nearly the same hash are."""
    draft = Shards[int]().draft()
    for number in range(100_000):
        draft.put(str(number), number)
    before = draft.done()
    draft = before.draft()
    draft.put("7", -7)
    draft.remove("8")
    after = draft.done()
    copied = [new for old, new in zip(before._parts, after._parts, strict=True) if old is not new]
    assert 0 < sum(map(len, copied)) < 1000
