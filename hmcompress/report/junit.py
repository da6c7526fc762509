"""JUnit XML of a verify report: one test case a bound, as CI servers read it."""

import re
from xml.etree import ElementTree

from hmcompress.report.format import one_line
from hmcompress.report.lines import beyond, violation
from hmcompress.report.verdicts import VerifyReport

_Case = tuple[str, str | None]  # name, message of the failure


def render_junit(report: VerifyReport, file: str) -> str:
    """One suite named after the file; a case for each layer and one for the network's outputs."""
    cases = _cases(report)
    failures = sum(message is not None for _, message in cases)
    attributes = {"name": _xml_text(file), "tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for name, message in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "hmcompress.verify", "name": _xml_text(name)})
        if message is not None:
            ElementTree.SubElement(case, "failure", {"message": _xml_text(message)})
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _cases(report: VerifyReport) -> list[_Case]:
    cases: list[_Case] = [(layer.name, None if layer.passed else violation(layer)) for layer in report.layers]
    network = report.network
    if network is not None:
        cases.append(("network outputs", _message(network.error, network.tol)))
    if network is not None and network.ntk_tol is not None and network.ntk_error is not None:
        cases.append(("network tangent kernel", _message(network.ntk_error, network.ntk_tol)))
    return cases


def _message(error: float, tol: float) -> str | None:
    return None if error <= tol else beyond(error, tol)  # nan is beyond


def _xml_text(text: str) -> str:
    """XML 1.0 has no control characters and no lone surrogates, tensor names may."""
    return re.sub("[^\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", one_line(text))
