"""The page on robustness shows the stored counts."""

from robustness import PAGE, page


def test_page_is_up_to_date_with_the_stored_counts() -> None:
    assert PAGE.read_text() == page()
    assert page().count("\n| ") > 15
