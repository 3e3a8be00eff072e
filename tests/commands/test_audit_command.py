"""What `spahgc audit` shows, and how it ends."""

import json

from tests.commands.conftest import TRAIN, forge, spahgc


def verdicts_of(result):
    (findings,) = json.loads(result.stdout).values()
    return {finding["check"]: finding["verdict"] for finding in findings}


def test_what_was_not_checked_is_shown_in_words_and_in_json(lab, tmp_path):
    out = tmp_path / "run"
    spahgc("train", "--preset", "paper", "--epochs", "1", *TRAIN, "--test", "B2", "--out", out)
    assert (
        "  not checked networks   no graph network was trained again"
        in (spahgc("audit", out).stdout.splitlines()[6])
    )
    assert verdicts_of(spahgc("audit", out, "--json"))["networks"] == "not checked"


def test_what_a_run_has_not_is_not_called_clean(lab):
    verdicts = verdicts_of(spahgc("audit", "run", "--json"))
    absent = {check for check, verdict in verdicts.items() if verdict == "absent"}
    assert absent == {"networks", "index", "checkpoint"}
    assert {"leak", "not checked"}.isdisjoint(verdicts.values())


def test_a_leak_ends_with_an_error_in_words_and_in_json(run_copy):
    record = json.loads((run_copy / "run.json").read_text())
    forge(run_copy, panel=record["panel"][::-1], store=str(run_copy / record["store"]))
    told = spahgc("audit", run_copy, exit_code=1)
    assert "  leak        panel      its genes are " in told.stdout
    result = spahgc("audit", run_copy, "--json", exit_code=1)
    assert verdicts_of(result)["panel"] == "leak"
    assert result.stderr == told.stderr
    assert f"1 of 1 runs leak: {run_copy}" in result.stderr
