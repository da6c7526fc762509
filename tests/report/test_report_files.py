"""Claims about JUnit, HTML and plots: well-formed, self-contained, written whole."""

import dataclasses
import errno
import os
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import samples

from hmcompress.errors import OutputError, SettingsError
from hmcompress.report.files import check_apart, check_page, write_page
from hmcompress.report.html import render_compare_html, render_report_html
from hmcompress.report.junit import render_junit
from hmcompress.report.plot import check_plot, write_plot
from hmcompress.report.select import find_layer
from hmcompress.report.svg import Axis, Series, line_chart

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Strict(HTMLParser):
    """Fails on elements that are not closed in order; collects every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page: str) -> Strict:
    parser = Strict()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


PAGES = {
    "small": lambda: render_report_html(samples.small()),
    "network": lambda: render_report_html(samples.network()),
    "large": lambda: render_report_html(samples.large()),
    "hostile": lambda: render_report_html(samples.hostile()),
    "compare": lambda: render_compare_html(samples.compared(), "model.pt"),
}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_well_formed_and_load_nothing(name):
    page = PAGES[name]()
    parser = parsed(page)
    assert parser.addresses == [] and "script" not in parser.tags
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page and '<html lang="en">' in page


@pytest.mark.parametrize("name", PAGES)
def test_tables_have_captions_and_column_heads_and_pictures_have_names(name):
    page = PAGES[name]()
    assert page.count("<table>") == page.count("<caption>") == page.count("<thead>")
    assert page.count("<th ") == page.count('<th scope="col"')
    assert page.count('role="img"') == page.count('role="img" aria-label="')


def test_a_page_holds_every_layer_and_adds_up():
    report = samples.large()
    page = render_report_html(report)
    assert all(layer.name in page for layer in report.layers)
    sizes = (report.layer_stored_bytes, report.other.stored_bytes, report.stored_overhead, report.output_bytes)
    assert all(f"{size:,}" in page for size in sizes)


def test_the_same_record_gives_the_same_page():
    assert render_report_html(samples.network()) == render_report_html(samples.network())


def test_spectra_and_losses_are_drawn_only_where_there_are_any():
    report = samples.network()
    assert "Spectrum of the tangent kernel" in render_report_html(report)
    bare = dataclasses.replace(report.network, ntk=dataclasses.replace(report.network.ntk, spectra=None, training=None))
    assert "Spectrum" not in render_report_html(dataclasses.replace(report, network=bare))


def test_a_chart_leaves_out_what_a_log_axis_cannot_show():
    points = ((1.0, 0.0), (2.0, -1.0), (3.0, float("nan")), (4.0, 0.1))
    chart = line_chart("t", [Series("s", points)], Axis("x"), Axis("y", log=True))
    assert chart.count("<circle") == 1 and "nan" not in chart
    assert line_chart("t", [Series("s", points[:3])], Axis("x"), Axis("y", log=True)) == ""


def test_ticks_are_round_and_sizes_have_units():
    points = ((2_000.0, 1e-2), (200_000.0, 1e-4))
    chart = line_chart("t", [Series("s", points)], Axis("size", log=True, sizes=True), Axis("error", log=True))
    assert all(f">{tick}<" in chart for tick in ("5 kB", "10 kB", "200 kB", "1e-3"))


def test_junit_has_a_case_a_bound_and_a_failure_a_violation():
    root = ElementTree.fromstring(render_junit(samples.verified(False), "m.hmc.safetensors"))
    suite = root.find("testsuite")
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("m.hmc.safetensors", "2", "1")
    failed = [case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None]
    assert failed == ["net.2.weight"]
    assert "1.20e-3 is above the tolerance 1e-3" in suite.find("testcase/failure").get("message")


def test_junit_tells_a_missing_tensor_from_a_large_error():
    suite = ElementTree.fromstring(render_junit(samples.foreign(), "m")).find("testsuite")
    messages = [failure.get("message") for failure in suite.iter("failure")]
    assert messages[0].startswith("error 0.200 is above") and messages[1].startswith("differs from the source")


def test_junit_counts_the_network():
    suite = ElementTree.fromstring(render_junit(samples.verified_network(ntk_error=0.2), "m")).find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    assert samples.verified_network(ntk_error=0.2).passed is False


def test_junit_counts_an_error_that_is_no_number_as_a_failure():
    report = samples.verified_network(error=float("nan"), ntk_error=float("nan"))
    suite = ElementTree.fromstring(render_junit(report, "m")).find("testsuite")
    assert suite.get("failures") == "2" and not report.passed


def test_junit_survives_hostile_names():
    report = dataclasses.replace(samples.verified(), layers=(dataclasses.replace(samples.verified().layers[0],
                                 name=samples.HOSTILE + "\x00\ud800"),))  # fmt: skip
    text = render_junit(report, "m")
    ElementTree.fromstring(text.encode("utf-8"))


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "a.html"
    write_page(path, "<!doctype html>one")
    write_page(path, "<!DOCTYPE html>two\n")
    assert path.read_text() == "<!DOCTYPE html>two\n" and os.listdir(tmp_path) == ["a.html"]


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_page(path, "text")
    assert os.read(reader, 10) == b"text" and path.is_fifo()
    os.close(reader)


def test_the_file_behind_a_link_is_written(tmp_path):
    (tmp_path / "link").symlink_to("page.html")
    write_page(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "page.html").read_text() == "text"


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"a\.html cannot be written: No space"):
        write_page(tmp_path / "a.html", "text")
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(OutputError, match=r"the folder .* does not exist"):
        write_page(tmp_path / "no" / "a.html", "")
    with pytest.raises(OutputError, match="is a folder"):
        write_page(tmp_path, "")


def test_a_page_never_replaces_the_model(tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes(b"weights")
    (tmp_path / "link").symlink_to("model.pt")
    for name in ("model.pt", "link"):
        with pytest.raises(OutputError, match="is the model itself, name another file"):
            check_page(tmp_path / name, (model,))
    assert check_page(tmp_path / "page.html", (model,)) == tmp_path / "page.html"


def test_a_page_replaces_pages_and_pictures_only(tmp_path):
    for name, start in {"a.svg": b"<svg>", "a.png": b"\x89PNG\r\n", "a.xml": b"<?xml ", "empty": b""}.items():
        (tmp_path / name).write_bytes(start)
        assert check_page(tmp_path / name)
    for name, start in {"a.yaml": b"tol: 1", "a.json": b"{}", "shard": b"<\0\0\0\0\0\0\0{"}.items():
        (tmp_path / name).write_bytes(start)
        with pytest.raises(OutputError, match="is no page or picture that could be replaced, name another file"):
            write_page(tmp_path / name, "<!doctype html>")
        assert (tmp_path / name).read_bytes() == start


def test_outputs_of_one_command_are_files_of_their_own(tmp_path):
    check_apart("a", None, None, tmp_path / "b")
    with pytest.raises(OutputError, match=r"a is named twice: give each output a file of its own"):
        check_apart("a", os.path.join(".", "a"))


def test_a_layer_is_found_by_name_and_the_nearest_is_named():
    assert find_layer(samples.small(), "net.4.weight").method == "lossless"
    with pytest.raises(SettingsError, match=r"no such layer, did you mean 'net\.4\.weight'"):
        find_layer(samples.small(), "net.4.wieght")
    with pytest.raises(SettingsError, match="and 492 more"):
        find_layer(samples.large(), "zzzz")


def test_a_plot_is_drawn_or_the_extra_is_named(tmp_path):
    path = tmp_path / "plot.png"
    try:
        write_plot(str(path), samples.compared(), "model.pt")
    except SettingsError as error:
        assert "pip install 'hmcompress[plot]'" in str(error)
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
        with pytest.raises(SettingsError, match=r"the ending says the format, one of .*png"):
            check_plot(str(tmp_path / "plot.doc"))


def test_a_dash_is_no_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (lambda: write_page("-", "<!doctype html>"), lambda: check_plot("-")):
        with pytest.raises(OutputError, match="- is no file name here: name a file, or /dev/stdout"):
            write()
    assert not list(tmp_path.iterdir())
