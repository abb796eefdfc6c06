"""How deep in their base the modules of adapters lie, for what is merged by depth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from deltakit.errors import BadValue
from deltakit.lora.fit import fit
from deltakit.lora.union import Member
from deltakit.recipe import Rule
from deltakit.strategies import depths
from deltakit.strategies.masks.dynamic import Dynamic
from deltakit.tensors.source import TensorSource


def module_depths(
    modules: Iterable[str], members: Sequence[Member], rule: Rule | None, base: TensorSource | None
) -> Mapping[str, float]:
    """Return the depth of each module, 0 in the base's first layer and 1 in its last.

    Where nothing is known to go by depth the base is not asked, and the depth is that among the
    modules. Raises BadValue where it is needed and not there, and what `fit` raises.
    """
    by_depth = _by_depth(rule)
    own = {module: f"{module}.weight" for module in modules}
    if by_depth is None:
        found = depths(own.values())
        return {module: found[name] for module, name in own.items()}
    if base is None:
        raise BadValue(
            f"{by_depth} goes by how deep in the model a layer lies, which adapters do not tell",
            expected="the base that the adapters were trained on",
            got="no base",
            remedy="give --base PATH, of which only the names are read",
        )
    for member in members:
        fitted = fit(member.adapter, base)
        own |= {part.module: name for name, (part, _) in fitted.weights.items()}
    found = depths([*base.infos, *own.values()])
    return {module: found[name] for module, name in own.items()}


def _by_depth(rule: Rule | None) -> str | None:
    """Return what of a rule goes by depth."""
    if rule is None:
        return None
    if rule.lines:
        return "--lines"
    mask = rule.method(0.0).mask
    return "the mask dynamic" if isinstance(mask, Dynamic) and mask.by == "depth" else None
