import pytest

from spahgc.errors import MismatchError
from spahgc.model.panel_rules import PanelRule


@pytest.mark.parametrize("text", ["hvg:50", "heg:1", "all"])
def test_rule_reads_back_as_it_was_written(text):
    assert str(PanelRule.parse(text)) == text


def test_path_of_a_list_is_a_rule_with_and_without_its_prefix(tmp_path):
    path = tmp_path / "panel.txt"
    path.write_text("A\n")
    rule = PanelRule.parse(f"file:{path}")
    assert rule == PanelRule.parse(str(path))
    assert (str(rule), rule.genes) == ("file:panel.txt", ("A",))
    path.write_text("B\n")
    assert rule.genes == ("A",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("hvg:x", "'x' is not a number of genes", id="a letter"),
        pytest.param("hvg:", "'' is not a number of genes", id="nothing"),
        pytest.param("hvg", "'' is not a number of genes", id="no colon"),
        pytest.param("heg:0", "'0' is not a number of genes", id="zero"),
        pytest.param("hvg:-5", "'-5' is not a number of genes", id="negative"),
        pytest.param("hvg:5.5", "'5.5' is not a number of genes", id="fraction"),
        pytest.param("foo:5", "not a rule and no such file", id="unknown rule"),
        pytest.param("", "not a rule and no such file", id="empty"),
        pytest.param("file:nowhere.txt", "no file nowhere.txt", id="missing file"),
    ],
)
def test_rule_that_cannot_be_read_names_the_ones_that_can(text, problem):
    with pytest.raises(MismatchError) as caught:
        PanelRule.parse(text)
    assert problem in str(caught.value)
    assert "hvg:N, heg:N, all" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("A\nB\nA\n", "A listed twice", id="twice"),
        pytest.param(" \n", "no gene in it", id="empty"),
    ],
)
def test_list_that_is_no_panel_is_refused(tmp_path, text, problem):
    path = tmp_path / "panel.txt"
    path.write_text(text)
    with pytest.raises(MismatchError, match=problem):
        PanelRule.parse(str(path))


@pytest.mark.parametrize("text", ["file:panel.txt", "panel.txt", "", "hvg:x"])
def test_no_file_is_read_for_a_rule_that_was_written_down(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "panel.txt").write_text("A\n")
    with pytest.raises(MismatchError):
        PanelRule.parse_recorded(text)
    assert PanelRule.parse_recorded("heg:7") == PanelRule.parse("heg:7")
