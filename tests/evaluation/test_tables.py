"""From scores of people to tables, a plot and a page: each number against one that was computed by hand."""

import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from hdb.diffusion.sheet import save_image, to_pil
from hdb.evaluation import tables
from hdb.evaluation.page import page
from hdb.evaluation.people import UnseenPeople
from hdb.evaluation.pictures import Pictures
from hdb.evaluation.plot import plot_trade_off
from hdb.evaluation.search import read_searches
from hdb.evaluation.summary import NO_SCALE, NOT_APART, logged_means, summarize
from hdb.methods.table import METHODS
from hdb.metrics.table import METRICS, MetricEntry

# face_rec of four people: the judge tells base and oracle apart; by clip_t it does not, since people differ in sign.
FACE_REC = {
    "unpersonalized": [0.0, 0.1, 0.0, 0.1],
    "dreambooth": [0.3, 0.4, 0.2, 0.3],
    "hyperdreambooth": [0.5, 0.5, 0.4, 0.6],
    "oracle": [0.9, 0.8, 0.9, 0.8],
}
CLIP_T = {
    "unpersonalized": [0.7, 0.7, 0.7, 0.7],
    "dreambooth": [0.6, 0.6, 0.6, 0.6],
    "hyperdreambooth": [0.7, 0.7, 0.6, 0.6],
    "oracle": [0.8, 0.6, 0.8, 0.6],
}
COSTS = {
    "dreambooth": {"seconds": 60.0, "seconds_alone": 60.0, "bytes": 5000.0},
    "hyperdreambooth": {"seconds": 1.5, "seconds_alone": 3.0, "bytes": 100.0},
}
PROTOCOL = {
    "identities": ["a", "b", "c", "d"],
    "prompts": ["a photo of a [V] face", "a [V] face, oil painting"],
    "images": 1,
    "gallery": 10,
    "subjects_per_batch": 4,
    "settings": {"dreambooth": {"num_steps": 1200}},
}


def results_of(*names: str) -> dict:
    names = names or tuple(FACE_REC)
    per_method = {
        name: {score: np.array(CLIP_T[name] if score == "clip_t" else FACE_REC[name]) for score in METRICS}
        for name in names
    }
    nothing = {"seconds": 0.0, "seconds_alone": 0.0, "bytes": 0}
    costs = {name: COSTS.get(name, nothing) for name in names}
    return {"protocol": PROTOCOL, **summarize(per_method, costs, num_resamples=4000, seed=0)}


@pytest.fixture(scope="module")
def results() -> dict:
    return results_of()


def test_a_score_is_normalized_where_the_judge_tells_base_and_oracle_apart_and_never_elsewhere(results):
    face_rec = {name: entry["face_rec"] for name, entry in results["methods"].items()}
    assert face_rec["hyperdreambooth"]["mean"] == pytest.approx(0.5)
    assert face_rec["hyperdreambooth"]["normalized"] == pytest.approx((0.5 - 0.05) / (0.85 - 0.05))
    assert face_rec["unpersonalized"]["normalized"] == pytest.approx(0)
    assert face_rec["oracle"]["normalized"] == pytest.approx(1)
    assert results["scale"]["face_rec"]["mean"] == pytest.approx(0.8) and results["scale"]["face_rec"]["apart"]
    assert results["scale"]["clip_t"]["mean"] == pytest.approx(0) and not results["scale"]["clip_t"]["apart"]
    for entry in results["methods"].values():
        assert entry["clip_t"]["normalized"] is None and entry["clip_t"]["reason"] == NOT_APART
        assert "reason" not in entry["face_rec"]


def test_a_judge_that_puts_the_true_answer_below_none_at_all_has_no_scale():
    below = {"unpersonalized": "oracle", "oracle": "unpersonalized", "hyperdreambooth": "hyperdreambooth"}
    scores = {name: {metric: np.array(FACE_REC[other]) for metric in METRICS} for name, other in below.items()}
    results = summarize(scores, {}, num_resamples=4000, seed=0)
    assert results["scale"]["face_rec"]["ci95"][1] < 0 and not results["scale"]["face_rec"]["apart"]
    assert results["methods"]["hyperdreambooth"]["face_rec"]["normalized"] is None


@pytest.fixture
def one_person() -> dict:
    per_method = {name: {metric: np.array(scores[:1]) for metric in METRICS} for name, scores in FACE_REC.items()}
    for scores in per_method.values():
        scores["rank_1/photo"] = np.array([0.5])
    costs = {name: COSTS.get(name, {"seconds": 0.0, "seconds_alone": 0.0, "bytes": 0}) for name in per_method}
    summary = summarize(per_method, costs, num_resamples=10, seed=0)
    return {"protocol": PROTOCOL | {"identities": ["a"]}, **summary}


def test_one_person_tells_nothing_apart(one_person):
    assert one_person["scale"]["face_rec"]["mean"] == pytest.approx(0.9)
    assert one_person["scale"]["face_rec"]["apart"] is False
    assert one_person["methods"]["hyperdreambooth"]["face_rec"]["normalized"] is None


def test_one_person_has_no_interval_in_the_results(one_person):
    ours = one_person["methods"]["hyperdreambooth"]
    assert ours["face_rec"]["mean"] == 0.5
    intervals = [ours["face_rec"], ours["rank_1"]["photo"], one_person["scale"]["dino"]]
    intervals += one_person["paired"]["dreambooth"].values()
    assert all(interval["ci95"] is None for interval in intervals)
    assert json.loads(json.dumps(one_person, allow_nan=False)) == one_person


def test_one_person_has_no_interval_in_tables_plot_and_page(one_person, tmp_path, monkeypatch):
    shown = tables.all_tables(one_person)
    assert not any("[" in text for table in shown for row in table.rows for text in row)
    assert not any("95 %" in table.note for table in shown)
    rows = {row[0]: row for row in shown[0].rows}
    assert rows["HyperDreamBooth"][1] == "0.500" and shown[0].note.startswith("1 unseen person × 2 prompts")
    differences = {row[0]: row for row in shown[1].rows}
    assert differences["DreamBooth, 1200 steps"][1] == "+0.200"
    bars, titles = [], []
    monkeypatch.setattr(Axes, "errorbar", record(Axes.errorbar, bars))
    monkeypatch.setattr(Figure, "legend", record(Figure.legend, titles))
    plot = plot_trade_off(one_person, {})
    assert all(options["xerr"] is None and options["yerr"] is None for _, options in bars)
    assert titles[0][1]["title"] is None
    people = UnseenPeople(["a"], torch.ones(1, 1, 3, 8, 8), torch.ones(0, 3, 8, 8))
    pictures = Pictures(people, PROTOCOL["prompts"], tmp_path, num_pictures=1)
    for name in one_person["methods"]:
        for prompt in range(2):
            save_image(to_pil(torch.rand(3, 8, 8)), tmp_path / pictures.path(name, 0, prompt, 0))
    text = page(one_person, pictures, plot=plot, grid=Image.new("RGB", (9, 9)))
    assert "<td>0.500</td>" in text and "95 %" not in text


def test_without_the_oracle_there_is_no_scale():
    results = results_of("unpersonalized", "hyperdreambooth")
    assert results["scale"] == {}
    for score in METRICS:
        assert results["methods"]["hyperdreambooth"][score]["normalized"] is None
        assert results["methods"]["hyperdreambooth"][score]["reason"] == NO_SCALE
    assert "normalized" not in tables.score_table(results).note


def test_differences_are_of_the_same_people_and_costs_are_ratios_to_ours(results):
    paired = results["paired"]["dreambooth"]["face_rec"]
    assert paired["mean"] == pytest.approx(np.mean([0.2, 0.1, 0.2, 0.3]))
    # Four people: a mean of four draws of these differences; its 2.5 % and 97.5 % points by counting all 256 draws.
    draws = np.array(np.meshgrid(*[[0.2, 0.1, 0.2, 0.3]] * 4)).reshape(4, -1).mean(0)
    assert paired["ci95"] == pytest.approx(list(np.quantile(draws, [0.025, 0.975])), abs=0.013)
    assert "hyperdreambooth" not in results["paired"]
    over = results["methods"]["dreambooth"]["over_ours"]
    assert over == {"seconds": pytest.approx(40), "seconds_alone": pytest.approx(20), "bytes": pytest.approx(50)}
    assert set(results["methods"]["oracle"]["over_ours"].values()) == {None}


def test_tables_say_what_was_found_by_hand(results):
    table = tables.score_table(results)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert list(rows) == [
        "base, unpersonalized",
        "DreamBooth, 1200 steps",
        "HyperDreamBooth",
        "oracle: the true answer",
        "oracle minus unpersonalized",
    ]
    ours = rows["HyperDreamBooth"]
    assert ours["face_rec"].startswith("0.500 [0.4") and ours["face_rec"].endswith("] (+0.56)")
    assert ours["clip_t"] == "0.650 [0.600, 0.700]"
    assert [ours[column] for column in table.columns[-3:]] == ["3.00", "1.50", "100"]
    assert [rows["base, unpersonalized"][column] for column in table.columns[-3:]] == [""] * 3
    last = rows["oracle minus unpersonalized"]
    assert last["clip_t"] == "not told apart by this judge" and last["face_rec"].startswith("+0.800 [0.7")
    differ = tables.difference_table(results)
    (row,) = [row for row in differ.rows if row[0].startswith("DreamBooth")]
    assert row[1].startswith("+0.200 [") and row[-2:] == ["20.0×", "50.0×"]
    assert "4 unseen people × 2 prompts × 1 pictures" in differ.note


def test_the_summary_has_a_row_for_each_method_of_the_paper_that_was_evaluated(results):
    summary = tables.summary_table(results)
    assert [row[0] for row in summary.rows] == ["HyperDreamBooth", "DreamBooth, 1200 steps"]
    ours = dict(zip(summary.columns, summary.rows[0], strict=True))
    assert (ours["face_rec"], ours["clip_t"], ours["seconds"], ours["KB"]) == ("0.500", "0.650", "3.00", "0")


def test_shares_of_what_can_be_reached_are_ratios_to_the_oracle_and_to_the_base(results):
    methods = {name: {**entry, "rank_1": {"photo": {"mean": 0.0}}} for name, entry in results["methods"].items()}
    methods["oracle"]["rank_1"] = {"photo": {"mean": 0.8}}
    methods["hyperdreambooth"]["rank_1"] = {"photo": {"mean": 0.4}}
    rows = {row[0]: row for row in tables.relative_table({**results, "methods": methods}).rows}
    assert rows["HyperDreamBooth"] == ["HyperDreamBooth", "0.56", "0.929", "0.50"]
    with pytest.raises(ValueError, match="the results have no unpersonalized, expected unpersonalized and oracle"):
        tables.relative_table(results_of("hyperdreambooth"))


def test_numbers_of_seconds_and_factors_have_three_digits():
    written = {0.0079: "0.00790", 1.5: "1.50", 14.81: "14.8", 126.4: "126", 5000.4: "5000", 0.0: "0"}
    assert {number: tables.three_digits(number) for number in written} == written


def test_the_papers_tables_stand_there_where_all_their_methods_do(results, monkeypatch):
    assert tables.paper_tables(results) == []
    of_paper = {name for names in tables.PAPER.values() for name in names}
    assert of_paper | set(tables.TITLES) <= set(METHODS)
    for values, value in ((FACE_REC, [0.1] * 4), (CLIP_T, [0.6] * 4), (COSTS, COSTS["dreambooth"])):
        monkeypatch.setitem(values, "textual_inversion", value)
    first, differences = tables.paper_tables(results_of())
    assert first.title.startswith("Table 1")
    assert [row[0].split(",")[0] for row in first.rows[:3]] == ["HyperDreamBooth", "DreamBooth", "Textual Inversion"]
    assert [row[0].split(",")[0] for row in differences.rows] == ["DreamBooth", "Textual Inversion"]


def test_a_new_metric_has_its_scores_and_columns_and_old_results_go_without(results, monkeypatch):
    monkeypatch.setitem(METRICS, "distance", MetricEntry("recognizer", higher_is_better=False))
    per_method = {name: {metric: np.array(scores) for metric in METRICS} for name, scores in FACE_REC.items()}
    for scores in per_method.values():
        scores["distance"] = 1 - scores["face_rec"]
    costs = {name: COSTS.get(name, {"seconds": 0.0, "seconds_alone": 0.0, "bytes": 0}) for name in per_method}
    new = {"protocol": PROTOCOL, **summarize(per_method, costs, num_resamples=4000, seed=0)}
    ours = new["methods"]["hyperdreambooth"]
    assert ours["distance"]["mean"] == pytest.approx(0.5) and new["scale"]["distance"]["apart"]
    assert ours["distance"]["normalized"] == pytest.approx(ours["face_rec"]["normalized"])
    assert logged_means(new["methods"])["eval/oracle/distance"] == pytest.approx(0.15)
    columns = ["face_rec", "dino", "clip_i", "clip_t", "distance"]
    for table in (tables.score_table(new), tables.difference_table(new), tables.summary_table(new)):
        assert table.columns[1:6] == columns and all(len(row) == len(table.columns) for row in table.rows)
    assert tables.score_table(results).columns[1:5] == columns[:4]  # of before the metric


def test_a_method_that_nobody_thought_of_has_its_row(results):
    new = results["methods"] | {"toy": results["methods"]["dreambooth"]}
    table = tables.score_table(results | {"methods": new})
    assert "toy" in [row[0] for row in table.rows]


def test_a_table_is_text_with_columns_below_each_other_and_markdown_with_ours_in_bold():
    table = tables.Table("Title", ["method", "score"], [["HyperDreamBooth", "1"], ["k = 1", "20"]], "A note.")
    assert table.text().splitlines() == [
        "Title",
        "method           score",
        "HyperDreamBooth  1",
        "k = 1            20",
        "A note.",
    ]
    assert table.markdown().splitlines() == [
        "| method | score |",
        "| --- | --- |",
        "| **HyperDreamBooth** | 1 |",
        "| k = 1 | 20 |",
        "",
        "A note.",
    ]


def test_the_plot_has_a_point_for_each_method_and_a_line_for_each_search(results, monkeypatch):
    drawn = {"points": [], "lines": []}
    monkeypatch.setattr(Axes, "errorbar", record(Axes.errorbar, drawn["points"]))
    monkeypatch.setattr(Axes, "plot", record(Axes.plot, drawn["lines"]))
    tried = [{"clip_t": {"mean": 0.7}, "face_rec": {"mean": 0.2}}, {"clip_t": {"mean": 0.6}, "face_rec": {"mean": 0.4}}]
    image = Image.open(BytesIO(plot_trade_off(results, {"dreambooth": tried, "k1": tried})))
    assert image.info["Software"] == "hdb"
    points = {options["label"]: (position, options) for position, options in drawn["points"]}
    (x, y), options = points["HyperDreamBooth"]
    assert (x, y) == (pytest.approx(0.65), pytest.approx(0.5)) and len(points) == 4
    low, high = results["methods"]["hyperdreambooth"]["clip_t"]["ci95"]
    assert (x - options["xerr"][0][0], x + options["xerr"][1][0]) == (pytest.approx(low), pytest.approx(high))
    assert [position for position, options in drawn["lines"] if options.get("linestyle") == "--"] == [
        ([0.7, 0.6], [0.2, 0.4])
    ]


def record(real, into: list):
    def called(self, *args, **kwargs):
        into.append((args, kwargs))
        return real(self, *args, **kwargs)

    return called


def test_the_curves_of_a_plot_are_what_searches_wrote(tmp_path):
    assert read_searches(tmp_path / "nowhere") == {}
    setting = {"words": ["dreambooth.lr=1"], "clip_t": {"mean": 0.5}, "face_rec": {"mean": 0.4}, "seconds": 1.0}
    (tmp_path / "dreambooth.json").write_text(json.dumps({"settings": [setting]}))
    (tmp_path / "notes.json").write_text("mine")
    assert read_searches(tmp_path) == {"dreambooth": [setting]}
    for content in ("no json", "[]", '{"settings": [{"words": []}]}', '{"chosen": 1}'):
        (tmp_path / "k1.json").write_text(content)
        with pytest.raises(ValueError, match="k1.json is no search's result"):
            read_searches(tmp_path)


class Parser(HTMLParser):
    """Sources of pictures, other references, and texts of cells."""

    def __init__(self) -> None:
        super().__init__()
        self.sources, self.links, self.words, self.open = [], [], [], 0

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_no_other_file_and_has_tables_pictures_protocol_and_versions(results, tmp_path):
    people = UnseenPeople(["<b>a", "b"], torch.ones(2, 1, 3, 8, 8), torch.ones(0, 3, 8, 8))
    pictures = Pictures(people, PROTOCOL["prompts"], tmp_path, num_pictures=1)
    for name in results["methods"]:
        for person in range(2):
            for prompt in range(2):
                save_image(to_pil(torch.rand(3, 8, 8)), tmp_path / pictures.path(name, person, prompt, 0))
    plot, about = plot_trade_off(results, {}), {"versions": {"hdb": "0.1", "torch": "2.x"}}
    text = page(results | about, pictures, plot=plot, grid=Image.new("RGB", (9, 9)))
    parser = Parser()
    parser.feed(text)
    assert all(source.startswith("data:image/") for source in parser.sources) and not parser.links
    assert len(parser.sources) == 2 + 2 * (1 + 4 * 2)  # plot, grid; two people, four methods, two prompts
    assert "http" not in text and "<b>a" not in text
    for word in ("not told apart by this judge", "HyperDreamBooth", "a [V] face, oil painting", "2.x", "1200"):
        assert word in parser.words


def test_readme_and_the_committed_results_say_the_same():
    from experiments.config import Readme
    from hdb.evaluation.readme import fill_tables

    root = Path(__file__).parents[2]
    for document in Readme().readme:
        text = (root / document).read_text()
        assert fill_tables(text, root=root) == text, "run python -m experiments.readme"
        assert "hdb/faceworld/weights/" in text


def test_readmes_tables_are_written_between_their_marks_and_nothing_else_is_touched(results, tmp_path, call):
    from experiments import readme

    folder = Path("eval")
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "people.jpg").write_bytes(b"a picture")
    text = "# Mine\n\n<!-- scores: kept/eval.json -->\nold\n<!-- end -->\nbetween\n"
    Path("README.md").write_text(text + "<!-- differences: kept/eval.json -->\n<!-- end -->\nlast")
    Path("docs.md").write_text("<!-- caption: kept/eval.json -->\n<!-- end -->\n")
    assert call(readme, "results=eval", "kept=kept/eval.json", "readme=[README.md,docs.md]") == 0
    written = Path("README.md").read_text()
    start, rest = written.split("<!-- scores: kept/eval.json -->\n")
    assert start == "# Mine\n\n" and rest.startswith(tables.score_table(results).markdown() + "\n<!-- end -->\nbetween")
    assert written.endswith(tables.difference_table(results).markdown() + "\n<!-- end -->\nlast")
    assert "Rows: the one photo; *a photo of a [V] face*; *a [V] face, oil painting*." in Path("docs.md").read_text()
    assert Path("kept/eval.jpg").read_bytes() == b"a picture"
    stamp = Path("README.md").stat().st_mtime_ns
    assert call(readme, "readme=README.md") == 0 and Path("README.md").stat().st_mtime_ns == stamp


BAD = [
    ("no marks", "there is no mark for a table, expected one of the kind <!-- scores: path -->"),
    (
        "<!-- sums: kept/eval.json -->\n<!-- end -->",
        "asks for 'sums', expected one of scores, differences, shares, relative, paper, summary, caption, ablations",
    ),
    ("<!-- scores: kept/eval.json -->\n", "<!-- scores: kept/eval.json --> has no end, expected <!-- end -->"),
    ("<!-- scores: a -->\n<!-- shares: b -->\n<!-- end -->", "<!-- scores: a --> has no end"),
    ("<!-- scores: gone.json -->\n<!-- end -->", "no results in gone.json: expected the results.json of an evaluation"),
    ("<!-- scores: half.json -->\n<!-- end -->", "half.json lacks scale, expected the results.json of an evaluation"),
    ("<!-- scores: list.json -->\n<!-- end -->", "list.json holds a list, expected the results.json of an evaluation"),
    ("<!-- scores: torn.json -->\n<!-- end -->", "torn.json is no JSON"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_mark_that_cannot_be_filled_is_said_and_readme_stays_as_it_was(text, message, call, capsys):
    from experiments import readme

    Path("README.md").write_text(text)
    Path("half.json").write_text('{"protocol": {}}')
    Path("list.json").write_text("[]")
    Path("torn.json").write_text('{"protocol"')
    assert call(readme, "readme=README.md") == 2
    assert message in capsys.readouterr().err and Path("README.md").read_text() == text
    Path("README.md").unlink()
    assert call(readme, "readme=README.md") == 2 and "no file README.md" in capsys.readouterr().err
