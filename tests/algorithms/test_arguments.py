"""Every constructor argument stands once: in signature, documentation and check, for each algorithm and entrance."""

import decimal
import inspect
import math
import pydoc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch as th
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import LinearSchedule
from toy_tasks import FAST, Drift, dataset, make, make_ppo, make_td3, vec

from sb3_o2o import O2OPPO, O2OSAC, O2OTD3
from sb3_o2o.algorithms.constructors import documented
from sb3_o2o.cli.set_options import parse_settings
from sb3_o2o.finetuning import Warmup
from sb3_o2o.objectives import SACObjective
from sb3_o2o.recipes import load_recipe
from sb3_o2o.recipes.building import build_model, check_recipe

ALGORITHMS: tuple[Any, ...] = (O2OSAC, O2OTD3, O2OPPO)
MAKE: dict[Any, Callable[..., Any]] = {O2OSAC: make, O2OTD3: make_td3, O2OPPO: make_ppo}
PAIRS = [(algorithm, name) for algorithm in ALGORITHMS for name in algorithm.constructor.signature.parameters]


def pair(value: tuple[Any, str]) -> str:
    return f"{value[0].__name__}-{value[1]}"


# -- what the arguments may be, written a second time and otherwise ------------------------------------------------

Allows = Callable[[Any], bool]


def number(low: float = -math.inf, high: float = math.inf, *, zero: bool = True, infinite: bool = False) -> Allows:
    def allows(value: Any) -> bool:
        if type(value) not in (int, float, np.int64, np.float32, np.float64) or value != value:
            return False
        return low <= value <= high and (zero or value != 0) and (infinite or abs(value) != math.inf)

    return allows


def count(low: int) -> Allows:
    return lambda value: type(value) in (int, np.int64) and value >= low


def text(*words: str) -> Allows:
    return lambda value: type(value) is str and (not words or value in words)


def none(value: Any) -> bool:
    return value is None


def flag(value: Any) -> bool:
    return type(value) in (bool, np.bool_)


def function(value: Any) -> bool:
    return inspect.isfunction(value)


def named(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


def reads(pattern: str, least: float = -math.inf) -> Allows:
    """Texts with a number in them."""

    def allows(value: Any) -> bool:
        match = re.fullmatch(pattern, value) if type(value) is str else None
        amount = None if match is None else as_number(match[1])
        return amount is not None and math.isfinite(amount) and amount >= least

    return allows


def as_number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def device(value: Any) -> bool:
    return type(value) is str and value in ("auto", "cpu")


RATE = (number(0), function)
PPO_RATE = (*RATE, lambda value: reads("lin_(.*)", 0)(value) and float(value[4:]) > 0)
POSITIVE = number(0, zero=False)
COUNTS = (
    *("batch_size", "n_steps", "buffer_size", "target_update_interval", "policy_delay", "n_epochs", "n_critics"),
    "pretrain_batch_size",
)
FLAGS = (
    *("optimize_memory_usage", "use_sde", "use_sde_at_warmup", "normalize_advantage", "_init_setup_model", "compile"),
    *("normalize_observations", "critic_layer_norm", "actor_layer_norm", "subset_replacement", "entropy_backup"),
)
DICTIONARIES = (
    *("policy_kwargs", "replay_buffer_kwargs", "rollout_buffer_kwargs", "objective_kwargs", "online_objective_kwargs"),
    "dataset_kwargs",
)
ALLOWED: dict[str, tuple[Allows, ...]] = {
    **dict.fromkeys(COUNTS, (count(1),)),
    **dict.fromkeys(FLAGS, (flag,)),
    **dict.fromkeys(DICTIONARIES, (named, none)),
    **dict.fromkeys(("gamma", "tau", "gae_lambda"), (number(0, 1),)),
    **dict.fromkeys(("qf_learning_rate", "ent_coef_learning_rate"), (*RATE, none)),
    **dict.fromkeys(("value_learning_rate", "pretrain_learning_rate"), (*PPO_RATE, none)),
    **dict.fromkeys(("gradient_steps", "sde_sample_freq"), (count(-1),)),
    **dict.fromkeys(("stats_window_size", "pretrain_steps"), (count(0),)),
    "policy": (text("MlpPolicy", "CnnPolicy", "MultiInputPolicy"),),
    "env": (none, text()),
    "learning_rate": RATE,
    "learning_starts": (number(),),
    "train_freq": (count(1), lambda value: type(value) is tuple and value == (1, "episode")),
    "action_noise": (number(0), none),
    "on_nonfinite": (text("raise", "rollback"),),
    "replay_buffer_class": (lambda value: value is ReplayBuffer, none),
    "rollout_buffer_class": (none,),
    "target_entropy": (number(), text("auto"), reads("auto_(.*)"), reads("(.*)")),
    "target_policy_noise": (number(0),),
    "target_noise_clip": (number(0, infinite=True),),
    "clip_range": (POSITIVE, function),
    "clip_range_vf": (POSITIVE, function, none),
    "vf_coef": (number(0),),
    "max_grad_norm": (number(0, zero=False, infinite=True),),
    "actor_max_grad_norm": (number(0, zero=False), none),
    "target_kl": (POSITIVE, none),
    "tensorboard_log": (text(), none, lambda value: isinstance(value, Path)),
    "verbose": (count(-(2**100)), flag),
    "seed": (lambda value: count(0)(value) and value < 2**32, none),
    "device": (device,),
    "objective": (text("bc", "sac", "td3"),),
    "online_objective": (text("bc"), none),
    "finetuning": (none, lambda value: type(value) in (list, tuple) and not value),
    "recipe": (none,),
    "critic_subset": (count(1), none),
    "actor_batch": (text("minibatch", "block"),),
    "actor_critics": (text("min", "mean", "first"),),
    "precision": (text("fp32", "bf16"),),
    "reward_scale": (number(zero=False),),
    "reward_shift": (number(),),
    "dataset": (text(), none, named, lambda value: isinstance(value, Path | dict)),
    "pretrain_kwargs": (lambda value: type(value) is dict and not value, none),
}
OF_SAC: dict[str, tuple[Allows, ...]] = {
    "ent_coef": (
        *(number(0), text("auto"), reads("([^_]*)", 0)),
        lambda value: reads("auto_(.*)", 0)(value) and float(value[5:]) > 0,
    ),
}
OF_PPO: dict[str, tuple[Allows, ...]] = {
    **{"ent_coef": (number(),), "learning_rate": PPO_RATE},
    "batch_size": (count(2),),  # one advantage cannot be normalised
}


def allowed(algorithm: Any, name: str, value: Any) -> bool:
    own = {O2OSAC: OF_SAC, O2OPPO: OF_PPO}.get(algorithm, {})
    return any(allows(value) for allows in own.get(name, ALLOWED.get(name, ())))


class Object:
    """Of no use to any argument."""

    def __repr__(self) -> str:
        return "Object()"


NUMBERS = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 0, 0.0, -0.0, 0.5, 1, 2, -1, -2, 2**32, 1e30, -1e-30]),
    st.integers(-5, 5),
    st.floats(),
    st.integers(-5, 5).map(np.int64),
    st.floats(width=32).map(np.float32),
)
TEXTS = st.one_of(
    st.sampled_from(["false", "true", "nan", "inf", "1", "-1", "0.5", "auto", "auto_x", "auto_nan", "auto_0.5"]),
    st.sampled_from(["lin_3e-4", "lin_-1", "lin_nan", "lin_inf", "cos_1", "min", "fp32", "bc", "cpu", "a.b", "..x"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=6),
)
OTHERS = st.sampled_from(
    [
        *(
            None,
            True,
            False,
            np.True_,
            [],
            [1],
            ["a"],
            (),
            (1, "episode"),
            (0, "step"),
            (1, "day"),
            {},
            {"x": 1},
            {1: 2},
        ),
        *(b"1", 1j, Object(), Object, int, dict, ReplayBuffer, np.zeros(2), th.ones(()), Path("x"), lambda _: 0.1),
        *({1, 2}, decimal.Decimal(1), range(3), np.zeros(1), [None], float),
    ]
)
VALUES = st.one_of(NUMBERS, TEXTS, OTHERS)
#: where the words of an error for a name that does not exist are others than the argument's own
WORDS = {"online_objective": "objective", "finetuning": "fine-?tuning"}


@pytest.mark.parametrize("argument", PAIRS, ids=pair)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(value=VALUES)
def test_anything_is_accepted_or_refused_by_name_and_value(argument: tuple[Any, str], value: Any) -> None:
    algorithm, name = argument
    if name == "env" and type(value) is str:
        return  # an id, which Gymnasium looks up
    arguments = {"policy": "MlpPolicy", "env": None, "device": "cpu", "_init_setup_model": False, name: value}
    if allowed(algorithm, name, value):
        if name == "_init_setup_model":
            arguments["env"] = Drift()
            arguments.update(FAST if algorithm is not O2OPPO else {"n_steps": 8, "batch_size": 8})
        algorithm(**arguments)
        return
    with pytest.raises(ValueError, match=WORDS.get(name, name)) as caught:
        algorithm(**arguments)
    inside = value[0] if name == "finetuning" and type(value) in (list, tuple) else value
    shown = next(iter(inside)) if name == "pretrain_kwargs" and inside == {"x": 1} else inside
    assert repr(shown)[:90] in str(caught.value)
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("argument", PAIRS, ids=pair)
def test_defaults_are_allowed(argument: tuple[Any, str]) -> None:
    algorithm, name = argument
    default = algorithm.constructor.signature.parameters[name].default
    assert name in algorithm.constructor.kinds
    if default is not inspect.Parameter.empty:
        algorithm.constructor.accepted(algorithm, {name: default})
        assert allowed(algorithm, name, default)


# -- what Stable-Baselines3 takes, and more ------------------------------------------------------------------------

ACCEPTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "schedules": (O2OSAC, {"learning_rate": lambda left: 1e-3 * left, "qf_learning_rate": LinearSchedule(1e-3, 0, 1)}),
    "schedules of PPO": (O2OPPO, {"clip_range": LinearSchedule(0.2, 0.1, 1), "clip_range_vf": lambda _: 0.2}),
    "falling linearly": (O2OPPO, {"learning_rate": "lin_3e-4", "value_learning_rate": "lin_1e-3"}),
    "no learning": (O2OSAC, {"learning_rate": 0}),
    "NumPy's numbers": (O2OTD3, {"n_critics": np.int64(3), "gamma": np.float64(0.9), "batch_size": np.int32(4)}),
    "whole numbers": (O2OSAC, {"tau": 1, "gamma": 0, "reward_shift": 2, "ent_coef": 0}),
    "by episode": (O2OTD3, {"train_freq": (1, "episode"), "gradient_steps": -1}),
    "SB3's own frequency": (O2OTD3, {"train_freq": TrainFreq(2, TrainFrequencyUnit.STEP)}),
    "no updates": (O2OSAC, {"gradient_steps": 0}),
    "floats that YAML makes": (O2OSAC, {"learning_starts": 1e1}),
    "temperatures as texts": (O2OSAC, {"ent_coef": "1e-3", "target_entropy": "-1.5"}),
    "temperatures to start with": (O2OSAC, {"ent_coef": "auto_0.1", "target_entropy": "auto_0.5"}),
    "noise": (O2OTD3, {"action_noise": NormalActionNoise(np.zeros(2), np.ones(2)), "target_noise_clip": math.inf}),
    "no clipping": (O2OPPO, {"max_grad_norm": math.inf, "target_kl": None}),
    "single advantages": (O2OPPO, {"batch_size": 1, "normalize_advantage": False}),
    "words for numbers": (O2OSAC, {"verbose": False, "stats_window_size": 0}),
    "devices": (O2OSAC, {"device": th.device("cpu")}),
    "buffers": (O2OPPO, {"rollout_buffer_class": RolloutBuffer, "rollout_buffer_kwargs": {}}),
    "objectives by class": (O2OSAC, {"objective": SACObjective, "online_objective": SACObjective}),
    "callbacks in a tuple": (O2OSAC, {"finetuning": (Warmup(2), {"SymmetricReplay": {}}), "dataset": dataset()}),
    "datasets": (O2OSAC, {"dataset": dataset(), "pretrain_steps": 2}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_arguments_train(name: str, tmp_path: Path) -> None:
    algorithm, arguments = ACCEPTED[name]
    model = MAKE[algorithm](**arguments, tensorboard_log=None)
    model.learn(16)
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())


def test_hindsight_replay_is_a_buffer() -> None:
    O2OSAC.constructor.accepted(O2OSAC, {"replay_buffer_class": HerReplayBuffer})


# -- once in each place --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
class TestOnce:
    def test_the_signature_is_the_stock_classs_and_ours_by_keyword(self, algorithm: Any) -> None:
        parameters = list(inspect.signature(algorithm).parameters.values())
        assert list(inspect.signature(algorithm.__init__).parameters.values())[1:] == parameters
        stock = list(inspect.signature(algorithm.stock_class).parameters.values())
        by_position = [each for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert [(each.name, each.default) for each in by_position] == [(each.name, each.default) for each in stock]
        ours = parameters[len(stock) :]
        assert all(each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in ours)
        assert {"objective", "finetuning", "recipe", "dataset"} <= {each.name for each in ours}

    def test_help_and_docstring_list_every_argument_once(self, algorithm: Any) -> None:
        names = list(inspect.signature(algorithm).parameters)
        page = pydoc.plain(pydoc.render_doc(algorithm))
        for text in (algorithm.__doc__, page.partition("Method resolution order")[0]):
            assert re.findall(r":param (\w+):", text) == names
        heading = page.partition(":param")[0]
        assert all(len(re.findall(rf"[(\s]{name}[:=,]", heading)) == 1 for name in names)

    def test_every_argument_says_what_it_does_and_what_it_may_be(self, algorithm: Any) -> None:
        texts = documented(algorithm)
        stock = documented(algorithm.stock_class)
        for name, kind in algorithm.constructor.kinds.items():
            about, allowed = algorithm.constructor.abouts[name], str(kind)
            assert len(about) > 10
            assert about == stock.get(name) or name in texts
            assert texts[name].lower().endswith(allowed.lower())
            assert not re.search(r"\{(stock|objectives|online)\}", texts[name])
        assert all(f"'{name}'" in texts["objective"] for name in algorithm.available_objectives)

    def test_completion_knows_every_argument(self, algorithm: Any) -> None:
        """What type checkers and editors read: the parameters of the function, and a TypedDict."""
        function = vars(algorithm)["__init__"]
        (declared,) = get_args(eval(function.__annotations__["arguments"], vars(sys.modules[algorithm.__module__])))
        by_position = set(function.__annotations__) - {"args", "arguments"}
        assert {*by_position, *declared.__annotations__} == set(inspect.signature(algorithm).parameters)

    def test_positions_are_the_stock_classs(self, algorithm: Any) -> None:
        parameters = list(inspect.signature(algorithm.stock_class).parameters.values())[2:-1]
        values = [each.default for each in parameters]
        values[0], values[1] = 1e-4, 8
        model = algorithm("MlpPolicy", vec(), *values)
        stock = algorithm.stock_class("MlpPolicy", vec(), *values)
        for name in ("learning_rate", parameters[1].name, "gamma", "batch_size", "seed"):
            assert getattr(model, name) == getattr(stock, name)

    def test_unknown_and_missing_arguments(self, algorithm: Any) -> None:
        with pytest.raises(TypeError, match=r"Unknown argument of O2O\w+ 'objectiv'\. Did you mean 'objective'\?"):
            algorithm("MlpPolicy", None, objectiv="bc")
        with pytest.raises(TypeError, match=r"missing .* argument: 'env'"):
            algorithm("MlpPolicy")
        with pytest.raises(TypeError, match="multiple values for argument 'env'"):
            algorithm("MlpPolicy", None, env=None)


def test_subclasses_have_objectives_of_their_own() -> None:
    class Mine(O2OSAC):
        available_objectives: ClassVar = {**O2OSAC.available_objectives, "mine": SACObjective}

        def __init__(self, *args: Any, factor: float = 2.0, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self.factor = factor

    model = Mine("MlpPolicy", vec(), objective="mine", factor=3.0, **FAST)
    assert (model.objective, model.factor) == ("mine", 3.0)
    with pytest.raises(ValueError, match=r"Unknown objective for Mine 'mime'\. Did you mean 'mine'"):
        Mine("MlpPolicy", vec(), objective="mime")


# -- at every entrance ---------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, str]] = {
    "critic_layer_norm": ("false", "critic_layer_norm{} must be True or False, not 'false'"),
    "n_critics": (True, "n_critics{} must be a whole number of at least 1, not True"),
    "gamma": (math.nan, r"gamma{} must be a number in \[0, 1\], not nan"),
    "learning_rate": (-1e-3, "learning_rate{} must be a finite number of at least 0 or a schedule, not -0.001"),
    "pretrain_steps": (2.5, "pretrain_steps{} must be a whole number of at least 0, not 2.5"),
    "objective": ("cqll", r"Unknown objective for O2OSAC 'cqll'\. Did you mean 'cql'"),
    "finetuning": ([{"Warmup": {"steps": -1}}], r"Warmup.*-1"),
    "train_freq": (0, "train_freq{} must be a whole number of at least 1 or a tuple .*, not 0"),
}


@pytest.mark.parametrize("name", WRONG)
class TestEntrances:
    """Refused in the same words everywhere, before anything is made."""

    @pytest.fixture(autouse=True)
    def _nothing_is_built(self, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.value, self.message = WRONG[name]
        make().save(tmp_path / "model")
        build = BaseAlgorithm.__init__

        def never(self: Any, *args: Any, **kwargs: Any) -> None:
            raise AssertionError("built")

        monkeypatch.setattr(BaseAlgorithm, "__init__", never)
        assert build is not BaseAlgorithm.__init__

    def test_constructor(self, name: str) -> None:
        with pytest.raises(ValueError, match=self.message.format("")):
            O2OSAC("MlpPolicy", None, **{name: self.value})

    def test_pretraining(self, name: str) -> None:
        if name in O2OSAC.pretrain_keys:
            with pytest.raises(ValueError, match=self.message.format(" of pretrain_kwargs")):
                O2OSAC("MlpPolicy", None, pretrain_kwargs={name: self.value})

    def test_load(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=self.message.format("")):
            O2OSAC.load(tmp_path / "model", **{name: self.value})

    def test_load_offline(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="pretrain_steps" if name == "pretrain_steps" else self.message.format("")):
            O2OSAC.load_offline(tmp_path / "model", **{name: self.value})

    def test_recipe(self, name: str, tmp_path: Path) -> None:
        if name == "pretrain_steps":
            return  # counted by the file's reader
        path = tmp_path / "mine.yml"
        path.write_text(yaml.safe_dump({"about": {"algorithm": "O2OSAC"}, "default": {name: self.value}}))
        message = self.message.format(rf" of entry 'default' in {re.escape(str(path))}")
        for enter in (
            lambda: check_recipe(load_recipe(str(path))),
            lambda: O2OSAC("MlpPolicy", None, recipe=str(path)),
            lambda: O2OSAC.load_offline(tmp_path / "model", recipe=str(path)),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                enter()
            assert str(path) in str(caught.value)

    def test_settings_and_overrides(self, name: str) -> None:
        with pytest.raises(ValueError, match=self.message.format("")):
            build_model("wsrl", None, **{name: self.value})  # type: ignore[arg-type]
        if name != "pretrain_steps":  # an option of its own
            with pytest.raises(ValueError, match=self.message.format("")):
                parse_settings([f"{name}={yaml.safe_dump(self.value, default_flow_style=True)}"], {}, "O2OSAC")


OPTIONS: dict[str, tuple[Any, ...]] = {
    "pretrain_steps": (0, 1.0, True, math.nan, "10"),
    "load_actor": (None, 1, "false"),
    "load_critic": (0, "false"),
    "load_optimizer": (None, "no"),
    "start_ent_coef": (0, -1.0, math.nan, math.inf, "0.1"),
    "clone_std": (0.0, -1, math.nan, None),
    "clone_loss": ("l1", None, 1),
    "report_episodes": (-1, 0.5, True),
    "progress_bar": ("true", 1),
    "custom_objects": ([], {1: 2}),
    "recipe": (3, ["wsrl"]),
    "policy": (3, dict),
    "env": (3, [1]),
    "device": ("gpu", 1.0),
    "vec_normalize": (True, 3, {}),
    "dataset": (3, 2.5),
    "objective": (3, dict),
    "finetuning": ("Warmup", {"Warmup": {}}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_load_offline(name: str, tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    for value in OPTIONS[name]:
        with pytest.raises(ValueError, match=rf"^{name} must be .*, not {re.escape(repr(value))}\.$"):
            O2OSAC.load_offline(tmp_path / "model", **{"env": vec(), name: value})


@pytest.mark.parametrize("source", [None, 3, math.nan, dict, b"model", Object(), [1]])
def test_sources_of_load_offline(source: Any) -> None:
    for env in (None, vec()):
        with pytest.raises(ValueError, match=rf"^source must be a saved model .*, not {re.escape(repr(source))}\.$"):
            O2OTD3.load_offline(source, env)


def test_stock_models_keep_their_arguments(tmp_path: Path) -> None:
    """What stock SAC accepted is not looked at again."""
    SAC("MlpPolicy", vec(), policy_kwargs={"net_arch": [8]}, verbose=True, **FAST).save(tmp_path / "stock")
    assert O2OSAC.load(tmp_path / "stock", vec(), device="cpu").verbose is True
