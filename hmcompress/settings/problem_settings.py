"""Settings of the outputs metric: the network, where its inputs come from, the bound on its tangent kernel."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from hmcompress.settings.settings_errors import KEY_PREFIX, nearest

Activation = Literal["tanh", "sin", "silu", "gelu", "relu", "swish", "identity"]
ToleranceKind = Literal["l2", "max", "each"]


def no_bool(value: Any) -> Any:
    """`tol: yes` would become 1.0; a truth value is never a number here."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not a truth value")
    return value


def _relative(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("must be a relative error between 0 and 1, such as 1e-3")
    return value


Number = Annotated[float, BeforeValidator(no_bool)]
Tolerance = Annotated[Number, AfterValidator(_relative)]
Count = Annotated[int, BeforeValidator(no_bool), Field(ge=1, le=10**12)]  # of more there is no memory
Seed = Annotated[int, BeforeValidator(no_bool), Field(ge=0, lt=2**63)]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("must be [low, high] with low < high")
    return value


Interval = Annotated[tuple[Number, Number], AfterValidator(_rising)]


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---- the network of the outputs metric: one class per kind, chosen by its key ----


class MLP(Frozen):
    """A stack of dense layers in checkpoint order with one elementwise activation between them."""

    activation: Activation
    activation_after_last: bool = False
    layers: Patterns = ("*",)  # which weight matrices belong to the stack
    fourier: str | None = None  # name of the tensor B (d, k): features [sin(x B), cos(x B)] come first
    input_mean: str | None = None  # names of tensors (d,): (x - mean) / std comes first of all
    input_std: str | None = None
    slopes: Patterns | None = None  # names of learned slopes b, one a layer: x * sigmoid(b x) for swish, else f(b x)


class DeepONet(Frozen):
    """Branch and trunk stacks joined by an inner product, plus a bias."""

    branch: MLP
    trunk: MLP
    bias: str | None = None  # name of the scalar added to the product
    cartesian: bool = False  # every branch input with every trunk point, as DeepXDE's DeepONetCartesianProd


class Linear(Frozen):
    """One linear operator."""

    weight: str | None = None  # name of the matrix; needed only where there are several
    bias: str | None = None


class MLPNetwork(Frozen):
    mlp: MLP


class DeepONetNetwork(Frozen):
    deeponet: DeepONet


class LinearNetwork(Frozen):
    linear: Annotated[Linear, BeforeValidator(lambda value: {} if value is None else value)]  # `linear:` is enough


class FactoryNetwork(Frozen):
    """Any nn.Module that `factory()` returns; `prefix` maps prefixes in the checkpoint to prefixes in the module."""

    factory: str  # package.module:function or path/to/file.py:function
    prefix: dict[str, str] = {}


class TorchScriptNetwork(Frozen):
    torchscript: Literal[True]


def _tag_of(*tags: str) -> Discriminator:
    """Choose a class by the key that is present; a misspelt key chooses the nearest, whose errors then name it."""

    def tag(value: Any) -> str | None:
        if isinstance(value, BaseModel):
            return next(name for name in type(value).model_fields if name in tags)
        if not isinstance(value, Mapping) or not value:
            return None
        present = [name for name in tags if name in value]
        return KEY_PREFIX + (present[0] if present else nearest([str(key) for key in value], tags))

    def plain(value: Any) -> str | None:
        name = tag(value)
        return name if name is None or name.startswith(KEY_PREFIX) else KEY_PREFIX + name

    return Discriminator(plain)


def _key(name: str) -> Tag:
    return Tag(KEY_PREFIX + name)


BuiltinNetwork = MLPNetwork | DeepONetNetwork | LinearNetwork
Network = Annotated[
    Annotated[MLPNetwork, _key("mlp")]
    | Annotated[DeepONetNetwork, _key("deeponet")]
    | Annotated[LinearNetwork, _key("linear")]
    | Annotated[FactoryNetwork, _key("factory")]
    | Annotated[TorchScriptNetwork, _key("torchscript")],
    _tag_of("mlp", "deeponet", "linear", "factory", "torchscript"),
]


# ---- where the inputs of the outputs metric come from ----


class Gaussian(Frozen):
    """Inputs drawn from N(mean, cov), both read from one file; cov may be given by a factor L, cov = L L^T."""

    file: str
    mean: str = "mean"
    cov: str = "cov"
    factor: str | None = None  # name of L (d, r): a random field of d points needs few columns, cov would be d x d
    shape: tuple[Count, ...] | None = None  # of one sample, where the network takes no vector: [1, 64, 64]
    points: Patterns = ()  # names of further inputs: all rows if `cartesian`, else a random row for each sample

    @model_validator(mode="after")
    def _one_of_cov_and_factor(self) -> "Gaussian":
        if self.factor is not None and "cov" in self.model_fields_set:
            raise ValueError("gaussian takes one of cov, factor")
        return self


class _Calibration(Frozen):
    samples: Count = 4096
    held_out: Count = 4096
    seed: Seed = 0
    derivatives: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=2)] = 0
    tolerance: ToleranceKind = "l2"


def _named(value: Any) -> Any:
    """A list of intervals under names x1, x2, ...: many inputs have none."""
    return {f"x{i}": interval for i, interval in enumerate(value, 1)} if isinstance(value, list) else value


class DomainCalibration(_Calibration):
    """Scrambled Sobol points in a box; the order of the names is the order of the network's inputs."""

    domain: Annotated[dict[str, Interval], BeforeValidator(_named), Field(min_length=1)]


class GaussianCalibration(_Calibration):
    gaussian: Gaussian


class InputsCalibration(_Calibration):
    inputs: str  # .safetensors, .npz or .csv


CalibrationSettings = Annotated[
    Annotated[DomainCalibration, _key("domain")]
    | Annotated[GaussianCalibration, _key("gaussian")]
    | Annotated[InputsCalibration, _key("inputs")],
    _tag_of("domain", "gaussian", "inputs"),
]
INPUT_KINDS = ("domain", "gaussian", "inputs")


class Ntk(Frozen):
    """Bound on the relative Frobenius error of the empirical neural tangent kernel."""

    tol: Annotated[Number, Field(gt=0)] = 0.1
    samples: Count = 256
    training: Annotated[int, BeforeValidator(no_bool), Field(ge=0)] = 0  # gradient steps to compare, 0: none
