"""A recipe's constants hold for each environment step, whatever the number of environments."""

from pathlib import Path
from typing import Any

import pytest
import torch as th
from toy_tasks import dataset, make, vec

from sb3_o2o import O2OPPO, O2OSAC
from sb3_o2o.algorithms import algorithm_class
from sb3_o2o.finetuning import ConstrainedFineTuning, DualCritic, FineTuningCallback
from sb3_o2o.recipes import load_recipe

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [8]},
    **{"batch_size": 4, "buffer_size": 100, "learning_starts": 0, "finetuning": [], "device": "cpu", "seed": 0},
}


class Counts(FineTuningCallback):
    """What happens in updates: how many there are, of which kind, and on how many transitions."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def count(self, name: str, more: int = 1) -> None:
        self.seen[name] = self.seen.get(name, 0) + more

    def before_updates(self) -> None:
        self.count("rounds")

    def after_update(self, batch: Any, metrics: dict[str, th.Tensor]) -> None:
        self.count("updates")
        self.count("transitions", len(batch))
        for name in metrics:
            if name.endswith("_loss"):
                self.count(name)

    def actor_penalty(self, actions: th.Tensor, log_prob: th.Tensor | None, batch: Any) -> float:
        self.count("transitions of the actor", len(batch))
        return 0.0


def build(recipe: str, n_envs: int, **kwargs: Any) -> Any:
    """A recipe, small and without what it needs data for."""
    entry = load_recipe(recipe)
    own = {"normalize_observations": False} if entry.arguments.get("normalize_observations") else {}
    if "pretrain_kwargs" in entry.arguments:
        own["pretrain_kwargs"] = None
    if entry.arguments.get("online_objective") == "spot":
        own["online_objective"] = "td3"
    algorithm: Any = algorithm_class(entry.algorithm)
    return algorithm("MlpPolicy", vec(n_envs), recipe=recipe, **{**SMALL, **own, **kwargs})


def counted(model: Any, steps: int) -> dict[str, int]:
    """What happens in a ``learn``, and how often target networks follow."""
    counts = Counts()
    follow = model.update_targets

    def update_targets() -> None:
        counts.count("targets")
        follow()

    model.update_targets = update_targets
    model.learn(steps, callback=counts)
    del model.update_targets
    return counts.seen


@pytest.mark.parametrize(
    "recipe", ["wsrl", "rlpd", "so2", "so2_paper", "o2sac_utd10", "o2td3", "opt_td3", "spot", "iql", "sac"]
)
def test_as_much_happens_with_four_environments_as_with_one(recipe: str) -> None:
    """Updates, actor steps and on how many transitions, target networks."""
    models = [build(recipe, n_envs) for n_envs in (1, 4)]
    one, four = (counted(model, 4) for model in models)
    assert one["updates"] == 4 * load_recipe(recipe).arguments["gradient_steps"]
    if recipe != "iql":
        assert one["actor_loss"] == one["updates"] // models[0].policy_delay
    assert four == one


@pytest.mark.parametrize(("given", "updates"), [({"gradient_steps": 3}, 6), ({"gradient_steps": -1}, 8)])
def test_what_a_user_says_is_stable_baselines3s(given: dict[str, int], updates: int, tmp_path: Path) -> None:
    """That is: after each step of all environments, or as many as there are transitions."""
    model = build("wsrl", 4, **given, actor_batch="minibatch")
    assert counted(model, 8)["updates"] == updates
    model.save(tmp_path / "model")
    assert counted(O2OSAC.load(tmp_path / "model", vec(4), device="cpu"), 8)["updates"] == updates
    assert counted(make(env=vec(4), learning_starts=0, **given), 8)["updates"] == updates
    assert counted(make(env=vec(4), learning_starts=0), 8)["updates"] == 2


def test_a_number_that_is_changed_later_counts_as_it_stands() -> None:
    model = build("wsrl", 4)
    model.gradient_steps = 8
    assert counted(model, 8)["updates"] == 16


def test_updates_that_a_user_makes_are_as_many_as_asked_for() -> None:
    model = build("wsrl", 4).learn(8)
    before = model._n_updates
    model.train(3)
    assert model._n_updates == before + 3
    model = build("wsrl", 4, learning_starts=100).learn(8)  # no update has followed the last rollout
    model.learning_starts = 0
    model.train(3)
    assert model._n_updates == 3


def test_saved_models_follow_their_recipe_with_another_number_of_environments(tmp_path: Path) -> None:
    build("wsrl", 1).learn(2).save(tmp_path / "model")
    path: dict[str, Any] = {"device": "cpu", "learning_starts": 0, "finetuning": []}
    cases = [
        (O2OSAC.load(tmp_path / "model", vec(4), device="cpu"), 32),
        (O2OSAC.load(tmp_path / "model", vec(4), device="cpu", gradient_steps=5), 10),
        (O2OSAC.load_offline(tmp_path / "model", vec(4), **path), 32),
        (O2OSAC.load_offline(tmp_path / "model", vec(4), gradient_steps=5, **path), 10),
        (O2OSAC.load_offline(tmp_path / "model", vec(4), load_critic=False, gradient_steps=5, **path), 10),
        (O2OSAC.load_offline(tmp_path / "model", vec(4), load_critic=False, **path), 32),
    ]
    for model, updates in cases:
        assert counted(model, 8)["updates"] == updates
    with pytest.warns(UserWarning, match="What was trained wins"):
        model = O2OSAC.load_offline(tmp_path / "model", vec(4), recipe="so2", batch_size=4, buffer_size=100, **path)
    assert counted(model, 8)["updates"] == 80
    model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec(4), device="cpu")
    assert resumed.learn(8, callback=Counts(), reset_num_timesteps=False)._n_updates == model._n_updates + 80


def test_a_recipe_for_several_environments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yml"
    path.write_text("about: {algorithm: O2OSAC}\ndefault: {n_envs: 2, gradient_steps: 3}\n")
    for n_envs, updates in ((2, 12), (4, 12), (8, 12), (1, 24), (3, 9)):
        model = build(str(path), n_envs, verbose=1)
        capsys.readouterr()
        assert counted(model, 8)["updates"] == updates
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Recipe")]
        name = f"Recipe '{path}' makes 3 updates for each step of its 2 environments"
        wanted = {
            4: f"{name}: with 4 environments 6 follow a step of all. gradient_steps=… decides otherwise.",
            8: f"{name}: with 8 environments 12 follow a step of all. gradient_steps=… decides otherwise.",
        }
        other = f"{name}, and so does this run with {n_envs}: another ratio of updates to transitions."
        assert said == ([] if n_envs == 2 else [wanted.get(n_envs, f"{other} gradient_steps=… decides otherwise.")])


def ppo(n_envs: int, **kwargs: Any) -> O2OPPO:
    arguments: dict[str, Any] = {"objective": "bc", "objective_kwargs": {}, "normalize_observations": False}
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "finetuning": [], "batch_size": 16, "device": "cpu"}
    return O2OPPO("MlpPolicy", vec(n_envs), **{"recipe": "o2ppo", **arguments, **small, **kwargs})


def test_rollouts_of_ppo_are_said() -> None:
    """Each environment has ``n_steps``, as in Stable-Baselines3: the ratio stays, the rollout is longer."""

    class Steps(FineTuningCallback):
        n_updates = 0

        def on_gradient_step(self) -> None:
            self.n_updates += 1

    updates = []
    for n_envs in (1, 4):
        steps = Steps()
        ppo(n_envs, n_steps=32).learn(128, callback=steps)
        updates.append(steps.n_updates)
    assert updates == [10 * 128 // 16] * 2
    assert ppo(4).note_on_counts() == (
        "Recipe 'o2ppo' has rollouts of 2048 transitions: with 4 environments they have 8192, and as many updates for "
        "each transition. n_steps=512 keeps their length."
    )
    for quiet in (ppo(1), ppo(4, n_steps=512), ppo(4, recipe=None)):
        assert quiet.note_on_counts() is None


def test_multipliers_move_once_for_each_environment_step() -> None:
    steps = []
    for n_envs in (1, 4):
        constraint = ConstrainedFineTuning(reference="interval")
        build("so2", n_envs, finetuning=[constraint]).learn(8)
        (state,) = constraint.multiplier.optimizer.state.values()
        steps.append(int(state["step"]))
    # so2's actor, and the multiplier with it, has one turn after each environment step
    assert steps == [8, 8]


@pytest.mark.parametrize("n_envs", [1, 2, 4])
def test_kappa_is_measured_every_so_many_environment_steps(n_envs: int) -> None:
    class Looks(DualCritic):
        def _measure(self) -> None:
            looks.append(self.model.n_finetuning_steps)

    looks: list[int] = []
    make(env=vec(n_envs), learning_starts=0, finetuning=[Looks("auto", auto_interval=4)]).learn(16)
    # and at the first update
    assert looks == sorted({n_envs, 4, 8, 12, 16} if n_envs < 4 else {4, 8, 12, 16})


def test_episodes_of_several_environments_are_refused_before_pretraining() -> None:
    model = make(env=vec(2), train_freq=(2, "episode"), dataset=dataset(), pretrain_steps=10**9)
    with pytest.raises(ValueError, match=r"train_freq=\(2, 'episode'\) counts the episodes of one .* there are 2"):
        model.learn(8)
    assert (model.n_pretrain_steps, model._last_obs) == (0, None)
