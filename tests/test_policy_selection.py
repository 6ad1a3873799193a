"""Which of several policies to fine-tune: how a budget of episodes is spent, by hand, and what is chosen."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny
import torch as th
from command_line import fails, succeeds
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_o2o.evaluation import ReferenceScore, evaluate, select_policy
from sb3_o2o.evaluation.policy_selection import episodes_of_rounds


class Payment(gym.Env):
    """One step pays the action and a noise of the episode's seed."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-10, 10, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.noise = self.np_random.normal()
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(action[0]) + self.noise, True, False, {}


class Constant:
    def __init__(self, action: float):
        self.action, self.n_asked = action, 0

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True
    ) -> Any:
        self.n_asked += 1
        return np.full((len(observation), 1), self.action, np.float32), state


@pytest.mark.parametrize(
    ("candidates", "episodes", "rounds"),
    [
        (2, 7, [(2, 3)]),
        (4, 8, [(4, 1), (2, 2)]),
        (5, 60, [(5, 4), (3, 6), (2, 10)]),  # thirds of 20: 20 / 5, 20 / 3, 20 / 2
        (3, 60, [(3, 10), (2, 15)]),
    ],
)
def test_rounds_by_hand(candidates: int, episodes: int, rounds: list[tuple[int, int]]) -> None:
    assert episodes_of_rounds(candidates, episodes) == rounds


def test_the_best_is_found_and_the_budget_goes_where_it_is_close() -> None:
    policies = {name: Constant(value) for name, value in {"a": 0.0, "b": 2.0, "c": -3.0, "d": 1.9, "e": -1.0}.items()}
    before = np.random.get_state()[1].copy(), th.get_rng_state()
    found = select_policy(policies, Payment, 60, seed=1, n_envs=1)
    assert found.best == "b"
    assert [(each.name, each.rounds, len(each.returns)) for each in found.candidates] == [
        ("b", 3, 20),
        ("d", 3, 20),
        ("a", 2, 10),
        ("e", 1, 4),
        ("c", 1, 4),
    ]
    assert found.n_episodes == 58
    by_name = {each.name: each for each in found.candidates}
    # the same seeds for all of a round: only the actions differ
    assert by_name["b"].returns - by_name["d"].returns == pytest.approx([0.1] * 20)
    assert by_name["b"].returns[:10] - by_name["a"].returns == pytest.approx([2.0] * 10)
    assert len(set(by_name["b"].returns)) == 20  # and other seeds for each round
    expected = by_name["b"].returns.std(ddof=1) / np.sqrt(20)
    assert by_name["b"].standard_error == pytest.approx(expected)
    assert str(found).startswith("b of 5, after 58 episodes\nb: return 2.")
    assert "No reference returns are known" in found.note
    assert np.array_equal(before[0], np.random.get_state()[1])
    assert th.equal(before[1], th.get_rng_state())


def test_environments_side_by_side_and_references_change_nothing() -> None:
    policies = {"worse": Constant(0.0), "better": Constant(1.0), "other": Constant(-1.0)}
    one, many = (
        select_policy(policies, Payment, 40, n_envs=n, reference=ReferenceScore(-1.0, 1.0, "")) for n in (1, 5)
    )
    for each, other in zip(one.candidates, many.candidates, strict=True):
        assert each.name == other.name
        assert each.returns == pytest.approx(other.returns)
        assert each.scores == pytest.approx(100 * (each.returns + 1) / 2)
    env = Payment()
    assert select_policy(policies, env, 8).best == "better"
    env.reset()  # it is left open


def test_of_equals_the_first_stays() -> None:
    assert select_policy({"one": Constant(1.0), "two": Constant(1.0)}, Payment, 6).best == "one"


def test_what_is_refused() -> None:
    two = {"a": Constant(0.0), "b": Constant(1.0)}
    with pytest.raises(ValueError, match=r"n_episodes=5 are too few for 3 candidates in 2 rounds.*at least 6"):
        select_policy({**two, "c": Constant(2.0)}, Payment, 5)
    for wrong in ({"a": Constant(0.0)}, [Constant(0.0), Constant(1.0)], {**two, "c": 3}):
        with pytest.raises(ValueError, match="candidates of select_policy"):
            select_policy(wrong, Payment)  # type: ignore[arg-type]
    elsewhere = SAC("MlpPolicy", gym.make(tiny.BOX), buffer_size=1, policy_kwargs={"net_arch": [2]})
    with pytest.raises(ValueError, match="Candidate 'c' was trained with other observations than the environment has"):
        select_policy({**two, "c": elsewhere}, Payment)
    assert two["a"].n_asked == 0  # before any episode


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = {}
    for seed in range(3):
        model = SAC("MlpPolicy", gym.make(tiny.BOX), buffer_size=1, seed=seed, policy_kwargs={"net_arch": [4]})
        model.save(f"model {seed}")
        scores[f"model {seed}"] = evaluate(model, tiny.BOX, 20, seed=0).returns.mean()
    best = max(scores, key=lambda name: scores[name])
    output = succeeds("select", *scores, "--env", tiny.BOX, "--episodes", 40)
    assert f"{tiny.BOX}, 38 episodes" in output  # 3 x 6 and 2 x 10
    assert f"sb3-o2o finetune '{best}' --env {tiny.BOX}" in output
    assert "at least 6" in fails("select", *scores, "--env", tiny.BOX, "--episodes", 5)
    assert "add --env" in fails("select", *scores)
    assert "each once" in fails("select", "model 0", "--env", tiny.BOX)
    assert "each once" in fails("select", "model 0", "model 0", "--env", tiny.BOX)
    assert "Candidate 'model 0' was trained with other" in fails("select", "model 0", "model 1", "--env", tiny.GOAL)
    assert "no saved model" in fails("select", "model 0", "nowhere", "--env", tiny.BOX)
