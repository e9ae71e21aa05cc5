"""The grids of BPPO's and HyperMARL's papers, and what all tables have in common."""

import json
from dataclasses import replace

import pytest
from toys.processes import needs_ray, run_here

from diffsurrogate.__main__ import main
from diffsurrogate.cli.arguments import read_train
from diffsurrogate.cli.options import TrainOptions
from diffsurrogate.cli.reproduce.bppo import BPTA
from diffsurrogate.cli.reproduce.command import TABLES
from diffsurrogate.cli.reproduce.hypermarl import HYPERMARL
from diffsurrogate.cli.reproduce.pool import RayPool
from diffsurrogate.cli.reproduce.shac import SHAC_CURVES
from diffsurrogate.cli.reproduce.statistics import read_results
from diffsurrogate.cli.reproduce.table import Cell, PaperTable
from diffsurrogate.envs.registry import make
from diffsurrogate.errors import UsageError


def all_cells(table: PaperTable) -> list[Cell]:
    return table.cells(None, None, None, None, None, "default")[0]


def options_of(table: PaperTable, cell: Cell) -> TrainOptions:
    return read_train(table.arguments(cell, "default"))


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_a_folder_is_named_after_its_cell(table):
    cells = all_cells(table)
    assert len({cell.name for cell in cells}) == len(cells)
    assert [table.cell_of(f"{cell.name}-72858") for cell in cells] == [(c, 72858) for c in cells]
    assert sorted(reversed(cells), key=table.place) == cells
    for name in ("dispersion", "climbing-mappo-mlp", "penalty-bppo-mlp-upwards-3"):
        with pytest.raises(UsageError, match="not named like"):
            table.cell_of(name)


@pytest.mark.parametrize("table", [BPTA, HYPERMARL, SHAC_CURVES], ids=lambda table: table.name)
def test_every_column_can_be_trained(table):
    columns = {cell.column: cell for cell in all_cells(table)}
    for cell in columns.values():
        options = options_of(table, cell)
        assert (options.method, options.agents, options.network) == (
            *(cell.method, cell.agents, cell.network),
        )


def test_horizons_of_shac_make_as_many_steps_per_update():
    cells = [cell for cell in all_cells(SHAC_CURVES) if cell.task == "halfcheetah"]
    assert {"", "horizon-4", "horizon-128"} <= {cell.variant for cell in cells}
    for cell in cells:
        options = options_of(SHAC_CURVES, cell)
        if cell.method == "shac":
            assert options.num_envs * options.shac.horizon == 64 * 32
            gradient = options.shac.update.gradient
            assert gradient.bootstrap == (cell.variant != "no-critic")
            adapts = cell.variant in ("adaptive", "ahac", "default-preset")
            assert gradient.max_growth == (10.0 if adapts else None)


def test_shac_has_its_papers_settings_and_others_the_defaults():
    presets = {
        (cell.method, cell.variant): options_of(SHAC_CURVES, cell).preset
        for cell in SHAC_CURVES.cells(
            ("hopper",), None, ("ppo", "shac", "shac++"), None, None, "default"
        )[0]
    }
    assert presets["ppo", ""] == presets["shac++", ""] == presets["shac", "default-preset"]
    assert presets["ppo", ""] == "default"
    assert presets["shac", "entropy"] == presets["shac++", "shac-preset"] == "shac"
    assert presets["shac", "ahac"] == "ahac" and presets["shac", "sapo"] == "sapo"


def test_variants_are_what_they_say():
    def bppo(variant):
        cell = Cell(task="climbing", agents=None, method="bppo", network="mlp", variant=variant)
        return options_of(BPTA, cell).bppo

    usual = bppo("")
    assert (usual.use_peer_gradient, usual.scheme, usual.actor.conditioning) == (
        *(True, "sequential", "projection"),
    )
    assert not bppo("no-peer").use_peer_gradient
    assert bppo("raw").actor.conditioning == "raw"
    assert bppo("simultaneous").scheme == "simultaneous"
    orders = [bppo(variant).actor.order for variant in ("", "reversed", "random")]
    assert orders == ["listed", "reversed", "random"]


def test_all_methods_take_the_same_steps_on_robots():
    def clip_and_size(method):
        cell = Cell(task="walker2d-6x1", agents=None, method=method, network="mlp")
        options = options_of(BPTA, cell)
        ppo = options.ppo if method == "mappo" else options.bppo
        steps = (options.num_envs, ppo.horizon, options.total_steps, ppo.critic_lr)
        sees = options.env_options["agent_obsk"]
        nets = ppo.actor.net.hidden, ppo.actor.net.activation, ppo.critic.net.activation
        assert sees == 0
        assert nets[1:] == ("relu", "relu")
        return ppo.clip, steps, nets

    assert clip_and_size("mappo") == clip_and_size("bppo") == clip_and_size("happo")


def hypermarl(task, agents, method, network):
    return options_of(HYPERMARL, Cell(task=task, agents=agents, method=method, network=network))


def test_agents_share_the_goals_of_the_row():
    def sharing(task):
        return hypermarl(task, 8, "ippo", "mlp").env_options["agents_with_same_goal"]

    assert sharing("navigation-same") == 8
    assert sharing("navigation-some") == 4
    assert sharing("navigation-different") == 1


def test_half_of_three_agents_is_no_group():
    def why(agents):
        cell = Cell(task="navigation-some", agents=agents, method="ippo", network="mlp")
        return HYPERMARL.why_left_out(cell, "default")

    assert all("shares nothing" in why(agents) for agents in (2, 3))
    assert why(4) is None


def test_settings_are_those_of_the_papers_tables():
    def diversity(task, agents):
        return hypermarl(f"navigation-{task}", agents, "ippo", "dico").ppo.actor.net.diversity

    assert (diversity("same", 8), diversity("different", 2)) == (0.0, 1.2)
    assert diversity("different", 8) is None
    generated = hypermarl("dispersion", 4, "mappo", "hyper-mlp").ppo
    assert generated.actor.net.identity_size == generated.critic.net.identity_size == 8
    own = hypermarl("smax-2s3z", None, "ippo", "hyper-mlp").ppo
    assert (own.clip.lr, own.clip.clip_range, own.clip.entropy_weight) == (0.004, 0.05, 0.01)
    assert (own.actor.net.identity_size, own.actor.net.hyper_hidden) == (4, (32,))
    for net in (own.actor.net, own.critic.net):
        assert (net.gru_size, net.hidden) == (128, (128,))
    ten = [hypermarl("smax-smacv2-10", None, m, "hyper-mlp").ppo for m in ("ippo", "mappo")]
    assert [(ppo.clip.lr, ppo.critic_lr) for ppo in ten] == [(0.005, 0.005), (0.0003, 0.0003)]
    assert [ppo.actor.net.identity_size for ppo in ten] == [4, 64]
    assert hypermarl("smax-smacv2-10", None, "ippo", "shared-id").ppo.clip.lr == 0.001
    far = hypermarl("navigation-different", 8, "ippo", "dico").ppo
    assert (far.clip.lr, far.critic_lr) == (2.5e-4, 2.5e-4)
    for network in ("shared", "shared-id"):
        assert hypermarl("navigation-some", 8, "ippo", network).ppo.clip.clip_range == 0.1
    assert hypermarl("navigation-some", 4, "ippo", "mlp").ppo.clip.clip_range == 0.1
    assert hypermarl("navigation-same", 2, "ippo", "mlp").ppo.clip.clip_range == 0.2


@pytest.mark.parametrize(("task", "agents"), [("smax-2s3z", 5), ("smax-smacv2-10", 10)])
def test_one_team_learns_against_a_scripted_one(task, agents):
    pytest.importorskip("jaxmarl")
    options = hypermarl(task, None, "ippo", "mlp")
    assert make(options.env, num_envs=2).agents == [f"ally_{i}" for i in range(agents)]


def test_a_run_is_not_tabled_as_another(tmp_path):
    folder = tmp_path / "default" / "climbing-happo-mlp-3"
    folder.mkdir(parents=True)
    options = TrainOptions.recommended("happo", "games/climbing")
    (folder / "config.json").write_text(json.dumps(replace(options, seed=4).to_json()))
    results, unreadable = read_results(tmp_path / "default", BPTA)
    assert not results
    assert "against its name" in unreadable[0][1]


@needs_ray
def test_returns_are_of_one_agent_where_the_table_knows_no_maximum(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(RayPool, "run", run_here)
    command = ["reproduce", "bpta", "--tasks", "penalty", "--methods", "mappo", "bppo"]
    command += ["--variants", "no-peer", "--seeds", "5", "--total-steps", "400", "--jobs", "1"]
    command += ["--out", str(tmp_path), "--", "--num-envs", "20", "--film-steps", "0"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "3 runs in" in said
    cells = json.loads((tmp_path / "bpta.json").read_text())["cells"]
    assert [(cell["method"], cell["variant"]) for cell in cells] == [
        *(("mappo", ""), ("bppo", ""), ("bppo", "no-peer")),
    ]
    for cell in cells:
        name = "-".join(filter(None, ("penalty", cell["method"], "mlp", cell["variant"], "5")))
        summary = json.loads((tmp_path / "default" / name / "summary.json").read_text())
        assert cell["mean"] == pytest.approx(summary["mean_return"] / 2)  # two agents
        assert cell["goal"] is None
        in_turn = cell["method"] == "bppo"  # what agents do depends on what others did
        assert (summary["diversity"] is None) == (cell["diversity"] is None) == in_turn
        assert in_turn or 0 < cell["diversity"] <= 1
        assert cell["wasserstein"] is None  # actions are discrete
    text = (tmp_path / "bpta.md").read_text()
    assert "| task | agents | mlp mappo | mlp bppo | mlp bppo no-peer |" in text
    assert "row rule" not in text
    assert "| kept | diversity | paper |" in text
    for name in ("bpta.png", "curves-steps.png", "curves-cpu.png"):
        assert (tmp_path / name).stat().st_size > 1000
