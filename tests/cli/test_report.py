"""`report`'s curves: each env has its own units, each line says what is special about it."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from diffsurrogate.cli.report.command import ReportOptions, report
from diffsurrogate.cli.report.curves import draw, envs_of
from diffsurrogate.cli.report.table import Group, interquartile_mean, table_of


@pytest.fixture
def curves():
    """Two groups on one env, of 3 and 2 seeds, and one on another env; a run without a row."""
    settings = ("total_steps=9", "shac.gamma=0.9")
    reach = Group(env="a/reach", agents=1, method="ppo", network="mlp", settings=settings[:1])
    other = reach._replace(method="shac++", settings=settings)
    pair = Group(env="b/pair", agents=2, method="ppo", network="mlp", settings=())

    def run(last, key="evaluation_mean_return", steps=40.0):
        rows = ((0.0, 0.0, 0.0), (steps, steps / 10, last))
        return [{"env_steps": s, "cpu_seconds": c, key: value} for s, c, value in rows]

    return {
        reach: [run(100.0), run(200.0), run(900.0, steps=20.0)],
        other: [run(300.0), run(500.0)],
        pair: [run(0.5, "evaluation_normalised_return"), []],
        pair._replace(env="c/empty"): [[]],
    }


def test_each_env_has_a_row_with_its_own_units(curves):
    envs = envs_of(curves)
    assert envs == [("a/reach", 1), ("b/pair", 2)]
    figure = draw(curves, envs)
    axes = np.array(figure.axes).reshape(2, 2)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["return", "normalised return"]
    assert [axis.get_xlabel() for axis in axes[0]] == ["env steps", "CPU-seconds of training"]
    assert axes[1, 0].get_title(loc="left") == "b/pair, 2 agents"
    assert axes[1, 0].lines[-1].get_ydata().max() == 0.5
    plt.close(figure)


def test_a_line_is_the_interquartile_mean_of_runs_that_keep_what_they_had(curves):
    figure = draw(curves, [("a/reach", 1)])
    ppo, *runs, learned = figure.axes[0].lines
    assert ppo.get_xdata()[-1] == 40.0
    assert ppo.get_ydata()[-1] == pytest.approx(400.0)  # of three no quarter is cut
    assert len(runs) == 2  # of fewer than three seeds each is drawn
    assert learned.get_ydata()[-1] == pytest.approx(400.0)
    (band,) = figure.axes[0].collections
    low, high = (f(band.get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
    assert (low, high) == (0.0, 900.0)
    plt.close(figure)


@pytest.mark.parametrize(
    ("runs", "mean"),
    [([1, 1, 100], 34), ([1, 2, 3, 100], 2.5), ([-50, 1, 2, 3, 100], 2)],
    ids=["none of three is left out", "two of four", "two of five"],
)
def test_whole_runs_are_left_out_of_the_mean(runs, mean):
    assert interquartile_mean([float(run) for run in runs])[0] == pytest.approx(mean)


def test_the_table_has_the_columns_that_say_something(curves):
    groups = list(curves)[:2]
    common = {"cpu_seconds": 2.0, "mean_return": 5.0, "info/is_success": 0.25, "info/lost": None}
    unknown = {"normalised_return": None, "reached_0.9": None, "seed": 0} | common
    known = {"normalised_return": 0.5, "reached_0.9": None, "seed": 0, "cpu_seconds": 2.0}
    better = unknown | {"seed": 1, "info/is_success": 0.75}
    head, row = table_of([(groups[0], [unknown, better])])
    assert head[6:] == [
        "return (IQM, 95 %)",
        "CPU-s in all",
        "reported at the end of episodes (mean)",
    ]
    assert row[5:] == ["0, 1", "5", "2.0", "is_success 0.5"]
    head, first, second = table_of([(groups[0], [unknown]), (groups[1], [known])])
    assert head[7:] == ["reached .9", "CPU-s in all", "reported at the end of episodes (mean)"]
    assert first[7:] == ["-", "2.0", "is_success 0.25"]
    assert second[7:] == ["0/1", "2.0", "-"]


def test_a_label_says_what_differs_from_the_others_on_the_env(curves):
    figure = draw(curves, envs_of(curves))
    texts = [[t.get_text() for t in figure.axes[i].get_legend().texts] for i in (1, 3)]
    assert texts == [["ppo", "shac++ shac.gamma=0.9"], ["ppo"]]
    plt.close(figure)


@pytest.mark.parametrize("text", ["", "subject,answer\n1,2\n"])
def test_a_table_of_trials_that_is_not_of_a_sweep_is_passed_over(text, tmp_path, capsys):
    for name, content in (("run/config.json", "{}"), ("people/trials.csv", text)):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(content)
    assert report(ReportOptions(folder=tmp_path)) == 0
    out = capsys.readouterr().out
    assert "Not finished: run" in out
    assert "sweep" not in out


@pytest.mark.parametrize("torn", ["0,complete,,0.1", "0,complete,9.5", "0,complete,9.5,0.1,2"])
def test_a_damaged_table_of_trials_costs_the_best_alone(torn, tmp_path, capsys):
    table = f"trial,state,value,lr\n{torn}\n1,complete,7.5,0.2\n2,pruned,,\n"
    for name, content in (("run/config.json", "{}"), ("tuned/trials.csv", table)):
        file = tmp_path / name
        file.parent.mkdir()
        file.write_text(content)
    assert report(ReportOptions(folder=tmp_path)) == 0
    out = capsys.readouterr().out
    assert "tuned is a sweep of 3 trials; which is the best is not told" in out
