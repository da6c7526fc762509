"""Find one layer of a report by its name."""

from hmcompress.errors import SettingsError
from hmcompress.report.records import LayerRecord, Report
from hmcompress.settings.settings_errors import did_you_mean


def find_layer(report: Report, name: str) -> LayerRecord:
    """The layer of this name. Raises SettingsError that names the nearest."""
    for layer in report.layers:
        if layer.name == name:
            return layer
    names = [layer.name for layer in report.layers]
    if not names:
        raise SettingsError(f"--layer {name}: the file has no compressed layers")
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    hint = did_you_mean(name, names, f"valid: {', '.join(names[:8])}{more}")
    raise SettingsError(f"--layer {name}: no such layer, {hint}")
