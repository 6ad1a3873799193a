"""Constrained fine-tuning: reference, threshold, multiplier, and what they change in an update."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
import torch._dynamo
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from toy_tasks import assert_same, dataset, dataset_file, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OPPO
from sb3_o2o.evaluation import NormalizedEvalCallback
from sb3_o2o.finetuning import AuxiliaryAdvantage, ConstrainedFineTuning, FineTuningCallback, SymmetricReplay, Warmup
from sb3_o2o.networks import frozen_copy
from sb3_o2o.objectives import Batch

BUILDERS = [make, make_td3]


def constraint_network(model: Any) -> Any:
    """What a reference is a copy of."""
    return model.policy if isinstance(model, O2OPPO) else model.policy.actor


class Scores(EvalCallback):
    """Evaluations whose outcome is given: one every ``eval_freq`` steps."""

    def __init__(self, scores: list[float], eval_freq: int = 2):
        super().__init__(vec(), eval_freq=eval_freq, warn=False)
        self.scores = list(scores)
        self.actors: list[dict[str, th.Tensor]] = []

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0:
            self.last_mean_reward = self.scores.pop(0)
            self.best_mean_reward = max(self.best_mean_reward, self.last_mean_reward)
            actor = constraint_network(self.model)
            self.actors.append({name: value.clone() for name, value in actor.state_dict().items()})
        return True


class References(FineTuningCallback):
    """Remembers the reference after each update."""

    def __init__(self, constraint: ConstrainedFineTuning):
        super().__init__()
        self.constraint = constraint
        self.seen: list[dict[str, th.Tensor]] = []
        self.thresholds: list[float] = []

    def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
        self.seen.append({name: value.clone() for name, value in self.constraint.policy.state_dict().items()})
        self.thresholds.append(self.constraint.current_threshold.item())


def same(one: dict[str, th.Tensor], other: dict[str, th.Tensor]) -> bool:
    return all(th.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("build", BUILDERS)
def test_the_best_evaluated_policy_is_the_reference(build: Any) -> None:
    constraint, scores = ConstrainedFineTuning(), Scores([3.0, 2.0, 5.0, 4.0, 5.0])
    references = References(constraint)
    model = build(finetuning=[constraint], learning_starts=0)
    start = {name: value.clone() for name, value in model.actor.state_dict().items()}
    model.learn(10, callback=[scores, references])
    first, third = scores.actors[0], scores.actors[2]
    expected = [start, first, first, first, first, third, third, third, third, third]
    assert [same(found, each) for found, each in zip(references.seen, expected, strict=True)] == [True] * 10
    assert (constraint.best_score, constraint.n_taken) == (5.0, 3)
    assert not same(first, third)
    model.learn(2, callback=Scores([4.9]), reset_num_timesteps=False)  # another evaluation does not undercut it
    assert same(constraint.policy.state_dict(), third)


def test_a_score_from_before_the_first_step_belongs_to_the_first_policy() -> None:
    class AtStart(Scores):
        def _on_training_start(self) -> None:
            self.last_mean_reward = 4.0
            self.evaluations_timesteps.append(self.num_timesteps)

    constraint = ConstrainedFineTuning()
    model = make(finetuning=[constraint], learning_starts=0)
    start = {name: value.clone() for name, value in model.actor.state_dict().items()}
    model.learn(4, callback=AtStart([3.0, 4.0]))
    assert constraint.best_score == 4.0
    assert same(constraint.policy.state_dict(), start)


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_what_an_evaluation_found_in_another_run_does_not_count(build: Any) -> None:
    reference: Any = AuxiliaryAdvantage() if build is make_ppo else ConstrainedFineTuning()
    scores = Scores([1e6, 1e6, *[1e5] * 40])  # far above what the toy gives to the first policy of any run
    model = build(dataset=dataset(), finetuning=[reference], learning_rate=0.01).pretrain(
        gradient_steps=4, callback=scores
    )
    assert scores.best_mean_reward == 1e6
    model.learn(16, callback=scores)
    assert (reference.best_score, reference.n_taken) == (1e5, 2)


@pytest.mark.parametrize("at_start", [True, False])
def test_an_evaluation_callback_that_counts_anew_is_heard(at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours begins to count calls again in each phase."""
    returns = iter([*[50.0] * 5, *([1.0] if at_start else []), 3.0, 2.0, 4.0])

    def evaluate_now(self: Any) -> bool:
        self.last_mean_reward = next(returns)
        self.evaluations_timesteps.append(self.num_timesteps)
        return True

    constraint = ConstrainedFineTuning()
    monkeypatch.setattr(NormalizedEvalCallback, "_evaluate", evaluate_now)
    monkeypatch.setattr(constraint, "_score", lambda evaluation, parameters: 1.0)
    evaluation = NormalizedEvalCallback(vec(), eval_freq=2, at_start=at_start)
    model = make(dataset=dataset(), finetuning=[constraint], learning_starts=0)
    model.pretrain(gradient_steps=8 + 2 * (not at_start), callback=evaluation)
    model.learn(6, callback=evaluation)
    assert (constraint.best_score, constraint.n_taken) == (4.0, 3)
    assert list(returns) == []


class MovesActor(FineTuningCallback):
    """Stands for a phase before the first step that changes the policy."""

    def before_collecting(self) -> None:
        for parameter in self.model.policy.actor.parameters():
            parameter.data.add_(0.1)


@pytest.mark.parametrize(("score", "is_taken"), [(2.0, True), (0.5, False)])
def test_what_a_phase_has_made_of_the_policy_may_take_over_at_once(
    score: float, is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = ConstrainedFineTuning()
    found = iter([1.0, score])
    monkeypatch.setattr(constraint, "_score", lambda evaluation, parameters: next(found))
    # the phase comes after the constraint, as a user may have it
    model = make(finetuning=[constraint, MovesActor()], learning_starts=0)
    model.learn(1, callback=Scores([], eval_freq=100))
    assert (constraint.best_score, constraint.n_taken) == (max(score, 1.0), 1 + is_taken)
    assert list(found) == []


def test_the_reference_at_intervals() -> None:
    constraint = ConstrainedFineTuning(reference="interval", interval=3)
    references = References(constraint)
    make(finetuning=[constraint], learning_starts=0).learn(7, callback=references)
    changed = [not same(one, other) for one, other in zip(references.seen, references.seen[1:], strict=False)]
    assert changed == [False, True, False, False, True, False]


def test_intervals_go_on_where_steps_are_counted_anew() -> None:
    constraint = ConstrainedFineTuning(reference="interval", interval=3)
    model = make(finetuning=[constraint], learning_starts=0).learn(7)
    assert constraint.n_taken == 3
    model.learn(7)
    assert constraint.n_taken == 5


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_the_first_evaluation_has_the_offline_policy_to_beat(build: Any) -> None:
    """Stable-Baselines3's callback evaluates nothing before the first step."""

    class Worse(Scores):
        evaluated = 0

        def _on_step(self) -> bool:
            if self.evaluated == 0:
                self.scores = [constraint.best_score - 1.0] * 20
                self.evaluated = 1
            return super()._on_step()

    constraint: Any = AuxiliaryAdvantage() if build is make_ppo else ConstrainedFineTuning()
    model = build(finetuning=[constraint], learning_rate=0.01)
    start = {name: value.clone() for name, value in constraint_network(model).state_dict().items()}
    worse, other = Worse([]), vec()
    for env in (worse.eval_env, other):
        env.seed(3)
    model.learn(24, callback=worse)
    assert constraint.n_taken == 1
    assert same(constraint.policy.state_dict(), start)
    assert not same(constraint_network(model).state_dict(), start)
    for name, value in start.items():
        constraint_network(model).state_dict()[name].copy_(value)
    expected, _ = evaluate_policy(model, other, n_eval_episodes=5, warn=False)
    assert constraint.best_score == pytest.approx(expected)


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_a_stop_inside_the_pretraining_of_learn_changes_nothing(build: Any) -> None:
    class Stop(FineTuningCallback):
        def __init__(self, at: int):
            super().__init__()
            self.at, self.n_updates = at, 0

        def on_gradient_step(self) -> None:
            self.n_updates += 1
            if self.n_updates == self.at:
                model: Any = self.model
                model.request_stop()

    def run(at: int) -> tuple[Any, Any]:
        of_class: Any = AuxiliaryAdvantage if build is make_ppo else ConstrainedFineTuning
        reference = of_class(reference="interval", interval=10_000, **({"max_std": 0.05} if build is make_ppo else {}))
        model = build(dataset=dataset(), pretrain_steps=8, finetuning=[Stop(at), reference], learning_rate=0.01)
        model.learn(8)
        if at:
            assert (model.n_pretrain_steps, model.num_timesteps, reference.policy) == (at, 0, None)
            model.learn(8, reset_num_timesteps=False)
        return state(model), reference.policy.state_dict()

    straight, interrupted = run(0), run(5)
    assert_same(straight[0], interrupted[0])
    assert same(straight[1], interrupted[1])


@pytest.mark.parametrize("build", [make, make_td3, make_ppo])
def test_another_pretraining_begins_another_run(build: Any) -> None:
    of_class: Any = AuxiliaryAdvantage if build is make_ppo else ConstrainedFineTuning
    reference = of_class(reference="interval", interval=10_000)
    model = build(finetuning=[reference], learning_rate=0.01).pretrain(dataset(), 2).learn(8)
    model.pretrain(dataset(), 2)
    start = {name: value.clone() for name, value in constraint_network(model).state_dict().items()}
    model.learn(8)
    assert same(reference.policy.state_dict(), start)


def test_a_missing_evaluation_is_refused_before_the_pretraining() -> None:
    model = make(dataset=dataset(), pretrain_steps=5, finetuning=[ConstrainedFineTuning()])
    with pytest.raises(ValueError, match="add learn"):
        model.learn(8)
    assert model.n_pretrain_steps == 0


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(("build", "first", "last"), [(make, 0.125, 2.0), (make_td3, 0.0025, 0.04)])
def test_the_threshold_rises_to_its_end(build: Any, first: float, last: float, n_envs: int) -> None:
    """By environment steps, of which each rollout makes as many as there are environments."""
    constraint = ConstrainedFineTuning(anneal_steps=4 * n_envs, reference="interval")
    references = References(constraint)
    arguments = {"env": vec(n_envs), "gradient_steps": 1, "learning_starts": 0}
    build(finetuning=[constraint], **arguments).learn(6 * n_envs, callback=references)
    slope = (last - first) / 4
    expected = [first + slope * step for step in (1, 2, 3, 4, 4, 4)]
    assert references.thresholds == pytest.approx(expected)


def terms(build: Any, **kwargs: Any) -> tuple[Any, ConstrainedFineTuning, Batch]:
    """A model, its constraint with another policy as reference, and a batch."""
    constraint = ConstrainedFineTuning(reference="interval", multiplier=2.0, **kwargs)
    model = build(finetuning=[constraint]).learn(5)
    constraint.policy = frozen_copy(build(seed=9).actor)
    return model, constraint, model.sample_batch(6)


@pytest.mark.parametrize("penalty", ["mse", "kl"])
@pytest.mark.parametrize("build", BUILDERS)
def test_terms_of_one_update(build: Any, penalty: str) -> None:
    if build is make_td3 and penalty == "kl":
        return
    model, constraint, batch = terms(build, penalty=penalty)
    constraint.current_threshold.fill_(0.3)
    with th.no_grad():
        multiplier = constraint.multiplier.logarithm.exp().item()
        noise = None if build is make_td3 else th.zeros(6, 2)
        actions, log_prob = (
            (model.actor(batch.observations), None) if noise is None else model.actor.rsample(batch.observations, noise)
        )
        if penalty == "kl":
            reference = constraint.policy.log_prob(batch.observations, actions, 1 - 1e-4)
            divergence = each = log_prob - reference
            following, next_log_prob = model.actor.rsample(batch.next_observations, noise)
            taken_off = next_log_prob - constraint.policy.log_prob(batch.next_observations, following, 1 - 1e-4)
        else:
            divergence = (model.actor.mode(batch.observations) - constraint.policy.mode(batch.observations)) ** 2
            each = divergence.mean(dim=1)
            following, next_log_prob = actions, log_prob
            squares = model.actor.mode(batch.next_observations) - constraint.policy.mode(batch.next_observations)
            taken_off = squares.pow(2).mean().expand(6)
        found = constraint.actor_penalty(actions, log_prob, batch)
        values = constraint.next_values(th.ones(6), following, next_log_prob, batch)
    assert th.allclose(found.values, multiplier * each)
    assert th.allclose(values, 1 - multiplier * taken_off)
    slack = 0.3 - divergence
    weight = th.where(slack > 0, 0.3, 0.7)
    assert found.losses["multiplier"].item() == pytest.approx(multiplier * (weight * slack).mean().item(), rel=1e-5)


def test_the_multiplier_moves_once_in_a_rollout_and_its_way() -> None:
    logarithms: list[float] = []

    class Look(FineTuningCallback):
        def after_update(self, batch: Batch, metrics: dict[str, th.Tensor]) -> None:
            logarithms.append(constraint.multiplier.logarithm.item())

    constraint = ConstrainedFineTuning(1e-6, 1e-6, reference="interval", multiplier_learning_rate=0.1)
    make(finetuning=[constraint], learning_starts=0, gradient_steps=3, learning_rate=0.01).learn(4, callback=Look())
    assert len(logarithms) == 12
    for rollout in range(4):
        assert len(set(logarithms[3 * rollout : 3 * rollout + 3])) == 1
    assert len(set(logarithms)) == 4


# -- kept ----------------------------------------------------------------------------------------------------------


class SaveAt(BaseCallback):
    def __init__(self, at: int, path: Path):
        super().__init__()
        self.at, self.path = at, path

    def _on_step(self) -> bool:
        if self.n_calls == self.at:
            model: Any = self.model
            model.save_resume(self.path)
            model.request_stop()
        return True


class Wave(EvalCallback):
    """Scores that rise and fall with the steps."""

    def __init__(self) -> None:
        super().__init__(vec(), eval_freq=1, warn=False)

    def _on_step(self) -> bool:
        self.last_mean_reward = 0.1 * self.num_timesteps + math.sin(self.num_timesteps)
        return True


@pytest.mark.parametrize("in_constructor", [True, False])
@pytest.mark.parametrize("build", BUILDERS)
def test_a_resumed_run_is_the_uninterrupted_one(build: Any, in_constructor: bool, tmp_path: Path) -> None:
    def run(model: Any, at: int, own: list[Any]) -> Any:
        evaluation = Wave()
        callbacks = [*own, evaluation, SaveAt(at, tmp_path / "bundle")]
        return model.learn(16, callback=callbacks, reset_num_timesteps=model.num_timesteps == 0)

    def made(resumed: bool = False) -> tuple[Any, list[Any]]:
        own = [ConstrainedFineTuning(anneal_steps=20, multiplier_learning_rate=0.05), SymmetricReplay(0.5)]
        arguments = {"learning_starts": 0, "dataset": dataset_file(tmp_path)}
        if resumed:
            return None, [] if in_constructor else own
        return (build(finetuning=own, **arguments), []) if in_constructor else (build(**arguments), own)

    straight, own = made()
    run(straight, 0, own)
    kept = straight.finetuning[0] if in_constructor else own[0]
    interrupted, own = made()
    run(interrupted, 7, own)
    assert interrupted.num_timesteps == 7
    resumed = type(straight).load_resume(tmp_path / "bundle", vec(), device="cpu")
    _, own = made(resumed=True)
    resumed.learn(
        9,
        callback=[*own, Wave(), SaveAt(0, tmp_path)],
        reset_num_timesteps=False,
    )
    again = resumed.finetuning[0] if in_constructor else own[0]
    assert_same(state(straight), state(resumed))
    assert (again.best_score, again.n_taken) == (kept.best_score, kept.n_taken)
    assert th.equal(again.multiplier.logarithm, kept.multiplier.logarithm)
    assert kept.multiplier.logarithm.item() != 0.0
    assert same(again.policy.state_dict(), kept.policy.state_dict())


def test_it_lives_in_the_zip_and_starts_afresh_with_another_run(tmp_path: Path) -> None:
    constraint = ConstrainedFineTuning(reference="interval", interval=4, multiplier=3.0, multiplier_learning_rate=0.1)
    make(finetuning=[constraint, Warmup(0)], learning_starts=0).learn(6).save(tmp_path / "model")
    loaded = type(make()).load(tmp_path / "model", vec(), device="cpu").finetuning[0]
    assert same(loaded.policy.state_dict(), constraint.policy.state_dict())
    assert th.equal(loaded.multiplier.logarithm, constraint.multiplier.logarithm)
    assert not any(parameter.requires_grad for parameter in loaded.policy.parameters())
    (moment,) = loaded.multiplier.optimizer.state.values()
    assert moment["step"].item() == 6
    fresh = type(make()).load_offline(tmp_path / "model", vec(), device="cpu").finetuning[0]
    assert (fresh.policy, fresh.best_score) == (None, -math.inf)
    assert fresh.multiplier.logarithm.item() == pytest.approx(math.log(3.0))


# -- compiled ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDERS)
def test_nothing_recompiles(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for compiling; the threshold rises and the reference changes without another graph."""
    graphs: list[Any] = []
    compiler = th.compile

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    def traced(function: Any, **kwargs: Any) -> Any:
        kwargs.pop("options", None)
        return compiler(function, backend=backend, **kwargs)

    def run(compile: bool) -> Any:
        constraint = ConstrainedFineTuning(anneal_steps=8, reference="interval", interval=3)
        kwargs = {"simultaneous": True} if build is make else {"normalize_values": True}
        return build(finetuning=[constraint], compile=compile, learning_starts=0, online_objective_kwargs=kwargs).learn(
            10
        )

    torch._dynamo.reset()
    eager = run(False).policy.state_dict()
    monkeypatch.setattr(th, "compile", traced)
    compiled = run(True)
    torch._dynamo.reset()
    assert len(graphs) == len(compiled.loop.gradients._compiled) == (1 if build is make else 2)
    for name, value in compiled.policy.state_dict().items():
        assert th.allclose(value, eager[name], atol=2e-5), name


# -- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.5, "end_threshold": 0.1}, r"must not decrease.*threshold=0\.5 and end_threshold=0\.1"),
        ({"threshold": 3.0, "penalty": "kl"}, r"must not decrease"),
        ({"end_threshold": math.inf, "penalty": "kl"}, r"finite"),
        ({"threshold": 0.0, "end_threshold": 0.1}, "threshold of .* above 0 or None, not 0.0"),
        ({"penalty": "js"}, "penalty of .* must be 'kl', 'mse' or None, not 'js'"),
        ({"anneal_steps": 0}, "anneal_steps of .* of at least 1"),
        ({"multiplier": 0.0}, "multiplier of .* above 0"),
        ({"expectile": 1.0}, r"expectile of .* in \(0, 1\)"),
        ({"action_clip": 1.0}, "action_clip of .* must"),
        ({"reference": "first"}, "must be 'best', 'champion' or 'interval', not 'first'"),
        ({"interval": 0}, "interval of .* of at least 1"),
    ],
)
def test_rejections(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConstrainedFineTuning(**arguments)


def test_rejections_that_need_a_model() -> None:
    for model, message in (
        (make_td3(finetuning=[ConstrainedFineTuning(penalty="kl")]), "does not have: use penalty='mse'"),
        (make(use_sde=True, finetuning=[ConstrainedFineTuning()]), "gSDE is not: use penalty='mse'"),
        (make_td3(finetuning=[ConstrainedFineTuning(threshold=0.1)]), "must not decrease"),
        (make(finetuning=[ConstrainedFineTuning()]), r"add learn\(callback=EvalCallback\(eval_env"),
    ):
        with pytest.raises(ValueError, match=message):
            model.learn(5)
        assert model.num_timesteps == 0
    make(use_sde=True, finetuning=[ConstrainedFineTuning(penalty="mse", reference="interval")]).learn(6)
