"""``on_nonfinite="rollback"``: where weights from memory do not help, a call goes back to its newest resume bundle."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from failing import NAN
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import assert_same, dataset, dataset_file, make, make_ppo, make_td3, reach, vec

from sb3_o2o import NonFiniteError, ResumeBundle
from sb3_o2o.finetuning import SymmetricReplay, Warmup
from sb3_o2o.resume import draw_other_numbers, series
from sb3_o2o.updates.finite import FiniteWatch
from sb3_o2o.updates.trained import first_not_finite, trained_tensors

from .test_bundle import everything

pytestmark = pytest.mark.filterwarnings("ignore:.*Going back to")
#: losses that are not finite until the rollbacks from memory are used up
FROM_MEMORY = 3


def often(path: Path, **kwargs: Any) -> ResumeBundle:
    return ResumeBundle(path, **{"every": 6, "min_seconds": 0.0, "max_share": None, **kwargs})


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Some of the critic's losses are NaN from a step on, as many as asked for; gives the steps of these."""

    def fail(times: int = FROM_MEMORY + 1, at: int = 20) -> list[int]:
        check, failed = FiniteWatch.check_losses, []

        def checking(self: FiniteWatch, losses: dict[str, th.Tensor], batch: Any) -> None:
            spoilt = "critic" in losses and self.model.num_timesteps >= at and len(failed) < times
            if spoilt:
                failed.append(self.model.num_timesteps)
            check(self, {**losses, "critic": th.full((), NAN)} if spoilt else losses, batch)

        monkeypatch.setattr(FiniteWatch, "check_losses", checking)
        return failed

    return fail


def evaluations(path: Path) -> EvalCallback:
    return EvalCallback(vec(), n_eval_episodes=1, eval_freq=5, log_path=str(path), warn=False, verbose=0)


def said(caught: Any) -> list[str]:
    """From where runs have gone on."""
    return [str(each.message) for each in caught if "Going back to /" in str(each.message)]


# -- as a run that was resumed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [make, make_td3])
def test_learn_goes_on_as_a_resumed_run_with_other_numbers(
    build: Any, failing: Callable[..., list[int]], tmp_path: Path
) -> None:
    # the third bundle, by a run that is stopped behind it
    stopped = build(on_nonfinite="rollback").learn(19, callback=[often(tmp_path / "a"), evaluations(tmp_path / "a")])
    expected = type(stopped).load_resume(tmp_path / "a" / "bundle_000003", vec(), device="cpu")
    draw_other_numbers(expected, 1)
    expected.learn(40 - 18, callback=[often(tmp_path / "a"), evaluations(tmp_path / "a")], reset_num_timesteps=False)

    failed, model = failing(), build(on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="'critic' is nan") as caught:
        model.learn(40, callback=[often(tmp_path / "b"), evaluations(tmp_path / "b")])
    assert failed == [20, 21, 22, 23]  # three times back to weights from memory, and then
    (message,) = said(caught)
    assert f"Going back to {tmp_path / 'b' / 'bundle_000003'}: 18 environment steps" in message
    assert message.endswith("Time 1 of at most 3.")
    assert_same(everything(model), everything(expected))
    assert first_not_finite(trained_tensors(model)) is None
    assert (model.num_timesteps, model.n_finetuning_steps, model.replay_buffer.pos) == (40, 40, 40)
    for path in ("a", "b"):
        with np.load(tmp_path / path / "evaluations.npz") as saved:
            assert saved["timesteps"].tolist() == [5, 10, 15, 20, 25, 30, 35, 40]  # none twice
    assert series.newest_bundle(tmp_path / "b")[1].environment_steps == 40  # type: ignore[index]


def test_pretrain_on_data_from_memory(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    """They are in no file, so the model hands them on to what it becomes."""
    data = dataset()
    stopped = make(on_nonfinite="rollback").pretrain(data, 6, callback=often(tmp_path / "a"))
    expected = type(stopped).load_resume(tmp_path / "a", vec(), device="cpu")
    expected.offline_buffer.dataset = data  # type: ignore[union-attr]
    draw_other_numbers(expected, 1)
    expected.pretrain(data, 11 - 6, reset_gradient_steps=False)

    failed, model = failing(at=6), make(on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="'critic' is nan") as caught:
        model.pretrain(data, 11, callback=often(tmp_path / "b"))
    assert failed == [6, 7, 8, 9]
    assert "bundle_000001: 6 gradient steps" in said(caught)[0]
    assert model.pretrained_on is data
    assert model.n_pretrain_steps == 11
    assert_same(everything(model), everything(expected))
    assert model.learn(8).num_timesteps == 8


def test_what_the_constructor_was_given_stays(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    """A user's own callbacks, logger, environment and data, and the model itself."""
    failed, data, env = failing(at=24), dataset(), VecNormalize(vec())
    replay, warmup = SymmetricReplay(dataset=data), Warmup(5)
    model = make(env=env, finetuning=[replay, warmup], on_nonfinite="rollback", tensorboard_log=str(tmp_path / "tb"))
    with pytest.warns(UserWarning, match="'critic' is nan") as caught:
        model.learn(36, callback=[warmup, often(tmp_path / "a")])  # named twice, it is one
    assert len(failed) == FROM_MEMORY + 1
    assert "bundle_000003: 18" in said(caught)[0] or "bundle_000004: 24" in said(caught)[0]
    assert [each is own for each, own in zip(model.finetuning, (replay, warmup), strict=True)] == [True, True]
    assert all(each.model is model for each in model.finetuning)
    assert replay.dataset is data
    assert model.get_env() is env
    assert model.loop.model is model.finetuning_objective.model is model
    assert model.num_timesteps == 36
    assert np.isfinite(env.obs_rms.mean).all()
    model.learn(6, reset_num_timesteps=False)
    assert model.num_timesteps == 42


def test_the_progress_bar_of_each_attempt_is_closed(
    failing: Callable[..., list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    start = ProgressBarCallback._on_training_start

    def starting(self: ProgressBarCallback) -> None:
        assert all(each.disable for each in opened)
        start(self)
        opened.append(self.pbar)

    monkeypatch.setattr(ProgressBarCallback, "_on_training_start", starting)
    failing()
    model = make(on_nonfinite="rollback").learn(40, callback=often(tmp_path), progress_bar=True)
    assert model.num_timesteps == 40
    assert [(each.total, each.disable) for each in opened] == [(40, True), (40 - 18, True)]


def test_hindsight(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    failing()
    model = make("MultiInputPolicy", env=reach(), replay_buffer_class=HerReplayBuffer, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match=r"Going back to /.*bundle_000003: 18 environment steps"):
        model.learn(32, callback=often(tmp_path))
    assert model.replay_buffer.env is model.env
    assert (model.replay_buffer.pos, model.num_timesteps) == (32, 32)


def test_ppo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check, failed = FiniteWatch.check_gradients, []

    def checking(self: FiniteWatch, optimizer: Any) -> None:
        if self.model.num_timesteps >= 24 and len(failed) <= FROM_MEMORY:
            failed.append(self.model.num_timesteps)
            raise NonFiniteError("The gradient is not finite.")
        check(self, optimizer)

    monkeypatch.setattr(FiniteWatch, "check_gradients", checking)
    model = make_ppo(on_nonfinite="rollback")
    with pytest.warns(UserWarning, match=r"Going back to /.*: \d+ environment steps"):
        model.learn(64, callback=often(tmp_path, every=8))
    assert len(failed) == FROM_MEMORY + 1
    assert model.num_timesteps == 64


class Unlucky(BaseCallback):
    """Something beside the run spoils the environment's rewards for a while; resume bundles know nothing of it."""

    keeps_no_state = True

    def __init__(self, at: int, times: int):
        super().__init__()
        self.at, self.left = at, times

    def _on_training_start(self) -> None:
        inner = self.training_env.envs[0].unwrapped  # type: ignore[attr-defined]
        original = type(inner).step

        def step(action: np.ndarray) -> Any:
            observation, reward, *rest = original(inner, action)
            if self.left and self.num_timesteps >= self.at:
                self.left, reward = self.left - 1, NAN
            return observation, reward, *rest

        inner.step = step

    def _on_step(self) -> bool:
        return True


def test_rewards_that_are_not_finite(tmp_path: Path) -> None:
    model = make(on_nonfinite="rollback")
    with pytest.warns(UserWarning, match="reward of environment 0 is nan at environment step 21") as caught:
        model.learn(40, callback=[often(tmp_path), Unlucky(20, FROM_MEMORY + 1)])
    assert ["bundle_000003: 18 environment" in each for each in said(caught)] == [True]
    assert np.isfinite(model.replay_buffer.rewards[:40]).all()
    assert first_not_finite(trained_tensors(model)) is None
    assert (model.num_timesteps, model.replay_buffer.pos) == (40, 40)


def test_the_pretraining_of_learn(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    """It goes back by itself, and ``learn`` follows."""
    failing(at=6)
    model = make(dataset=dataset_file(tmp_path), pretrain_steps=11, on_nonfinite="rollback")
    with pytest.warns(UserWarning, match=r"Going back to /.*: 6 gradient steps"):
        model.learn(12, callback=often(tmp_path / "a"))
    assert (model.n_pretrain_steps, model.num_timesteps) == (11, 12)
    # bundles that were written inside of ``learn`` are at points where nothing is half-done
    assert series.newest_bundle(tmp_path / "a")[1].environment_steps == 12  # type: ignore[index]


# -- to which, and how often ---------------------------------------------------------------------------------------


def test_at_most_three_times(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    failing(times=1000)
    with (
        pytest.warns(UserWarning, match="Time 3 of at most 3") as caught,
        pytest.raises(
            NonFiniteError, match=r"'critic' is nan .*\(The call has gone back to a resume bundle 3 times\.\)"
        ),
    ):
        make(on_nonfinite="rollback").learn(40, callback=often(tmp_path))
    assert len(said(caught)) == 3


@pytest.mark.parametrize("why", ["not asked for", "no bundles", "none is whole"])
def test_there_is_nothing_to_go_back_to(why: str, failing: Callable[..., list[int]], tmp_path: Path) -> None:
    class Damaging(BaseCallback):
        keeps_no_state = True

        def _on_step(self) -> bool:
            for each in series.bundles(tmp_path):
                (each / "model.zip").write_bytes(b"half")
            return True

    failing(times=1000)
    model = make(on_nonfinite="raise" if why == "not asked for" else "rollback")
    callbacks = {"no bundles": [], "none is whole": [often(tmp_path), Damaging()]}.get(why, [often(tmp_path)])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Going back to /")  # which would be another error
        with pytest.raises(NonFiniteError, match="'critic' is nan"):
            model.learn(40, callback=callbacks)


@pytest.mark.parametrize("reset", [True, False])
def test_a_call_that_has_written_none_begins_again(
    reset: bool, failing: Callable[..., list[int]], tmp_path: Path
) -> None:
    """The bundle at the end of the call before is what it began with."""
    model, evaluation = make(on_nonfinite="rollback"), evaluations(tmp_path)
    model.learn(12, callback=[often(tmp_path / "a"), evaluations(tmp_path / "other")])
    failing(at=5 if reset else 17)
    with pytest.warns(UserWarning, match=r"Going back to /.*: 12 environment steps"):
        model.learn(20, callback=[often(tmp_path / "a", every=100), evaluation], reset_num_timesteps=reset)
    assert model.num_timesteps == (20 if reset else 32)
    assert model.n_finetuning_steps == 32
    assert model.replay_buffer.pos == 32
    assert evaluation.evaluations_timesteps == [5 + 12 * (not reset) + n for n in (0, 5, 10, 15)]


def test_a_bundle_from_before_other_training_is_none(failing: Callable[..., list[int]], tmp_path: Path) -> None:
    model = make(on_nonfinite="rollback").learn(12, callback=often(tmp_path))
    model.learn(4, reset_num_timesteps=False)
    failing(at=18)
    with pytest.raises(NonFiniteError, match="'critic' is nan"):
        model.learn(20, callback=often(tmp_path, every=100), reset_num_timesteps=False)
    assert model.num_timesteps >= 18


def test_what_cannot_be_read_is_said(
    failing: Callable[..., list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing()

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr("sb3_o2o.resume.going_back.bundle.load", refuse)
    with pytest.raises(NonFiniteError, match=r"'critic' is nan .*\(Going back to /.*bundle_000003 failed: no\)"):
        make(on_nonfinite="rollback").learn(40, callback=often(tmp_path))


def test_classes_of_ones_own_need_no_trust_in_what_this_process_wrote(
    failing: Callable[..., list[int]], tmp_path: Path
) -> None:
    failing()
    model = make(on_nonfinite="rollback", learning_rate=lambda remaining: 1e-3 * remaining)
    with pytest.warns(UserWarning, match=r"Going back to /.*bundle_000003"):
        model.learn(26, callback=often(tmp_path))
    assert model.num_timesteps == 26
