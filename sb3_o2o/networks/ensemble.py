"""Critic ensembles: N networks evaluated in one batched product per layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_o2o.checked import checked
from sb3_o2o.kinds import Count, Positive, instance
from sb3_o2o.networks.layers import Details, Precision
from sb3_o2o.networks.preprocessing import Seeing

#: on a CPU, from this many rows on a product per member is no slower than one for all
_ROWS_FOR_ONE_PRODUCT_EACH = 1024


class EnsembleLinear(nn.Module):
    """
    N independent linear layers, evaluated in one batched matrix product.

    :param linears: the layers to stack, all of one shape; their weights are copied
    """

    @checked
    def __init__(self, linears: list[nn.Linear]):
        super().__init__()
        # (n, in, out): the transpose of ``nn.Linear``, the layout that a batched product reads
        self.weight = nn.Parameter(th.stack([linear.weight.detach().T for linear in linears]).contiguous())
        self.bias = nn.Parameter(th.stack([linear.bias.detach() for linear in linears]).unsqueeze(1))

    def forward(self, inputs: th.Tensor, members: th.Tensor | None = None) -> th.Tensor:
        """
        :param inputs: ``(n, rows, in)``
        :param members: indices of the members to evaluate, ``(m,)``; all by default
        :return: ``(n, rows, out)``
        """
        return _linear(inputs, _select(self.weight, members), _select(self.bias, members))


class EnsembleLayerNorm(nn.Module):
    """
    N independent layer normalisations over the last axis.

    :param norms: the layers to stack, all of one shape
    """

    @checked
    def __init__(self, norms: list[nn.LayerNorm]):
        super().__init__()
        self.eps = norms[0].eps
        self.weight = nn.Parameter(th.stack([norm.weight.detach() for norm in norms]).unsqueeze(1))
        self.bias = nn.Parameter(th.stack([norm.bias.detach() for norm in norms]).unsqueeze(1))

    def forward(self, inputs: th.Tensor, members: th.Tensor | None = None) -> th.Tensor:
        """
        :param inputs: ``(n, rows, features)``
        :param members: indices of the members to evaluate, ``(m,)``; all by default
        :return: as ``inputs``
        """
        normalised = nn.functional.layer_norm(inputs, inputs.shape[-1:], eps=self.eps)
        return th.addcmul(_select(self.bias, members), normalised, _select(self.weight, members))


def _linear(inputs: th.Tensor, weight: th.Tensor, bias: th.Tensor) -> th.Tensor:
    """One member, ``(rows, in)``, or a stack of them, ``(n, rows, in)``."""
    if not th.compiler.is_compiling():
        return th.addmm(bias, inputs, weight) if inputs.dim() == 2 else th.baddbmm(bias, inputs, weight)
    # compiled, what is no large product joins the passes over memory of its neighbours
    if weight.shape[-1] == 1:
        return (inputs * weight.transpose(-1, -2)).sum(dim=-1, keepdim=True) + bias
    return inputs @ weight + bias


def _select(parameter: th.Tensor, members: th.Tensor | None) -> th.Tensor:
    return parameter if members is None else parameter.index_select(0, members)


class EnsembleMLP(nn.Module):
    """
    N multi-layer perceptrons with one output each. Members are created one after the other with
    Stable-Baselines3's ``create_mlp``, so that a seed gives the same weights as N separate networks.

    :param input_dim: size of the input
    :param net_arch: units per hidden layer
    :param n_members: number of networks, N
    :param activation_fn: activation after each hidden layer
    :param layer_norm: normalise each hidden layer before its activation
    :param orthogonal_gain: see :func:`initialize`
    :param last_hidden_gain: see :func:`initialize`
    :param details: of its hidden and output layers
    :raises ValueError: if there are no members
    """

    @checked
    def __init__(
        self,
        input_dim: Count,
        net_arch: list[Count],
        n_members: Count,
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        details: Details | None = None,
    ):
        super().__init__()
        details = details or Details()
        post, n_hidden = details.norms(layer_norm), len(net_arch)
        members: list[list[nn.Module]] = []
        for _ in range(n_members):
            # mypy: ``post_linear_modules`` takes classes
            layers = create_mlp(input_dim, 1, net_arch, activation_fn, post_linear_modules=post)  # type: ignore[arg-type]
            initialize(layers, orthogonal_gain, last_hidden_gain)
            details.initialize(layers, n_hidden)
            members.append(details.complete(layers, n_hidden, layer_norm))
        self.n_members = n_members
        self.layers = nn.ModuleList(_stack(list(group)) for group in zip(*members, strict=True))

    def forward(self, features: th.Tensor, actions: th.Tensor, members: th.Tensor | None = None) -> th.Tensor:
        """
        :param features: the same for every member, ``(batch, features)``
        :param actions: likewise, ``(batch, act)``, or ``(batch, k, act)`` for k actions per state
        :param members: indices of the members to evaluate, ``(m,)``; all by default
        :return: ``(n, batch)`` or ``(n, batch, k)``
        """
        n = self.n_members if members is None else members.shape[0]
        if actions.dim() == 3 and th.compiler.is_compiling():
            hidden = self._first_layer(features, actions, members, n)
            return self._forward_batched(hidden, self.layers[1:], members).reshape(n, *actions.shape[:2])
        if actions.dim() == 3:
            features = features.unsqueeze(1).expand(-1, actions.shape[1], -1)
        inputs = th.cat([features, actions], dim=-1)
        rows = inputs.reshape(math.prod(inputs.shape[:-1]), inputs.shape[-1])
        if rows.device.type == "cpu" and len(rows) >= _ROWS_FOR_ONE_PRODUCT_EACH and not th.compiler.is_compiling():
            values = self._forward_one_by_one(rows, members)
        else:
            values = self._forward_batched(rows.expand(n, *rows.shape), self.layers, members)
        return values.reshape(n, *inputs.shape[:-1])

    def forward_each(self, inputs: th.Tensor) -> th.Tensor:
        """
        :param inputs: features and actions of each member, ``(n, rows, input_dim)``
        :return: ``(n, rows)``
        """
        return self._forward_batched(inputs, self.layers, None)

    def _first_layer(self, features: th.Tensor, actions: th.Tensor, members: th.Tensor | None, n: int) -> th.Tensor:
        """What does not depend on the action goes through the first layer once per state; compiled, this pays."""
        first: Any = self.layers[0]
        weight, bias = _select(first.weight, members), _select(first.bias, members)
        size, rows = features.shape[1], actions.flatten(0, 1)
        of_states = th.bmm(features.expand(n, *features.shape), weight[:, :size]) + bias
        of_actions = th.bmm(rows.expand(n, *rows.shape), weight[:, size:])
        return (of_states.unsqueeze(2) + of_actions.unflatten(1, actions.shape[:2])).flatten(1, 2)

    def _forward_batched(self, hidden: th.Tensor, layers: Iterable[nn.Module], members: th.Tensor | None) -> th.Tensor:
        """``hidden`` is ``(n, rows, in)``."""
        for layer in layers:
            hidden = layer(hidden, members) if isinstance(layer, EnsembleLinear | EnsembleLayerNorm) else layer(hidden)
        return hidden.squeeze(-1)

    def _forward_one_by_one(self, inputs: th.Tensor, members: th.Tensor | None) -> th.Tensor:
        """
        The same, member after member. On a CPU one product fills a core from about a thousand rows on, and torch has
        a fused normalisation with weights for one member only (measured in benchmarks/README.md).
        """
        n = self.n_members if members is None else len(members)
        hidden = list(inputs.unbind(0)) if inputs.dim() == 3 else [inputs] * n
        for layer in self.layers:
            if not isinstance(layer, EnsembleLinear | EnsembleLayerNorm):
                hidden = [layer(value) for value in hidden]
                continue
            weights, biases = _select(layer.weight, members).unbind(0), _select(layer.bias, members).unbind(0)
            triples = zip(hidden, weights, biases, strict=True)
            if isinstance(layer, EnsembleLinear):
                hidden = [_linear(*triple) for triple in triples]
            else:
                hidden = [
                    nn.functional.layer_norm(value, weight.shape[-1:], weight[0], bias[0], layer.eps)
                    for value, weight, bias in triples
                ]
        return th.stack(hidden).squeeze(-1)

    @checked
    def keep_first(self, n_members: Count, optimizer: th.optim.Optimizer | None = None) -> None:
        """
        Drop all members but the first ones, in place: the parameters stay the same objects.

        :param n_members: members to keep, at most as many as there are
        :param optimizer: whose moments are cut likewise
        """
        for parameter in self.parameters():
            moments = {} if optimizer is None else optimizer.state.get(parameter, {})
            for name, value in moments.items():
                if value.shape == parameter.shape:  # not the number of steps
                    moments[name] = value[:n_members].clone()
            parameter.data, parameter.grad = parameter.data[:n_members].clone(), None
        self.n_members = n_members


def _stack(group: list[nn.Module]) -> nn.Module:
    """:param group: the layer at one depth of every member."""
    if isinstance(group[0], nn.Linear):
        return EnsembleLinear(group)  # type: ignore[arg-type]
    if isinstance(group[0], nn.LayerNorm):
        return EnsembleLayerNorm(group)  # type: ignore[arg-type]
    return group[0]


def initialize(layers: list[nn.Module], orthogonal_gain: float | None, last_hidden_gain: float | None) -> None:
    """
    Initialise linear layers the way that the official WSRL code does: orthogonal everywhere, output layer
    included, and a small scale on the *last hidden* layer where asked. ``None`` keeps torch's own.

    :param layers: the layers of one network, output layer last
    :param orthogonal_gain: gain of the orthogonal matrices, e.g. ``sqrt(2)``; biases become 0
    :param last_hidden_gain: gain of the last hidden layer, e.g. 0.01
    """
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    if orthogonal_gain is None:
        return
    for index, linear in enumerate(linears):
        is_last_hidden = last_hidden_gain is not None and index == len(linears) - 2
        nn.init.orthogonal_(linear.weight, last_hidden_gain if is_last_hidden else orthogonal_gain)  # type: ignore[arg-type]
        nn.init.zeros_(linear.bias)


class EnsembleCritic(Seeing, BaseModel):
    """
    Drop-in for Stable-Baselines3's ``ContinuousCritic`` that evaluates all its Q-networks at once.

    :param observation_space: observation space
    :param action_space: action space
    :param net_arch: units per hidden layer
    :param features_extractor: network that turns observations into features
    :param features_dim: number of features
    :param activation_fn: activation function
    :param normalize_images: divide images by 255
    :param n_critics: number of Q-networks, N
    :param share_features_extractor: the extractor belongs to the actor, the critic loss does not train it
    :param layer_norm: normalise each hidden layer before its activation
    :param orthogonal_gain: see :func:`initialize`
    :param last_hidden_gain: see :func:`initialize`
    :param precision: ``"bf16"`` runs the matrix products in bfloat16, weights and outputs stay float32
    :param details: of hidden and output layers
    :param clip_actions: value actions beyond the bounds as the environment sees them, clipped to these
    """

    action_space: spaces.Box
    #: of critics that were pickled before they had it
    clip_actions: bool = False
    features_extractor: BaseFeaturesExtractor

    @checked
    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[Count],
        features_extractor: Annotated[BaseFeaturesExtractor, instance("a features extractor", nn.Module)],
        features_dim: Count,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: Count = 2,
        share_features_extractor: bool = True,
        layer_norm: bool = False,
        orthogonal_gain: Positive | None = None,
        last_hidden_gain: Positive | None = None,
        precision: Precision = "fp32",
        details: Details | None = None,
        clip_actions: bool = False,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.clip_actions = clip_actions
        self.share_features_extractor = share_features_extractor
        self.n_critics = n_critics
        self.precision = precision
        self.ensemble = EnsembleMLP(
            features_dim + get_action_dim(action_space),
            net_arch,
            n_critics,
            activation_fn,
            layer_norm=layer_norm,
            orthogonal_gain=orthogonal_gain,
            last_hidden_gain=last_hidden_gain,
            details=details,
        )

    @checked
    def keep_first(self, n_critics: Count) -> None:
        """
        Drop all members but the first ones, with their optimiser's moments.

        :param n_critics: members to keep, at most as many as there are
        """
        self.ensemble.keep_first(n_critics, getattr(self, "optimizer", None))
        self.n_critics = n_critics

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """
        :param obs: ``(batch, *obs)``
        :return: ``(batch, features_dim)``, without gradient where the extractor belongs to the actor
        """
        with th.set_grad_enabled(th.is_grad_enabled() and not self.share_features_extractor):
            return self.extract_features(obs, self.features_extractor)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None = None) -> th.Tensor:
        """
        Q(s, a) of every member, or of some without evaluating the rest.

        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``, or ``(batch, k, act)`` for k actions per state
        :param members: indices of the members, ``(m,)``; all N by default
        :return: ``(N, batch)`` or ``(N, batch, k)``, float32
        """
        if self.clip_actions:
            actions = actions.clamp(-1.0, 1.0)
        features = self.features(obs)
        with th.autocast(features.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            return self.ensemble(features, actions, members).float()

    def action_gradients(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        The gradient of every member's Q by the action, all in one backward pass. It can be differentiated again by the
        critics' parameters, as EDAC does.

        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: ``(N, batch, act)``
        """
        # a copy of the actions for each member: the gradient of the sum is then each member's own
        own_actions = actions.detach().expand(self.n_critics, *actions.shape).clone().requires_grad_()
        features = self.features(obs).expand(self.n_critics, -1, -1)
        inputs = th.cat([features, own_actions], dim=-1)
        with th.autocast(inputs.device.type, dtype=th.bfloat16, enabled=self.precision == "bf16"):
            values = self.ensemble.forward_each(inputs)
        return th.autograd.grad(values.float().sum(), own_actions, create_graph=True)[0]

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        As Stable-Baselines3's critic: one ``(batch, 1)`` tensor per Q-network.

        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        """
        return tuple(value.unsqueeze(1) for value in self.q_values(obs, actions))

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        The first Q-network alone, as Stable-Baselines3's TD3 asks for it.

        :param obs: ``(batch, *obs)``
        :param actions: in [-1, 1], ``(batch, act)``
        :return: ``(batch, 1)``
        """
        first = th.zeros(1, dtype=th.long, device=actions.device)
        return self.q_values(obs, actions, first).squeeze(0).unsqueeze(1)
