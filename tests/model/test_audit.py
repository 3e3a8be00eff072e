from dataclasses import replace

import numpy as np
import pytest

from spahgc.errors import MismatchError
from spahgc.index import ReferenceIndex
from spahgc.model import committee_fitting, paper, runs, teaching
from spahgc.model.audit import CHECKS, audit_run
from spahgc.model.committee_fitting import CommitteeConfig
from spahgc.model.copies import find_copies
from spahgc.model.panel_rules import PanelRule
from spahgc.model.panels import GenePanel
from spahgc.model.prediction import open_predictor
from spahgc.model.runs import score_slide, train_fold
from spahgc.model.scoring import mean_pcc
from spahgc.model.spots import expression_of
from spahgc.model.trust import find_trust
from spahgc.store.cohort import open_cohort
from spahgc.store.run_record import PAPER
from spahgc.store.splits import BY_PATIENT
from tests.model.conftest import (
    EMBEDDING,
    RUN_CONFIG,
    copy_store,
    draw_tissue,
    fold_of,
    put_slide,
    with_counts,
)


def leaks_of(run, cohort):
    """Give what leaks, by check."""
    findings = audit_run(run, cohort)
    return {f.check: f.text for f in findings if f.verdict == "leak"}


def lie(run, **record):
    return replace(run, record=replace(run.record, **record))


@pytest.fixture
def careless(monkeypatch):
    """Let a test slide teach: what `train_fold` refuses, a planted leak needs."""
    monkeypatch.setattr(runs, "_refuse_twins", lambda *_: None)


@pytest.fixture(scope="module")
def odd(grown, tmp_path_factory):
    """A store whose B2 has the counts of other tissue, so that it chooses other genes."""
    slide = with_counts(draw_tissue("B2")[0], seed=1)
    return copy_store(grown, tmp_path_factory.mktemp("odd") / "data.zarr", slide)


def test_an_honest_run_is_clean(finished, grown):
    findings = audit_run(finished.run, grown)
    verdicts = {f.check: f.verdict for f in findings}
    assert len(verdicts) == len(findings) == len(CHECKS)
    of_committees = ("statistics", "ridge", "choices")
    assert {check for check, verdict in verdicts.items() if verdict == "absent"} == {*of_committees}
    assert [check for check, verdict in verdicts.items() if verdict == "not checked"] == [
        "networks"
    ]
    assert "leak" not in verdicts.values()
    (caveat,) = [f.text for f in findings if f.verdict == "caveat"]
    assert "patient (B) on both sides" in caveat


def test_a_test_slide_in_the_index_is_named(grown, careless):
    fold = fold_of(grown)
    leaky = train_fold(grown, replace(fold, train=(*fold.train, "B2")), config=RUN_CONFIG).run
    found = leaks_of(leaky, grown)
    assert "B2 is for train and for test" in found["parts"]
    assert "B2 was borrowed from" in found["index"]
    # a record that hides it: what was asked of the index tells, and so do the scores
    hidden = lie(leaky, train={n: c for n, c in leaky.record.train.items() if n != "B2"})
    assert "B2 was borrowed from, but is no training slide" in leaks_of(hidden, grown)["index"]
    silent = lie(hidden, references=hidden.record.references[:-1])
    assert "index" not in leaks_of(silent, grown)


def test_a_score_with_the_help_of_other_slides_is_not_reproduced(finished, grown):
    run = finished.run
    more = {**run.record.train, "A1": grown["A1"].entry.content}
    helper = open_predictor(lie(run, train=more), grown)
    spots = finished.tested["B2"]
    scores = score_slide(spots, helper.predict(spots), helper.teaching, method=PAPER, fold="B2")
    assert "something else was seen" in leaks_of(replace(run, scores=scores), grown)["scores"]


def test_scores_that_are_left_out_or_undefined_are_not_taken_for_the_same(finished, grown):
    run, scores = finished.run, finished.run.scores
    hidden = scores.assign(pcc=scores["pcc"].where(scores["pcc"] != scores["pcc"].min()))
    assert "something else was seen" in leaks_of(replace(run, scores=hidden), grown)["scores"]
    fewer = leaks_of(replace(run, scores=scores[1:]), grown)["scores"]
    assert fewer == "the scores of B2 are not those of the panel's genes"
    unsaid = lie(run, validation_pcc=float("nan"))
    assert "but the run says nan" in leaks_of(unsaid, grown)["checkpoint"]


def test_a_panel_chosen_with_the_test_slide_is_named(odd, monkeypatch):
    honest = teaching.read_known
    monkeypatch.setattr(
        teaching, "read_known", lambda cohort, names, by: honest(cohort, (*names, "B2"), by)
    )
    leaky = train_fold(odd, fold_of(odd), config=RUN_CONFIG).run
    monkeypatch.undo()
    assert "panel is chosen with the test slides" in leaks_of(leaky, odd)["panel"]
    clean = train_fold(odd, fold_of(odd), config=RUN_CONFIG).run
    assert leaks_of(clean, odd) == {}
    turned = GenePanel(genes=clean.record.panel[::-1], rule="heg:6")
    forged = lie(clean, panel=turned.genes, panel_digest=turned.digest)
    assert "not reproducible" in leaks_of(forged, odd)["panel"]


def test_a_panel_from_a_list_is_audited_without_the_list(odd, tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("G3\nG1\nG2\n")
    config = replace(RUN_CONFIG, panel_rule=PanelRule.parse(str(path)))
    run = train_fold(odd, fold_of(odd), config=config).run
    assert (run.record.panel, run.record.panel_rule) == (("G3", "G1", "G2"), "file:genes.txt")
    for somebody_elses in ("G5\nG6\nG7\n", None):
        path.unlink() if somebody_elses is None else path.write_text(somebody_elses)
        (finding,) = [f for f in audit_run(run, odd) if f.check == "panel"]
        assert finding.verdict == "caveat"
        assert f"3 genes were listed by somebody ({run.record.panel_digest})" in finding.text
        assert leaks_of(run, odd) == {}
    forged = lie(run, panel=("G5", "G6", "G7"))
    assert f"but the run says {run.record.panel_digest}" in leaks_of(forged, odd)["panel"]


def test_a_rule_that_no_run_writes_down_is_refused_and_reads_no_file(finished, grown, tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("\n".join(finished.run.record.panel))
    with pytest.raises(MismatchError, match="not a rule that genes are chosen by"):
        audit_run(lie(finished.run, panel_rule=str(path)), grown)


@pytest.fixture(scope="module")
def committee(odd):
    config = replace(
        RUN_CONFIG, committee=CommitteeConfig(n_components=4, n_programmes=2, n_networks=0)
    )
    return config, train_fold(odd, fold_of(odd), config=config).run


def test_an_honest_committee_is_clean(odd, committee):
    assert leaks_of(committee[1], odd) == {}


def test_a_committee_without_networks_has_no_epoch_to_choose(odd, committee):
    told = {finding.check: finding.text for finding in audit_run(committee[1], odd)}
    assert told["checkpoint"] == "training slides held out in turn chose the penalty"


def test_a_scaler_fitted_with_the_test_slide_is_named(odd, committee, monkeypatch):
    config, _ = committee
    honest = committee_fitting.fit_basis
    outsider = open_predictor(committee[1], odd).teaching.read("B2")
    monkeypatch.setattr(
        committee_fitting,
        "fit_basis",
        lambda slides, settings, **how: honest([*slides, outsider], settings, **how),
    )
    leaky = train_fold(odd, fold_of(odd), config=config).run
    monkeypatch.undo()
    assert "fitted with the test slides" in leaks_of(leaky, odd)["statistics"]


def test_an_epoch_chosen_by_the_test_slide_is_named(odd, careless):
    fold = replace(fold_of(odd), validation=("B2",))
    leaky = train_fold(odd, fold, config=RUN_CONFIG).run
    assert "test slide B2 chose the epoch" in leaks_of(leaky, odd)["checkpoint"]
    content = {**leaky.record.judged, "A1": odd["A1"].entry.content}
    hidden = lie(leaky, validation=("A1",), judged=content)
    assert "on the test slides it is" in leaks_of(hidden, odd)["checkpoint"]


def test_an_epoch_chosen_by_the_test_slide_is_named_where_the_scores_were_taken_later(
    odd, careless
):
    leaky = train_fold(odd, replace(fold_of(odd), validation=("B2",)), config=RUN_CONFIG).run
    content = {**leaky.record.judged, "A1": odd["A1"].entry.content}
    claim = lie(leaky, validation=("A1",), judged=content)
    predictor = open_predictor(claim, odd)
    spots = predictor.teaching.read("A1")
    predicted_SG = predictor.predict(spots)
    later = lie(claim, validation_pcc=mean_pcc(expression_of(spots), predicted_SG))
    later = replace(later, trust=find_trust(predictor.teaching, held_out={"A1": predicted_SG}))
    leaks = leaks_of(later, odd)
    assert set(leaks) == {"checkpoint", "panel"}, "a validation slide helps to choose the genes"
    assert "other slides chose the epoch" in leaks["checkpoint"]


def test_a_network_that_the_test_slide_taught_is_not_called_clean(odd, monkeypatch):
    honest, outsider = paper.train_network, []

    def train(samples, **how):
        return honest([*samples, *outsider], **how)

    fold = fold_of(odd)
    monkeypatch.setattr(paper, "train_network", train)
    taught = runs.gather_fold(odd, fold, config=RUN_CONFIG)
    outsider.append(paper._sample(taught, taught.read("B2")))
    leaky = train_fold(odd, fold, config=RUN_CONFIG).run
    monkeypatch.undo()
    found = {f.check: f for f in audit_run(leaky, odd)}
    assert "leak" not in {f.verdict for f in found.values()}, "an audit cannot see this one"
    assert found["networks"].verdict == "not checked"
    assert "if a test slide taught one, that was not seen here" in found["networks"].text


def test_reliability_of_the_papers_network_found_on_the_test_slide_is_named(finished, grown):
    predictor = open_predictor(finished.run, grown)
    held_out = {"A1": predictor.predict(predictor.teaching.read("B2"))[:30]}
    trust = find_trust(predictor.teaching, held_out=held_out)
    assert "reliability of genes" in leaks_of(replace(finished.run, trust=trust), grown)["trust"]


def test_another_epoch_than_the_least_validation_loss_is_named(finished, grown):
    best = finished.run.record.best_epoch
    other = lie(finished.run, best_epoch=1 + best % 3)
    assert f"least at epoch {best}" in leaks_of(other, grown)["checkpoint"]


def test_a_copy_of_the_test_image_in_training_is_named(grown, tmp_path):
    slide, embedding_SD = draw_tissue("B2")
    noise = np.random.default_rng(0).normal(0, 1e-3, embedding_SD.shape).astype(np.float32)
    cohort = copy_store(grown, tmp_path / "data.zarr")
    again = replace(with_counts(slide, seed=3), name="C9", patient="C")
    put_slide(cohort.store, again, embedding_SD + noise)
    ReferenceIndex.build(open_cohort(cohort.where), embedding=EMBEDDING)
    cohort = open_cohort(cohort.where)
    leaky = train_fold(cohort, fold_of(cohort), config=RUN_CONFIG).run
    assert "C9" in (*leaky.record.train, *leaky.record.validation)
    assert leaks_of(leaky, cohort)["copies"] == "91% of the patches of B2 are also in C9"


def test_the_same_counts_in_training_are_named(grown, tmp_path, careless):
    slide, _ = draw_tissue("B2")
    cohort = copy_store(grown, tmp_path / "data.zarr")
    twin = draw_tissue("C9", seed=2)[1][:30]
    twin_SD = np.concatenate([twin, twin[:3]])
    put_slide(cohort.store, replace(slide, name="C9", patient="C"), twin_SD)
    ReferenceIndex.build(open_cohort(cohort.where), embedding=EMBEDDING)
    cohort = open_cohort(cohort.where)
    leaky = train_fold(cohort, fold_of(cohort), config=RUN_CONFIG).run
    assert "B2 and C9 have the same image or counts" in leaks_of(leaky, cohort)["copies"]


def test_a_shared_patient_that_is_not_owned_up_to_is_a_leak(finished, grown):
    for claim in ({"shared_patients": ()}, {"split": BY_PATIENT}):
        assert "does not say so" in leaks_of(lie(finished.run, **claim), grown)["patients"]


def test_a_run_that_tested_nothing_can_be_audited(finished, grown):
    untested = replace(lie(finished.run, test=(), shared_patients=()), scores=None)
    assert leaks_of(untested, grown) == {}


def test_beside_a_store_that_changed_nothing_can_be_worked_out(finished, odd):
    with pytest.raises(MismatchError, match=r"slide B2 .*nothing can be worked out again"):
        audit_run(finished.run, odd)


def test_blank_patches_are_no_copies():
    generator = np.random.default_rng(0)
    own_SD, other_SD = generator.normal(size=(2, 60, 32)).astype(np.float32)
    assert find_copies(own_SD, other_SD) is None
    own_SD[:30], other_SD[:30] = 7.0, 7.0  # blank glass on both
    assert find_copies(own_SD, other_SD) is None
    other_SD[40:50] = own_SD[40:50]
    assert find_copies(own_SD, other_SD) == pytest.approx(10 / 60)
