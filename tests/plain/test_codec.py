"""Plain values, arrays, tensors, generators and objects come back equal, with their types and shared parts."""

import copy
import enum
import math
import random
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

import sb3_o2o
from plain.coding import there_and_back, written
from sb3_o2o.finetuning import SymmetricReplay
from sb3_o2o.networks.optimizers import FusedAdam
from sb3_o2o.plain import UntrustedError


def assert_same(one: Any, other: Any) -> None:
    """Equal in value and in every type."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(map(repr, one)) == list(map(repr, other))
        for mine, theirs in zip(one.items(), other.items(), strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, list | tuple | deque):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tolist() == other.tolist() if one.dtype.hasobject else one.tobytes() == other.tobytes()
    elif isinstance(one, th.Tensor):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        assert one.requires_grad == other.requires_grad
        assert (
            one.detach().contiguous().view(-1).view(th.uint8).equal(other.detach().contiguous().view(-1).view(th.uint8))
        )
    elif isinstance(one, float) and math.isnan(one):
        assert math.isnan(other)
    else:
        assert one == other


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=300)
    | st.binary(max_size=5).map(bytearray)
    | st.builds(Path, st.sampled_from(["a/b.txt", "/x"]))
    | st.sampled_from(
        [*TrainFrequencyUnit, th.float32, th.bfloat16, th.device("cpu"), th.Size([2, 3]), np.dtype("<i8")]
    )
    | st.sampled_from([slice(1, None, 2), range(3, 9, 2), float, dict, np.float32, th.nn.ReLU, th.optim.Adam])
)
DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.floating_dtypes(sizes=(16, 32, 64))
    | hnp.complex_number_dtypes()
    | hnp.datetime64_dtypes()
    | hnp.unicode_string_dtypes(max_len=4)
    | hnp.byte_string_dtypes(max_len=4)
    | st.sampled_from([np.dtype([("a", "<f4"), ("b", ">i8", (2,))])])
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
SCALARS = hnp.arrays(DTYPES, ()).map(lambda array: array[()])
TENSORS = st.builds(
    lambda shape, dtype, seed: th.randint(0, 2, shape, generator=th.Generator().manual_seed(seed)).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([th.float32, th.float64, th.bfloat16, th.float16, th.int64, th.uint8, th.bool, th.complex64]),
    st.integers(0, 9),
)
BOXES = st.builds(
    lambda low, shape, dtype: spaces.Box(low, 7, tuple(shape), dtype),
    st.sampled_from([-1.5, 0.0, -np.inf]),
    st.lists(st.integers(1, 3), max_size=3),
    st.sampled_from([np.float32, np.float64]),
)
SPACES = st.recursive(
    BOXES
    | st.builds(spaces.Discrete, st.integers(1, 5), start=st.integers(-2, 2))
    | st.builds(spaces.MultiBinary, st.integers(1, 5))
    | st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=3)),
    lambda inner: (
        st.builds(spaces.Tuple, st.lists(inner, min_size=1, max_size=3))
        | st.builds(spaces.Dict, st.dictionaries(st.text(min_size=1, max_size=3), inner, min_size=1, max_size=3))
    ),
    max_leaves=4,
)
HASHABLE = st.integers() | st.text(max_size=4) | st.binary(max_size=4) | st.tuples(st.integers(), st.booleans())
NESTED = st.recursive(
    ATOMS | ARRAYS | SCALARS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(HASHABLE | st.just("!"), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
        | st.builds(lambda items: defaultdict(list, items), st.dictionaries(HASHABLE, inner, max_size=2))
        | st.builds(
            lambda items, longest: deque(items, longest), st.lists(inner, max_size=3), st.sampled_from([None, 4])
        )
        | st.frozensets(HASHABLE, max_size=3)
        | st.sets(HASHABLE, max_size=3)
    ),
    max_leaves=8,
)


@given(NESTED)
@settings(max_examples=80)
def test_whatever_is_plain_comes_back_equal_in_value_and_type(value: Any) -> None:
    assert_same(value, there_and_back(value))


@given(SPACES)
@settings(max_examples=25)
def test_spaces_come_back_equal(space: spaces.Space) -> None:
    space.seed(3)
    again = there_and_back(space)
    assert_same(space, again)
    assert repr(space.sample()) == repr(again.sample())


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_random_generators_go_on_with_the_same_numbers(kind: str) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(3))
    generator.random(5), generator.integers(0, 9, dtype=np.int32)
    again = there_and_back(generator)
    assert (generator.random(4) == again.random(4)).all()
    assert generator.spawn(1)[0].random() == again.spawn(1)[0].random()


def test_older_generators_go_on_too() -> None:
    old, own, torchs = np.random.RandomState(2), random.Random(4), th.Generator().manual_seed(5)
    old.normal(), own.gauss(0, 1)
    again, own_again, torchs_again = there_and_back([old, own, torchs])
    assert old.normal() == again.normal()
    assert own.gauss(0, 1) == own_again.gauss(0, 1)
    assert th.rand(3, generator=torchs).equal(th.rand(3, generator=torchs_again))


def test_what_was_one_object_is_one_again_also_where_it_holds_itself() -> None:
    shared: list[Any] = [1]
    ring: dict[str, Any] = {"list": shared}
    ring["self"] = ring
    one, two, ring_again = there_and_back([shared, (shared,), ring])
    assert one is two[0] is ring_again["list"]
    assert ring_again["self"] is ring_again
    assert '"#"' not in written([[1], [1]])[0]  # equal is not the same


def test_views_of_one_storage_stay_views_of_one_storage() -> None:
    whole = th.arange(12.0).reshape(3, 4)
    again, part = there_and_back([whole, whole.t()[1:]])
    assert part.equal(whole.t()[1:])
    again.zero_()
    assert not part.any()


def test_a_module_with_its_optimiser_trains_on_alike() -> None:
    module = th.nn.Sequential(th.nn.Linear(3, 4), th.nn.ReLU(), th.nn.Linear(4, 1))
    optimizer = FusedAdam(module.parameters(), lr=0.1)

    def step(parts: Any) -> None:
        for _ in range(2):
            parts[1].zero_grad()
            parts[0](th.ones(2, 3)).sum().backward()
            parts[1].step()

    step([module, optimizer])
    again = there_and_back([module, optimizer])
    step([module, optimizer])
    step(again)
    for one, other in zip(module.parameters(), again[0].parameters(), strict=True):
        assert one.equal(other)


@pytest.mark.parametrize(
    "value",
    [
        TrainFreq(3, TrainFrequencyUnit.EPISODE),
        FloatSchedule(LinearSchedule(0.3, 0.1, 0.5)),
        NormalActionNoise(np.zeros(2), np.ones(2)),
        OrnsteinUhlenbeckActionNoise(np.zeros(2), np.ones(2)),
        RunningMeanStd(shape=(3,)),
        SymmetricReplay(0.25),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_of_the_list_come_back_with_their_state(value: Any) -> None:
    again = there_and_back(value)
    assert type(again) is type(value)
    assert_same(_attributes(value), _attributes(again))


def _attributes(value: Any) -> Any:
    if hasattr(value, "__dict__") and not isinstance(value, type):
        return {name: _attributes(each) for name, each in sorted(vars(value).items())}
    return value


# -- what needs trust ----------------------------------------------------------------------------------------------


class Own:
    """A class of a user, in a module that can be imported."""

    def __init__(self, value: int):
        self.value = value


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: int


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Own(3), r"plain\.test_codec\.Own"),
        (Own, r"plain\.test_codec\.Own"),
        (Colour.RED, r"plain\.test_codec\.Colour"),
        (Pair(1), r"plain\.test_codec\.Pair"),
        (lambda progress: 0.1, "<lambda>"),
        (math.sqrt, r"math\.sqrt"),
        (copy.deepcopy, r"copy\.deepcopy"),
        (Own(1).__init__, "method"),
    ],
    ids=["object", "class", "enum", "tuple", "lambda", "builtin", "function", "method"],
)
def test_the_rest_needs_trust_and_the_error_says_for_what(value: Any, name: str) -> None:
    with pytest.raises(UntrustedError, match=f"{name}.*trust=True.*--trust"):
        there_and_back({"deep": [value]})
    again = there_and_back({"deep": [value]}, trust=True)["deep"][0]
    assert type(again) is type(value)


def test_objects_of_a_local_class_come_back_with_trust() -> None:
    class Local:
        def __init__(self) -> None:
            self.array = np.arange(3)

        def total(self) -> int:
            return int(self.array.sum())

    with pytest.raises(UntrustedError, match="Local"):
        there_and_back(Local())
    assert there_and_back(Local(), trust=True).total() == 3


def test_what_a_process_vouches_for_needs_no_trust(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_o2o.plain.allowlist._VOUCHED", {})
    sb3_o2o.add_safe_globals(Own, copy.deepcopy)
    value, function = there_and_back([Own(3), copy.deepcopy])
    assert isinstance(value, Own)
    assert value.value == 3
    assert function is copy.deepcopy
    with pytest.raises(TypeError, match="takes classes and functions, not 3"):
        sb3_o2o.add_safe_globals(3)


def test_what_cannot_be_pickled_is_not_saved() -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        written({"file": open(__file__)})  # noqa: SIM115


def test_depth_has_an_end_for_the_list_but_not_for_trust() -> None:
    deep: list[Any] = []
    for _ in range(120):
        deep = [deep]
    with pytest.raises(UntrustedError):
        there_and_back(deep)
    assert there_and_back(deep, trust=True) == deep
