import pytest

from spahgc.commands.training_options import near_config
from spahgc.model.spots import NearConfig
from tests.commands.conftest import spahgc


def test_near_asks_for_whole_rings_or_for_the_six_nearest():
    assert near_config("4") == NearConfig(square=4, staggered=4)
    assert near_config("8") == NearConfig(square=8, staggered=8)
    assert near_config("nearest") is None


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_another_number_of_near_spots_is_refused(command):
    told = spahgc(command, "--near", "6", exit_code=2)
    assert "'6' is not one of '4', '8', 'nearest'" in told.stderr
