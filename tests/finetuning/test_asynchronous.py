"""Updates while the environments step: they overlap, lag no more than allowed, and lose nothing."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from toy_tasks import Drift, assert_same, differs, make, make_ppo, make_td3, state, vec

from sb3_o2o import O2OSAC
from sb3_o2o.finetuning import AsynchronousUpdates, FineTuningCallback


class Waits(Drift):
    """From its tenth step on a step ends only when an update has ended while it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.n_steps, self.updated, self.overlapped = 0, threading.Event(), 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        if self.n_steps >= 10:
            self.overlapped += self.updated.wait(timeout=60)
        return super().step(action)


class Tells(FineTuningCallback):
    """Tells the environment of updates; between two steps, where none is under way, of none."""

    def _on_step(self) -> bool:
        self.training_env.unwrapped.envs[0].unwrapped.updated.clear()
        return True

    def after_update(self, batch: Any, metrics: Any) -> None:
        self.training_env.unwrapped.envs[0].unwrapped.updated.set()


def test_updates_are_made_while_the_environment_steps() -> None:
    env = Waits()
    model = make(env=DummyVecEnv([lambda: Monitor(env)]), learning_starts=2)
    model.learn(20, callback=[Tells(), AsynchronousUpdates(0)])
    assert env.n_steps == 20
    assert env.overlapped == 11
    assert model._n_updates == 18


@pytest.mark.parametrize("build", [make, make_td3])
@pytest.mark.parametrize("n_envs", [1, 2])
def test_without_a_lag_a_run_comes_out_the_same_every_time(build: Any, n_envs: int) -> None:
    first, again, without = (
        build(env=vec(n_envs)).learn(40, callback=callbacks)
        for callbacks in ([AsynchronousUpdates(0)], [AsynchronousUpdates(0)], None)
    )
    assert_same(state(first), state(again))
    assert differs(state(first), state(without))  # each action is chosen one update earlier
    assert first._n_updates == without._n_updates


class Counts(FineTuningCallback):
    """Notes what lags behind after each step."""

    def __init__(self, asynchronous: AsynchronousUpdates):
        super().__init__()
        self.asynchronous, self.lags = asynchronous, []

    def _on_step(self) -> bool:
        self.lags.append(len(self.asynchronous.pending))
        return True


def test_the_lag_is_bounded_and_made_up_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done:
        def submit(self, function: Any) -> "Done":
            self.answer = function()
            return self

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return self.answer

        def shutdown(self) -> None:
            pass

    monkeypatch.setattr("sb3_o2o.finetuning.asynchronous.ThreadPoolExecutor", lambda *_, **__: Done())
    asynchronous = AsynchronousUpdates(3)
    counts = Counts(asynchronous)
    model = make(learning_starts=5)
    model.learn(30, callback=[asynchronous, counts])
    assert counts.lags == [0] * 5 + [0, 1, 2] + [3] * 22
    assert asynchronous.pending == []
    assert model._n_updates == 25


class Breaks(Drift):
    """Breaks at its twelfth step."""

    n_steps = 0

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        if self.n_steps == 12:
            raise ConnectionError("the robot is gone")
        return super().step(action)


class Fails(FineTuningCallback):
    """Fails in its third update."""

    n = 0

    def after_update(self, batch: Any, metrics: Any) -> None:
        self.n += 1
        if self.n == 3:
            raise ArithmeticError("this update is wrong")


def names(error: BaseException) -> Iterator[str]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame.f_code.co_qualname if hasattr(trace.tb_frame.f_code, "co_qualname") else ""
        trace = trace.tb_next


@pytest.mark.parametrize(
    ("env", "callback", "error", "where"),
    [
        (Breaks, FineTuningCallback, ConnectionError, "Breaks.step"),
        (Drift, Fails, ArithmeticError, "Fails.after_update"),
    ],
)
def test_an_exception_in_either_thread_ends_both(env: Any, callback: Any, error: Any, where: str) -> None:
    before = threading.active_count()
    model = make(env=DummyVecEnv([lambda: Monitor(env())]))
    with pytest.raises(error) as raised:
        model.learn(40, callback=[callback(), AsynchronousUpdates()])
    assert where in list(names(raised.value))
    assert threading.active_count() == before
    assert "step_wait" not in vars(model.get_env().unwrapped)
    model.learn(5, callback=AsynchronousUpdates(0))


class Stops(FineTuningCallback):
    """Asks for a stop."""

    def _on_step(self) -> bool:
        if self.num_timesteps == 20:
            self.model.request_stop()
        return True


@pytest.mark.parametrize("normalised", [False, True])
def test_interrupted_is_uninterrupted(tmp_path: Path, normalised: bool) -> None:
    def build() -> O2OSAC:
        env: Any = vec()
        return make(env=VecNormalize(env) if normalised else env, finetuning=[AsynchronousUpdates(0)])

    whole = build().learn(40)
    half = build()
    half.learn(40, callback=Stops())
    assert half.num_timesteps == 20
    assert len(half.finetuning[0].pending) == 1
    half.save_resume(tmp_path / "bundle")
    env: Any = vec()
    going_on = O2OSAC.load_resume(tmp_path / "bundle", VecNormalize(env) if normalised else env)
    going_on.learn(20, reset_num_timesteps=False)
    assert_same(state(whole), state(going_on))


def test_what_it_logs() -> None:
    seen: dict[str, Any] = {}
    model = make()

    class Looks(FineTuningCallback):
        def _on_step(self) -> bool:
            seen.update(self.logger.name_to_value)
            return True

    model.learn(20, callback=[AsynchronousUpdates(2), Looks()])
    assert 0 <= seen["finetune/update_lag"] <= 3
    assert seen["finetune/longest_wait"] >= 0


def test_ppo_has_nothing_to_overlap() -> None:
    with pytest.raises(ValueError, match="AsynchronousUpdates"):
        make_ppo(finetuning=[AsynchronousUpdates()]).learn(8)
