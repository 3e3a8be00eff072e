from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spahgc.errors import ProtocolError
from spahgc.store.splits import (
    BY_PATIENT,
    BY_SLIDE,
    caveat_of,
    make_fold,
    make_folds,
    say_untested,
    units_of,
)

THREE = {"C1": "C", "A1": "A", "A2": "A", "B1": "B", "B2": "B"}
FOUR = {**THREE, "D1": "D", "D2": "D"}

names = st.text("abcXYZ12", min_size=1, max_size=3)
cohorts = st.dictionaries(names, st.one_of(st.none(), st.sampled_from("PQRST")), max_size=9)


def folds_or_none(patients, rule):
    try:
        return make_folds(patients, rule=rule)
    except ProtocolError:
        return None


@given(patients=cohorts, rule=st.sampled_from([BY_PATIENT, BY_SLIDE]))
def test_no_slide_is_in_two_parts_and_every_slide_is_tested_once(patients, rule):
    """But for those of a patient beside whom the others have too few slides."""
    folds = folds_or_none(patients, rule)
    if folds is None:
        return
    n_of = Counter(patients.values())
    can_be_tested = [
        slide
        for slide, patient in patients.items()
        if rule == BY_SLIDE or len(patients) - n_of[patient] >= 3
    ]
    for fold in folds:
        parts = [*fold.train, *fold.validation, *fold.test]
        assert sorted(parts) == sorted(patients)
        assert fold.validation
        assert len({fold.groups[slide] for slide in fold.train}) >= 2
    assert sorted(slide for fold in folds for slide in fold.test) == sorted(can_be_tested)


@given(patients=cohorts)
def test_leaving_a_patient_out_leaves_all_of_its_slides_out(patients):
    for fold in folds_or_none(patients, BY_PATIENT) or []:
        judged = {patients[slide] or "unknown" for slide in fold.test}
        assert len(judged) == 1
        assert not judged & {patients[slide] or "unknown" for slide in fold.train}
        assert not judged & {patients[slide] or "unknown" for slide in fold.validation}
        assert fold.shared_patients == ()
        others = {patient or "unknown" for patient in patients.values()} - judged
        assert {fold.only_patient} == (others if len(others) == 1 else {""})
        assert bool(fold.caveat) == (len(others) == 1)


@given(patients=cohorts)
def test_enough_slides_of_two_patients_can_always_be_judged(patients):
    n_of = Counter(patients.values())
    enough = len(n_of) >= 2 and len(patients) - min(n_of.values()) >= 3
    assert (folds_or_none(patients, BY_PATIENT) is not None) == enough
    assert (folds_or_none(patients, BY_SLIDE) is not None) == (len(patients) >= 4 or not patients)


def test_leaving_slides_out_takes_each_slide_in_turn():
    folds = make_folds(THREE, rule=BY_SLIDE)
    assert [fold.name for fold in folds] == ["A1", "A2", "B1", "B2", "C1"]
    assert [fold.validation for fold in folds] == [("A2",), ("B1",), ("B2",), ("C1",), ("A1",)]
    assert folds[0].train == ("B1", "B2", "C1")
    assert folds[0].groups == {slide: slide for slide in THREE}


def test_a_fold_that_shares_a_patient_says_so():
    first, *_, last = make_folds(THREE, rule=BY_SLIDE)
    assert first.shared_patients == ("A",)
    assert "one patient (A) on both sides" in first.caveat
    assert last.test == ("C1",)
    assert last.caveat is None


def test_leaving_patients_out_chooses_the_checkpoint_on_a_whole_patient():
    folds = make_folds(FOUR, rule=BY_PATIENT)
    assert [fold.test for fold in folds] == [("A1", "A2"), ("B1", "B2"), ("C1",), ("D1", "D2")]
    assert [fold.validation for fold in folds] == [
        ("B1", "B2"),
        ("C1",),
        ("D1", "D2"),
        ("A1", "A2"),
    ]
    assert folds[0].name == "A1+A2"
    assert folds[0].groups == FOUR


def test_with_two_patients_left_a_slide_that_can_be_spared_chooses_the_checkpoint():
    fold = make_fold(THREE, test=["B1", "B2"], by_patient=True)
    assert fold.validation == ("A1",)  # C1 follows B2, but patient C has no other slide to teach
    assert fold.train == ("A2", "C1")


def test_slides_of_unknown_patients_count_as_one_patient():
    patients = {**FOUR, "X1": None, "X2": None}
    folds = make_folds(patients, rule=BY_PATIENT)
    assert ("X1", "X2") in [fold.test for fold in folds]
    fold = make_fold(patients, test=["X1"])
    assert fold.shared_patients == ("unknown",)


def test_one_patient_alone_is_refused_with_the_split_that_works():
    patients = {f"A{n}": "A" for n in range(6)}
    with pytest.raises(ProtocolError, match=r"one patient \(A\).*--split leave-one-slide-out"):
        make_folds(patients, rule=BY_PATIENT)
    assert len(make_folds(patients, rule=BY_SLIDE)) == 6


def test_slides_of_the_only_other_patient_retrieve_from_each_other_and_the_fold_says_so():
    patients = {"A1": "A", "A2": "A", "B1": "B", "B2": "B", "B3": "B"}
    first, second = make_folds(patients, rule=BY_PATIENT, n_teachers=2)
    assert (first.test, first.train, first.validation) == (("A1", "A2"), ("B2", "B3"), ("B1",))
    assert (second.test, second.train, second.validation) == (("B1", "B2", "B3"), ("A1", "A2"), ())
    for fold, patient in ((first, "B"), (second, "A")):
        assert fold.groups == {slide: slide for slide in patients}
        assert fold.shared_patients == ()
        assert f"all training slides are of one patient ({patient}): they retrieve" in fold.caveat


def test_a_patient_without_whom_too_few_slides_are_left_is_not_held_out_and_named():
    patients = {"A1": "A", "C2": "C", "C3": "C", "C4": "C", "C5": "C"}
    for n_teachers in (2, 3):
        folds = make_folds(patients, rule=BY_PATIENT, n_teachers=n_teachers)
        assert [fold.test for fold in folds] == [("A1",)]
        assert say_untested(patients, folds).endswith("to train on: C (C2, C3, C4, C5)")
    assert say_untested(FOUR, make_folds(FOUR, rule=BY_PATIENT)) is None
    assert say_untested(patients, make_folds(patients, rule=BY_SLIDE)) is None


def test_slides_of_unknown_patients_never_stand_for_another_unknown_patient():
    patients = {"A1": "A", "A2": "A", "X1": None, "X2": None, "X3": None}
    first, second = make_folds(patients, rule=BY_PATIENT, n_teachers=2)
    assert (second.test, second.train) == (("X1", "X2", "X3"), ("A1", "A2"))
    assert first.only_patient == "unknown"
    with pytest.raises(ProtocolError, match=r"all slides are of one patient \(unknown\)"):
        make_folds(dict.fromkeys(("X1", "X2", "X3", "X4")), rule=BY_PATIENT, n_teachers=2)


def test_two_patients_of_too_few_slides_are_refused_with_the_split_that_works():
    patients = {"A1": "A", "A2": "A", "B1": "B", "B2": "B", "B3": "B"}
    with pytest.raises(
        ProtocolError,
        match=r"with B1, B2, B3 held out the other patients have 2 slides \(A1, A2\), but 3 are "
        "needed: .*--split leave-one-slide-out",
    ):
        make_folds(patients, rule="k-fold:2")
    with pytest.raises(ProtocolError, match=r"have 2 slides \(B1, B2\).*leave-one-slide-out"):
        make_folds({"A1": "A", "A2": "A", "B1": "B", "B2": "B"}, rule=BY_PATIENT)


def test_no_slide_at_all_is_refused():
    with pytest.raises(ProtocolError, match="none"):
        make_folds({}, rule=BY_PATIENT)


@pytest.mark.parametrize(
    ("patients", "test", "message"),
    [
        pytest.param({"A1": "A", "B1": "B", "C1": "C"}, ["A1"], "3 usable slides.*4 are", id="3"),
        pytest.param({"A1": "A"}, ["A1"], r"1 usable slide \(.*4 are needed: the test", id="1"),
        pytest.param({"A1": "A", "B1": "B"}, [], "2 usable slides.*3 are needed: two", id="2"),
    ],
)
def test_too_few_slides_are_refused_with_the_numbers(patients, test, message):
    with pytest.raises(ProtocolError, match=message):
        make_fold(patients, test=test)


def test_without_a_test_all_but_the_validation_slide_teach():
    fold = make_fold(THREE, test=[])
    assert (fold.name, fold.test, fold.validation) == ("all", (), ("A1",))
    assert fold.train == ("A2", "B1", "B2", "C1")
    assert fold.caveat is None


def test_validation_slides_may_be_named():
    fold = make_fold(THREE, test=["A1"], validation=["B1", "C1"])
    assert fold.validation == ("B1", "C1")
    assert fold.train == ("A2", "B2")


def test_a_test_slide_cannot_choose_the_checkpoint_too():
    with pytest.raises(ProtocolError, match="A1 was asked for twice"):
        make_fold(THREE, test=["A1"], validation=["A1"])


def test_a_slide_nobody_knows_is_refused_with_those_there_are():
    with pytest.raises(ProtocolError, match="no usable slide Z9; there are A1, A2, B1, B2, C1"):
        make_fold(THREE, test=["Z9"])
    with pytest.raises(ProtocolError, match="no usable slide Z9"):
        make_fold(THREE, test=["A1"], validation=["Z9"])


def test_one_slide_of_a_test_patient_keeps_the_others_from_teaching():
    fold = make_fold(FOUR, test=["A1"], by_patient=True)
    assert "A2" not in (*fold.train, *fold.validation)
    assert fold.caveat is None


@given(patients=cohorts, n_parts=st.integers(2, 5))
def test_k_folds_test_every_slide_once_in_parts_of_whole_patients(patients, n_parts):
    folds = folds_or_none(patients, f"k-fold:{n_parts}")
    if folds is None:
        return
    assert len(folds) == n_parts
    assert sorted(slide for fold in folds for slide in fold.test) == sorted(patients)
    if len({patient or "unknown" for patient in patients.values()}) > 1:
        assert all(not fold.shared_patients for fold in folds)
    else:
        assert all(fold.caveat for fold in folds)
    for fold in folds:
        assert not {*fold.test} & {*fold.train, *fold.validation}
        assert not {*fold.train} & {*fold.validation}


def test_k_folds_have_about_as_many_slides_each():
    patients = {f"{p}{n}": p for p in "ABCDEF" for n in range(3)}
    sizes = [len(fold.test) for fold in make_folds(patients, rule="k-fold:3")]
    assert sizes == [6, 6, 6]


def test_k_folds_of_one_patients_slides_say_that_they_share_it():
    folds = make_folds({f"A{n}": "A" for n in range(6)}, rule="k-fold:3")
    assert [fold.test for fold in folds] == [("A0", "A3"), ("A1", "A4"), ("A2", "A5")]
    assert all(fold.shared_patients == ("A",) for fold in folds)
    assert all(fold.rule == "k-fold:3" for fold in folds)


def test_more_folds_than_patients_are_refused_with_what_works():
    with pytest.raises(
        ProtocolError, match=r"asks for 9 parts, but there are 4 patients.*k-fold:4"
    ):
        make_folds(FOUR, rule="k-fold:9")


@pytest.mark.parametrize("rule", ["k-fold", "k-fold:", "k-fold:one", "k-fold:1", "leave-two-out"])
def test_a_rule_nobody_knows_is_refused_with_those_there_are(rule):
    with pytest.raises(ProtocolError, match=r"k-fold:N"):
        make_folds(FOUR, rule=rule)


def test_a_caveat_names_patients_so_that_a_terminal_obeys_nothing_in_them():
    assert r"one patient (\x1b[31mP) on" in caveat_of(["\x1b[31mP"])


def test_two_teachers_are_enough_for_a_model_that_holds_each_out():
    folds = make_folds({"A1": "A", "B1": "B", "C1": "C"}, rule=BY_PATIENT, n_teachers=2)
    assert [(fold.train, fold.validation, fold.test) for fold in folds] == [
        (("B1", "C1"), (), ("A1",)),
        (("A1", "C1"), (), ("B1",)),
        (("A1", "B1"), (), ("C1",)),
    ]
    with pytest.raises(ProtocolError, match="3 are needed: the test, two to train on, each of"):
        make_folds({"A1": "A", "B1": "A"}, rule=BY_SLIDE, n_teachers=2)
    (fold,) = make_folds({"A1": "A", "A2": "A", "B1": "B"}, rule=BY_PATIENT, n_teachers=2)
    assert (fold.test, fold.train, fold.only_patient) == (("B1",), ("A1", "A2"), "A")


@given(patients=cohorts, rule=st.sampled_from([BY_PATIENT, BY_SLIDE]))
def test_where_there_are_three_teachers_two_being_enough_changes_nothing(patients, rule):
    folds = folds_or_none(patients, rule)
    if folds is not None:
        of_two = {fold.name: fold for fold in make_folds(patients, rule=rule, n_teachers=2)}
        assert [of_two[fold.name] for fold in folds] == folds


def test_scores_are_resampled_by_patient_where_there_are_several_and_else_by_slide():
    assert units_of(THREE) == THREE
    assert units_of({"C1": "C", "C2": "C"}) == {"C1": "C1", "C2": "C2"}
    assert units_of({"C1": None, "C2": None}) == {"C1": "C1", "C2": "C2"}
    # slides of unknown patients count as one patient's
    assert units_of({"C1": "C", "X1": None, "X2": None})["X1"] == "unknown"
