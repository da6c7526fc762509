"""Claims about settings: what is read, what wins, and what every mistake is told."""

import json
import os
import threading
from pathlib import Path

import pytest
import torch

from hmcompress.errors import SettingsError
from hmcompress.layers import select
from hmcompress.settings.config import LayerRule, Settings, check_files, load_settings
from hmcompress.settings.patterns import is_quick, matches
from hmcompress.settings.problem_settings import (
    DomainCalibration,
    FactoryNetwork,
    InputsCalibration,
    LinearNetwork,
    MLPNetwork,
    Ntk,
)
from hmcompress.settings.rules import check_patterns, check_quick, dropped, rule_for, with_quick_patterns

INTERFACE = """\
tol: 1.0e-4
norm: fro
metric: outputs
network:
  mlp: {activation: tanh}
calibration:
  domain: {x: [-1, 1], t: [0, 1]}
  samples: 4096
  derivatives: 1
reference: exact.safetensors
ntk: {tol: 0.1, samples: 256}
layers:
  - {match: "head.*", tol: 1.0e-5}
  - {match: "re:.*embed.*", keep: true}
"""


@pytest.fixture
def yaml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message(path, **overrides) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text


def test_the_yaml_of_the_interface_is_read(yaml):
    settings = load_settings(yaml(INTERFACE))
    assert settings.tol == 1e-4 and settings.metric == "outputs"
    assert isinstance(settings.network, MLPNetwork) and settings.network.mlp.activation == "tanh"
    assert isinstance(settings.calibration, DomainCalibration)
    assert settings.calibration.domain == {"x": (-1, 1), "t": (0, 1)} and settings.calibration.derivatives == 1
    assert settings.ntk_bound == Ntk(tol=0.1, samples=256)
    assert settings.layers == (LayerRule(match="head.*", tol=1e-5), LayerRule(match="re:.*embed.*", keep=True))


def test_defaults_are_frozen():
    """Compressed files store only what differs from these: changing one changes the meaning of old files."""
    assert json.loads(Settings().model_dump_json(exclude={"jobs", "device"})) == {
        "tol": 1e-3, "norm": "fro", "metric": "weights", "target_ratio": None, "effort": "default", "network": None,
        "calibration": None, "reference": None, "ntk": None, "slim": "off", "layers": [], "include": [],
        "exclude": [], "drop": [], "seed": 0,
    }  # fmt: skip


def test_json_round_trips(yaml):
    settings = load_settings(yaml(INTERFACE), {"exclude": ("a", "b"), "jobs": 2})
    data = json.loads(json.dumps(settings.to_json()))
    assert Settings.from_json(data) == load_settings(yaml(INTERFACE), {"exclude": ("a", "b")})


@pytest.mark.parametrize("key", ["jobs", "device"])
def test_what_cannot_change_a_byte_is_not_stored(key):
    assert key not in Settings(jobs=3, device="cuda").to_json()


def test_json_of_defaults_is_empty():
    assert Settings().to_json() == {}


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().tol = 0.1


def test_the_command_line_beats_the_yaml(yaml):
    settings = load_settings(yaml("tol: 1e-2\nexclude: [a, b]"), {"tol": 1e-5, "exclude": ("c",), "norm": None})
    assert settings.tol == 1e-5 and settings.exclude == ("c",) and settings.norm == "fro"


def test_the_command_line_repairs_a_wrong_value_of_the_yaml(yaml):
    assert load_settings(yaml("tol: 7"), {"tol": 0.1}).tol == 0.1


def test_inputs_on_the_command_line_replace_the_domain_and_keep_the_rest(yaml):
    settings = load_settings(
        yaml("metric: outputs\nnetwork: {linear: {}}\ncalibration: {domain: {x: [0, 1]}, samples: 99, derivatives: 2}"),
        {"calibration": {"inputs": "x.npz"}},
    )
    assert settings.calibration == InputsCalibration(inputs="x.npz", samples=99, derivatives=2)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "1E-4", "+1e-4", "0.0001", ".0001"])
def test_numbers_are_read_as_people_write_them(yaml, text):
    assert load_settings(yaml(f"tol: {text}")).tol == 1e-4


@pytest.mark.parametrize("text", ["off", "false", "no", '"off"', "False"])
def test_off_and_false_switch_the_ntk_off(yaml, text):
    outputs = INTERFACE.replace("ntk: {tol: 0.1, samples: 256}", f"ntk: {text}")
    settings = load_settings(yaml(outputs))
    assert settings.ntk is False and settings.ntk_bound is None


def test_the_ntk_is_bounded_by_default_for_built_in_networks_in_the_outputs_metric(yaml):
    outputs = load_settings(yaml(INTERFACE.replace("ntk: {tol: 0.1, samples: 256}", "")))
    assert outputs.ntk_bound == Ntk()
    factory = load_settings(outputs_of_factory(yaml))
    assert factory.ntk_bound is None and Settings().ntk_bound is None


def test_the_ntk_is_bounded_for_a_factory_on_request(yaml):
    path = outputs_of_factory(yaml)
    path.write_text(path.read_text() + "ntk: on\n")
    assert load_settings(path).ntk_bound == Ntk()


def outputs_of_factory(yaml) -> Path:
    return yaml("metric: outputs\nnetwork: {factory: 'a:b'}\ncalibration: {inputs: x.npz}\n")


@pytest.mark.parametrize(
    "text",
    [
        "mlp: {activation: swish, slopes: [a, b], fourier: B, input_mean: m, input_std: s, activation_after_last: yes}",
        "deeponet: {branch: {activation: relu, layers: 'branch.*'}, trunk: {activation: relu, layers: 'trunk.*'}}",
        "linear: {weight: W}",
        "linear: {}",
        "linear:",
        "factory: 'models/net.py:build'\n  prefix: {'module.': ''}",
        "torchscript: true",
    ],
)
def test_every_kind_of_network_is_read_and_round_trips(yaml, text):
    settings = load_settings(yaml(f"network:\n  {text}"))
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "text",
    ["domain: {x: [0, 1]}", "gaussian: {file: inputs.npz}", "inputs: points.csv", "inputs: a.npz\n  tolerance: each"],
)
def test_every_kind_of_calibration_is_read_and_round_trips(yaml, text):
    settings = load_settings(yaml(f"calibration:\n  {text}"))
    assert Settings.from_json(settings.to_json()) == settings


def test_the_order_of_a_domain_is_kept(yaml):
    settings = load_settings(yaml("calibration: {domain: {z: [0, 1], a: [0, 1], m: [0, 1]}}"))
    assert isinstance(settings.calibration, DomainCalibration) and list(settings.calibration.domain) == ["z", "a", "m"]


def test_intervals_without_names_are_a_domain_too(yaml):
    settings = load_settings(yaml("calibration: {domain: [[-1, 1], [0, 2]]}"))
    assert isinstance(settings.calibration, DomainCalibration)
    assert settings.calibration.domain == {"x1": (-1, 1), "x2": (0, 2)}


def test_a_domain_may_be_called_y(yaml):
    """y, n, on are truth values in YAML 1.1; as a key they are names."""
    settings = load_settings(yaml("calibration: {domain: {x: [0, 1], y: [0, 1]}}"))
    assert isinstance(settings.calibration, DomainCalibration) and list(settings.calibration.domain) == ["x", "y"]


def test_a_linear_network_needs_nothing_more(yaml):
    assert isinstance(load_settings(yaml("network: {linear: {}}")).network, LinearNetwork)


def test_files_are_looked_for_beside_the_yaml(yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "x.npz").touch()
    (tmp_path / "net.py").touch()
    (tmp_path.parent / "here.npz").touch()
    path = yaml("network: {factory: 'net.py:f'}\ncalibration: {inputs: sub/../x.npz}\nreference: here.npz")
    settings = load_settings(Path(tmp_path.name) / path.name)
    assert settings.calibration == InputsCalibration(inputs=f"{tmp_path.name}/x.npz")
    assert settings.network == FactoryNetwork(factory=f"{tmp_path.name}/net.py:f")
    assert settings.reference == "here.npz"
    assert load_settings(Path(tmp_path.name) / yaml("reference: no.npz").name).reference == f"{tmp_path.name}/no.npz"


CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_round_trips_and_is_commented(path):
    settings = load_settings(path)
    assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_default_config_holds_the_defaults_and_names_every_setting():
    path = Path(__file__).parents[2] / "configs" / "default.yaml"
    assert load_settings(path) == Settings()
    assert all(f"{name}:" in path.read_text(encoding="utf-8") for name in Settings.model_fields)


def test_an_empty_file_holds_the_defaults(yaml):
    assert load_settings(yaml("")) == Settings() == load_settings(yaml("# nothing\n"))


WRONG = [
    ("tol: 1e-4\nmetrc: outputs", "line 2: unknown setting 'metrc', did you mean 'metric'?"),
    ("zebra: 1", "line 1: unknown setting 'zebra', valid: tol, norm, metric"),
    ("norm: frob", "line 1: norm must be 'fro', 'spectral' or 'max', got 'frob'"),
    ("tol: 0", "line 1: tol must be a relative error between 0 and 1, such as 1e-3, got 0"),
    ("tol: 1", "line 1: tol must be a relative error between 0 and 1"),
    ("tol: -1e-3", "line 1: tol must be a relative error between 0 and 1"),
    ("tol: .nan", "line 1: tol must be a finite number, got nan"),
    ("tol: .inf", "line 1: tol must be a finite number"),
    ("tol: yes", "line 1: tol must be a number, not a truth value"),
    ("tol: small", "line 1: tol must be a number, got 'small'"),
    ("tol: [1, 2]", "line 1: tol must be a number, got [1, 2]"),
    ("tol:", "line 1: tol must be a number, got nothing"),
    ("target_ratio: 0.5", "line 1: target_ratio must be above 1, got 0.5"),
    ("jobs: 0", "line 1: jobs must be at least 1, got 0"),
    ("jobs: 1.5", "line 1: jobs must be a whole number, got 1.5"),
    ("device: gpu", "line 1: device must be cpu, cuda, cuda:1 or the like, got 'gpu'"),
    ("seed: -1", "line 1: seed must be at least 0"),
    ("effort: most", "line 1: effort must be 'fast', 'default' or 'max'"),
    ("exclude: 3", "line 1: exclude must be a list, got 3"),
    ("network: {mpl: {activation: tanh}}", "line 1: unknown setting 'mpl' in network, did you mean 'mlp'?"),
    ("network:\n  mlp: {activation: tahn}", "line 2: network.mlp.activation must be"),
    ("network:\n  mlp: {activation: tahn}", "did you mean 'tanh'?"),
    ("network: {mlp: {}}", "'activation' is missing in network.mlp"),
    ("network:\n  mlp:\n    activation: tanh\n    furier: B", "line 4: unknown setting 'furier' in network.mlp, did"),
    ("network: tanh", "network needs one of mlp, deeponet, linear, factory, torchscript"),
    ("network: {mlp: {activation: tanh}, linear: {}}", "network takes one of mlp, deeponet, linear, factory"),
    ("network: {deeponet: {branch: {activation: relu}}}", "'trunk' is missing in network.deeponet"),
    ("network: {torchscript: false}", "network.torchscript must be true"),
    ("calibration: {gaussian: {file: a.npz, cov: C, factor: L}}", "gaussian takes one of cov, factor"),
    ("calibration: {gaussian: {file: a.npz, shape: [0]}}", "gaussian.shape[1] must be at least 1, got 0"),
    ("calibration: {samples: 9}", "calibration needs one of domain, gaussian, inputs"),
    ("calibration: {domain: {x: [1, 0]}}", "domain.x must be [low, high] with low < high, got [1, 0]"),
    ("calibration:\n  domain:\n    x: [0, 1]\n    t: [1, 1]", "line 4: calibration.domain.t must be [low, high]"),
    ("calibration: {samples: 100000000000000000000, domain: {x: [0, 1]}}", "samples must be at most 1e+12, got 1000"),
    ('network:\n  factory: "a\\0b.py:c"', "b.py:c: give package.module:function"),
    ("network:\n  factory: net", "line 2: factory net: give package.module:function or path/to/file.py:function"),
    ("calibration: {domain: {x: [0]}}", "calibration.domain.x has too few values"),
    ("calibration: {domain: {x: [0, 1, 2]}}", "calibration.domain.x has the wrong number of values"),
    ("calibration: {domain: {x: [a, 1]}}", "calibration.domain.x[1] must be a number, got 'a'"),
    ("calibration: {domain: {}}", "calibration.domain has the wrong number of values"),
    ("calibration: {domain: []}", "calibration.domain has the wrong number of values"),
    ("calibration: {domain: [-1, 1]}", "calibration.domain.x1 must be a list, got -1"),
    ("calibration: {domain: 1}", "calibration.domain must be a group of 'key: value' lines, got 1"),
    ("calibration:\n  inputs: a.npz\n  derivatives: 3", "line 3: calibration.derivatives must be at most 2, got 3"),
    ("calibration:\n  inputs: a.npz\n  smaples: 3", "line 3: unknown setting 'smaples' in calibration, did you mean"),
    ("ntk: {tol: -1}", "ntk.tol must be above 0, got -1"),
    ("ntk: {sample: 3}", "unknown setting 'sample' in ntk, did you mean 'samples'?"),
    ("ntk: 3", "ntk must be"),
    ("layers:\n  - {match: a, tol: 2}", "line 2: layers[1].tol must be a relative error"),
    ("layers:\n  - {match: a}\n  - {match: b, tool: 1}", "line 3: unknown setting 'tool' in layers[2], did you"),
    ("layers:\n  - {tol: 0.1}", "line 2: 'match' is missing in layers[1]"),
    ("layers: {match: a}", "layers must be a list"),
    ("layers:\n  - {match: a, grid: [0, 3]}", "layers[1].grid[1] must be at least 1, got 0"),
    ("metric: outputs", "line 1: metric outputs needs a network"),
    ("metric: outputs\nnetwork: {linear: {}}", "line 1: metric outputs needs inputs"),
    ("tol: 1e-3\ntol: 1e-4", "line 2: 'tol' is given twice"),
    ("tol: [1", "line 1: not valid YAML"),
    ("tol: 1\n  norm: fro", "line 2: not valid YAML"),
    ("\ttol: 1", "line 1: not valid YAML"),
    ("\n- tol", "line 2: settings are written as 'key: value' lines, found a list"),
    ("just text", "line 1: settings are written as 'key: value' lines, found a text"),
    ("tol: !!python/object/apply:os.system ['true']", "line 1: the tag tag:yaml.org,2002:python/object/"),
    ("layers: &a [*a]", "line 1: nested too deep"),
    ("device: 2024-99-99", "line 1: 2024-99-99 is no value: month must be in 1..12"),
    ("jobs: " + "9" * 5000, "line 1: 9999"),
    ("tol: !!bool maybe", "line 1: 'maybe' is no bool"),
    ("tol: !!timestamp soon", "line 1: 'soon' is no timestamp"),
    ("tol: !!int ''", "line 1: '' is no int"),
    ("tol: !!float ''", "line 1: '' is no float"),
    ("device: cuda:99999999999999", "line 1: device must be cpu, cuda, cuda:1 or the like"),
    ("device: cuda:\u0663", "line 1: device must be cpu, cuda, cuda:1 or the like"),
    ("tol: " + "[" * 3000 + "]" * 3000, "nested too deep or too long"),
    ("tol: " + "{a: " * 3000 + "1" + "}" * 3000, "nested too deep or too long"),
    ("[a, b]: 1", "line 1: a key is one word"),
    ("ntk: &a {tol: 1}\ncalibration: {<<: *a}", "line 2: a key is one word, and << is not supported"),
    ("tol: 1e-3\0", "not a text file"),
    ("a: *b", "line 1: not valid YAML: found undefined alias"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_a_mistake_is_told_in_one_line_with_its_place(yaml, text, expected):
    path = yaml(text)
    told = message(path)
    assert expected in told
    assert told.startswith(str(path))


def test_a_wrong_override_is_told_without_a_file(yaml):
    assert message(yaml("tol: 0.1"), tol=3.0) == ("tol must be a relative error between 0 and 1, such as 1e-3, got 3.0")


def test_a_factory_without_a_function_is_told_as_an_option_too():
    with pytest.raises(SettingsError, match=r"^network: factory net: give package\.module:function"):
        load_settings(None, {"network": {"factory": "net"}})


def test_a_file_that_outputs_need_is_told_with_its_line_before_any_work(yaml):
    head = "metric: outputs\nnetwork: {linear: {}}\n"
    for text, place in (
        ("calibration: {inputs: no.npz}", "line 3: calibration.inputs: there is no file "),
        ("calibration:\n  gaussian: {file: no.npz}", "line 4: calibration.gaussian.file: there is no file "),
        ("calibration: {domain: {x: [0, 1]}}\nreference: no.npz", "line 4: reference: there is no file "),
    ):
        settings = load_settings(yaml(head + text))
        with pytest.raises(SettingsError, match=place):
            check_files(settings)
    check_files(load_settings(yaml("reference: no.npz")))  # the weights metric reads none
    check_files(load_settings(yaml(head + "calibration: {inputs: no.npz}"), {"calibration": {"inputs": "x.npz"}}))


def test_missing_folder_binary_and_large_files_are_told(tmp_path):
    assert message(tmp_path / "no.yaml").endswith("no such settings file")
    assert "is a folder" in message(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04\xff\xfe")
    assert "not a text file" in message(tmp_path / "model.pt")
    (tmp_path / "large.yaml").write_bytes(b"a" * 1_000_001)
    assert "not a settings file" in message(tmp_path / "large.yaml")


NAMES = ("net.0.weight", "net.0.bias", "net.2.weight", "head.weight", "optimizer.state.0.exp_avg")


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("net.*", 3), ("*.weight", 3), ("re:net\\.\\d+\\.weight", 2), ("re:net", 0), ("net", 0), ("NET.*", 0), ("*", 5)],
)
def test_patterns_match_whole_names(pattern, count):
    assert sum(matches(pattern, name) for name in NAMES) == count


def test_the_first_rule_that_matches_decides(yaml):
    settings = load_settings(
        yaml("tol: 1e-2\nlayers:\n - {match: 'net.0.*', tol: 1e-5}\n - {match: 'net.*', tol: 1e-4, norm: max}")
    )
    rules = {name: rule_for(name, settings) for name in NAMES}
    assert [rules[name].tol for name in NAMES[:4]] == [1e-5, 1e-5, 1e-4, 1e-2]
    assert rules["net.2.weight"].norm == "max" and rules["net.0.weight"].norm == "fro"


def test_exclude_keeps_and_include_keeps_all_others():
    excluded = Settings(exclude=("head.*",))
    assert [name for name in NAMES if rule_for(name, excluded).keep] == ["head.weight"]
    included = Settings(include=("net.*",), exclude=("net.2.*",))
    assert [name for name in NAMES if not rule_for(name, included).keep] == ["net.0.weight", "net.0.bias"]


def test_dropped_names_are_found_in_order():
    assert dropped(NAMES, Settings(drop=("optimizer*", "net.0.bias"))) == ("net.0.bias", "optimizer.state.0.exp_avg")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "tol: 0.1\nlayers:\n  - {match: 'net.*'}\n  - {match: foo}",
            "line 4: 'foo' matches no tensor, the tensors are",
        ),
        ("layers:\n  - {match: net.0.wieght}", "line 2: 'net.0.wieght' matches no tensor, did you mean 'net.0.weight'"),
        ("layers:\n  - {match: net}", "did you mean 'net.*'?"),
        ("layers:\n  - {match: 're:('}", "line 2: 're:(' is not a regular expression"),
        ("include: 're:.{99999999999}'", "line 1: 're:.{99999999999}' is not a regular expression"),
        ("exclude:\n  - head.weight\n  - tail", "line 3: 'tail' matches no tensor"),
        ("drop: optimiser*", "line 1: 'optimiser*' matches no tensor"),
    ],
)
def test_a_pattern_that_matches_nothing_is_told_with_its_line(yaml, text, expected):
    path = yaml(text)
    with pytest.raises(SettingsError) as caught:
        check_patterns(NAMES, load_settings(path))
    assert expected in str(caught.value) and str(path) in str(caught.value)


def test_a_pattern_of_the_command_line_is_told_by_its_option():
    with pytest.raises(SettingsError, match=r"^exclude: 'foo' matches no tensor"):
        check_patterns(NAMES, load_settings(None, {"exclude": ("foo",)}))


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        ("*" * 50 + "b", True),
        ("optimizer*", True),
        ("re:.*embed.*", True),
        (r"re:model\.layers\.\d+\..*", True),
        ("re:(a*)*b", False),
        ("re:(a|a)(a|a)(a|a)(a|a)b", False),
        ("re:.*.*.*.*b", False),
        ("re:(?:a+){9}", False),
        ("re:(?x)(a+) +b", False),
        ("re:(a+)(?#repeated)+b", False),
        ("re:(?:a|b)c", True),
        ("re:(", False),
    ],
)
def test_only_patterns_that_cannot_take_for_ever_are_quick(pattern, quick):
    assert is_quick(pattern) == quick
    if quick:  # against a name made to be slow
        assert not matches(pattern, "a" * 500)


def test_a_slow_pattern_is_stored_as_the_names_that_it_matches():
    names = ("a[0].x", "aax", "b")
    slow = "re:(a|a)+x|a.0..x"
    settings = load_settings(None, {"drop": [slow, "b*"], "layers": [{"match": slow}], "jobs": 3})
    stored = with_quick_patterns(settings, names)
    assert stored.drop == ("a[[]0].x", "aax", "b*") and stored.jobs == 3
    assert dropped(names, stored) == dropped(names, settings) == names
    assert stored.layers == settings.layers  # matched once, not again
    quick = load_settings(None, {"drop": ["re:a.*", "b"]})
    assert with_quick_patterns(quick, names) is quick


def test_layers_of_a_network_are_stored_by_names_where_their_pattern_is_slow(yaml):
    branch, trunk = "{activation: relu, layers: 're:(a+)+'}", "{activation: relu, slopes: s*}"
    text = f"network: {{deeponet: {{branch: {branch}, trunk: {trunk}}}}}"
    stored = with_quick_patterns(load_settings(yaml(text)), ("a", "aa", "s"))
    assert stored.network.deeponet.branch.layers == ("a", "aa") and stored.network.deeponet.trunk.slopes == ("s*",)


def test_slow_patterns_of_a_file_are_refused_where_they_would_be_run():
    for settings in ({"drop": ["re:(a+)+b"]}, {"network": {"mlp": {"activation": "tanh", "layers": ["re:(a+)+b"]}}}):
        with pytest.raises(SettingsError, match=r"pattern 're:\(a\+\)\+b' is not run"):
            check_quick(Settings.from_json(settings))
    rules = [{"match": "re:(a+)+b"}]  # which are not run again
    check_quick(load_settings(None, {"drop": ["re:a+b"], "layers": rules}))


def test_a_ratio_beside_a_tolerance_is_told_with_its_line_and_gives_way_to_an_option(yaml):
    with pytest.raises(SettingsError, match=r"line 2: give tol or target_ratio, not both"):
        load_settings(yaml("tol: 1e-3\ntarget_ratio: 4"))
    settings = load_settings(yaml("target_ratio: 4"), {"tol": 1e-2})
    assert settings.tol == 1e-2 and settings.target_ratio is None
    settings = load_settings(yaml("tol: 1e-3"), {"target_ratio": 4.0})
    assert settings.target_ratio == 4.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network: {mlp: {activation: tanh}, linear: {}}", "network takes one of mlp, deeponet, linear"),
        ("calibration: {inputs: a.npz, domain: {x: [0, 1]}}", "calibration takes one of domain, gaussian, inputs"),
    ],
)
def test_two_kinds_where_one_is_taken_are_told(yaml, text, expected):
    with pytest.raises(SettingsError, match=expected + ".*, not two"):
        load_settings(yaml(text))


def test_a_grid_that_does_not_fit_is_told_with_its_line(yaml):
    settings = load_settings(yaml("layers:\n  - {match: 'a*', grid: [8, 8]}"))
    with pytest.raises(SettingsError, match=r"line 2: grid 8 x 8 has 64 points, a\.weight is 128 x 32"):
        select({"a.weight": torch.zeros(128, 32)}, settings)
    assert select({"a.weight": torch.zeros(128, 64)}, settings)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_without_end_is_no_settings_file():
    assert "larger than 1 MB, not a settings file" in message(Path("/dev/zero"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_settings_may_come_through_a_pipe(tmp_path):
    """As a shell's `<(...)` gives them."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("tol: 2e-3",))
    writer.start()
    assert load_settings(tmp_path / "pipe").tol == 2e-3
    writer.join()
