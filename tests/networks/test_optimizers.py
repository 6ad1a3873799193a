"""``FusedAdam`` is torch's Adam: the same numbers, and state that both can read."""

import copy
import pickle
from typing import Any

import pytest
import torch as th

from sb3_o2o.networks.optimizers import FusedAdam, set_gradients, step_all

#: float32, fused against the plain formula
TOLERANCE = 1e-6
DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
SHAPES = ((3, 4), (4,), (2, 2, 2))


def pair(**kwargs: Any) -> tuple[list[th.nn.Parameter], list[th.nn.Parameter], FusedAdam, th.optim.Adam]:
    th.manual_seed(0)
    ours = [th.nn.Parameter(th.randn(shape)) for shape in SHAPES]
    theirs = [th.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    return ours, theirs, FusedAdam(ours, lr=0.1, **kwargs), th.optim.Adam(theirs, lr=0.1, **kwargs)


def step(optimizer: th.optim.Optimizer, parameters: list[th.nn.Parameter], seed: int, skip: int | None = None) -> None:
    generator = th.Generator().manual_seed(seed)
    for index, parameter in enumerate(parameters):
        gradient = th.randn(parameter.shape, generator=generator)
        parameter.grad = None if index == skip else gradient
    optimizer.step()


def same(ours: list[th.nn.Parameter], theirs: list[th.nn.Parameter]) -> bool:
    return all(th.allclose(a, b, atol=TOLERANCE) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "kwargs", [{}, {"weight_decay": 0.1}, DECOUPLED, {"betas": (0.5, 0.9), "eps": 1e-5}, {"maximize": True}]
)
def test_the_numbers_are_those_of_torch(kwargs: dict[str, Any]) -> None:
    ours, theirs, mine, stock = pair(**kwargs)
    before = ours[0].detach().clone()
    for seed in range(5):
        for group in (*mine.param_groups, *stock.param_groups):
            group["lr"] = 0.1 / (1 + seed)  # a schedule
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)
    assert not th.allclose(ours[0], before)
    assert mine.state[ours[0]]["step"].item() == 5


@pytest.mark.parametrize("when", [0, 1, 3])
def test_a_parameter_without_gradient_is_left_alone(when: int) -> None:
    """Its step counter then falls behind the others', at whichever step that happens."""
    ours, theirs, mine, stock = pair()
    for seed in range(6):
        skip = 1 if seed == when else None
        step(mine, ours, seed, skip)
        step(stock, theirs, seed, skip)
    assert same(ours, theirs)
    assert [int(mine.state[each]["step"]) for each in ours] == [6, 5, 6]


def test_amsgrad_and_groups() -> None:
    ours, theirs, mine, stock = pair(amsgrad=True)
    for seed in range(3):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)
    groups = [{"params": ours[:1], "lr": 0.1}, {"params": ours[1:], "lr": 0.01}]
    other = [{"params": theirs[:1], "lr": 0.1}, {"params": theirs[1:], "lr": 0.01}]
    mine, stock = FusedAdam(groups), th.optim.Adam(other)
    for seed in range(3):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)


@pytest.mark.parametrize("through", ["a file", "memory"])
@pytest.mark.parametrize("to_stock", [False, True])
def test_state_goes_both_ways(through: str, to_stock: bool) -> None:
    """The shared counter must not be counted once for each parameter by an optimiser that loads it."""
    ours, theirs, mine, stock = pair()
    for seed in range(3):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    state = mine.state_dict() if to_stock else stock.state_dict()
    state = pickle.loads(pickle.dumps(state)) if through == "a file" else copy.deepcopy(state)
    loaded: th.optim.Optimizer = (th.optim.Adam if to_stock else FusedAdam)(theirs if to_stock else ours, lr=0.1)
    loaded.load_state_dict(state)
    for seed in range(3, 6):
        step(loaded if not to_stock else mine, ours, seed)
        step(loaded if to_stock else stock, theirs, seed)
    assert same(ours, theirs)
    counted = loaded.state_dict()["state"]
    assert [int(each["step"]) for each in counted.values()] == [6, 6, 6]


def test_how_to_step_is_not_loaded() -> None:
    ours, _, mine, stock = pair()
    step(stock, list(stock.param_groups[0]["params"]), 0)
    mine.load_state_dict(stock.state_dict())
    assert mine.param_groups[0]["fused"] is True
    step(mine, ours, 1)
    assert mine.state[ours[0]]["step"].item() == 2


def test_a_copy_goes_on_by_itself() -> None:
    ours, theirs, mine, stock = pair()
    step(mine, ours, 0)
    step(stock, theirs, 0)
    twin, twin_parameters = copy.deepcopy((mine, ours))
    step(mine, ours, 1)
    for seed in (1, 2):
        step(twin, twin_parameters, seed)
        step(stock, theirs, seed)
    assert same(twin_parameters, theirs)
    assert not same(twin_parameters, ours)


def test_cleared_state_starts_afresh() -> None:
    ours, theirs, mine, stock = pair()
    step(mine, ours, 0)
    step(stock, theirs, 0)
    mine.state.clear()
    stock.state.clear()
    for seed in (1, 2):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)
    assert mine.state[ours[0]]["step"].item() == 2


def test_a_closure() -> None:
    ours, _, mine, _ = pair()

    def closure() -> float:
        mine.zero_grad()
        loss = sum(parameter.pow(2).sum() for parameter in ours)
        loss.backward()  # type: ignore[union-attr]
        return float(loss)

    with th.enable_grad():
        first, second = mine.step(closure), mine.step(closure)
    assert second < first


def test_a_quick_step_is_a_step_hooks_included() -> None:
    ours, theirs, mine, stock = pair()
    called: list[str] = []
    for seed in range(4):
        if seed == 2:
            mine.register_step_post_hook(lambda *_: called.append("after"))
        generator = th.Generator().manual_seed(seed)
        for parameter in ours:
            parameter.grad = th.randn(parameter.shape, generator=generator)
        step_all([mine])
        step(stock, theirs, seed)
    assert same(ours, theirs)
    assert called == ["after", "after"]


@pytest.mark.parametrize("entry", ["all", "exp_avg_sq"])
def test_state_of_one_parameter_that_is_replaced(entry: str) -> None:
    ours, theirs, mine, stock = pair()
    for seed in range(4):
        if seed == 2:
            for optimizer, parameter in ((mine, ours[1]), (stock, theirs[1])):
                state = optimizer.state[parameter]
                fresh = {name: th.zeros_like(value) for name, value in state.items()}
                if entry == "all":
                    optimizer.state[parameter] = fresh
                else:
                    state[entry] = fresh[entry]
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)


def test_several_optimisers_step_together() -> None:
    """Two of the same settings, one with another rate, one that is torch's own, and one without a gradient at first."""
    th.manual_seed(0)
    rates = [0.1, 0.1, 0.01, 0.1, 0.1]
    ours = [th.nn.Parameter(th.randn(3, 2)) for _ in rates]
    theirs = [th.nn.Parameter(each.detach().clone()) for each in ours]
    kinds = [FusedAdam, FusedAdam, FusedAdam, th.optim.SGD, FusedAdam]
    mine = [kind([each], lr=rate) for kind, each, rate in zip(kinds, ours, rates, strict=True)]
    stocks = [th.optim.SGD if kind is th.optim.SGD else th.optim.Adam for kind in kinds]
    stock = [kind([each], lr=rate) for kind, each, rate in zip(stocks, theirs, rates, strict=True)]
    for seed in range(4):
        for parameters in (ours, theirs):
            generator = th.Generator().manual_seed(seed)
            for parameter in parameters:
                parameter.grad = th.randn(parameter.shape, generator=generator)
            if seed == 0:
                parameters[-1].grad = None
        step_all(mine)
        for optimizer in stock:
            optimizer.step()
    assert same(ours, theirs)
    assert [int(each.state[parameter]["step"]) for each, parameter in zip(mine[:3], ours, strict=False)] == [4, 4, 4]


def test_a_group_that_joins_later_and_state_that_is_lost() -> None:
    ours, theirs, mine, stock = pair()
    late = [th.nn.Parameter(th.ones(3)) for _ in range(2)]
    for seed in range(3):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    for optimizer, parameter in ((mine, late[0]), (stock, late[1])):
        optimizer.add_param_group({"params": [parameter]})
        del optimizer.state[optimizer.param_groups[0]["params"][1]]
    for seed in range(3, 6):
        step(mine, [*ours, late[0]], seed)
        step(stock, [*theirs, late[1]], seed)
    assert same([*ours, late[0]], [*theirs, late[1]])
    counted = {index: int(each["step"]) for index, each in mine.state_dict()["state"].items()}
    assert counted == {0: 6, 1: 3, 2: 6, 3: 3}


def test_state_cleared_before_a_missing_gradient_can_be_saved() -> None:
    ours, _, mine, _ = pair()
    step(mine, ours, 0)
    step(mine, ours, 1)
    mine.state.clear()
    step(mine, ours, 2, skip=0)
    assert sorted(mine.state_dict()["state"]) == [1, 2]


# -- layouts -------------------------------------------------------------------------------------------------------


def turned(values: th.Tensor) -> th.Tensor:
    """The same values, their axes the other way round in memory."""
    axes = tuple(reversed(range(values.dim())))
    return values.permute(axes).contiguous().permute(axes)


def step_turned(mine: FusedAdam, ours: list[th.nn.Parameter], seed: int, how: str) -> None:
    generator = th.Generator().manual_seed(seed)
    gradients = [turned(th.randn(parameter.shape, generator=generator)) for parameter in ours]

    def closure() -> float:
        for parameter, gradient in zip(ours, gradients, strict=True):
            parameter.grad = gradient
        return 0.5

    if how == "closure":
        assert mine.step(closure) == 0.5
        return
    closure()
    if how == "step":
        mine.step()
    else:
        step_all([mine])


@pytest.mark.parametrize("how", ["step", "closure", "step_all"])
def test_gradients_of_another_layout(how: str) -> None:
    """At the first step, which is torch's, and at those that follow."""
    ours, theirs, mine, stock = pair()
    for seed in range(3):
        step_turned(mine, ours, seed, how)
        step(stock, theirs, seed)
        assert same(ours, theirs), seed


@pytest.mark.parametrize("when", [0, 2])
def test_parameters_that_are_laid_out_anew(when: int) -> None:
    """As ``to(memory_format=...)`` does it; their moments have to follow, and so have those that are loaded."""
    ours, theirs, mine, stock = pair()
    for seed in range(4):
        if seed == when:
            state = copy.deepcopy(mine.state_dict())
            for parameter in ours:
                parameter.data = turned(parameter.data)
            if when == 0:
                mine.load_state_dict(state)
        step(mine, ours, seed)
        step(stock, theirs, seed)
        assert same(ours, theirs), seed


def test_loaded_moments_of_another_layout() -> None:
    ours, theirs, mine, stock = pair()
    step(mine, ours, 0)
    step(stock, theirs, 0)
    state = mine.state_dict()
    for moments in state["state"].values():
        moments.update({name: turned(moments[name]) for name in ("exp_avg", "exp_avg_sq")})
    mine.load_state_dict(state)
    for seed in (1, 2):
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)


def test_a_slice_of_columns_leaves_the_other_columns_alone() -> None:
    whole = th.arange(12.0).reshape(3, 4)
    ours, theirs = th.nn.Parameter(whole[:, :2]), th.nn.Parameter(whole[:, :2].clone())
    mine, stock = FusedAdam([ours], lr=0.1), th.optim.Adam([theirs], lr=0.1)
    for seed in range(2):
        step(mine, [ours], seed)
        step(stock, [theirs], seed)
    assert same([ours], [theirs])
    assert th.equal(whole[:, 2:], th.tensor([[2.0, 3.0], [6.0, 7.0], [10.0, 11.0]]))


def test_fused_optimisers_step_on_gradients_of_their_layout() -> None:
    """Users' by being given such, ours by looking itself, which is enough."""
    for kind in (th.optim.Adam, th.optim.AdamW, th.optim.SGD, FusedAdam):
        ours, theirs = (th.nn.Parameter(th.ones(3, 4)) for _ in range(2))
        mine, stock = kind([ours], lr=0.1, fused=True), kind([theirs], lr=0.1, fused=False)
        for seed in range(2):
            gradient = th.randn(3, 4, generator=th.Generator().manual_seed(seed))
            set_gradients([ours], [turned(gradient)], mine)
            assert (ours.grad.stride() == ours.stride()) == (kind is not FusedAdam)  # type: ignore[union-attr]
            theirs.grad = gradient
            step_all([mine])
            stock.step()
        assert same([ours], [theirs]), kind


def test_a_sparse_gradient_is_left_to_the_optimiser() -> None:
    table = th.nn.Embedding(3, 2, sparse=True)
    optimizer, before = th.optim.SparseAdam(list(table.parameters()), lr=0.1), table.weight.detach().clone()
    set_gradients(table.parameters(), th.autograd.grad(table(th.tensor([1])).sum(), list(table.parameters())))
    optimizer.step()
    assert (table.weight != before).any(dim=1).tolist() == [False, True, False]


# -- what changes between two steps --------------------------------------------------------------------------------


def test_a_parameter_that_is_exchanged_steps_and_the_old_one_stays() -> None:
    ours, theirs, mine, stock = pair()
    fresh = [th.nn.Parameter(th.ones(SHAPES[1])) for _ in range(2)]
    for seed in range(4):
        if seed == 2:
            old = ours[1].detach().clone()
            for optimizer, parameters, other in ((mine, ours, fresh[0]), (stock, theirs, fresh[1])):
                optimizer.param_groups[0]["params"][1] = parameters[1] = other
        step(mine, ours, seed)
        step(stock, theirs, seed)
        if seed == 2:
            replaced = next(each for each in mine.state if th.equal(each, old))
    assert same(ours, theirs)
    assert th.equal(replaced, old)


def test_another_formula_from_some_step_on() -> None:
    ours, theirs, mine, stock = pair(weight_decay=0.1)
    for seed in range(4):
        if seed == 2:
            for optimizer in (mine, stock):
                optimizer.param_groups[0]["decoupled_weight_decay"] = True
        step(mine, ours, seed)
        step(stock, theirs, seed)
    assert same(ours, theirs)


def test_hooks_are_called_once_in_every_step() -> None:
    """Also where torch makes the step, whose own is wrapped as soon as somebody has made a plain Adam."""
    ours, _, mine, _ = pair()
    called: list[str] = []
    mine.register_step_pre_hook(lambda *_: called.append("before"))
    mine.register_step_post_hook(lambda *_: called.append("after"))
    for seed in range(2):
        step(mine, ours, seed)
        assert called == ["before", "after"] * (seed + 1)
