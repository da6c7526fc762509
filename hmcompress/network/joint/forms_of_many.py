"""Forms of small networks that learned the modes of many outputs: the last layer, which makes these, is coded apart."""

from dataclasses import dataclass, field, replace

from hmcompress.network.joint.form_search import FormSearch, QuantisedForm
from hmcompress.network.joint.integer_moves import IntegerMoves
from hmcompress.network.joint.many import ManyOutputs
from hmcompress.network.joint.ordering import about, parts_of
from hmcompress.network.joint.quantise import Quantised
from hmcompress.network.layerwise.coded import living
from hmcompress.network.layerwise.propagate import Parts
from hmcompress.network.layerwise.trial import Trial


@dataclass
class FormsOfMany(FormSearch):
    """The search over forms whose last layers make all outputs."""

    many: ManyOutputs = field(kw_only=True)

    def _form(self, found: Quantised, moves: IntegerMoves) -> QuantisedForm:
        network, knobs = moves.network, found.knobs[-1]
        head = self.many.head(network, knobs.level, knobs.dead_zone)
        size = about(self.original, network.layers[:-1], moves.grids[:-1]) + len(head.payload(thorough=False))
        form = QuantisedForm(size, self.many.error(network, head), found, moves, 0, head)
        return replace(form, neurons=living(self.embedded(form).values()) if self.slim else 0)

    def embedded(self, form: QuantisedForm) -> Parts:
        """A form's layers, and the last one, which is the original's in a few columns."""
        assert form.head is not None
        inner = parts_of(self.original, form.moved.network.layers[:-1], form.moved.grids[:-1])
        return inner | {self.many.end.weight: form.head}

    def reordered(self, form: QuantisedForm) -> Trial:
        """Its neurons stay in their order."""
        return form.trial(self.embedded(form))
