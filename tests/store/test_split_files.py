import json

import pytest

from spahgc.errors import ProtocolError
from spahgc.store.split_files import read_folds

PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "B2": "B", "C1": "C", "D1": None}


@pytest.fixture
def folds_of(tmp_path):
    def folds_of(text, *, suffix=".csv"):
        path = tmp_path / f"split{suffix}"
        path.write_text(text)
        return read_folds(PATIENTS, split=str(path))

    return folds_of


def test_a_rule_is_no_file():
    assert len(read_folds(PATIENTS, split="leave-one-slide-out")) == 6


def test_each_listed_fold_is_tested_once_and_other_slides_are_not_used(folds_of):
    folds = folds_of("slide,fold\nA1,one\nA2,one\nB1,two\nB2,two\nC1,three\n")
    assert [(fold.name, fold.test) for fold in folds] == [
        ("one", ("A1", "A2")),
        ("two", ("B1", "B2")),
        ("three", ("C1",)),
    ]
    for fold in folds:
        assert "D1" not in (*fold.train, *fold.validation, *fold.test)
        assert fold.shared_patients == ()
        assert fold.rule.endswith("split.csv")
    assert folds[0].groups["B1"] == "B"  # no patient is on both sides: they borrow across patients


def test_a_listed_fold_that_shares_a_patient_is_labelled(folds_of):
    first, _ = folds_of("slide,fold\nA1,1\nB1,1\nD1,1\nA2,2\nB2,2\nC1,2\n")
    assert first.shared_patients == ("A", "B")
    assert first.groups["A2"] == "A2"


def test_parts_are_taken_as_stated(folds_of):
    rows = [
        {"slide": "A1", "part": "train"},
        {"slide": "B1", "part": "train"},
        {"slide": "B2", "part": "validation"},
        {"slide": "C1", "part": "test"},
    ]
    (fold,) = folds_of(json.dumps(rows), suffix=".json")
    assert (fold.name, fold.train, fold.validation) == ("C1", ("A1", "B1"), ("B2",))
    assert fold.test == ("C1",)


def test_several_folds_of_stated_parts_may_share_slides(folds_of):
    text = "slide,fold,part\n" + "".join(
        f"{slide},{fold},{'test' if slide == test else 'train'}\n"
        for fold, test in (("x", "A1"), ("y", "C1"))
        for slide in ("A1", "A2", "B1", "B2", "C1")
    )
    x, y = folds_of(text)
    assert (x.name, x.test, y.name, y.test) == ("x", ("A1",), "y", ("C1",))
    assert x.shared_patients == ("A",)
    assert y.shared_patients == ()
    assert x.validation
    assert y.validation


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("slide,fold\nA1,1\nZ9,2\n", "names Z9, which cannot be used", id="unknown"),
        pytest.param("slide,fold\nA1,1\nA1,2\n", "lists A1 twice", id="twice"),
        pytest.param("slide,fold\nA1,1\nB1,1\n", r"one fold \(1\)", id="one fold"),
        pytest.param("slide,part\nA1,train\nB1,train\n", "no slide of part test", id="no test"),
        pytest.param("slide,part\nA1,train\nB1,exam\n", "part 'exam'", id="part"),
        pytest.param("slide\nA1\n", "found slide; expected one row per slide", id="columns"),
        pytest.param("slide,fold\nA1,\n", "expected one row per slide", id="empty cell"),
        pytest.param("slide,fold\nA1,1,3\n", "more columns than named", id="more columns"),
        pytest.param("", "found nothing", id="empty"),
    ],
)
def test_a_table_that_is_no_split_is_refused_in_one_line(folds_of, text, message):
    with pytest.raises(ProtocolError, match=message) as caught:
        folds_of(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "is not JSON", id="broken"),
        pytest.param("{}", "is no list of objects", id="object"),
        pytest.param("[1]", "is no list of objects", id="numbers"),
        pytest.param("[]", "found nothing", id="nothing"),
    ],
)
def test_json_that_is_no_split_is_refused_in_one_line(folds_of, text, message):
    with pytest.raises(ProtocolError, match=message):
        folds_of(text, suffix=".json")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(ProtocolError, match=r"none.csv cannot be read: No such file"):
        read_folds(PATIENTS, split=str(tmp_path / "none.csv"))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProtocolError, match="not UTF-8 text"):
        read_folds(PATIENTS, split=str(tmp_path / "bytes.csv"))
