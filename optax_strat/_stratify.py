"""Parameter groups: a transformation, a learning rate and a weight decay for each group.

What all groups share (clipping by the global norm, weight decay, the learning rate's schedule)
stands outside of them and is applied once.
"""

from collections.abc import Mapping

import jax
import optax
from jax.typing import ArrayLike

from optax_strat import _checks, _clipping, _decay, _groups, _scaling
from optax_strat._groups import GroupKey, GroupLike
from optax_strat._layers import Layers, LayersLike, as_layers
from optax_strat._schedules import scale_by_learning_rate


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
    keys = _groups.read_keys(transforms)
    groups = {
        key.group: _groups.as_group(key.group, value)
        for key, value in zip(keys, transforms.values(), strict=True)
    }
    decays = [weight_decay, *(g.weight_decay for g in groups.values())]
    _groups.check_signs(
        groups, keys, learning_rate is not None, any(map(_groups.may_decay, decays))
    )

    def assigned(tree: optax.Params) -> optax.Params:
        return _groups.assign(tree, keys, layers)

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

    links = [
        optax.partition(
            {name: _groups.transform_of(group) for name, group in groups.items()}, assigned
        )
    ]
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
