"""Both optimizers again, in float64 NumPy, as plainly as the papers write them.

They take and return dicts from path to array, one array per layer, and share no line with the
library. Each keeps what the library keeps in its state, for comparison.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Arrays = dict[str, np.ndarray]

TYPES = {
    "embed": "embedding",
    "attention_norm": "norm",
    "final_norm": "norm",
    "attention": "attention",
    "mlp": "mlp",
    "head": "head",
}


def type_of(path: str) -> str:
    return next(kind for part in path.split("/") for key, kind in TYPES.items() if part == key)


def block_of(path: str) -> str:
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "layers" else parts[0]


def decays(path: str, x: np.ndarray) -> bool:
    return x.ndim >= 2 and type_of(path) != "norm"


def norm(arrays: list[np.ndarray]) -> float:
    return math.sqrt(sum(float(np.sum(x * x)) for x in arrays))


@dataclasses.dataclass
class StratOpt:
    """StratOpt, section 3.1, with each option in its own few lines."""

    params: Arrays
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    reference: str = "ema"
    reference_decay: float = 0.99
    scale_bounds: tuple[float, float] | None = (0.1, 10.0)
    bias_correction: bool = False
    clip: float | dict[str, float] | tuple[str, float] | None = 1.0
    weight_decay: float = 0.1
    gradient_mixing: float = 0.0
    momentum_adjustment: float = 0.0
    centred: bool = False
    stratum: Callable[[str], str] = str

    def __post_init__(self) -> None:
        self.t = 0
        self.m = {path: np.zeros_like(x) for path, x in self.params.items()}
        self.v = {path: np.zeros_like(x) for path, x in self.params.items()}
        self.b1_product = dict.fromkeys(self.params, 1.0)
        self.strata: dict[str, list[str]] = {}
        for path in self.params:
            self.strata.setdefault(self.stratum(path), []).append(path)
        self.history: list[dict[str, float]] = []  # the norms after clipping, by step and stratum
        self.gbar: dict[str, float] = {}
        self.alpha: dict[str, float] = {}

    def limit(self, stratum: str) -> float:
        paths = self.strata[stratum]
        match self.clip:
            case None:
                return math.inf
            case dict():
                return self.clip.get(type_of(paths[0]), math.inf)
            case "reference", kappa:
                return kappa * self.gbar[stratum] if self.t > 1 else math.inf
            case "parameters", ratio:
                return ratio * max(norm([self.params[path] for path in paths]), 1e-3)
            case _:
                return self.clip

    def reference_norm(self, stratum: str) -> float:
        own = [norms[stratum] for norms in self.history]
        means = [sum(norms.values()) / len(norms) for norms in self.history]
        weights = [self.reference_decay ** (self.t - 1 - i) for i in range(self.t)]
        match self.reference:
            case "ema":
                return sum(w * n for w, n in zip(weights, own, strict=True)) / sum(weights)
            case "running_mean":
                return sum(own) / self.t
            case "layer_mean":
                return means[-1]
            case "global_ema":
                return sum(w * n for w, n in zip(weights, means, strict=True)) / sum(weights)
        raise AssertionError(self.reference)

    def step(self, gradients: Arrays) -> None:
        self.t += 1
        clipped, norms = {}, {}
        for stratum, paths in self.strata.items():
            size = norm([gradients[path] for path in paths])
            factor = min(1.0, self.limit(stratum) / size) if size else 1.0
            clipped.update({path: gradients[path] * factor for path in paths})
            norms[stratum] = size * factor
        self.history.append(norms)
        self.gbar = {stratum: self.reference_norm(stratum) for stratum in self.strata}
        for stratum, paths in self.strata.items():
            alpha = norms[stratum] / (self.gbar[stratum] + self.eps)
            if self.scale_bounds:
                alpha = min(max(alpha, self.scale_bounds[0]), self.scale_bounds[1])
            self.alpha[stratum] = alpha
            lengths = norm([clipped[p] for p in paths]) * norm([self.m[p] for p in paths])
            inner = sum(float(np.sum(clipped[p] * self.m[p])) for p in paths)
            cosine = inner / lengths if lengths else 0.0
            for path in paths:
                self.update(path, clipped[path], alpha, cosine)

    def update(self, path: str, g: np.ndarray, alpha: float, cosine: float) -> None:
        b1 = self.b1 + self.momentum_adjustment * cosine
        weight = self.gradient_mixing * max(0.0, cosine)
        self.b1_product[path] *= b1
        self.m[path] = b1 * self.m[path] + (1 - b1) * g
        deviation = g - self.m[path] if self.centred else g
        self.v[path] = self.b2 * self.v[path] + (1 - self.b2) * deviation**2
        m, v = self.m[path], self.v[path]
        if self.bias_correction:
            m, v = m / (1 - self.b1_product[path]), v / (1 - self.b2**self.t)
        direction = alpha * ((1 - weight) * m + weight * g) / (np.sqrt(v) + self.eps)
        if decays(path, g):
            direction = direction + self.weight_decay * self.params[path]
        self.params[path] = self.params[path] - self.learning_rate * direction


@dataclasses.dataclass
class Aardvark:
    """Aardvark, equations 1 to 8."""

    params: Arrays
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    multipliers: dict[str, float] = dataclasses.field(
        default_factory=lambda: {"embedding": 1.0, "attention": 1.5, "mlp": 1.2, "head": 1.8}
    )
    scaling: str = "fixed"
    clip: float | None = 1.0
    clip_mode: str = "global_norm"
    weight_decay: float = 0.1
    decay_rate: str = "group"

    def __post_init__(self) -> None:
        self.t = 0
        self.m = {path: np.zeros_like(x) for path, x in self.params.items()}
        self.v = {path: np.zeros_like(x) for path, x in self.params.items()}
        self.history: list[dict[str, float]] = []  # mean gradient norms, by step and type

    def clipped(self, gradients: Arrays) -> Arrays:
        if self.clip is None:
            return gradients
        if self.clip_mode == "elementwise":
            return {path: np.clip(g, -self.clip, self.clip) for path, g in gradients.items()}
        if self.clip_mode == "per_tensor":
            return {p: g * min(1.0, self.clip / norm([g])) for p, g in gradients.items()}
        factor = min(1.0, self.clip / norm(list(gradients.values())))
        return {path: g * factor for path, g in gradients.items()}

    def multiplier(self, kind: str) -> float:
        if self.scaling == "fixed":
            return self.multipliers.get(kind, 1.0)
        if self.scaling == "normalized":
            total = sum(x.size for x in self.params.values())
            weighted = sum(
                x.size * self.multipliers.get(type_of(path), 1.0) for path, x in self.params.items()
            )
            return self.multipliers.get(kind, 1.0) * total / weighted
        if kind == "norm":
            return 1.0
        weights = [0.99 ** (self.t - 1 - i) for i in range(self.t)]
        table_2 = {"embedding": 0.47, "attention": 0.82, "mlp": 0.65, "head": 1.12}
        averages = {
            key: sum(w * norms[key] for w, norms in zip(weights, self.history, strict=True))
            / sum(weights)
            for key in table_2
        }
        mean, printed_mean = (math.prod(norms.values()) ** (1 / 4) for norms in (averages, table_2))
        ratio = averages[kind] / mean * printed_mean / table_2["embedding"]
        return min(max(ratio ** (2 / 3), 0.1), 10.0)

    def step(self, gradients: Arrays) -> None:
        self.t += 1
        kinds = sorted({type_of(path) for path in gradients})
        self.history.append(
            {
                kind: float(
                    np.mean([norm([g]) for p, g in gradients.items() if type_of(p) == kind])
                )
                for kind in kinds
            }
        )
        for path, g in self.clipped(gradients).items():
            self.m[path] = self.b1 * self.m[path] + (1 - self.b1) * g
            self.v[path] = self.b2 * self.v[path] + (1 - self.b2) * g**2
            m_hat = self.m[path] / (1 - self.b1**self.t)
            v_hat = self.v[path] / (1 - self.b2**self.t)
            alpha = self.multiplier(type_of(path))
            direction = alpha * m_hat / (np.sqrt(v_hat) + self.eps)
            if decays(path, g):
                rate = alpha if self.decay_rate == "group" else 1.0
                direction = direction + rate * self.weight_decay * self.params[path]
            self.params[path] = self.params[path] - self.learning_rate * direction
