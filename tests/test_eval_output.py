"""Statistics, printed cells, tables and figures from a synthetic Results document, read back."""

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from evaluation_fixture import NASTY, make
from PIL import Image

from rcfast.eval import outputs, paper, report
from rcfast.eval.outputs import axes, drawing, export, mosaics
from rcfast.eval.outputs.records import attack_record, decimals, mean_text, percent, points, rounded
from rcfast.eval.report.verdict import findings
from rcfast.eval.results import Results
from rcfast.eval.statistics import Interval, Mean, mean_and_error, wilson


@pytest.fixture(scope="module")
def results() -> Results:
    return make()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """Everything written once, with image grids and a user's defence of an awkward name."""
    out = tmp_path_factory.mktemp("run")
    full = make(out, user_defences=(NASTY,))
    export.write(full, out)
    drawing.write(full, out)
    return full, out


# Statistics


@pytest.mark.parametrize("n", [1, 2, 7, 100, 900, 10_000])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_wilson_equals_scipy(n: int, confidence: float) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        ours = wilson(k, n, confidence=confidence)
        theirs = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_at_the_ends_is_the_closed_form() -> None:
    z2 = scipy.stats.norm.ppf(0.975) ** 2
    assert wilson(0, 50) == Interval(0.0, pytest.approx(z2 / (50 + z2)))
    assert wilson(50, 50) == Interval(pytest.approx(50 / (50 + z2)), 1.0)
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"successes = {k}, n = {n}"):
        wilson(k, n)


def test_wilson_refuses_a_confidence_outside_0_1() -> None:
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\), got 95"):
        wilson(1, 2, confidence=95)


def test_mean_and_error_equals_scipy() -> None:
    values = np.random.default_rng(0).gamma(2, size=321)
    found = mean_and_error(values)
    assert found.n == 321
    assert found.mean == pytest.approx(values.mean(), rel=1e-14)
    assert found.se == pytest.approx(scipy.stats.sem(values), rel=1e-12)
    low, high = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    assert found.interval() == Interval(pytest.approx(low), pytest.approx(high))


def test_mean_of_few_or_bad_values() -> None:
    assert mean_and_error([]) == Mean(None, None, 0)
    assert mean_and_error([2.5]) == Mean(2.5, None, 1)
    assert mean_and_error([2.5]).interval() is None
    with pytest.raises(ValueError, match="got nan at index 1"):
        mean_and_error([1.0, math.nan])


# The paper's printed values

PRINTED = [  # dataset, attack, defence, success in percent, noise: read off the printed tables
    ("mnist", "T-JSMA", "adversarial", "100", "108.5"),
    ("mnist", "T-CW-L0", "region", "19.1", "11.9"),
    ("mnist", "T-CW-L2", "region", "0.2", "0.912"),
    ("mnist", "U-JSMA", "distillation", "100", "13.64"),
    ("mnist", "DeepFool", "region", "34", "2.39"),
    ("mnist", "U-CA-Linf", "adversarial", "100", "0.10"),
    ("mnist", "T-CA-L2", "region", "100", "2.65"),
    ("cifar10", "T-CW-Linf", "adversarial", "100", "0.01"),
    ("cifar10", "U-FGSM", "distillation", "99", "0.0079"),
    ("cifar10", "DeepFool", "distillation", "84", "0.19"),
    ("cifar10", "T-CA-L0", "region", "76", "85.5"),
]


@pytest.mark.parametrize(("dataset", "attack", "defence", "success", "noise"), PRINTED)
def test_paper_cells_are_as_printed(
    dataset: str, attack: str, defence: str, success: str, noise: str
) -> None:
    cell = paper.cell(dataset, attack, defence)
    assert cell is not None
    assert (cell.success.text, cell.noise.text) == (success, noise)
    assert cell.success.value == pytest.approx(float(success) / 100)


def test_paper_has_every_cell() -> None:
    document = paper.document()
    for table, count in (("table4", 6), ("table5", 7), ("table6", 6)):
        for dataset in ("mnist", "cifar10"):
            cells = document[table][dataset]
            assert len(cells) == count
            assert all(list(c) == ["point", "adversarial", "distillation", "region"] for c in cells.values())
    assert paper.split("cifar10") == (45000, 5000, 10000)
    assert paper.accuracy("cifar10", "adversarial") == paper.Printed("88.1", paper.PERCENT)
    length = paper.length("mnist")
    assert length is not None
    assert length.value == 0.3
    assert not paper.publishes("digits")
    assert paper.cell("digits", "T-JSMA", "point") is None
    assert paper.cell("mnist", "T-JSMA", "a user's") is None


def test_a_printed_value_stands_for_all_that_round_to_it() -> None:
    assert paper.Printed("0.10").rounding == pytest.approx(0.005)
    assert paper.Printed("23").rounding == 0.5
    assert paper.Printed("99.9", paper.PERCENT).rounding == pytest.approx(0.0005)
    assert [paper.trials(name) for name in ("T-JSMA", "T-CA-L2", "U-CA-L2", "DeepFool")] == [
        900,
        900,
        100,
        100,
    ]


# Numbers as text


def test_numbers_as_text() -> None:
    assert [percent(v) for v in (0, 1, 0.5, 0.0004, None)] == ["0%", "100%", "50.0%", "0.0%", "—"]
    assert percent(0.99416, 10000) == "99.42%"
    assert [points(v) for v in (0.012, -0.012, 0.0001, None)] == ["+1.2", "−1.2", "±0.0", "—"]
    assert mean_text(2.0134, 0.0213) == "2.013 ± 0.021"
    assert mean_text(72.34, 1.5) == "72.3 ± 1.5"
    assert mean_text(23.4, None) == "23.4"
    assert mean_text(0.0, 0.0) == "0.0 ± 0.0"
    assert decimals(1e-9, 1e-9) == 5
    assert rounded(-0.0) == 0.0
    assert math.copysign(1, rounded(-0.0) or 0.0) == 1


def test_record_compares_with_the_paper(results: Results) -> None:
    row: Any = {
        **results["attacks"][0],
        "attack": "T-CW-L0",
        "norm": "L0",
        "defence": "region",
        "success": 180,
        "n": 900,
        "noise_mean": 12.9,
        "noise_se": 0.6,
        "per_seed": [180, 171, 189],
        "interval": [0.175, 0.228],
        "noise_examples": 100,
        "noise_n": 900,
        "design_effect": 2.0,
    }
    record = attack_record(row, "mnist")
    assert record["rate"] == 0.2
    assert record["rate_difference"] == pytest.approx(0.009)
    assert record["paper_rate_agrees"] is True
    assert record["rate_difference_low"] < -0.02 < 0.04 < record["rate_difference_high"]  # both err
    assert record["noise_difference"] == pytest.approx(1.0)
    half = (
        scipy.stats.t.ppf(0.975, 99) * 0.6 * math.sqrt(1 + 900 / 172)
    )  # theirs: 19.1% of 900, as wide as ours
    assert record["noise_difference_high"] == pytest.approx(1 + half, rel=1e-5)
    assert record["paper_noise_agrees"] is True
    assert (record["seeds"], record["seeds_low"], record["seeds_high"]) == (3, 0.19, 0.21)
    assert attack_record({**row, "noise_se": 0.1}, "mnist")["paper_noise_agrees"] is False
    apart = {**row, "success": 240, "interval": [0.24, 0.294]}
    assert attack_record({**apart, "design_effect": 1.0}, "mnist")["paper_rate_agrees"] is False
    assert attack_record({**apart, "design_effect": 6.0}, "mnist")["paper_rate_agrees"] is True
    assert attack_record({**row, "parameter": 20.0}, "mnist")["paper_rate"] is None
    assert attack_record(row, "digits")["paper_rate"] is None


# Tables


def _cells(line: str) -> list[str]:
    """Split a Markdown table line at bars that are not escaped and undo the escapes."""
    parts = re.split(r"(?<!\\)\|", line.strip())[1:-1]
    return [re.sub(r"\\(.)", r"\1", part.strip()) for part in parts]


def _markdown_rows(text: str) -> list[list[str]]:
    return [_cells(line) for line in text.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("name", ["table3", "table4", "table5", "table6"])
def test_data_files_agree_with_the_results(drawn: tuple[Results, Path], name: str) -> None:
    full, out = drawn
    rows = list(csv.DictReader(io.StringIO((out / "tables" / f"{name}.csv").read_text())))
    document = json.loads((out / "tables" / f"{name}.json").read_text())
    assert document["dataset"] == "mnist"
    assert len(rows) == len(document["rows"])
    for text, record in zip(rows, document["rows"], strict=True):
        for key, value in record.items():
            said = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert text[key] == said
    if name == "table3":
        assert [r["correct"] for r in document["rows"]] == [a["correct"] for a in full["accuracy"]]
        return
    found = {(r["attack"], r["defence"], r["reading"]): r for r in document["rows"]}
    group = outputs.get(name).group
    wanted = [row for row in full["attacks"] if row["group"] == group]
    assert len(found) == len(wanted) > 0
    for row in wanted:
        record = found[row["attack"], row["defence"], row["reading"]]
        interval = scipy.stats.binomtest(row["success"], row["n"]).proportion_ci(method="wilson")
        assert (record["success"], record["n"], record["noise_n"]) == (
            row["success"],
            row["n"],
            row["success"],
        )
        assert record["rate_low"] == pytest.approx(interval.low, rel=1e-5, abs=1e-9)
        assert record["rate_high"] == pytest.approx(interval.high, rel=1e-5)


def test_markdown_holds_the_first_reading_and_any_name(drawn: tuple[Results, Path]) -> None:
    full, out = drawn
    header, _, *rows = _markdown_rows((out / "tables" / "table5.md").read_text())
    assert header[:5] == ["Attack", "Defence", "Success", "95% interval", "n"]
    assert all(len(row) == len(header) for row in rows)
    first = [r for r in full["attacks"] if r["group"] == "untargeted" and r["reading"] == "defence"]
    assert len(rows) == len(first)
    assert {row[1] for row in rows} == {
        *("Point-based", "Adversarial training", "Distillation", "Region-based"),
        NASTY,
    }
    cell = next(r for r in first if r["attack"] == "U-FGSM" and r["defence"] == "region")
    row = next(r for r in rows if r[0] == "U-FGSM (L∞)" and r[1] == "Region-based")
    assert row[2] == percent(cell["success"] / cell["n"])
    assert row[header.index("Paper")] == "80.0%"
    assert row[header.index("Paper noise")] == "0.288"
    assert f"(n = {cell['success']})" in row[5]


def _latex_rows(text: str) -> list[list[str]]:
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line[:-2])] for line in lines]


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5", "table6"])
def test_latex_has_the_rows_of_markdown_and_no_bare_specials(drawn: tuple[Results, Path], name: str) -> None:
    _, out = drawn
    text = (out / "tables" / f"{name}.tex").read_text()
    rows = _latex_rows(text)
    assert len(rows) == len(_markdown_rows((out / "tables" / f"{name}.md").read_text())) - 1
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert columns is not None
    assert {len(row) for row in rows} == {len(columns[1])}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    for cell in (cell for row in rows for cell in row):
        bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$[^$]*\$", "", cell)
        assert not re.search(r"[&%$#_{}~^\\]", bare), cell
    assert all(ord(character) < 128 for character in text)


def test_latex_escapes() -> None:
    assert export.escape_latex("50% of a_b & {c}") == r"50\% of a\_b \& \{c\}"
    assert export.escape_latex("T-CW-L∞ (L2)") == r"T-CW-$L_\infty$ ($L_2$)"
    assert export.escape_latex("a\\b~^\nc") == r"a\textbackslash{}b\textasciitilde{}\textasciicircum{} c"
    assert export.escape_latex("2.0 ± 0.1, −3, 1–2") == r"2.0 $\pm$ 0.1, $-$3, 1--2"


def test_a_data_set_without_published_values_has_no_paper_columns() -> None:
    built = export.build(make(dataset="digits"), Path())
    assert all("Paper" not in column for table in built.values() for column in table.header)
    assert "no values for digits" in built["table4"].note
    assert all(record["paper_rate"] is None for record in built["table4"].records)


def test_tables_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    shuffled = make()
    shuffled["attacks"].reverse()
    for folder, document in (("a", make()), ("b", shuffled)):
        export.write(document, tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a" / "tables").iterdir())
    assert len(names) == 4 * 10
    for name in names:
        assert (tmp_path / "a" / "tables" / name).read_bytes() == (
            tmp_path / "b" / "tables" / name
        ).read_bytes()


def _bare() -> Results:
    bare = make()
    bare["attacks"], bare["accuracy"], bare["grids"] = [], [], {}
    bare["worst"], bare["curves"], bare["optimality"] = [], [], []
    bare["checks"], bare["certified"], bare["vote_attacks"] = [], [], []
    del bare["length"]
    del bare["histograms"]
    return bare


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    bare = _bare()
    assert [path.name for path in export.write(bare, tmp_path)] == [
        f"table2.{e}" for e in ("csv", "json", "md", "tex")
    ]
    assert drawing.write(bare, tmp_path) == []
    html = report.write(bare, tmp_path).read_text()
    assert "Too little was measured" in html
    assert 'id="figures"' not in html
    assert "10,000 test examples" in report.ending(bare)


def test_only_the_outputs_asked_for(results: Results) -> None:
    some: Results = {**results, "outputs": ["table4", "figure8"]}
    assert list(export.build(some, Path())) == ["table4"]
    assert list(drawing.build(some, Path())) == ["figure8"]


# Figures


def test_every_figure_is_written(drawn: tuple[Results, Path]) -> None:
    _, out = drawn
    found = sorted(path.name for path in (out / "figures").iterdir())
    wanted = [
        *("curves", "radii", "vote_noise"),
        *(name for name in outputs.NAMES if name.startswith(("figure", "vote_images"))),
    ]
    assert found == sorted(f"{name}.{ending}" for name in wanted for ending in ("csv", "json", "png", "svg"))
    for name in wanted:
        with Image.open(out / "figures" / f"{name}.png") as image:
            assert image.width > 500
            assert image.getextrema()[0] != (255, 255)  # not blank
        text = (out / "figures" / f"{name}.svg").read_text()
        assert ET.fromstring(text).tag.endswith("svg")
        assert "currentColor" in text
        assert "prefers-color-scheme:dark" in text
        assert "<metadata" not in text
        assert axes.INK not in text.replace(drawing._STYLE, "")
        rows = list(csv.DictReader(io.StringIO((out / "figures" / f"{name}.csv").read_text())))
        assert len(rows) == len(json.loads((out / "figures" / f"{name}.json").read_text())["rows"]) > 0


def test_figures_are_the_same_bytes_every_time(results: Results) -> None:
    plot = drawing.build({**results, "outputs": ["figure4"]}, Path())["figure4"]
    assert drawing.render(plot.panels, "x") == drawing.render(plot.panels, "x")


def test_figure_data_holds_the_measurements(drawn: tuple[Results, Path]) -> None:
    full, out = drawn
    four = json.loads((out / "figures" / "figure4.json").read_text())
    assert [r["r"] for r in four["rows"]] == full["length"]["radii"]
    assert [r["accuracy"] for r in four["rows"]] == pytest.approx(full["length"]["accuracy"])
    assert four["r"] == 0.3
    two = list(csv.DictReader(io.StringIO((out / "figures" / "figure2.csv").read_text())))
    l2 = [int(r["count"]) for r in two if r["attack"] == "T-CW-L2" and r["target"] == "3"]
    assert l2 == full["histograms"]["attacks"]["T-CW-L2"]["counts"][2]
    six = json.loads((out / "figures" / "figure6.json").read_text())["rows"]
    assert {r["attack"] for r in six} == {"T-CW-L2"}
    assert [r["parameter"] for r in six if r["defence"] == "region"] == [5.0 * i for i in range(9)]


def test_grid_data_is_the_noise_against_the_diagonal(tmp_path: Path) -> None:
    images = np.zeros((2, 2, 1, 3, 3), np.float32)
    images[0, 1, 0, 1, 1], images[0, 1, 0, 0, 0] = 0.5, 0.25
    shown = np.array([[True, True], [False, True]])
    np.savez(tmp_path / "grid-1.npz", images=images, shown=shown, tried=np.ones((2, 2), bool))
    grid: Any = {
        "file": "grid-1.npz",
        "attack": "T-CW-L2",
        "parameter": 0.0,
        "labels": [3, 7],
        "judge": "point",
        "all_tried": True,
    }
    rows = drawing.build({**make(), "grids": {"figure1": grid}}, tmp_path)["figure1"].records
    assert [(r["true_label"], r["target"], r["shown"]) for r in rows] == [
        *((3, 3, True), (3, 7, True)),
        *((7, 3, False), (7, 7, True)),
    ]
    assert (rows[1]["noise_l0"], rows[1]["noise_linf"]) == (2, 0.5)
    assert rows[1]["noise_l2"] == pytest.approx(math.hypot(0.5, 0.25), rel=1e-5)
    assert rows[2]["noise_l2"] is None


def test_mosaic_places_images_and_hides_what_is_not_shown() -> None:
    images = np.zeros((2, 2, 3, 30, 33), np.float32)
    images[0, 1, 0] = 1.0  # red
    picture = mosaics.mosaic(images, np.array([[True, True], [False, True]]))
    assert picture.shape == (2 * 31 + 1, 2 * 34 + 1, 4)
    assert picture[1:31, 35:68].reshape(-1, 4).tolist() == [[255, 0, 0, 255]] * (30 * 33)
    assert picture[32:62, 1:34, 3].max() == 0
    small = mosaics.mosaic(np.ones((1, 1, 1, 8, 8)), np.ones((1, 1), bool))
    assert small.shape == (34, 34, 4)
    with pytest.raises(ValueError, match=r"images must have shape .* got \(2, 2\)"):
        mosaics.mosaic(np.zeros((2, 2)), np.ones((2, 2), bool))


@pytest.mark.parametrize(
    ("classes", "shape"), [(3, (1, 8, 8)), (2, (40,)), (12, (3, 6, 6)), (4, (2, 5, 9))], ids=str
)
def test_other_numbers_of_labels_and_shapes(tmp_path: Path, classes: int, shape: tuple[int, ...]) -> None:
    full = make(tmp_path, dataset="my.npz", num_classes=classes, shape=shape, user_defences=("mine",))
    full["outputs"] = ["figure1", "figure2", "table2", "table4"]
    full["histograms"]["attacks"].pop("T-CW-L0")
    full["histograms"]["attacks"]["T-CW-L2"] = {"targets": [], "counts": []}
    html = report.write(full, tmp_path).read_text()
    assert 'id="figure1"' in html
    assert 'id="figure2"' in html


def test_rows_without_examples_or_success(tmp_path: Path) -> None:
    empty = make(examples=0)
    empty["outputs"] = ["table3", "table4", "table6", "figure6", "figure8"]
    for row in empty["accuracy"]:
        row["correct"] = row["n"] = 0
    export.write(empty, tmp_path)
    assert drawing.write(empty, tmp_path) == []
    assert "not measured" in report.write(empty, tmp_path).read_text()
    assert findings(empty) == []
