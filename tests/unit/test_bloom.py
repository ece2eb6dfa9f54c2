"""What was added is found; of what was not, little is."""

from hypothesis import given
from hypothesis import strategies as st

from storage.memory.bloom import BloomFilter

TEXTS = 4_000


@given(st.sets(st.text(st.characters(exclude_categories=["Cs"]))))
def test_everything_that_was_added_is_found(texts: set[str]) -> None:
    known = BloomFilter(2**10)
    for text in texts:
        known.add(text)
    assert all(text in known for text in texts)


def test_a_filter_with_room_takes_few_others_for_its_own() -> None:
    known = BloomFilter(2**16)
    assert "0" not in known
    for n in range(TEXTS):
        known.add(str(n))
    assert sum(str(-n) in known for n in range(1, TEXTS)) < TEXTS / 100
