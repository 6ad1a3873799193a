"""The speed benchmark: what is counted, how it is asked, and what is shown."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import pytest
import tiny
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from torch import nn
from typer.testing import CliRunner

from sb3_o2o.benchmarking import environment_loop as loop
from sb3_o2o.benchmarking import report, workers
from sb3_o2o.benchmarking.contestants import (
    Competitor,
    own_competitors,
    peer_competitors,
    worker_environment,
)
from sb3_o2o.benchmarking.floor import ProductTimer
from sb3_o2o.benchmarking.memory import folder_mib
from sb3_o2o.benchmarking.peers.worker_protocol import Unavailable, chunks, flat_data, random_data
from sb3_o2o.benchmarking.products import Product, megaflop, products
from sb3_o2o.benchmarking.race import Measurement, RowResult, Worker, WorkerError, race
from sb3_o2o.benchmarking.step_profile import PartClock
from sb3_o2o.benchmarking.work import ROWS, Work, rows_by_name
from sb3_o2o.benchmarking.workers import as_work, ours_for
from sb3_o2o.cli import app

TINY: dict[str, Any] = {
    "observation_dim": 3,
    "action_dim": 2,
    "hidden": (4,),
    "batch_size": 8,
    "n_actions": 2,
    "n_transitions": 40,
}


def tiny_row(name: str) -> Work:
    return replace(ROWS[name], **TINY)


def text_of(*tables: Table | str) -> str:
    console = Console(width=200, record=True, file=open("shown.txt", "w"))  # noqa: SIM115
    for table in tables:
        console.print(table)
    return re.sub(r" +", " ", console.export_text())


class TestProducts:
    """One hidden layer of 4, observations of 3, actions of 2, batches of 8; a product is rows x inner x columns."""

    def test_flops(self) -> None:
        assert Product("forward", members=3, rows=5, inner=7, columns=2).flops == 2 * 3 * 5 * 7 * 2
        assert Product("forward", 3, 5, 7, 2, every=4).flops == 2 * 3 * 5 * 7 * 2 / 4

    def test_sac(self) -> None:
        policy = 8 * 3 * 4 + 8 * 4 * 4  # mean and log standard deviation of two actions: 4 outputs
        critic = 8 * 5 * 4 + 8 * 4 * 1
        to_hidden, to_actions, policy_to_hidden = 8 * 1 * 4, 8 * 4 * 2, 8 * 4 * 4
        target = policy + 2 * critic
        critics = 2 * (critic + critic + to_hidden)  # forward, weights, inputs of the second layer
        actor = (policy + policy + policy_to_hidden) + 2 * (critic + to_hidden + to_actions)
        assert megaflop(tiny_row("sac")) == pytest.approx(2e-6 * (target + critics + actor))

    def test_a_delayed_actor_and_a_target_subset(self) -> None:
        work = replace(tiny_row("sac"), n_critics=5)
        critic, policy = 8 * 5 * 4 + 8 * 4 * 1, 8 * 3 * 4 + 8 * 4 * 4
        actor = 2 * policy + 8 * 4 * 4 + 5 * (critic + 8 * 1 * 4 + 8 * 4 * 2)
        assert megaflop(work) - megaflop(replace(work, policy_delay=4)) == pytest.approx(2e-6 * actor * 3 / 4)
        assert megaflop(work) - megaflop(replace(work, critic_subset=2)) == pytest.approx(2e-6 * 3 * critic)

    def test_td3_climbs_one_critic(self) -> None:
        policy, critic = 8 * 3 * 4 + 8 * 4 * 2, 8 * 5 * 4 + 8 * 4 * 1
        critics = policy + 2 * critic + 2 * (2 * critic + 8 * 1 * 4)
        actor = (2 * policy + 8 * 2 * 4) + (critic + 8 * 1 * 4 + 8 * 4 * 2)
        assert megaflop(tiny_row("td3_bc")) == pytest.approx(2e-6 * (critics + actor / 2))

    def test_iql_never_leaves_the_data(self) -> None:
        policy, critic, value = 8 * 3 * 4 + 8 * 4 * 2, 8 * 5 * 4 + 8 * 4 * 1, 8 * 3 * 4 + 8 * 4 * 1
        expected = 2 * critic + (2 * value + 8 * 1 * 4) + value
        expected += 2 * (2 * critic + 8 * 1 * 4) + (2 * policy + 8 * 2 * 4)
        assert megaflop(tiny_row("iql")) == pytest.approx(2e-6 * expected)

    def test_cql_sees_each_state_once(self) -> None:
        many = 8 * (3 * 2 + 1)
        first = 8 * 3 * 4 + many * 2 * 4  # the state's part once, the actions' part for each
        rest = many * 4 * 1
        critics = 2 * (2 * first + 2 * rest + many * 1 * 4)
        sac = 2 * (2 * (8 * 5 * 4 + 8 * 4 * 1) + 8 * 1 * 4)
        difference = megaflop(tiny_row("cql")) - megaflop(tiny_row("sac"))
        assert difference == pytest.approx(2e-6 * (critics - sac))
        assert megaflop(tiny_row("calql")) == megaflop(tiny_row("cql"))

    def test_the_rows_of_the_table(self) -> None:
        # two hidden layers of 256, observations 17, actions 6, batch 256
        policy, critic = 256 * (17 * 256 + 256 * 256 + 256 * 12), 256 * (23 * 256 + 256 * 256 + 256)
        inner = 256 * (256 * 256 + 256)
        target = policy + 2 * critic
        actor = 2 * policy + 256 * (256 * 256 + 256 * 12) + 10 * (critic + inner + 256 * 256 * 6)
        wsrl = target + 10 * (2 * critic + inner) + actor / 4
        assert megaflop(ROWS["wsrl"]) == pytest.approx(2e-6 * wsrl)
        assert megaflop(ROWS["wsrl"]) == pytest.approx(1387.003904)

    @pytest.mark.parametrize("name", ROWS)
    def test_every_row_is_counted(self, name: str) -> None:
        assert {product.kind for product in products(ROWS[name])} == {"forward", "weight", "input"}

    def test_an_objective_that_is_not_counted(self) -> None:
        with pytest.raises(ValueError, match=r"Unknown objective to count 'cqll'\. Did you mean 'cql'\?"):
            products(replace(ROWS["cql"], objective="cqll"))

    def test_the_timer_makes_the_delayed_products_at_every_fourth_update(self) -> None:
        timer = ProductTimer(tiny_row("wsrl"), "fp32", "cpu")
        made: list[int] = []
        timer._steps = [(4, lambda: made.append(4)), (1, lambda: made.append(1))]
        timer.run(8)
        assert made == [1, 1, 1, 4, 1, 1, 1, 1, 4, 1]


class TestRows:
    def test_by_name(self) -> None:
        assert [work.name for work in rows_by_name(["cql", "sac"])] == ["cql", "sac"]
        assert rows_by_name() == list(ROWS.values())

    def test_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"Unknown row 'calq'\. Did you mean 'calql'\?"):
            rows_by_name(["sac", "calq"])

    @pytest.mark.parametrize("name", ROWS)
    def test_a_row_survives_the_pipe(self, name: str) -> None:
        assert as_work(json.loads(json.dumps(asdict(ROWS[name])))) == ROWS[name]

    def test_objectives_come_from_the_registry(self) -> None:
        assert ours_for(ROWS["cql"]).__name__ == "O2OSAC"
        assert ours_for(replace(ROWS["cql"], objective="none of ours")) is None
        assert ours_for(replace(ROWS["cql"], algorithms=("NoSuchClass", "O2OSAC"))).__name__ == "O2OSAC"


class TestProtocol:
    def test_data(self) -> None:
        work = {**asdict(ROWS["sac"]), "n_transitions": 2500, "observation_dim": 3, "action_dim": 2}
        data = random_data(work)
        assert data["observations"].shape == (2, 1001, 3)  # whole episodes of 1000
        flat = flat_data(work)
        assert flat["actions"].shape == (2000, 2)
        assert flat["truncations"].nonzero()[0].tolist() == [999, 1999]
        assert (flat["next_observations"][:999] == flat["observations"][1:1000]).all()
        assert (flat["next_observations"][999] != flat["observations"][1000]).any()

    @pytest.mark.parametrize(("updates", "size", "calls"), [(5, 1, 5), (5, 4, 2), (8, 4, 2), (1, 20, 1)])
    def test_calls(self, updates: int, size: int, calls: int) -> None:
        assert list(chunks(updates, size)) == [size] * calls


class TestContestants:
    def test_ours(self) -> None:
        keys = [each.key for each in own_competitors(("fp32", "bf16"))]
        assert keys == ["ours", "ours_compiled", "ours_bf16", "ours_compiled_bf16", "sb3", "floor", "floor_bf16"]

    def test_unknown_precision(self) -> None:
        with pytest.raises(ValueError, match=r"Unknown precision 'bf61'\. Did you mean 'bf16'\?"):
            own_competitors(("bf61",))

    def test_missing_interpreter(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"No Python interpreter at .*nowhere: --peers takes the path"):
            peer_competitors([tmp_path / "nowhere"])

    def test_an_interpreter_without_peers(self, tmp_path: Path) -> None:
        python = _script(tmp_path / "python", "echo '[]'")
        with pytest.raises(ValueError, match="has none of the peers sbx, d3rlpy"):
            peer_competitors([python])

    def test_something_else_than_python(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="does not run Python"):
            peer_competitors([_script(tmp_path / "python", "exit 3")])

    def test_peers_are_found(self, tmp_path: Path) -> None:
        python = _script(tmp_path / "python", """echo '["sbx", "d3rlpy"]'""")
        found = peer_competitors([python])
        assert [each.key for each in found] == ["sbx", "sbx_fused", "d3rlpy"]
        for each in found:
            assert each.command[0] == str(python)
            assert Path(each.command[1]).is_file()

    def test_the_same_threads_for_all_and_no_paths_of_ours_for_peers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", "/somewhere")
        foreign, own = worker_environment(1, foreign=True), worker_environment(2, foreign=False)
        assert "PYTHONPATH" not in foreign
        assert own["PYTHONPATH"] == "/somewhere"
        assert foreign["OMP_NUM_THREADS"] == foreign["NPROC"] == "1"
        assert "--xla_cpu_multi_thread_eigen=false" in foreign["XLA_FLAGS"]
        assert own["OMP_NUM_THREADS"] == own["NPROC"] == "2"


def _script(path: Path, line: str) -> Path:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


#: a worker of twelve lines: one update takes a second, sampling half of one
_FAKE = """
import json, sys
print(json.dumps({"versions": {"fake": "1"}}), flush=True)
for line in sys.stdin:
    question = json.loads(line)
    if "prepare" in question:
        work = question["prepare"]["name"]
        answer = {"ready": {"warm_up_seconds": 25.0, "differs": {"policy_delay": 1}, "note": "a note", "extra": {}}}
        answer = {"unavailable": "no CQL here"} if work == "cql" else answer
        answer = {"error": "Traceback: it broke"} if work == "calql" else answer
    elif "run" in question:
        answer = {"seconds": 1.0 * question["run"], "updates": question["run"], "cores": 1.0}
    else:
        answer = {"seconds": 0.5 * question["sample"]}
    print(json.dumps(answer), flush=True)
"""


def fake(key: str = "ours", group: str = "ours", code: str = _FAKE) -> Competitor:
    return Competitor(key, key, (sys.executable, "-c", code), group, compiles=True)


class TestRace:
    def test_what_is_kept(self) -> None:
        rows = [tiny_row(name) for name in ("wsrl", "cql", "calql")]
        said: list[str] = []
        results, versions = race(rows, [fake(), fake("sb3", "stock")], rounds=3, updates=2, threads=1, say=said.append)
        assert versions == {"ours": {"fake": "1"}, "sb3": {"fake": "1"}}
        done, unable, broken = results
        assert done["ours"].ms == [1000.0] * 3
        assert done["ours"].sampling_ms == 500.0
        assert done["ours"].compile_seconds == 5.0  # 25 s less 20 updates of 1 s
        assert done["ours"].megaflop == pytest.approx(megaflop(replace(rows[0], policy_delay=1)))
        assert unable["ours"].missing == "no CQL here"
        assert not unable["ours"].failed
        assert broken["ours"].failed
        assert "it broke" in broken["ours"].missing
        assert "wsrl: round 3 of 3" in said

    def test_a_worker_that_does_not_start(self) -> None:
        with pytest.raises(WorkerError, match="no such library"):
            Worker(fake(code="raise SystemExit('no such library')"), threads=1)
        results, versions = race(
            [tiny_row("sac")], [fake(), fake("sbx", "peer", "raise SystemExit('no such library')")],
            rounds=1, updates=1, threads=1,
        )  # fmt: skip
        assert list(versions) == ["ours"]
        assert results[0]["ours"].ms == [1000.0]
        assert results[0]["sbx"].failed

    def test_a_worker_that_dies_has_no_numbers(self) -> None:
        code = _FAKE.replace(
            'elif "run" in question:',
            'elif "run" in question and question["run"] > 0: sys.exit("gone")\n    elif "run" in question:',
        )
        results, _ = race([tiny_row("sac")], [fake(code=code), fake("sb3", "stock")], rounds=2, updates=1, threads=1)
        assert results[0]["ours"].ms == []
        assert "gone" in results[0]["ours"].missing
        assert results[0]["sb3"].ms == [1000.0] * 2

    def test_one_row_end_to_end(self) -> None:
        """Real processes, on networks of four units."""
        chosen = [each for each in own_competitors() if each.key in ("ours", "floor")]
        (result,), versions = race([tiny_row("wsrl")], chosen, rounds=1, updates=2, threads=1)
        for key in ("ours", "floor"):
            assert not result[key].missing
            assert result[key].ms[0] > 0
            assert result[key].megaflop == megaflop(tiny_row("wsrl"))
        assert result["ours"].sampling_ms is not None
        assert result["floor"].sampling_ms is None
        assert versions["ours"]["torch"]


class TestWorkers:
    OPTIONS: ClassVar = {"device": "cpu", "compile": False, "precision": "fp32"}

    def test_ours_online_makes_whole_blocks(self) -> None:
        contestant = workers.ours(asdict(tiny_row("wsrl")), self.OPTIONS)
        made, seconds = contestant.run(5)
        assert made == 8  # two environment steps with four updates each
        assert seconds > 0

    def test_ours_offline_leaves_set_up_out(self) -> None:
        contestant = workers.ours(asdict(tiny_row("calql")), self.OPTIONS)
        made, seconds = contestant.run(2)
        assert made == 2
        assert seconds > 0
        assert contestant.sample is not None
        contestant.sample(1)

    def test_what_is_not_built_yet(self) -> None:
        with pytest.raises(Unavailable, match="not built yet"):
            workers.ours(asdict(replace(tiny_row("cql"), objective="none of ours")), self.OPTIONS)

    def test_stock_says_what_it_does_instead(self) -> None:
        contestant = workers.stock(asdict(tiny_row("wsrl")), self.OPTIONS)
        assert contestant.run(1)[0] == 4
        assert contestant.differs == {"policy_delay": 1, "critic_subset": None}
        assert "stock SAC has no such options" in contestant.note
        plain = workers.stock(asdict(tiny_row("sac")), self.OPTIONS)
        assert (plain.differs, plain.note) == ({}, "")

    def test_stock_td3_stands_in_for_its_relatives(self) -> None:
        contestant = workers.stock(asdict(tiny_row("iql")), self.OPTIONS)
        assert contestant.run(2)[0] == 2
        assert contestant.differs == {"objective": "td3", "policy_delay": 2}
        with pytest.raises(Unavailable, match="online algorithms only"):
            workers.stock(asdict(tiny_row("cql")), self.OPTIONS)

    def test_stock_critics_are_normalised(self) -> None:
        policy = workers.LayerNormSACPolicy(
            spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-3, net_arch=[4, 4], n_critics=3
        )
        assert sum(isinstance(each, nn.LayerNorm) for each in policy.critic.modules()) == 3 * 2
        assert not any(isinstance(each, nn.LayerNorm) for each in policy.actor.modules())


def canned() -> list[RowResult]:
    """Two rows; in the first, round by round, ours takes 1/2, 1/4 and 1/4 of stock's time."""
    ours = Measurement("ours", "us, eager", "ours", [2.0, 1.0, 2.0], megaflop=megaflop(ROWS["wsrl"]), cores=[1.0])
    stock = Measurement("sb3", "SB3", "stock", [4.0, 4.0, 8.0], note="slower work", megaflop=2 * megaflop(ROWS["wsrl"]))
    sbx = Measurement("sbx", "SBX", "peer", [4.0, 2.0, 4.0], compiles=True, warm_up_seconds=10.08)
    fused = Measurement("sbx_fused", "SBX, 20 fused", "peer", [2.5, 1.25, 2.5])
    bare = Measurement(
        "floor", "floor", "floor", [1.0, 1.0, 1.0], extra={"best_gflops": 2775.2, "ms_at_best_rate": 0.5}
    )
    first = RowResult(ROWS["wsrl"], [ours, stock, sbx, fused, bare])
    missing = [replace(each, ms=[], note="", missing="online only", cores=[]) for each in first.measurements]
    missing[0].missing = "not built yet"
    missing[2] = replace(missing[2], missing="Traceback\nKeyError: 'x'", failed=True)
    return [first, RowResult(ROWS["iql"], missing)]


class TestReport:
    def test_times(self) -> None:
        shown = text_of(report.time_table(canned()))
        assert "4 critic" in shown
        assert re.search(r"2\.00 4\.00 \(a\) 4\.00 2\.50 1\.00", shown)
        assert re.search(r"IQL, 2 critics not built yet - \(b\) failed \(c\) - \(b\) - \(b\)", shown)

    def test_ratios_are_medians_of_the_rounds_ratios(self) -> None:
        table = report.ratio_table(canned())
        assert table is not None
        # SB3 1/4 (of 1/2, 1/4, 1/4), best of SBX 0.8, floor 2
        assert re.search(r"eager 0\.25 0\.80 2\.00", text_of(table))

    def test_no_ratios_without_ours(self) -> None:
        assert report.ratio_table(canned()[1:]) is None

    def test_notes(self) -> None:
        notes = "\n".join(report.notes(canned()))
        assert "(a) slower work; 2.00 (wsrl) times the row's products" in notes
        assert "(b) online only" in notes
        assert "(c) KeyError: 'x'" in notes
        assert (
            "wsrl: 1387 MFLOP in products, made at 1387 GFLOP/s; at this machine's best, 2775 GFLOP/s, 0.50 ms" in notes
        )
        assert "to compile, not in the table: wsrl SBX 10 s" in notes
        assert "Something else ran" not in notes

    def test_a_busy_machine_is_named(self) -> None:
        results = canned()
        results[0]["ours"].cores = [0.5, 0.4, 0.6]
        assert "a contestant got only 0.50 of a core" in "\n".join(report.notes(results))

    def test_json(self, tmp_path: Path) -> None:
        about = {"command": "sb3-o2o bench speed", "date": "today", "machine": {}, "settings": {}, "versions": {}}
        report.write_json(tmp_path / "speed.json", report.to_document(canned(), about))
        document = json.loads((tmp_path / "speed.json").read_text())
        assert set(document) == {"format", "rows", *about}
        assert document["format"] == 1
        row = document["rows"][0]
        assert set(row) == {"work", "megaflop", "measurements", "ratios"}
        assert row["work"]["name"] == "wsrl"
        assert row["ratios"] == {"ours": {"sb3": 0.25, "sbx": 0.5, "sbx_fused": 0.8, "floor": 2.0}}
        assert row["measurements"][0]["median_ms"] == 2.0
        assert row["measurements"][0]["quartiles_ms"] == [1.5, 2.0]
        fields = {"key", "label", "group", "ms", "missing", "failed", "compiles", "warm_up_seconds", "sampling_ms"}
        assert fields <= set(row["measurements"][0])
        assert document["rows"][1]["ratios"] == {"ours": {}}

    def test_picture(self, tmp_path: Path) -> None:
        report.draw(tmp_path / "speed.png", canned(), "a machine")
        assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"COLUMNS": "200"})


class TestCommands:
    @pytest.mark.parametrize("command", ["speed", "env"])
    def test_help(self, command: str) -> None:
        output = invoke(command, "--help").output
        assert f"sb3-o2o bench {command}" in re.sub(r"\s+", " ", output)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--rows", "sacc"], "Unknown row 'sacc'. Did you mean 'sac'?"),
            (["--precision", "fp16"], "Unknown precision 'fp16'. Did you mean 'bf16'?"),
            (["--device", "cude"], "Unknown device 'cude'. Did you mean 'cuda'?"),
            (["--peers", "nowhere/python"], "No Python interpreter at nowhere/python"),
        ],
    )
    def test_bad_arguments(self, arguments: Sequence[str], message: str) -> None:
        result = invoke("speed", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_speed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sb3_o2o.benchmarking.contestants.own_competitors", lambda names: [fake()])
        result = invoke("speed", "--rows", "sac,cql", "--rounds", 2, "--updates", 2, "--out", tmp_path / "new" / "out")
        assert result.exit_code == 0, result.output
        assert "1000.00" in result.output
        document = json.loads((tmp_path / "new" / "out" / "speed.json").read_text())
        assert document["settings"]["rows"] == ["sac", "cql"]
        assert document["machine"]["cores"] >= 1
        assert (tmp_path / "new" / "out" / "speed.png").is_file()

    def test_no_column_is_broken_for_a_pipe(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sb3_o2o.benchmarking.contestants.own_competitors", lambda names: [fake()])
        arguments = ["bench", "speed", "--rows", "sac", "--rounds", "1", "--updates", "2"]
        output = CliRunner().invoke(app, arguments, env={"COLUMNS": "20"}).output
        assert "SAC, 2 critics, actor every" in output  # a line of that column


class Wide(tiny.TinyBox):
    """With other actions than most."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space: Any = spaces.Box(-0.4, 2.0, self.action_space.shape)


class TestLoop:
    def test_all_of_it(self) -> None:
        """Only that every part is measured and adds up; the numbers are the machine's."""
        measured = loop.measure(tiny.BOX, steps=12, rounds=1, transitions=2000, net_arch=(4,), batch_size=4)
        for n_envs, document in zip((1, 4, 16), measured["loop"], strict=True):
            milliseconds = document["ms"]
            assert document["n_envs"] == n_envs
            assert document["overhead_ms"] == pytest.approx(milliseconds["collect"] - milliseconds["environment"])
            beyond = milliseconds["stock"] - milliseconds["environment"]
            assert document["stock_overhead_ms"] == pytest.approx(beyond)
            assert document["to_stock"] == pytest.approx(document["overhead_ms"] / beyond)
            whole = milliseconds["collect"] + milliseconds["updates"]
            assert document["overhead_share"] == pytest.approx(document["overhead_ms"] / whole)
            ours, stock = document["profiles_us"]["collect"], document["profiles_us"]["stock"]
            assert set(ours) - set(stock) == {"looking for NaN and infinity"}
            assert min(ours.values()) > 0
        assert measured["sampling"]["transitions"] == 2000
        for name, share in measured["sampling"]["share"].items():
            expected = measured["sampling"]["batch_ms"] / measured["sampling"]["update_ms"][name]
            assert share == pytest.approx(expected)
        assert measured["memory"]["cache_mib"] > 0
        shown = text_of(*loop.tables(measured))
        for line in (
            "1 env 4 env 16 env",
            "ours / stock's",
            "overhead's share of the step",
            "update: CQL, 2 critics",
            "converted",
        ):
            assert line in shown

    def test_actions_of_other_bounds(self) -> None:
        gym.register("Wide-v0", entry_point=Wide)
        try:
            measured = loop.measure("Wide-v0", steps=2, rounds=1, transitions=1000, net_arch=(4,), batch_size=4)
        finally:
            del gym.registry["Wide-v0"]
        assert measured["sampling"]["transitions"] == 1000

    def test_parts_are_without_each_other(self) -> None:
        """A clock that counts its own calls: 1 for each reading, so that a part takes what is read inside of it."""

        class Outer:
            def run(self) -> int:
                return self.part() + self.part()

            def part(self) -> int:
                return 3

        now, outer = iter(range(100)), Outer()
        clock = PartClock(lambda: next(now))
        clock.time(outer, "run", "outer")
        clock.time(outer, "part", "inner")
        assert outer.run() == 6
        assert clock.nanoseconds == {"inner": 2, "outer": 3}  # readings 0 and 5; 1, 2 and 3, 4
        clock.stop()
        assert outer.run() == 6
        assert next(now) == 6

    def test_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "b").write_bytes(bytes(2**20))
        (tmp_path / "c").write_bytes(bytes(2**19))
        assert folder_mib(tmp_path) == 1.5


def test_bench_takes_no_core_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_o2o.cli.bench import _threads

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert [_threads(None), _threads(3)] == [1, 3]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [_threads(None), _threads(3)] == [2, 3]
