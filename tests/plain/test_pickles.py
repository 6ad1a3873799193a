"""Pickles of others: those of Stable-Baselines3 come back as ever, and none runs anything."""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit

from plain import hostile
from plain.test_codec import assert_same
from sb3_o2o.plain import UntrustedError
from sb3_o2o.plain.pickles import load_pickle

NAMES = sorted(hostile.pickles(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_no_pickle_runs_anything(name: str, marker: Path, tmp_path: Path) -> None:
    pickled = hostile.pickles(marker)[name]
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickled)
    from stable_baselines3.sac.policies import SACPolicy

    predict = SACPolicy.predict
    for source in (pickled, path):
        with pytest.raises(ValueError, match=r"not on the list|cannot be unpickled"):
            load_pickle(source)
    assert not marker.exists()
    assert SACPolicy.predict is predict
    assert "this_module_marks" not in sys.modules


@pytest.mark.parametrize("name", ["os.system", "exec", "a chain of getattr", "a pickle in a pickle", "an old exec"])
def test_the_same_pickles_do_run_with_trust(name: str, marker: Path) -> None:
    """Or else nothing was tested."""
    load_pickle(hostile.pickles(marker)[name], trust=True)
    assert marker.exists()


@pytest.mark.parametrize("name", sorted(hostile.damaged_pickles()))
def test_damage_is_said_and_neither_memory_nor_process_ends(name: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.pkl"
    path.write_bytes(hostile.damaged_pickles()[name])
    with pytest.raises(ValueError, match=r"damaged.pkl"):
        load_pickle(path)


VALUES: dict[str, Any] = {
    "matrix": np.arange(6).reshape(2, 3),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "channels first": np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3).transpose(0, 3, 1, 2),
    "objects": np.array([{"a": 1}, [2]], object),
    "objects in columns": np.asfortranarray(np.array([["a", 1], ["b", 2], ["c", 3]], object)),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "records": np.zeros(2, [("a", "<f4"), ("b", "<i8", (2,))]),
    "scalars": [np.float32(3), np.bool_(True), np.str_("x"), np.str_(""), np.bytes_(b""), np.datetime64("2020-01-01")],
    "tensors": [th.ones(3, dtype=th.bfloat16), th.arange(6).reshape(2, 3).t()],
    "parameter": th.nn.Parameter(th.ones(2)),
    "plain": [{1, 2}, frozenset([1]), bytearray(b"x"), b"abc", 3 + 4j, None, True, 2**80, -1.5, "ö", (1,), {"a": {}}],
    "names": [th.float32, th.device("cpu"), np.dtype(">f4"), np.dtype("f8"), th.nn.ReLU, np.float32],
    "enum": TrainFreq(1, TrainFrequencyUnit.STEP),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", VALUES)
def test_values_come_back_as_pickle_gives_them(name: str, protocol: int) -> None:
    pickled = pickle.dumps(VALUES[name], protocol)
    assert_same(pickle.loads(pickled), load_pickle(pickled))


@pytest.mark.parametrize("protocol", range(6))
def test_generators_go_on(protocol: int) -> None:
    new, old = np.random.Generator(np.random.PCG64(3)), np.random.RandomState(4)
    new.random(), old.normal()
    again, old_again = load_pickle(pickle.dumps([new, old], protocol))
    assert new.random() == again.random()
    assert new.spawn(1)[0].random() == again.spawn(1)[0].random()
    assert old.normal() == old_again.normal()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_replay_buffers_come_back_writable(protocol: int) -> None:
    from gymnasium import spaces

    box, action = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))
    for buffer in (ReplayBuffer(9, box, action), DictReplayBuffer(9, spaces.Dict({"a": box}), action)):
        again = load_pickle(pickle.dumps(buffer, protocol))
        assert type(again) is type(buffer)
        assert_same(vars(buffer), vars(again))
        again.actions[0] = 1  # read-only arrays would refuse


def test_enumerations_as_attributes_are_members_and_nothing_else() -> None:
    """As Python 3.11.0 pickled them."""
    pickled = b"cbuiltins\ngetattr\n(cstable_baselines3.common.type_aliases\nTrainFrequencyUnit\nVSTEP\ntR."
    assert load_pickle(pickled) is TrainFrequencyUnit.STEP
    with pytest.raises(UntrustedError, match=r"builtins\.getattr"):
        load_pickle(pickled.replace(b"VSTEP", b"Vmro"))


@pytest.mark.parametrize("wrong", [b"(K\x00K\x05K\x01K\x02t", b"(K\x00K\x01K\x01K\x02t", b"(K\x00K\x03K\x01t"])
def test_axes_that_are_not_the_arrays_are_refused(wrong: bytes) -> None:
    pickled, axes = pickle.dumps(VALUES["channels first"], 5), b"(K\x00K\x03K\x01K\x02t"
    assert pickled.count(axes) == 1
    with pytest.raises(ValueError, match="cannot be unpickled"):
        load_pickle(pickled.replace(axes, wrong))
