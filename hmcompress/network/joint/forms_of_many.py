"""Forms of small networks that learned the modes of many outputs: the last layer, which makes these, is coded apart."""

from dataclasses import dataclass, field, replace

from hmcompress.network.joint.form_search import FormSearch, QuantisedForm
from hmcompress.network.joint.integer_moves import IntegerMoves
from hmcompress.network.joint.many import ManyOutputs
from hmcompress.network.joint.ordering import about, parts_of
from hmcompress.network.joint.quantise import Quantised
from hmcompress.network.layerwise.coded import Coded, living
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.layerwise.trial import Trial


@dataclass
class FormsOfMany(FormSearch):
    """The search over forms whose last layers make all outputs."""

    many: ManyOutputs = field(kw_only=True)

    def _form(self, found: Quantised, moves: IntegerMoves) -> QuantisedForm:
        network, head = moves.network, self._head(found, moves)
        size = about(self.original, network.layers[:-1], moves.grids[:-1]) + len(head.payload(thorough=False))
        form = QuantisedForm(size, self.many.error(network, head), found, moves, 0)
        return replace(form, neurons=living(self.embedded(form).values()) if self.slim else 0)

    def _head(self, found: Quantised, moves: IntegerMoves) -> Coded:
        """The last layer, which is made again where it is needed: all forms' would take much more than the network."""
        return self.many.head(moves.network, found.knobs[-1].level, found.knobs[-1].dead_zone)

    def embedded(self, form: QuantisedForm) -> Parts:
        """A form's layers, and the last one, which is the original's in a few columns."""
        inner = parts_of(self.original, form.moved.network.layers[:-1], form.moved.grids[:-1])
        return inner | {self.many.end.weight: self._head(form.quantised, form.moved)}

    def reordered(self, form: QuantisedForm) -> Trial:
        """Its neurons stay in their order."""
        return form.trial(self.embedded(form))
