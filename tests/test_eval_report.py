"""The verdict and the report from a synthetic Results document: what is said, and that it is one safe page."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from colours import TEXT, contrast
from evaluation_fixture import NASTY, make, run

from rcfast.eval import outputs, report
from rcfast.eval.outputs import NAMES
from rcfast.eval.report.page import invocation
from rcfast.eval.report.verdict import findings, headline
from rcfast.eval.results import PairedDifference, Results


@pytest.fixture(scope="module")
def results() -> Results:
    return make()


# Findings


def test_findings_say_what_the_numbers_say(results: Results) -> None:
    said = [f.text for f in findings(results) if f.about == "Region-based"]
    assert any("T-IGSM, T-CW-L∞ and T-CW-L2 fall from above 95% to below 5%" in text for text in said)
    assert any(text.startswith("6 of 6 targeted attacks") and "T-JSMA" in text for text in said)
    assert any("k = 20, T-CW-L2 reaches 98.2%" in text and "1.7 times" in text for text in said)
    assert any("T-CW-L2-A at alpha = 1, reaches 64.0%" in text for text in said)
    assert headline(results).startswith(
        "Voting over a region is attacked itself: T-RegionCW succeeds for 99.0% of 900 on votes it never saw, with "
        "1.22 times the noise that the undefended network takes. It is broken on 100% of the examples in the worst "
        "case, at a median L2 noise of 3 where the undefended network takes 2, keeps the network's accuracy to within "
        "0.5 points and makes 6 of 6"
    )
    unproven: Results = {**results, "direct": {}, "vote_attacks": []}
    assert headline(unproven).startswith(
        "Voting over a region is broken on 100% of the examples in the worst case, at a median L2 noise of 3 where the "
        "undefended network takes 2 (by transfer alone, not attacked itself). It keeps the network's accuracy to "
    )


def test_findings_turn_when_the_numbers_do() -> None:
    worse = make()
    for row in worse["attacks"]:
        if row["defence"] == "region" and row["group"] in ("targeted", "untargeted", "combined"):
            row["success"], row["interval"] = row["n"], [0.99, 1.0]
            row["per_seed"], row["seeds_share"] = [row["n"], 0], 0.8
            row["versus_undefended"] = _versus(0.0, 0.5)
    for accuracy in worse["accuracy"]:
        if accuracy["defence"] == "region":
            accuracy["correct"] = 9000
            accuracy["versus_undefended"] = _versus(-0.0941, 1e-200)
    said = findings(worse)
    assert "costs 9.41 points of accuracy and stops no targeted attack" in headline(worse)
    region = [f for f in said if f.about == "Region-based"]
    assert region[0].tone == "bad"
    assert any("It costs 9.41 points of accuracy." in f.text and "p < 0.0001" in f.text for f in region)
    assert any("more vote seeds, or a larger m, would settle that one" in f.text for f in region)


def _versus(difference: float, p: float, low: float = -1.0, high: float = 1.0) -> PairedDifference:
    return {
        "difference": difference,
        "interval": [low, high],
        "p": p,
        "only_here": 9,
        "only_undefended": 18,
    }


@pytest.mark.parametrize(
    ("found", "words", "tone"),
    [
        (
            _versus(-0.0009, 0.12, -0.0020, 0.0001),
            "keeps the network's accuracy to within 0.5 points",
            "good",
        ),
        (_versus(-0.0022, 0.0009, -0.0036, -0.0010), "costs 0.22 points of accuracy", "bad"),
        (_versus(0.0022, 0.0009, 0.0010, 0.0036), "gains 0.22 points of accuracy", "good"),
        (
            _versus(-0.0022, 0.3, -0.0090, 0.0046),
            "may cost over 0.5 points of accuracy or none",
            "plain",
        ),
    ],
)
def test_accuracy_is_said_to_change_or_to_stay_only_where_that_is_shown(
    found: PairedDifference, words: str, tone: str
) -> None:
    results = make()
    own = next(row for row in results["accuracy"] if row["defence"] == "region")
    own["versus_undefended"] = found
    (said,) = (f for f in outputs.get("table3").findings(results) if f.about == "Region-based")
    assert "18 lost, 9 gained" in said.text
    assert f"It {words}" in said.text
    assert said.tone == tone
    wide: Results = {**results, "config": {**results["config"], "protocol": {"margin": 0.02}}}
    if tone == "plain":
        assert "keeps the network's accuracy to within 2 points" in headline(wide)


def test_several_comparisons_at_once_need_a_smaller_p_each() -> None:
    results = make()
    rows = [row for row in results["attacks"] if row["defence"] == "region" and row["reading"] == "unseen"]
    tables = [row for row in rows if row["group"] in ("targeted", "untargeted", "combined")]
    for row in tables:
        row["versus_undefended"] = _versus(-0.5, 0.02)
    assert "0 of 6 targeted attacks" in _targeted(results)
    assert "(6 more do, but chance can explain it)" in _targeted(results)
    for row in tables:
        row["versus_undefended"] = _versus(-0.5, 0.02 / len(tables))
    assert "6 of 6 targeted attacks" in _targeted(results)
    for row in tables:
        row["versus_undefended"] = _versus(0.5, 1e-9)  # more often
    assert "0 of 6 targeted attacks" in _targeted(results)


def _targeted(results: Results) -> str:
    said = outputs.get("table4").findings(results)
    return next(f.text for f in said if f.about == "Region-based")


def test_few_examples_are_no_proof() -> None:
    said = findings(make(examples=4))
    untargeted = next(f for f in said if f.about == "Region-based" and "untargeted attacks" in f.text)
    assert untargeted.text.startswith("0 of 7 ")
    assert "more do, but chance can explain it)" in untargeted.text
    assert untargeted.tone == "plain"


def test_summary_shows_accuracy_r_and_rates(results: Results) -> None:
    text = report.ending(results)
    assert "length r = 0.3, learnt on 5,000 validation examples" in text
    assert re.search(r"Region-based +99\.42% +99\.25–99\.55%", text)
    assert re.search(r"T-CW-L2 .* \d+\.\d% \(\d+\.\d–\d+\.\d%\)", text)
    assert max(map(len, text.splitlines())) < 130
    for group in ("targeted", "untargeted", "combined"):
        assert f"Success rate of {group} attacks (95% interval)" in text
    # No rate without its interval.
    rates = [line for line in text.splitlines() if line.startswith("  ")]
    assert all(line.count("%") == 2 * line.count("–") for line in rates)


def test_summary_ends_with_warnings_time_and_page(results: Results) -> None:
    text = report.ending({**results, "stages": run()["stages"]}, Path("out/report.html"))
    assert text.endswith(
        "\nwarning: protocol.examples is 20: the intervals are wide\n"
        "time of all stages, now or before: 20 min 34 s\nreport: out/report.html\n"
    )


def test_summary_of_attacks_without_examples() -> None:
    assert "T-FGSM" in report.ending(make(examples=0))


# Report


class _Page(HTMLParser):
    """Checks nesting, and collects text, ids, and everything that a page can ask for."""

    VOID = frozenset({"meta", "link", "br", "wbr", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text, self.tags, self.ids, self.links = "", [], [], []  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.links.append(value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, _Page]:
    out = tmp_path_factory.mktemp("report")
    html = report.write(make(out, user_defences=(NASTY,)), out, run()).read_text()
    page = _Page()
    page.feed(html)
    assert page.open == []
    return html, page


def test_report_asks_for_nothing_and_runs_nothing(read: tuple[str, _Page]) -> None:
    html, page = read
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert not re.search(r"@import|url\((?!#|data:)", html)
    assert "script" not in page.tags
    assert "default-src 'none'" in html


def test_report_has_everything(results: Results, read: tuple[str, _Page]) -> None:
    _, page = read
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert set(NAMES) - {"imported", "regions"} <= set(page.ids)  # nothing was imported or compared
    ends = [
        page.text.index(word) for word in ("Voting over a region", "Sizes of the data splits", "Hardware and")
    ]
    assert ends == sorted(ends)
    for said in (
        *(
            results["warnings"][0],
            run()["command"],
            "16 min 40 s",
            "found from an earlier run",
            "attacks.budget",
        ),
        *("a test's", "1.7 times", "arXiv:1709.05583", "3 vote seeds"),
        *("The votes were computed in float32", "in float32 (the processor has none of them)"),
    ):
        assert said in page.text, said
    assert page.tags.count("figure") == 14
    assert page.tags.count("svg") == 1 + 1 + 1 + 1 + 3 + 1 + 3 + 1 + 1 + 2 + 2 + 1 + 1 + 1


def test_report_shows_names_as_they_are(read: tuple[str, _Page]) -> None:
    html, page = read
    assert NASTY in page.text
    assert "<b>x</b>" not in html


def themes() -> dict[str, dict[str, str]]:
    """The colours of report.css by light, dark and print, each completed as the cascade does."""
    css = Path(report.__file__).with_name("report.css").read_text(encoding="utf-8")
    found = [
        dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    light, dark, paper = found
    return {
        "light": light,
        "dark": light | dark,
        "print": light | paper,
        "print of dark": light | dark | paper,
    }


@pytest.mark.parametrize("theme", themes())
@pytest.mark.parametrize("back", ["paper", "raised", "warned"])
@pytest.mark.parametrize("ink", ["ink", "soft", "blue", "good", "bad"])
def test_every_colour_of_text_is_legible(theme: str, back: str, ink: str) -> None:
    colours = themes()[theme]
    assert contrast(colours[ink], colours[back]) >= TEXT


def test_text_has_no_other_colour_and_paper_is_white() -> None:
    css = Path(report.__file__).with_name("report.css").read_text(encoding="utf-8")
    assert set(re.findall(r"[{;]\s*color: (.*?)[;}]", css)) == {
        f"var(--{ink})" for ink in ("ink", "soft", "blue", "good", "bad")
    }
    used, colours = set(re.findall(r"var\(--(\w+)\)", css)), themes()
    assert used == set(colours["light"])
    assert colours["print"] == colours["print of dark"], (
        "what is printed must not depend on the reader's mode"
    )
    assert colours["print"]["paper"] == "#ffffff"


def test_report_of_unpublished_data_has_no_paper_marks() -> None:
    html = report.page({**make(dataset="digits"), "outputs": ["table3", "table4"]}, {}, Path())
    assert "reports no values for digits" in html
    assert 'class="mark"' not in html


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/a/rcfast/eval/__main__.py", "--set", "a.b=[1, 2]"], "python -m rcfast.eval --set 'a.b=[1, 2]'"),
        (["/venv/bin/rcfast-eval", "--quiet"], "rcfast-eval --quiet"),
        (["/venv/bin/pytest", "-q"], ""),
        ([], ""),
    ],
)
def test_the_command_is_found(arguments: list[str], command: str) -> None:
    assert invocation(arguments) == command
