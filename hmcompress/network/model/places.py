"""Where the tensors of a checkpoint go in a module: names are matched by what they start with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from torch import Tensor, nn

from hmcompress.errors import NetworkError
from hmcompress.network.model.wrappers import COMPILED, without_wrappers

_PREFIXES = ("", "module.", "model.", "state_dict.", "model_state_dict.", "net.")


@dataclass(frozen=True)
class Match:
    """Which tensor of a checkpoint goes where in a module, and what does not fit."""

    places: dict[str, str]  # checkpoint name to module name
    missing: list[str]  # module names for which the checkpoint has nothing
    wrong: list[str]  # checkpoint names of other shapes than the module has there


def tensors_of_module(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module's state dict, without what else some modules put there."""
    return {name: t for name, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}


def held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of each module, which stands under its first name alone; without modules whose name is
    one of torch's methods (`self.parameters = nn.ParameterList(...)`), which no attribute leads to."""
    paths: dict[str, nn.Module] = {}
    for path, part in module.named_modules():
        parent, _, name = path.rpartition(".")
        if path and (parent not in paths or not isinstance(getattr(paths[parent], name, None), nn.Module)):
            continue
        paths[path] = part
        for own in (part.named_parameters, part.named_buffers):
            for tensor, t in own(recurse=False, remove_duplicate=False):
                yield (f"{path}.{tensor}" if path else tensor), t


def match(own: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], prefixes: Mapping[str, str]) -> Match:
    """Tensors of these shapes to those of a module, by the given prefixes or the one that fits most names.

    Raises NetworkError where several networks of the checkpoint fit.
    """
    places = _places(own, shapes, prefixes)
    for rename in (without_wrappers, partial(_parametrised, shapes=shapes)):
        plain = {rename(name): name for name in shapes}
        if len(places) < len(own) and len(plain) == len(shapes) and plain.keys() != shapes.keys():
            bare = {plain[name]: place for name, place in _places(own, plain, prefixes).items()}
            places = max(places, bare, key=len)
    taken = set(places.values())
    wrong = [name for name, place in places.items() if tuple(own[place].shape) != shapes[name]]
    return Match(places, [place for place in own if place not in taken], wrong)


def _places(own: Mapping[str, object], tensors: Mapping[str, object], prefixes: Mapping[str, str]) -> dict[str, str]:
    """Checkpoint name to module name: by the given prefixes, else by the one that fits most names, usual ones first.

    Raises NetworkError where several that are not usual fit as well: there is no telling which network is meant.
    """
    if prefixes:
        renamed = {
            name: new + name[len(old) :] for old, new in prefixes.items() for name in tensors if name.startswith(old)
        }
        return {name: place for name, place in renamed.items() if place in own}
    options = [
        (old, {name: name[len(old) :] if old else new + name for name in tensors if name.startswith(old)})
        for old in (*_PREFIXES, *_roots(tensors))
        for new in ("", "module.", "model.", COMPILED)
        if not (old and new)
    ]
    fits = [(old, {n: p for n, p in option.items() if p in own}) for old, option in options]
    first, best = max(fits, key=lambda fit: len(fit[1]))
    alike = [old for old, fit in fits if len(fit) == len(best) == len(own)]
    if len(alike) > 1 and first not in _PREFIXES:
        raise NetworkError(
            f"several networks of the checkpoint fit the module: {', '.join(alike[:4])}; name one by "
            f'prefix: {{"{first}": ""}} beside factory:, or load_state_dict(FILE, prefix="{first[:-1]}")'
        )
    return best


def _parametrised(name: str, shapes: Mapping[str, object]) -> str:
    """What torch's newer weight norm calls a size or a direction that its older one saved, as its modules load both."""
    stem, number = name[:-2], {"_g": 0, "_v": 1}.get(name[-2:])
    if number is None or not {f"{stem}_g", f"{stem}_v"} <= shapes.keys():
        return without_wrappers(name)
    module, dot, weight = stem.rpartition(".")
    return without_wrappers(f"{module}{dot}parametrizations.{weight}.original{number}")


def fitting_prefix(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Which prefix of the checkpoint's names, and what in its place, gives all of the module's; empty for none."""
    place = next(iter(own), "")
    for name in tensors:
        tail = _common_tail(name, place)
        old, new = name[: len(name) - len(tail)], place[: len(place) - len(tail)]
        if tail and all(p.startswith(new) and _has(tensors, old + p[len(new) :], t) for p, t in own.items()):
            return "; without prefix: it fits" if old == new else f'; prefix: {{"{old}": "{new}"}} fits'
    return ""


def _has(tensors: Mapping[str, Tensor], name: str, like: Tensor) -> bool:
    return name in tensors and tensors[name].shape == like.shape


def _common_tail(a: str, b: str) -> str:
    """What two names end with, in whole parts between dots."""
    shared = takewhile(
        lambda pair: pair[0] == pair[1], zip(reversed(a.split(".")), reversed(b.split(".")), strict=False)
    )
    return ".".join(reversed([part for part, _ in shared]))


def _roots(tensors: Mapping[str, object]) -> tuple[str, ...]:
    """Every prefix up to a dot that a tensor's name starts with."""
    heads = {name[: i + 1] for name in tensors for i, c in enumerate(name) if c == "."}
    return tuple(sorted(heads))
