"""Documents of mergekit's in the dtypes that it computes in, whose bytes we are to make."""

from __future__ import annotations

from recipe.mergekit_cases import Case

THREE = """
models:
  - model: base
  - {{model: one, parameters: {{weight: 0.5, {0}}}}}
  - {{model: two, parameters: {{weight: 0.3, {0}}}}}
  - {{model: three, parameters: {{weight: [0.1, 0.9, -0.4], {0}}}}}
"""
FROM_BASE = "base_model: base\n"
SAMPLED = "density: 0.4"
AS_THEY_ARE = "models: [{model: one}, {model: two}, {model: three}]\n"
SLICES = "slices: [{}]\n"


def part(*sources: tuple[str, int, int]) -> str:
    listed = ", ".join(f"{{model: {m}, layer_range: [{a}, {b}]}}" for m, a, b in sources)
    return f"{{sources: [{listed}]}}"


def family_of_ties(own: str, *, flags: str = "normalize: true, lambda: 0.8") -> str:
    return FROM_BASE + THREE.format(own) + f"parameters: {{{flags}}}\n"


BODIES = {
    "linear": "models: [{model: one}, {model: base}, {model: two}]\nparameters: {weight: 0.3}\n",
    "slerp": FROM_BASE + "models: [{model: one}, {model: base}]\nparameters: {t: [0, 0.7]}\n",
    "nuslerp": FROM_BASE + "models: [{model: one}, {model: two}]\nparameters: {weight: 0.3}\n",
    "multislerp": FROM_BASE + AS_THEY_ARE + "parameters: {weight: 0.3}\n",
    "task_arithmetic": family_of_ties("density: 0.1"),
    "ties": family_of_ties(SAMPLED),
    "dare_ties": family_of_ties(SAMPLED),
    "dare_linear": family_of_ties("density: [0.2, 1.0, 0.5]", flags="rescale: false"),
    "breadcrumbs": family_of_ties("density: 0.5, gamma: 0.05"),
    "breadcrumbs_ties": family_of_ties("density: 0.9"),
    "della": family_of_ties("density: 0.5, epsilon: 0.2"),
    "della_linear": family_of_ties("density: 0.5"),
    "sce": FROM_BASE + AS_THEY_ARE + "parameters: {select_topk: 0.5}\n",
    "model_stock": FROM_BASE + AS_THEY_ARE + "parameters: {filter_wise: true}\n",
    "nearswap": FROM_BASE + "models: [{model: one}]\nparameters: {t: 0.02}\n",
    "arcee_fusion": FROM_BASE + "models: [{model: one}]\n",
    "ram": FROM_BASE + AS_THEY_ARE + "parameters: {epsilon: 0.02}\n",
    "ramplus_tl": FROM_BASE + AS_THEY_ARE + "parameters: {epsilon: 0.02, r: 0.4}\n",
}
STACKS = {
    "dare_linear": FROM_BASE
    + SLICES.format(
        ", ".join(
            [
                part(("base", 4, 12), ("one", 4, 12), ("two", 4, 12)),
                part(("base", 0, 4), ("two", 0, 4), ("one", 0, 4)),
            ]
        )
    )
    + "parameters: {weight: 0.6, density: 0.5}\n",
    # mergekit drops the third source from the tensors after the layers.
    "ties": FROM_BASE
    + SLICES.format(
        ", ".join(
            [
                part(("base", 0, 2), ("one", 0, 2)),
                part(("base", 1, 3), ("two", 1, 3), ("three", 1, 3)),
            ]
        )
    )
    + "parameters: {weight: 0.6, density: 0.5}\n",
}
MISSPELT = (
    FROM_BASE + "foo: 1\nmodels: [{model: one, bar: 2}]\nparameters: {weight: 1, densty: 0.2}\n"
)

COMPAT = {
    **{
        f"{method} in {family}": Case(
            family=family, theirs=f"merge_method: {method}\n{body}{dtypes}", compat=True, seed=7
        )
        for method, body in BODIES.items()
        for family, dtypes in (
            ("shallow", ""),
            # With 12 layers the order of names is not that of layers, which masks depend on.
            ("deep", "dtype: float16\nout_dtype: float32\n"),
        )
        if family == "shallow" or method in ("dare_ties", "della", "slerp")
    },
    **{
        f"{method} of a stack": Case(
            family="deep", theirs=f"merge_method: {method}\n{body}", compat=True, seed=3
        )
        for method, body in STACKS.items()
    },
    "misspelt": Case(family="shallow", theirs="merge_method: ties\n" + MISSPELT, compat=True),
}
