"""People in words, as the bar and the lists say them."""

import pytest

from lab.ui.services import LOCAL, NO_COOKIE, person_words


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (LOCAL.name, "you (local)"),
        ("visitor-0123456789abcdef-00ff", "visitor 012345"),
        (f"visitor-{NO_COOKIE}-00ff", "visitor"),
        ("lab", "lab"),
    ],
)
def test_an_owner_is_said_as_people_read_it(owner: str, words: str) -> None:
    assert person_words(owner) == words
