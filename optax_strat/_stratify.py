"""A transformation, a rate and a decay for each group of parameters; once, outside, what all share.

Groups in the sense of other libraries' parameter groups, named by layer types or by paths.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import jax
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _clipping, _decay, _group_keys, _scaling, _signs
from optax_strat._group_keys import Key
from optax_strat._layer_types import LayerType
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._schedules import scale_by_learning_rate


@dataclasses.dataclass(frozen=True)
class Group:
    """What :func:`stratify` does with one group of parameters.

    Examples:
      >>> import optax
      >>> from optax_strat import Group
      >>> head = Group(optax.scale_by_adam(), rate=0.5, weight_decay=0.0)
      >>> backbone = Group(frozen=True)
    """

    transform: optax.GradientTransformation | None = None
    """A direction, such as ``optax.scale_by_adam()``; None leaves updates as they come."""
    rate: ArrayLike = 1.0
    """Multiplies the group's updates and its decay, 0 or above."""
    weight_decay: optax.ScalarOrSchedule | None = None
    """The decay of this group, in place of the ``weight_decay`` of :func:`stratify`; None means
    that one. Either applies only where ``mask`` lets parameters decay, by default to matrices."""
    frozen: bool = False
    """Updates are zero, without state or decay, and gradients count for nothing, NaN or not."""

    def __post_init__(self) -> None:
        if self.transform is not None and not _is_transform(self.transform):
            raise ValueError(
                f"The transform of a Group must be a transformation, not {self.transform!r}; a "
                "number is its rate=."
            )
        _checks.check_not_negative("The rate of a Group", self.rate)
        if self.weight_decay is not None and not callable(self.weight_decay):
            _checks.check_not_negative("The weight_decay of a Group", self.weight_decay)
        plain = self.transform is None and self.weight_decay is None
        if self.frozen and not (plain and _checks.is_number(self.rate) and self.rate == 1):
            raise ValueError(f"A frozen Group takes nothing else, but this one is {self!r}.")


GroupKey = TypeVar("GroupKey", bound=Sequence[str])
"""A name or a tuple of names. A variable, because to a type checker no ``dict[str, ...]`` is a
mapping with keys of a wider type; ``Sequence[str]`` is what it finds for names beside tuples."""

GroupLike: TypeAlias = optax.GradientTransformation | ArrayLike | Group
"""What a group of :func:`stratify` may be; a number is its rate."""


def stratify(
    transforms: Mapping[GroupKey, GroupLike],
    layers: LayersLike = Layers(),
    *,
    learning_rate: optax.ScalarOrSchedule | None = None,
    clip: ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: _decay.Mask = None,
    cautious: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Gives each group of parameters a transformation, a rate and a weight decay of its own.

    "Integration with second-order methods" (StratOpt, 6): hidden matrices to Muon or Shampoo, the
    rest to Adam. A group named by a tuple shares one transformation, with one state and one count.

    What all groups share stands outside, once: a clip by the norm of *all* gradients (inside a
    group it would clip by the group's), decoupled weight decay of matrices only, and the learning
    rate with its schedule. So give groups directions (``optax.scale_by_adam()``), not optimizers.
    Each is tried on a small matrix: an optimizer, which with a ``learning_rate`` would climb, is
    refused. (That runs JAX, so ``jax.distributed.initialize()`` goes first. What is to climb gets
    its gradient negated in front.)

    Groups see their own parameters alone. Rules per tensor (LAMB's, Shampoo's) need
    :func:`per_layer` around them where layers are stacked; :func:`scale_by_muon` does not. Around
    it all, ``skip_nonfinite(stratify(...))`` keeps the counts of all groups equal when it skips; it
    looks at the gradients of frozen parameters too.

    Args:
      transforms: a transformation, a number (the rate of the group) or a :class:`Group` for each
        key. A key is a layer type; or a regular expression over path segments, as in rules
        (:data:`DEFAULT_RULES`), such as ``'lora_b'``, ``'layers/[0-3]/mlp'`` or, as the last key,
        ``'.*'`` for all others; or a tuple of these. The first key that matches a parameter takes
        it.
      layers: how layers and their types are found; see :class:`Layers`.
      learning_rate: multiplies all updates, with the sign of descent; a number, 0 or above, or
        a schedule. None returns directions, for a chain of your own.
      clip: the largest norm of all gradients together, above 0; None for no clip.
      weight_decay: decoupled, scaled by ``learning_rate`` and the group's rate, 0 or above, or a
        schedule.
      mask: which parameters decay, as in ``optax.adamw``; None means matrices only: no norms, no
        biases, stacked ones included.
      cautious: only entries decay whose updates move them towards zero as well (`Cautious Weight
        Decay <https://arxiv.org/abs/2510.12402>`_).

    Returns:
      The transformation.

    Raises:
      ValueError: a key is no type and no expression, or stands twice; a number lies outside its
        range; a group descends by itself where it must not; at ``init``, parameters have no group
        (all their paths are listed), or a pattern takes none, unless a mask hides some; one that
        is not frozen is no floating-point array.

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from optax_strat import Group, scale_by_muon, stratify, warmup_cosine
      >>> adam = optax.scale_by_adam()
      >>> tx = stratify(
      ...     {
      ...         ('attention', 'mlp'): scale_by_muon(),
      ...         'embedding': Group(adam, rate=10.0, weight_decay=0.0),
      ...         '.*': adam,
      ...     },
      ...     learning_rate=warmup_cosine(0.02, 1000, warmup_steps=0),
      ...     clip=1.0,
      ...     weight_decay=0.1,
      ... )
      >>> params = {'embed': jnp.ones((8, 4)), 'mlp': {'up': jnp.ones((4, 8))}}
      >>> updates, state = tx.update(params, tx.init(params), params)
      >>> [round(u.item(), 3) for u in (updates['embed'][0, 0], updates['mlp']['up'][0, 0])]
      [-0.2, -0.003]
    """
    layers = as_layers(layers)
    keys = _group_keys.read_keys(transforms)
    groups = {
        key.group: _as_group(key.group, value)
        for key, value in zip(keys, transforms.values(), strict=True)
    }
    decays = [weight_decay, *(g.weight_decay for g in groups.values())]
    _check_signs(groups, keys, learning_rate is not None, any(map(_may_decay, decays)))

    def assigned(tree: optax.Params) -> optax.Params:
        return _group_keys.assign(tree, keys, layers)

    def frozen(tree: optax.Params) -> optax.Params:
        return jax.tree.map(lambda name: groups[name].frozen, assigned(tree))

    def rated(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        return jax.tree.map(
            lambda name, u: _scaling.times(groups[name].rate, u), assigned(updates), updates
        )

    def decay_mask(own: str | None) -> _decay.Mask:
        """What decays of one group, or of those that have no decay of their own."""

        def decaying(tree: optax.Params) -> optax.Params:
            def decays(name: str, by_mask: bool) -> bool:
                group = groups[name]
                shares = group.weight_decay is None and not group.frozen
                return by_mask and (shares if own is None else name == own)

            return jax.tree.map(decays, assigned(tree), _decay.mask_leaves(tree, mask, layers))

        return decaying

    links = [optax.partition({name: _transform(group) for name, group in groups.items()}, assigned)]
    if clip is not None:
        _checks.check_positive("clip", clip)
        links.insert(0, _clipping.clip_by_global(clip, layers))
        if any(group.frozen for group in groups.values()):
            links.insert(0, optax.masked(optax.set_to_zero(), frozen))
    own_decays = {n: g.weight_decay for n, g in groups.items() if g.weight_decay is not None}
    all_share = not own_decays and not any(group.frozen for group in groups.values())
    shared_mask = mask if all_share else decay_mask(None)
    links.append(_decay.add_decay(weight_decay, shared_mask, layers, cautious))
    for name, own_decay in own_decays.items():
        links.append(_decay.add_decay(own_decay, decay_mask(name), layers, cautious))
    if not all(_checks.is_number(g.rate) and g.rate == 1 for g in groups.values()):
        links.append(optax.stateless(rated))
    if learning_rate is not None:
        links.append(scale_by_learning_rate(learning_rate))
    chain = optax.chain(*links)

    def init(params: optax.Params) -> optax.OptState:
        _checks.check_arrays(params)
        # What is frozen needs no gradient, and may be of whole numbers.
        learning = jax.tree.map(
            lambda stays, p: optax.MaskedNode() if stays else p, frozen(params), params
        )
        _checks.check_parameters(learning)
        return chain.init(params)

    return optax.GradientTransformationExtraArgs(init, chain.update)


def _as_group(name: str, value: GroupLike) -> Group:
    if isinstance(value, Group):
        return value
    if _is_transform(value):
        return Group(value)
    if not (_checks.is_number(value) or hasattr(value, "dtype")):
        raise ValueError(
            f"The group {name!r} of stratify must be a transformation such as "
            f"optax.scale_by_adam(), a number (its rate) or a Group, but it is {value!r}."
        )
    _checks.check_not_negative("The rate of a group of stratify", value)
    return Group(rate=value)


def _is_transform(value: object) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def _transform(group: Group) -> optax.GradientTransformation:
    if group.frozen:
        return optax.set_to_zero()
    return optax.identity() if group.transform is None else group.transform


def _may_decay(weight_decay: optax.ScalarOrSchedule | None) -> bool:
    """Whether it is known not to be zero; an array may be."""
    return callable(weight_decay) or (_checks.is_number(weight_decay) and weight_decay != 0)


def _check_signs(
    groups: Mapping[str, Group], keys: Sequence[Key], has_rate: bool, decays: bool
) -> None:
    """Raises ValueError where whole optimizers stand in the place of directions."""
    signs = {}
    for key in keys:
        group = groups[key.group]
        if group.transform is not None:
            # Called as its group is, for transformations that look at names.
            names = [part for part in key.parts if part in (*LayerType,)] or ["mlp"]
            signs[key.group] = _signs.sign_of(group.transform, names)
        elif not group.frozen:
            signs[key.group] = 1
    descending = next((name for name, sign in signs.items() if sign < 0), None)
    if descending is None:
        return
    whole = f"The group {descending!r} of stratify descends by itself, as a whole optimizer does, "
    way_out = "give it a direction such as optax.scale_by_adam()"
    if has_rate:
        raise ValueError(
            f"{whole}and times the learning_rate it would climb: {way_out}, or leave out "
            "learning_rate."
        )
    other = next((name for name, sign in signs.items() if sign > 0), None)
    if other is not None:
        raise ValueError(
            f"{whole}but {other!r} gives a direction: {way_out} and stratify the learning_rate, or "
            "make all groups whole optimizers."
        )
    if decays:
        raise ValueError(
            f"{whole}so that the weight_decay of stratify would make parameters grow: {way_out} "
            "and stratify the learning_rate, or let that optimizer decay."
        )
