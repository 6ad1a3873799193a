"""What a run that was not finite leaves: the values, no spoilt model, and how it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from failing import INF, NAN, faulty, poison_loss
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from toy_tasks import Drift, assert_same, dataset, make, state, vec

from sb3_o2o import O2OSAC, NonFiniteError
from sb3_o2o.objectives import Batch
from sb3_o2o.resume import draw_other_numbers
from sb3_o2o.updates.finite import FiniteWatch, arrays_of, is_finite
from sb3_o2o.updates.trained import first_not_finite, trained_tensors

# -- where the values are kept -------------------------------------------------------------------------------------


def test_the_batch_lies_beside_the_log(tmp_path: Path) -> None:
    model = make(objective="bc")
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    poison_loss(model, "actor")
    with pytest.raises(NonFiniteError, match=r"The values are kept in .*nonfinite\.npz\.") as caught:
        model.pretrain(dataset(), 5)
    assert caught.value.path == str(tmp_path / "log" / "nonfinite.npz")
    with np.load(caught.value.path) as saved:
        assert saved["what"] == "The loss of the optimiser 'actor' is nan at update 3, pretraining."
        assert saved["observations"].shape == (8, 3)
        np.testing.assert_array_equal(saved["rewards"], caught.value.arrays["rewards"])


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    model = make(env=faulty("reward"))
    model.set_logger(configure(str(tmp_path / "log"), ["csv"]))
    (tmp_path / "log" / "nonfinite.npz").mkdir()  # in the way
    with (
        pytest.warns(UserWarning, match=r"nonfinite\.npz could not be written"),
        pytest.raises(NonFiniteError, match="rew"),
    ):
        model.learn(20)


def test_arrays_of_a_batch_with_dictionaries() -> None:
    model = make(dictionary=True, objective="bc")
    buffer = model.open_offline_buffer(dataset(dictionary=True))
    named = arrays_of(model.to_batch(buffer.sample(4)))
    assert {name: array.shape for name, array in named.items() if "obs" in name} == {
        "observations/goal": (4, 1),
        "observations/place": (4, 3),
        "next_observations/goal": (4, 1),
        "next_observations/place": (4, 3),
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_is_finite(dtype: Any) -> None:
    array = np.ones((3, 4), dtype)
    assert is_finite(array)
    assert is_finite(array[:, ::2])
    if dtype is not np.uint8:
        assert is_finite(np.full(5, np.finfo(dtype).max))  # whose square is not
        for value in (np.nan, np.inf, -np.inf):
            array[1, 2] = value
            assert not is_finite(array)
            assert not is_finite(array[:, ::2])


# -- files ---------------------------------------------------------------------------------------------------------


def broken(which: str = "critic") -> O2OSAC:
    model = make(objective="cql")
    with th.no_grad():
        next(iter(getattr(model, which).parameters()))[..., 0] = NAN
    return model


def test_a_model_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    whole = (tmp_path / "model.zip").read_bytes()
    with pytest.raises(NonFiniteError, match=r"Not saved: policy\.critic.* holds nan\. .*allow_nonfinite=True"):
        broken().save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == whole
    with pytest.raises(NonFiniteError, match="Not saved"):
        broken().save_resume(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    broken().save(tmp_path / "model", allow_nonfinite=True)
    assert (tmp_path / "model.zip").read_bytes() != whole


def test_statistics_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    env = VecNormalize(vec())
    model = make(env=env)
    env.obs_rms.mean[1] = NAN
    with pytest.raises(NonFiniteError, match="VecNormalize's mean of observations holds nan"):
        model.save(tmp_path / "model")


def test_a_model_that_is_not_finite_is_not_loaded_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    broken().save(path, allow_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"model\.zip was saved after training had failed: .*allow_nonfinite=True"):
        O2OSAC.load(path)
    assert O2OSAC.load(path, allow_nonfinite=True).n_critics == 2
    with pytest.raises(ValueError, match=r"allow_nonfinite of O2OSAC\.load must be True or False, not 'yes'"):
        O2OSAC.load(path, allow_nonfinite="yes")


def test_nor_exported_nor_are_its_parameters_set(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"Not exported: policy\.critic.* holds nan"):
        broken().to_sb3()
    broken("actor").save(tmp_path / "model", allow_nonfinite=True)
    model = make(objective="cql").pretrain(dataset(), 3)
    before = state(model)
    with pytest.raises(NonFiniteError, match=r"Not loaded from .*model: policy\.actor.* holds nan"):
        model.set_parameters(str(tmp_path / "model"))
    assert_same(state(model), before)


@pytest.mark.parametrize("stock", [False, True])
def test_parameters_of_a_file(stock: bool, tmp_path: Path) -> None:
    """Of a model of ours and of a stock one."""
    trained = make(objective="cql").pretrain(dataset(), 3)
    (trained.to_sb3() if stock else trained).save(tmp_path / "model")
    model = make(objective="cql")
    model.set_parameters(str(tmp_path / "model"))
    found, expected = state(model), state(trained)
    assert_same(
        {name: found[name] for name in found if "ent_coef" not in name},
        {name: expected[name] for name in expected if "ent_coef" not in name},
    )


def test_load_offline_takes_over_the_part_that_is_finite(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    broken("critic").save(path, allow_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"What load_offline takes over is not finite: .*load_critic=False"):
        O2OSAC.load_offline(path, vec())
    with pytest.raises(NonFiniteError, match="What load_offline takes over is not finite"):
        O2OSAC.load_offline(broken("actor"), vec())
    model = O2OSAC.load_offline(path, vec(), load_critic=False)
    model.learn(20)


def test_a_best_model_stays(tmp_path: Path) -> None:
    from sb3_o2o.evaluation import NormalizedEvalCallback

    model = make(objective="bc", env=vec())
    looking = NormalizedEvalCallback(
        Monitor(Drift()), eval_freq=2, best_model_save_path=str(tmp_path), n_eval_episodes=1
    )
    poison_loss(model, "actor", at=4)
    with pytest.raises(NonFiniteError):
        model.pretrain(dataset(), 6, callback=looking)
    assert first_not_finite(trained_tensors(O2OSAC.load(tmp_path / "best_model"))) is None


def test_the_command_line_says_what_is_left(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    from command_line import SHORT, SMALL, sb3_o2o

    setting = ["--set", "qf_learning_rate=1e30"]
    result = sb3_o2o("pretrain", tiny_dataset(), "--recipe", "cql", "--gradient-steps", 8, *SMALL, *SHORT, *setting)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    said = re.sub(r"\s+", " ", result.stderr)
    assert re.search(r"Error: The loss of the optimiser 'critic' is (nan|inf) at update \d, pretraining\.", said), said
    assert "The values are kept in runs/cql-TinyBox-v0_1/nonfinite.npz." in said
    run = Path("runs/cql-TinyBox-v0_1")
    assert (run / "nonfinite.npz").is_file()
    assert not list(run.rglob("tensorboard/**/nonfinite.npz"))
    assert not (run / "offline" / "model.zip").exists()


def test_going_on_avoids_the_failure(tiny_dataset: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    from command_line import SHORT, SMALL, sb3_o2o, succeeds

    drawn: list[float] = []
    original = FiniteWatch.check_losses

    def fail(self: FiniteWatch, losses: Any, batch: Batch) -> None:
        drawn.append(float(batch.rewards.sum()))
        if len(drawn) == 5:
            losses = {name: loss * NAN for name, loss in losses.items()}
        original(self, losses, batch)

    monkeypatch.setattr(FiniteWatch, "check_losses", fail)
    run = Path("runs/bc-TinyBox-v0_1")
    Path("bc.yml").write_text("algorithm: O2OSAC\ndefault:\n  objective: bc\n")
    result = sb3_o2o("pretrain", tiny_dataset(), "--recipe", "bc.yml", "--gradient-steps", 8, *SMALL, *SHORT)
    assert result.exit_code == 1
    assert f"sb3-o2o pretrain --resume {run}" in re.sub(r"\s+", " ", result.stderr)
    said = succeeds("pretrain", "--resume", run)
    assert "it goes on with another random stream" in said
    assert len(drawn) == 5 + 8  # no bundle yet: from the beginning
    assert drawn[:5] != drawn[5:10]
    assert (run / "nonfinite_1.npz").is_file()
    assert not (run / "nonfinite.npz").exists()
    assert (run / "offline" / "model.zip").is_file()


def test_other_streams() -> None:
    def draws(number: int) -> tuple[Any, ...]:
        model = make(objective="bc")
        model.pretrain(dataset(), 2)
        if number:
            draw_other_numbers(model, number)
        sampled = model.offline_buffer.sample(8).rewards
        later = model.open_offline_buffer(dataset()).sample(8).rewards
        return (
            sampled.tolist(),
            later.tolist(),
            model.action_space.sample().tolist(),
            th.rand(3).tolist(),
            np.random.rand(),
        )

    own, first, second = draws(0), draws(1), draws(2)
    assert first == draws(1)
    for one, other in ((own, first), (own, second), (first, second)):
        assert all(a != b for a, b in zip(one, other, strict=True))


class Masked(FlattenExtractor):
    """Holds what is infinite by choice, as a mask of attention does."""

    def __init__(self, space: Any):
        super().__init__(space)
        self.register_buffer("mask", th.tensor([0.0, -INF, 0.0]))

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return super().forward(observations).masked_fill(self.mask.isinf(), 0.0)


def test_a_buffer_may_hold_infinity_and_no_nan(tmp_path: Path) -> None:
    model = make(policy_kwargs={"net_arch": [16], "features_extractor_class": Masked})
    model.learn(10)
    model.save(tmp_path / "model")
    O2OSAC.load(tmp_path / "model", trust=True)
    model.actor.features_extractor.mask[0] = NAN
    with pytest.raises(NonFiniteError, match=r"features_extractor\.mask holds nan"):
        model.save(tmp_path / "model")


def test_the_last_good_bundle_stays(tmp_path: Path) -> None:
    model = make()
    model.learn(10)
    model.save_resume(tmp_path / "bundle")
    good = model.policy.state_dict()["actor.mu.weight"].clone()
    with th.no_grad():
        model.actor.mu.weight.fill_(NAN)
    with pytest.raises(NonFiniteError, match=r"Not saved: policy\.actor\.mu\.weight holds nan"):
        model.save_resume(tmp_path / "bundle")
    resumed = O2OSAC.load_resume(tmp_path / "bundle", vec())
    assert th.equal(resumed.policy.state_dict()["actor.mu.weight"], good)
    resumed.learn(5, reset_num_timesteps=False)
