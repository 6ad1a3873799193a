"""Measurements against numbers worked out by hand, and the whole way from a dataset to commands that run."""

import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from command_line import SHORT, SMALL, fails, succeeds
from gymnasium import spaces
from reader import parse
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_o2o import O2OSAC
from sb3_o2o.advice import advise
from sb3_o2o.advice.surveying import Survey, coverage, family_of
from sb3_o2o.data import OfflineDataset
from sb3_o2o.evaluation import evaluate
from sb3_o2o.runs.environments import Environment

SPACES = {
    "observation_space": spaces.Box(-10.0, 10.0, (2,), np.float32),
    "action_space": spaces.Box(-1.0, 1.0, (1,), np.float32),
}


def episodes(
    rewards: list[list[float]], actions: list[float] | None = None, place: Any = None, terminated: bool = False
) -> OfflineDataset:
    """One transition for each reward; the actions and places are those of whole episodes."""
    lengths = [len(each) for each in rewards]
    n = sum(lengths)
    ends = np.isin(np.arange(n), np.cumsum(lengths) - 1)
    where = np.repeat(np.zeros(len(rewards)) if place is None else place, lengths)
    states = np.stack([where, np.zeros(n)], axis=1).astype(np.float32)
    return OfflineDataset.load(
        {
            "observations": states,
            "next_observations": states,
            "actions": np.repeat(np.zeros(len(rewards)) if actions is None else actions, lengths)[:, None],
            "rewards": np.concatenate(rewards),
            "terminations": ends & terminated,
            "truncations": ends & (not terminated),
        },
        **SPACES,
    )


def survey(dataset: OfflineDataset, env_id: str = tiny.BOX) -> Survey:
    return Survey(dataset, "made up", Environment(env_id))


class TestDataset:
    def test_raw_returns(self) -> None:
        facts = survey(episodes([[1.0, 0.5, float(index)] for index in range(20)])).of_dataset()
        assert (facts.unit, facts.episodes, facts.transitions) == ("return", 20, 60)
        assert facts.mean == pytest.approx(1.5 + 9.5)
        assert facts.deviation == pytest.approx(math.sqrt((20**2 - 1) / 12))
        assert facts.best == pytest.approx(1.5 + 18.5)  # the best two of twenty
        assert (facts.scale, facts.sparse) == (19.0, False)

    def test_scores(self) -> None:
        dataset = episodes([[1.0, 0.5, 3.0], [0.0, 1.0, 2.0]])
        dataset.ref_min_score, dataset.ref_max_score = -0.5, 4.5
        facts = survey(dataset).of_dataset()
        assert (facts.unit, facts.scale) == ("score", 100.0)
        assert facts.mean == pytest.approx((100 + 70) / 2)
        assert facts.best == pytest.approx(100)

    @pytest.mark.parametrize("negative", [0.0, -1.0])
    def test_successes(self, negative: float) -> None:
        """Whatever an episode goes on to earn behind the goal."""
        reached, failed = negative + 1.0, negative
        facts = survey(
            episodes([[failed, failed], [failed, reached], [reached, reached, reached], [failed] * 5])
        ).of_dataset()
        assert (facts.unit, facts.sparse, facts.mean, facts.best) == ("success", True, 50.0, 100.0)

    def test_a_bonus_for_staying_alive_is_no_success(self) -> None:
        """Two rewards, and the lower one is paid once, for falling."""
        facts = survey(episodes([[1.0, 1.0, 0.0], [1.0, 0.0], [1.0] * 9 + [0.0]], terminated=True)).of_dataset()
        assert (facts.unit, facts.sparse, facts.mean) == ("return", False, pytest.approx(4.0))
        reached = survey(episodes([[0.0, 0.0, 1.0], [0.0, 1.0]], terminated=True))
        assert (reached.unit, reached.of_dataset().mean) == ("success", 100.0)

    def test_coverage_of_similar_states(self) -> None:
        """Eleven episodes in one state, actions -1 five times and 1 six times: each row sees the ten others."""
        dataset = episodes([[0.5]] * 11, actions=[-1.0] * 5 + [1.0] * 6)
        others = 6 * 1.0 + 5 * math.sqrt(1 - 0.2**2)  # five and five, or four and six
        assert coverage(dataset) == pytest.approx(math.sqrt(3) * others / 11, rel=1e-4)  # actions end at 0.99999

    def test_coverage_looks_at_the_state(self) -> None:
        """Two places with an action each: all that is different is far away."""
        sides = np.repeat([-1.0, 1.0], 11)
        dataset = episodes([[0.5]] * 22, actions=list(sides), place=sides)
        assert coverage(dataset) == 0.0

    def test_coverage_of_uniform_actions(self) -> None:
        rng = np.random.default_rng(0)
        dataset = episodes([[0.5]] * 2000, actions=list(rng.uniform(-1, 1, 2000)), place=rng.normal(size=2000))
        assert coverage(dataset) == pytest.approx(0.95, abs=0.05)  # of ten samples: a little less than all

    def test_no_coverage(self) -> None:
        assert coverage(episodes([[0.5] * 50])) is None  # one episode: no other try
        image = np.zeros((30, 3, 36, 36), np.uint8)
        dataset = OfflineDataset.load(
            {
                "observations": image,
                "next_observations": image,
                "actions": np.zeros((30, 1)),
                "rewards": np.arange(30.0),
                "terminations": np.zeros(30, bool),
                "truncations": np.ones(30, bool),
            },
            observation_space=spaces.Box(0, 255, (3, 36, 36), np.uint8),
            action_space=SPACES["action_space"],
        )
        assert coverage(dataset) is None


def small(env_id: str = tiny.BOX, **kwargs: Any) -> O2OSAC:
    policy = "MultiInputPolicy" if env_id == tiny.GOAL else "MlpPolicy"
    return O2OSAC(policy, env_id, policy_kwargs={"net_arch": [4]}, buffer_size=10, seed=0, **kwargs)


class TestPolicy:
    def test_it_is_measured_in_the_datasets_unit(self, tiny_dataset: Callable[..., str]) -> None:
        dataset = OfflineDataset.load(tiny_dataset())
        model = small()
        facts = survey(dataset).of_policy(model, "model", 4)
        returns = evaluate(model, tiny.BOX, 4, seed=0).returns
        assert facts.mean == pytest.approx(float(dataset.normalized_score(returns.mean())))
        assert (facts.family, facts.episodes) == ("SAC", 4)
        assert facts.kendall_tau is not None
        assert -1 <= facts.kendall_tau <= 1

    def test_success_is_counted_as_in_the_dataset(self) -> None:
        class Still:
            def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
                return np.zeros((len(observation["observation"]), 1)), None

        class Home(Still):
            def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
                return np.clip(-3 * observation["achieved_goal"], -1, 1), None

        sparse = survey(episodes([[0.0, 1.0], [0.0, 0.0]]), tiny.GOAL)
        assert sparse.of_policy(Still(), "still", 3).mean == 0.0
        assert sparse.of_policy(Home(), "home", 3).mean == 100.0
        assert family_of(Home()) == "callable"

    def test_nobody_succeeded(self) -> None:
        """The dataset's -0.1 has 24 bits, the environment's 53."""
        facts = survey(episodes([[-0.1] * 7, [-0.1] * 3]))
        assert list(facts._in_unit(np.array([-0.7, -0.1 * 300, -0.6]), np.array([7, 300, 7]))) == [0.0, 0.0, 100.0]
        assert facts.of_dataset().mean == 0.0

    def test_the_unit_is_the_environments_whatever_the_training_sees(
        self, tiny_dataset: Callable[..., str], tmp_path: Path
    ) -> None:
        name = tiny_dataset()
        small().save(tmp_path / "model")
        options = {"reward_scale": 10.0, "reward_shift": -5.0}
        plain, scaled = (
            advise(name, tmp_path / "model.zip", dataset_kwargs=each, n_episodes=2) for each in ({}, options)
        )
        assert scaled.policy == plain.policy
        assert (scaled.regime, scaled.dataset.unit) == (plain.regime, plain.dataset.unit)
        for fact in ("mean", "deviation", "best", "scale"):
            assert getattr(scaled.dataset, fact) == pytest.approx(getattr(plain.dataset, fact), rel=1e-5)
        assert "dataset_kwargs.reward_scale=10.0" in scaled.commands[0]
        settings = [item for key, value in options.items() for item in ("--set", f"dataset_kwargs.{key}={value}")]
        output, again = (
            succeeds("advise", name, tmp_path / "model.zip", "--episodes", 2, *given) for given in ([], settings)
        )
        assert again.partition("Recipe")[0] == output.partition("Recipe")[0]

    def test_success_is_the_environments_whatever_the_training_sees(self) -> None:
        class Still:
            def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
                return np.zeros((len(observation["observation"]), 1)), None

        scaled = survey(episodes([[0.0, 1.0], [0.0, 0.0]]).with_rewards(10.0, -5.0), tiny.GOAL)
        assert (scaled.unit, scaled.of_dataset().mean) == ("success", 50.0)
        assert scaled.of_policy(Still(), "still", 3).mean == 0.0

    def test_families(self) -> None:
        assert family_of(small()) == "SAC"
        assert family_of(PPO("MlpPolicy", tiny.BOX)) == "PPO"
        assert family_of(TD3("MlpPolicy", tiny.BOX)) == "TD3"

    def test_without_a_critic_to_ask(self, tmp_path: Path) -> None:
        asking = survey(episodes([[0.5, 0.2, 0.1]]))
        assert asking.of_policy(PPO("MlpPolicy", tiny.BOX, n_steps=8, batch_size=8), "ppo", 1).kendall_tau is None
        O2OSAC("MlpPolicy", VecNormalize(make_vec_env(tiny.BOX)), buffer_size=10).save(tmp_path / "normalised")
        behind = O2OSAC.load(tmp_path / "normalised")
        assert asking.of_policy(behind, "normalised", 1).kendall_tau is None


class TestCommands:
    def test_of_a_dataset_alone_run_as_printed(self, tiny_dataset: Callable[..., str]) -> None:
        """The ones that train with small sizes behind them."""
        output = succeeds("advise", tiny_dataset())
        commands = re.findall(r"sb3-o2o .*?(?= sb3-o2o |$)", output.partition("Recipe: ")[2])
        assert [each.split()[1] for each in commands] == ["pretrain", "advise", "finetune"]
        sizes = {
            "pretrain": ["--gradient-steps", "4", *SMALL, *SHORT],
            "advise": [],
            "finetune": ["--steps", "6", *SMALL, *SHORT],
        }
        for command in commands:
            parse(command)
            _, *arguments = shlex.split(command)
            succeeds(*arguments, *sizes[arguments[0]])

    def test_a_run_alone_stands_for_its_dataset_and_itself(self, tiny_dataset: Callable[..., str]) -> None:
        name = tiny_dataset()
        succeeds("pretrain", name, "--recipe", "cql", "--gradient-steps", "4", *SMALL, *SHORT)
        run = f"runs/cql-{tiny.BOX}_1"
        assert succeeds("advise", run) == succeeds("advise", name, run)
        succeeds("finetune", "--recipe", "sac", "--env", tiny.BOX, "--steps", "6", *SMALL, *SHORT)
        run = f"runs/sac-{tiny.BOX}_1"
        assert f"'{run}' is a run without a dataset: name one before it, sb3-o2o advise DATASET {run}" in fails(
            "advise", run
        )

    def test_the_next_run_is_named(self, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        folder = tmp_path / "some runs"
        (folder / f"wsrl-{tiny.BOX}_1").mkdir(parents=True)
        dataset = tiny_dataset()
        _, again, last = advise(dataset, log_dir=folder).commands
        run = f"'{folder}/wsrl-{tiny.BOX}_2'"
        assert again == f"sb3-o2o advise {dataset} {run} --log-dir '{folder}'"
        assert last == f"sb3-o2o finetune {run} --recipe wsrl --log-dir '{folder}'"
        for command in (again, last):
            parse(command)

    def test_how_a_file_is_read_stays_with_it(self, tmp_path: Path) -> None:
        path = tmp_path / "log.npz"
        episodes([[1.0, 0.5, 2.0]] * 4).save(path)
        advice = advise(path, env=tiny.BOX, dataset_kwargs={"fraction": 0.5})
        first = advice.commands[0]
        assert f"{path} --recipe wsrl --env {tiny.BOX} --set dataset_kwargs.fraction=0.5" in first
        for command in advice.commands:
            parse(command)
        assert (advice.dataset.episodes, advice.policy) == (2, None)

    @pytest.mark.parametrize("expected", ["superior", "inferior"])
    def test_beside_a_policy(self, expected: str, tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
        """A dataset whose rewards say that the policy is far better, or far worse."""
        dataset = OfflineDataset.load(tiny_dataset()).with_rewards(shift=-40.0 if expected == "superior" else 1.0)
        dataset.reward_shift = 0.0  # that is what its environment paid
        dataset.save(tmp_path / "data.npz")
        small().save(tmp_path / "model")
        advice = advise(tmp_path / "data.npz", tmp_path / "model.zip", tiny.BOX, n_episodes=3)
        assert advice.regime == expected
        (command,) = advice.commands
        parse(command)
        assert command.endswith(f"--dataset {tmp_path}/data.npz --recipe {advice.recipe} --env {tiny.BOX}")
        assert ("model.zip" in command) == (expected == "superior")
        _, *arguments = shlex.split(command)
        if expected == "inferior":
            succeeds(*arguments, "--steps", "6", *SMALL, *SHORT, "--set", "learning_starts=2")

    def test_trust_goes_on(self, tiny_dataset: Callable[..., str]) -> None:
        output = succeeds("advise", tiny_dataset(), "--trust")
        assert output.count("--trust") == len(re.findall("sb3-o2o (?:pretrain|advise|finetune)", output)) == 3

    def test_objects_have_no_names(self, tiny_dataset: Callable[..., str]) -> None:
        advice = advise(OfflineDataset.load(tiny_dataset()), small(), n_episodes=2)
        assert "DATASET" in advice.commands[0]
        assert advice.policy is not None
        assert advice.dataset.env_id == tiny.BOX


def test_errors(tiny_dataset: Callable[..., str], tmp_path: Path) -> None:
    dataset = tiny_dataset()
    episodes([[1.0]] * 3).save(tmp_path / "log.npz")
    assert "does not say which environment it is for: add env" in fails("advise", tmp_path / "log.npz")
    assert "no saved model and no run folder at 'nowhere'" in fails("advise", dataset, "nowhere")
    small(tiny.GOAL).save(tmp_path / "goal")
    assert "The policy was trained with other observations than" in fails("advise", dataset, tmp_path / "goal.zip")
    with pytest.raises(ValueError, match="policy of advise must be a path, a model"):
        advise(dataset, 3)
    with pytest.raises(ValueError, match="Did you mean 'fraction'"):
        advise(dataset, dataset_kwargs={"fracton": 0.5})


def test_looking_trains_nothing_and_draws_nothing(tiny_dataset: Callable[..., str]) -> None:
    dataset, model = tiny_dataset(), small()
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    first = advise(dataset, model, n_episodes=2)
    assert advise(dataset, model, n_episodes=2) == first
    assert all(value.equal(before[name]) for name, value in model.policy.state_dict().items())
    assert np.array_equal(np.random.get_state()[1], state)  # type: ignore[arg-type]
