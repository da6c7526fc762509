"""The search over quantised forms of one small network: each rounding is a draw, and a lucky one is smaller."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hmcompress.network.joint.integer_moves import IntegerMoves
from hmcompress.network.joint.ordering import about, embedded, nbytes, reordered
from hmcompress.network.joint.quantise import LayerKnobs, Quantised, quantised
from hmcompress.network.joint.small import Data, SmallNetwork
from hmcompress.network.layerwise.coded import living
from hmcompress.network.layerwise.propagate import Knobs, Parts
from hmcompress.network.layerwise.trial import LIMIT, Trial
from hmcompress.network.model.network import Network

_AIM = 0.97
_HOPELESS = 2.5  # error over the tolerance at which a rounding is given up
_FIRST = (1.0, 1e9)  # how firmly exponents are held together
_EVEN = 0.5  # power of the mean of distortions that are more even
_MANY = 200  # weights above which each form takes so long that there is no time for many
_SETTLING, _FINER = 3, 0.2  # trials to find the level; times the level that the price counts on
_PARTS = 2  # of a layer, in forms that take long
_DRAWN = 0.4  # times that level, of the first of few forms
_PROMISING = 4  # forms that are begun again
_LEAST, _MOST = 8, 150  # of them
_IDLE = 30  # in a row without a smaller one that holds, after which none is expected
_LAST, _POLISHED = 2, 20  # layers before the last one from which the best form is begun again; times, at least
_WIDER, _WIDEST = 1.5, 4.0  # times what is usual
_DEAR = 4.0  # times the work allowed, that the least number of forms may take
_BIT = 2 * math.log(2)  # times the squared error for each weight: what half a bit more for each of them would save
_CLOSE, _WASTED, _FAR = 0.03, 0.15, 1.5  # logarithm of the error over the tolerance
_THROUGH, _TWICE = 4, 2  # times as long a form through a module takes as others, and one of its steps
_LOST = 3  # forms given up one after another, from which on the next ones are half as much coarser
_JACOBIANS = 40  # of all weights that are left, for the rounding of a layer
_OVERHEAD, _STEP = 200, 1e7  # weights that cost as much as the rest of a Jacobian; multiplications for all else


@dataclass(frozen=True)
class QuantisedForm:
    """A quantised small network."""

    nbytes: int  # about
    error: float  # on held-out points
    quantised: Quantised  # layer after layer
    moved: IntegerMoves  # the same, once its integers moved
    neurons: int  # 0 where they do not count

    @property
    def cost(self) -> float:
        """As of trials of the search over passes."""
        return self.trial({}).cost

    def trial(self, parts: Parts) -> Trial:
        """As the search over passes has them."""
        return Trial(Knobs(0.0), parts, nbytes(parts) if parts else self.nbytes, self.error, self.neurons)


@dataclass
class FormSearch:
    """Quantised forms of a small network. `goal`: relative L2 error that stands for the tolerance in the fit."""

    original: Network
    network: SmallNetwork
    level: float  # of the price of its weights
    data: Data
    measured: Callable[[SmallNetwork], float]  # error on held-out points
    tol: float
    goal: float
    slim: bool = False
    dear: bool = False  # each form takes all the work that is allowed, or more: in fewer parts it takes less
    patience: int = 1  # times the usual number of forms after which none that is smaller is expected
    work: float = 0.0  # multiplications so far
    forms: list[QuantisedForm] = field(default_factory=list)
    lost: int = 0  # forms that were given up since the last one

    def begin(self) -> None:
        """One form from scratch, finer than it will have to be: what is rounded too coarsely is none.

        Distortions whose geometric means are alike scatter: most forms are poor, but some are lucky, which serves where
        there are many. Where there are few, a form of more even distortions joins if it promises fewer bytes.
        """
        for k in range(_SETTLING):
            knobs = LayerKnobs(self.level * _FINER ** (k + 1), holding=_FIRST[0])
            knobs = replace(knobs, parts=_PARTS) if self.dear else knobs
            self._scratch(knobs)
            if self._are_few and not self.dear:
                self._compete(replace(knobs, power=_EVEN))
            if self.forms:
                return

    def _compete(self, knobs: LayerKnobs) -> None:
        """One more form from scratch, which goes again where it promises no fewer bytes."""
        before, promise = [*self.forms], self.promise
        self._scratch(knobs)
        if self.promise >= promise:
            self.forms = before

    @property
    def _are_few(self) -> bool:
        """Whether there is no time for many forms."""
        return self.network.weights() > _MANY

    @property
    def _is_slow(self) -> bool:
        """Whether each step runs the original's module."""
        return self.network.each > 0 or self.data.beyond is not None

    def settle(self, work: float) -> None:
        """Forms near the tolerance, from scratch; but for the first one, within several times so much work."""
        if not self.forms:
            return
        most = self.work + _DEAR * work
        first = min(self.forms, key=self._promise)
        for holding in _FIRST[:1] if self._is_slow else _FIRST:
            gap, knobs = self._gap(first.error), first.quantised.knobs[0]
            knobs = replace(knobs, holding=holding)
            for _ in range(_SETTLING):
                knobs = replace(knobs, level=knobs.level * math.exp(2 * gap))
                gap = self._gap(self._scratch(knobs))
                if self.work > most:
                    return
                if abs(gap) < _CLOSE:
                    break

    def draw(self, work: float) -> None:
        """Some forms of even distortions from scratch, each nearer the tolerance, until so much work is done; more of
        them while they use little of it."""
        knobs = LayerKnobs(self.level * _DRAWN, holding=_FIRST[0], power=_EVEN)
        for k in range(2 * _SETTLING):
            gap = self._gap(self._scratch(knobs))
            if abs(gap) < _CLOSE or self.work > work or (k + 1 >= _SETTLING and gap < _WASTED):
                return
            knobs = replace(knobs, level=knobs.level * math.exp(gap if gap > 0 else 2 * gap))

    def _scratch(self, knobs: LayerKnobs) -> float:
        return self._add(Quantised.of(self.network), [knobs] * len(self.network.layers))

    def scatter(self, work: float) -> None:
        """Begin the most promising forms again, from one of their layers on, until so much work is done.

        The further from them the more often nothing new is found. Some are tried at least, and more where none holds,
        unless that is several times the work.
        """
        rng, spread = np.random.default_rng(len(self.forms)), 1.0
        most, work = self.work + _DEAR * work, self.work + work
        begun = len(self.forms)
        for k in range(_MOST if self.forms else 0):
            distinct = {(form.nbytes, form.error): form for form in self.forms}
            promising = sorted(distinct.values(), key=self._promise)[:_PROMISING]
            base = promising[rng.integers(len(promising))]
            first = int(rng.integers(len(self.network.layers)))
            error = self._again(base, first, rng, spread)
            known = any(error == form.error for form in distinct.values())
            spread = min(spread * _WIDER, _WIDEST) if known else 1.0
            if (k >= self._fewer(_LEAST) and self.work > work and self.holding()) or self.work > most:
                return
            if self._is_idle(begun):
                return

    def polish(self, work: float) -> None:
        """Begin the smallest form that holds again from its last layers on, which takes little time."""
        rng = np.random.default_rng(len(self.forms))
        most, work, layers = self.work + _DEAR * work, self.work + work, len(self.network.layers)
        begun = len(self.forms)
        for k in range(_MOST if self.holding() else 0):
            base = min(self.holding(), key=lambda form: (form.cost, form.error))
            self._again(base, max(layers - 2 - k % _LAST, 0), rng)
            if (k >= self._fewer(_POLISHED) and self.work > work) or self.work > most:
                return
            if self._is_idle(begun):
                return

    def _is_idle(self, begun: int) -> bool:
        """Whether many forms, after the first ones that had begun, came after the smallest that holds."""
        smallest = min(self.holding(), key=lambda form: form.cost, default=None)
        found = next((k for k, form in enumerate(self.forms, 1) if form is smallest), len(self.forms))
        return len(self.forms) - max(found, begun) >= self.patience * _IDLE

    def _fewer(self, forms: int) -> int:
        """Of those that are tried at least: with derivatives or through a module each takes several times as long."""
        return forms // (_THROUGH if self._is_slow else self.data.blocks)

    def _again(self, base: QuantisedForm, first: int, rng: np.random.Generator, spread: float = 1.0) -> float:
        """The error of a form whose layers before `first` are those of `base`."""
        varied = [self._varied(r, base.error, rng, spread) for r in base.quantised.knobs[first:]]
        return self._add(base.quantised.until(first), varied)

    @property
    def promise(self) -> float:
        """Of the best form. inf without any."""
        return min(map(self._promise, self.forms), default=math.inf)

    def _promise(self, form: QuantisedForm) -> float:
        """Bytes that the form's weights would take at the tolerance: half a bit each for half of the squared error."""
        excess = math.log2(max(form.error, 1e-300) / (_AIM * self.tol)) if math.isfinite(form.error) else math.inf
        return form.cost + self.network.weights() / 8 * excess

    def _varied(self, knobs: LayerKnobs, error: float, rng: np.random.Generator, spread: float) -> LayerKnobs:
        level, zone, caution = spread * rng.standard_normal(3)
        return replace(
            knobs,
            level=knobs.level * math.exp(2 * self._reach(error) + 0.3 * level),
            dead_zone=min(max(knobs.dead_zone + 0.05 * zone, 0.0), 0.3),
            holding=float(rng.choice([knobs.holding, *_FIRST])),
            caution=knobs.caution * math.exp(0.5 * caution),
        )

    def _reach(self, error: float) -> float:
        """How much of the gap to the tolerance the next form is to close: less after some were given up, where few are
        tried."""
        gap = self._gap(error)
        return gap * 0.5 ** (self.lost // _LOST) if gap > 0 and self._are_few else gap

    def _gap(self, error: float) -> float:
        """Logarithm of how far an error is below the tolerance."""
        gap = math.log(_AIM * self.tol / max(error, 1e-300)) if math.isfinite(error) else -_FAR
        return max(-_FAR, min(gap, _FAR))

    def _add(self, begun: Quantised, knobs: Sequence[LayerKnobs]) -> float:
        """The error of a further form, or at which it was given up."""
        self.work += form_work(self.network, self.data, len(begun.grids))
        try:
            found = quantised(begun, self.data, self.level, knobs, (_HOPELESS * self.goal) ** 2)
        except torch.linalg.LinAlgError:  # weights that make up for each other all but exactly
            found = None
        self.lost = self.lost + 1 if found is None else 0
        if found is None:
            return _HOPELESS * self.tol
        moves = IntegerMoves(found.network, found.grids, self.data, _BIT * self.goal**2 / self.network.weights())
        moves.descend()
        self.work += multiplications(moves.rounds, self.data, self.network.weights(), self.network.each)
        self.forms.append(self._form(found, moves))
        return self.forms[-1].error

    def _form(self, found: Quantised, moves: IntegerMoves) -> QuantisedForm:
        """Of a network whose integers have moved."""
        size = about(self.original, moves.network.layers, moves.grids)
        neurons = living(embedded(self.original, moves.network, moves.grids).values()) if self.slim else 0
        return QuantisedForm(size, self.measured(moves.network), found, moves, neurons)

    def holding(self) -> list[QuantisedForm]:
        """The forms that hold."""
        return [form for form in self.forms if form.error <= LIMIT * self.tol]

    def embedded(self, form: QuantisedForm) -> Parts:
        """A form's layers in those of the original, which compute what it does."""
        return embedded(self.original, form.moved.network, form.moved.grids)

    def held(self, form: QuantisedForm, measured: Callable[[Parts], float]) -> Trial | None:
        """A form with its neurons in a good order, if it holds by all that is measured."""
        if measured(self.embedded(form)) > LIMIT * self.tol:
            return None
        trial = self.reordered(form)
        error = measured(trial.parts)
        return replace(trial, error=error) if error <= LIMIT * self.tol else None

    def reordered(self, form: QuantisedForm) -> Trial:
        """A form with its neurons in whatever order costs the least."""
        return form.trial(reordered(self.original, form.moved.network, form.moved.grids))


def form_work(network: SmallNetwork, data: Data, done: int = 0) -> float:
    """Multiplications to quantise a network but for its first layers, roughly."""
    sizes = [int(layer.live.sum()) for layer in network.layers]
    return sum(multiplications(_JACOBIANS, data, sum(sizes[k:]), network.each) for k in range(done, len(sizes)))


def multiplications(steps: int, data: Data, weights: int, each: float = 0.0) -> float:
    """Multiplications of some steps, roughly; each: of the module for one sample."""
    rows = len(data) * max(data.outputs.shape[1], data.at_points)
    times = 1 if data.beyond is None else _TWICE
    through = len(data) * data.points * each
    return float(times * steps * (rows * weights * (weights + _OVERHEAD) + through + _STEP))
