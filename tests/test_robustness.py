"""The page on robustness says what was counted."""

from robustness import PAGE, page


def test_the_page_has_the_counts() -> None:
    assert PAGE.read_text() == page()
    assert page().count("\n| ") > 15
