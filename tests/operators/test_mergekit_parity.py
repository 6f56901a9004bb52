"""Our operators give what mergekit 0.1.5 gives, to the last bit where its arithmetic is ours.

mergekit runs in the Python that EVOMERGE_ORACLE names. From five sources on its own sums associate
the last entries of a tensor differently; that is out of scope, see operators/accumulate.py.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.operators.randomness import generator
from evomerge.operators.registry import find_operator

if TYPE_CHECKING:
    from torch import Tensor

ORACLE = os.environ.get("EVOMERGE_ORACLE")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.slow,
    pytest.mark.skipif(ORACLE is None, reason="EVOMERGE_ORACLE names no python with mergekit"),
]

# Base first; mergekit's names of our parameters in `parameters`.
MERGEKIT = """
import json, sys
from safetensors.torch import load_file, save_file
import torch
from mergekit.merge_methods import merge_state_dicts, merge_tensors

folder = sys.argv[1]
cases = json.load(open(f"{folder}/cases.json"))
tensors = load_file(f"{folder}/tensors.safetensors")
merged = {}
for case in cases:
    stacks = {}
    for key in case["tensors"]:
        models = tensors[key].unbind()
        # linear takes no base; the others take the base as their first model.
        stacks[key] = models[1:] if case["method"] == "linear" else models
    base = None if case["method"] == "linear" else 0
    dtypes = {
        "parameters": case["parameters"],
        "dtype": torch.float32,
        "out_dtype": getattr(torch, case["out_dtype"]),
    }
    for key, stack in stacks.items():
        tensor = merge_tensors(stack, case["method"], base_index=base, **dtypes)
        merged[f"{case['name']}/{key}"] = tensor
    # The way of whole models must agree with the way of tensors.
    count = len(next(iter(stacks.values())))
    dicts = [{key: stack[row] for key, stack in stacks.items()} for row in range(count)]
    for key, tensor in merge_state_dicts(dicts, case["method"], base=base, **dtypes).items():
        merged[f"{case['name']}/{key}/model"] = tensor
merged = {key: tensor.contiguous() for key, tensor in merged.items()}
save_file(merged, f"{folder}/merged.safetensors")
"""

SHAPES = {
    "vector": (37,),
    "matrix": (33, 65),
    "cube": (3, 5, 7),
    "single": (1,),
    "large": (201, 203),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call of a merge method, as mergekit writes it.

    Attributes:
        name: Unique.
        method: The method's name.
        parameters: mergekit's parameters; lists have a value per source, the base not counted.
        tensors: Names of the stacks that it merges, base first.
        out_dtype: What is stored.
    """

    name: str
    method: str
    parameters: dict[str, Any]
    tensors: list[str]
    out_dtype: str

    def merge(self, stack: Tensor) -> Tensor:
        """Merge in float32 and round to the stored dtype, as our engine does."""
        operator = find_operator(self.method)
        base, sources = stack[0].float(), stack[1:].float()
        arguments = {OURS.get(name, name): value for name, value in self.parameters.items()}
        if self.method == "slerp":
            merged = operator.function(stack.float(), **arguments)
        elif operator.space == "weight":
            merged = operator.function(sources, **arguments)
        else:
            merged = base + operator.function(sources - base, **arguments)
        return merged.to(getattr(torch, self.out_dtype))


OURS = {"lambda": "scale"}


def _stacks(sources: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Base and sources: random, all zeros, all identical, and with many equal magnitudes."""
    made = {
        name: torch.randn((sources + 1, *shape), generator=generator(0, name, str(sources)))
        for name, shape in SHAPES.items()
    }
    made["zeros"] = torch.zeros(sources + 1, 4, 9)
    made["identical"] = made["matrix"][:1].repeat(sources + 1, 1, 1)
    made["tied"] = made["large"].mul(4).round().div(4)
    base = made["large"][:1]
    made["close"] = torch.cat([base, base + made["large"][1:] * 0.003])
    return {f"{name}-{sources}-{dtype}": tensor.to(dtype) for name, tensor in made.items()}


def _parameters(method: str, sources: int) -> list[dict[str, Any]]:
    weights = [0.3, 0.7, 0.45, 0.8][:sources]
    signed = [1.0, -0.4, 0.25, 0.6][:sources]
    densities = [0.5, 0.21, 0.9, 0.05][:sources]
    match method:
        case "slerp":
            return [{"t": t} for t in (0.0, 0.3, 0.5, 1.0)]
        case "linear":
            return [
                {"weight": w, "normalize": n} for w in (weights, signed) for n in (True, False)
            ]
        case "task_arithmetic":
            return [
                {"weight": w, "normalize": n, "lambda": s}
                for w, n, s in ((weights, False, 1.0), (signed, False, 0.7), (weights, True, 1.3))
            ]
    return [
        {"weight": w, "density": d, "normalize": n, "lambda": s}
        for w, d, n, s in (
            (weights, densities, True, 1.0),
            (weights, [1.0] * sources, True, 0.7),
            (signed, densities, False, 1.0),
            ([1.0] * sources, [0.2] * sources, True, 1.0),
            (weights, [0.0, *densities[1:]], False, 1.3),
        )
    ]


def _cases(stacks: dict[str, Tensor]) -> list[Case]:
    made = []
    for method in ("linear", "task_arithmetic", "ties", "slerp"):
        for sources in (1,) if method == "slerp" else (2, 3, 4):
            for dtype in ("float32", "bfloat16"):
                tensors = [key for key in stacks if key.endswith(f"-{sources}-torch.{dtype}")]
                for number, parameters in enumerate(_parameters(method, sources)):
                    name = f"{method}-{sources}-{dtype}-{number}"
                    made.append(
                        Case(
                            name=name,
                            method=method,
                            parameters=parameters,
                            tensors=tensors,
                            out_dtype=dtype,
                        )
                    )
    return made


STACKS = {
    key: tensor
    for sources in (1, 2, 3, 4)
    for dtype in (torch.float32, torch.bfloat16)
    for key, tensor in _stacks(sources, dtype).items()
}
CASES = _cases(STACKS)


@pytest.fixture(scope="module")
def mergekit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """What mergekit makes of every case, by `case/stack`; one process for all."""
    folder = tmp_path_factory.mktemp("oracle")
    save_file(STACKS, folder / "tensors.safetensors")
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in CASES]))
    script = folder / "merge.py"
    script.write_text(MERGEKIT)
    done = subprocess.run(
        [str(ORACLE), str(script), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return load_file(folder / "merged.safetensors")


def _ulps(first: Tensor, second: Tensor) -> int:
    """Largest distance in representable numbers."""
    kind = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[first.dtype]
    least = torch.iinfo(kind).min
    keys = [tensor.reshape(-1).contiguous().view(kind).long() for tensor in (first, second)]
    ordered = [torch.where(key < 0, least - key, key) for key in keys]
    return int((ordered[0] - ordered[1]).abs().max())


@pytest.mark.parametrize("way", ["", "/model"], ids=["tensors", "models"])
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.method != "slerp"], ids=lambda case: case.name
)
def test_sums_agree_with_mergekit_to_the_last_bit(
    case: Case, way: str, mergekit: dict[str, Tensor]
) -> None:
    for key in case.tensors:
        assert _ulps(case.merge(STACKS[key]), mergekit[f"{case.name}/{key}{way}"]) == 0, key


def _slerps(dtype: str) -> list[Case]:
    return [case for case in CASES if case.method == "slerp" and case.out_dtype == dtype]


@pytest.mark.parametrize("way", ["", "/model"], ids=["tensors", "models"])
@pytest.mark.parametrize("case", _slerps("bfloat16"), ids=lambda case: case.name)
def test_a_stored_arc_agrees_with_mergekit_to_one_unit_in_the_last_place(
    case: Case, way: str, mergekit: dict[str, Tensor]
) -> None:
    for key in case.tensors:
        assert _ulps(case.merge(STACKS[key]), mergekit[f"{case.name}/{key}{way}"]) <= 1, key


@pytest.mark.parametrize("way", ["", "/model"], ids=["tensors", "models"])
@pytest.mark.parametrize("case", _slerps("float32"), ids=lambda case: case.name)
def test_a_float32_arc_differs_from_mergekit_by_its_rounding_of_the_angle(
    case: Case, way: str, mergekit: dict[str, Tensor]
) -> None:
    """mergekit measures the angle in float32, we in float64."""
    for key in case.tensors:
        stack, theirs = STACKS[key], mergekit[f"{case.name}/{key}{way}"]
        # Of the larger operand: where the operands cancel out, few digits of either are left.
        unit = stack.abs().amax(0) * torch.finfo(torch.float32).eps
        excess = (case.merge(stack) - theirs).abs() - 4 * unit
        assert float(excess.max()) <= 0, key
