import os
import subprocess
import sys

import pytest

from spahgc.errors import MismatchError, StoreError
from spahgc.store.run_folders import WORK, check_free, unfinished_folder

PLAN = {"epochs": 3, "slides": ("A1", "B1")}


def begin(path, **how):
    return unfinished_folder(path, **{"plan": PLAN, **how})


def stop_half_way(path):
    with pytest.raises(KeyboardInterrupt), begin(path) as folder:  # noqa: PT012
        (folder / WORK / "epoch-2").write_text("so far")
        (folder / "picture").write_text("drawn")
        raise KeyboardInterrupt


def test_a_folder_takes_its_place_when_all_went_well(tmp_path):
    path = tmp_path / "runs" / "first"
    with begin(path) as unfinished:
        (unfinished / "a").write_text("b")
        (unfinished / WORK / "scrap").write_text("for later")
        assert not path.exists()
    assert [item.name for item in path.iterdir()] == ["a"]
    assert [item.name for item in path.parent.iterdir()] == ["first"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_before_there_is_anything_to_go_on_from_leaves_nothing(tmp_path, error):
    with pytest.raises(error), begin(tmp_path / "run") as unfinished:  # noqa: PT012
        (unfinished / "a").write_text("b")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_goes_on_from_what_an_earlier_one_left(tmp_path):
    stop_half_way(tmp_path / "run")
    with begin(tmp_path / "run", resume=True) as unfinished:
        assert (unfinished / WORK / "epoch-2").read_text() == "so far"
        (unfinished / "a").write_text("b")
    assert sorted(item.name for item in (tmp_path / "run").iterdir()) == ["a", "picture"]
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_an_earlier_attempt_is_not_thrown_away_unasked(tmp_path):
    stop_half_way(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    with (
        pytest.raises(StoreError, match=r"begun and not finished; go on with `--resume`"),
        begin(tmp_path / "run"),
    ):
        pytest.fail("it would be lost")
    assert sorted(tmp_path.rglob("*")) == before


def test_other_settings_do_not_go_on_from_it(tmp_path):
    stop_half_way(tmp_path / "run")
    other = {**PLAN, "epochs": 4}
    with (
        pytest.raises(MismatchError, match=r"begun with other settings \(epochs\)"),
        begin(tmp_path / "run", plan=other, resume=True),
    ):
        pytest.fail("that is another run")


def test_where_nothing_was_begun_resuming_begins(tmp_path):
    with begin(tmp_path / "run", resume=True) as unfinished:
        (unfinished / "a").write_text("b")
    assert (tmp_path / "run" / "a").exists()


def test_two_processes_do_not_make_the_same(tmp_path):
    code = (
        "import sys; from pathlib import Path; from spahgc.errors import StoreError\n"
        "from spahgc.store.run_folders import unfinished_folder\n"
        "try:\n    unfinished_folder(Path(sys.argv[1]), plan={}).__enter__()\n"
        "except StoreError as error:\n    print(error)"
    )
    with begin(tmp_path / "run"):
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ},
        )
    assert "another process is making" in other.stdout
    assert (tmp_path / "run").is_dir()


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StoreError, match="run exists; name another place"), begin(tmp_path / "run"):
        pytest.fail("nothing may be trained for a place that is taken")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_place_below_a_file_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"), begin(tmp_path / "file/run"):
        pytest.fail("there is no such place")


def test_a_place_that_is_taken_meanwhile_is_one_error(tmp_path):
    path = tmp_path / "run"
    with (  # noqa: PT012
        pytest.raises(StoreError, match="run cannot be made: Directory not empty"),
        begin(path) as unfinished,
    ):
        (unfinished / "a").write_text("mine")
        path.mkdir()
        (path / "a").write_text("theirs")
    assert (path / "a").read_text() == "theirs"
    assert [item.name for item in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_nobody_may_write_to_is_found_before_anything_is_made(tmp_path, monkeypatch):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setattr(os, "access", lambda folder, _: folder != theirs)  # root may write anywhere
    for path in (theirs / "run", theirs / "deep/run"):
        with pytest.raises(StoreError) as caught:
            check_free(path)
        assert str(caught.value) == f"{path} cannot be made: you may not write to {theirs}"
    check_free(tmp_path / "mine/run")
