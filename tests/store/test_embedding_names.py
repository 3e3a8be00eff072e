import pytest

from spahgc.store.embedding_names import options_of


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["lite0"], "--encoder lite0"),
        (["lite0-77um", "lite0-154um"], "--encoder lite0 --patch-um 77 --patch-um 154"),
        (["uni-77.5um-8views"], "--encoder uni --patch-um 77.5 --views 8"),
        (["H-optimus-0-154um-160px"], "--encoder H-optimus-0 --patch-um 154"),
    ],
    ids=["bare", "fields", "views", "dashes"],
)
def test_the_options_that_make_an_embedding_follow_from_its_name(names, options):
    assert " ".join(options_of(names)) == options
