"""Two experts of two Markov chains, averaged, and the average refined: does distillation help?

Each chain has a known transition matrix, so the best prediction is known. A tiny Llama is trained
a little on both chains, an expert of each from it; their average is refined by the stage that
`evomerge refine` runs, from the experts or from the same texts alone (the control), on as many
tokens. On held-out texts of each chain it then measures, in nats per token,

- how far a model is from the chain's expert: mean KL(expert || model),
- how far it is from the chain itself: mean KL(chain || model), which is its cross entropy less
  that of the best prediction.

Nothing but the texts tells a model which chain it reads: who knows both chains, and learns from
each token which one it is, is the best that a refined model can become.

`python benchmarks/distillation_toy.py` takes seven minutes of one CPU, and prints the tables of
benchmarks/LOG.md. Rates were chosen on other seeds, with `--first-seed 100 --rates 1e-3 3e-3`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from evomerge.live_model import load_model, named_weights
from evomerge.merging.resident import ResidentWeights
from evomerge.merging.sources import SourceLibrary
from evomerge.operators.randomness import generator
from evomerge.recipe.distillation import Teacher
from evomerge.recipe.merge import MergeRecipe, Source
from evomerge.recipe.refine import Refinement
from evomerge.refinement.distil import distil
from evomerge.refinement.distillation import Distillation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

STATES = 16
SHARPNESS = 1.5
"""Standard deviation of the logits of a transition."""
LENGTH = 32
END = "<end>"
DOMAINS = ("north", "south")
RATES = {
    ("lora", True): (1e-2,),
    ("lora", False): (3e-3, 1e-2),
    ("full", True): (3e-3,),
    ("full", False): (1e-3, 3e-3),
}
"""Learning rates, by what is trained and whether there are teachers; the control has two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distances:
    """How far a model is from what it should be, in nats per token, by domain.

    Attributes:
        expert: Mean KL(expert || model).
        chain: Mean KL(chain || model).
    """

    expert: tuple[float, ...]
    chain: tuple[float, ...]

    def from_experts(self) -> float:
        """The mean over domains of the distance from the expert."""
        return statistics.mean(self.expert)

    def from_chains(self) -> float:
        """The mean over domains of the distance from the chain."""
        return statistics.mean(self.chain)


class World:
    """A base, an expert of each domain, and texts; built in `folder`.

    Args:
        folder: An empty folder.
        seed: Seeds everything.
        refine_texts: How many texts of each domain there are to refine with.
    """

    def __init__(self, folder: Path, seed: int, refine_texts: int = 400) -> None:
        self.folder, self.seed = folder, seed
        self.chains = [self._chain(domain) for domain in DOMAINS]
        self.held_out = [self.texts(n, 64, "held out") for n in range(len(DOMAINS))]
        self._write_refine_data(refine_texts)
        self._train(None, folder / "base", steps=150)
        for number, domain in enumerate(DOMAINS):
            self._train(number, folder / domain, steps=200)
        self._experts = [
            self.predictions(self._whole(domain), number) for number, domain in enumerate(DOMAINS)
        ]

    def texts(self, domain: int, count: int, what: str) -> Tensor:
        """Draw texts of a domain's chain: states, shape `(count, LENGTH)`."""
        rng = generator(self.seed, f"texts {what}", DOMAINS[domain])
        drawn = torch.randint(STATES, (count, 1), generator=rng)
        while drawn.shape[1] < LENGTH:
            nearest = self.chains[domain][drawn[:, -1]]
            drawn = torch.cat([drawn, torch.multinomial(nearest, 1, generator=rng)], dim=1)
        return drawn

    @property
    def merge(self) -> MergeRecipe:
        """The average of the experts."""
        experts = tuple(Source(model=str(self.folder / domain)) for domain in DOMAINS)
        return MergeRecipe(
            base=str(self.folder / "base"),
            sources=experts,
            operator="task_arithmetic",
            parameters={"weight": 0.5},
        )

    def refined(self, what: str, *, taught: bool, rate: float) -> MergeRecipe:
        """The average, refined; from the experts, or from the texts alone."""
        name = f"{what}-{'taught' if taught else 'alone'}-{rate}"
        # Without patience: both read all tokens, and keep what validates best.
        given = {"what": what, "rate": rate, "epochs": 10, "patience": 8}
        settings = Refinement.model_validate(
            {
                "data": {"path": str(self.folder / "refine.jsonl")},
                "cache": {"k": 8, "folder": str(self.folder / "cache")},
                "fuse": "by_domain",
                "train": given | {"batch_tokens": 512, "pass_tokens": 512},
            }
        )
        teachers = (Teacher(model=str(self.folder / name), name=name) for name in DOMAINS)
        work = Distillation(
            student=self.merge,
            teachers=tuple(teachers) if taught else (),
            settings=settings,
            folder=str(self.folder / name),
            device="cpu",
            dtype="float32",
            threads=1,
        )
        return distil(work, lambda *_: None, lambda: False).recipe

    def distances(self, recipe: MergeRecipe) -> Distances:
        """How far a model is from experts and chains on held-out texts."""
        return self._distances([self.predictions(recipe, n) for n in range(len(DOMAINS))])

    def distances_of_experts(self) -> Distances:
        """How far each expert is from its chain."""
        return self._distances(self._experts)

    def distances_of_the_best(self) -> Distances:
        """How far it is who knows both chains, and has to tell from the text which one it is."""
        found = []
        for texts in self.held_out:
            each = torch.stack([chain.log()[texts[:, :-1]] for chain in self.chains])
            steps = each.gather(-1, texts[None, :, 1:, None].expand(len(each), -1, -1, -1))
            seen = steps[..., 0].cumsum(dim=-1).roll(1, dims=-1)
            seen[..., 0] = 0
            found.append((each + seen.log_softmax(dim=0)[..., None]).logsumexp(dim=0))
        return self._distances(found)

    def _distances(self, found: Sequence[Tensor]) -> Distances:
        seen = [texts[:, :-1] for texts in self.held_out]
        chains = [chain.log()[texts] for chain, texts in zip(self.chains, seen, strict=True)]
        return Distances(
            expert=tuple(map(_divergence, self._experts, found)),
            chain=tuple(map(_divergence, chains, found)),
        )

    @torch.inference_mode()
    def predictions(self, recipe: MergeRecipe, domain: int) -> Tensor:
        """Log-probabilities of the next states on the held-out texts of a domain."""
        library = SourceLibrary(Path("/"))
        base = library.model(recipe.base)
        model, _ = load_model(base.folder, torch.float32, torch.device("cpu"))
        ResidentWeights(named_weights(model, base.headers), library).merge(recipe)
        logits = model(self.held_out[domain] + 1).logits[:, :-1]
        predicted: Tensor = logits.double().log_softmax(dim=-1)
        return predicted[..., 1:]

    def _whole(self, domain: str) -> MergeRecipe:
        expert = Source(model=str(self.folder / domain))
        return MergeRecipe(
            base=str(self.folder / "base"), sources=(expert,), operator="linear", parameters={}
        )

    def _chain(self, domain: str) -> Tensor:
        logits = torch.randn(STATES, STATES, generator=generator(self.seed, "chain", domain))
        return (SHARPNESS * logits).double().softmax(dim=-1)

    def _write_refine_data(self, count: int) -> None:
        lines = [
            json.dumps({"text": " ".join(f"s{state}" for state in text), "domain": domain})
            for number, domain in enumerate(DOMAINS)
            for text in self.texts(number, count, "refine").tolist()
        ]
        (self.folder / "refine.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def _train(self, domain: int | None, folder: Path, steps: int) -> None:
        """Train the base on all domains, or an expert of one from the base, and write it."""
        from transformers import LlamaForCausalLM

        if domain is None:
            with torch.random.fork_rng():
                torch.random.manual_seed(self.seed)  # transformers draws from the global one
                model = LlamaForCausalLM(_config())
        else:
            model = LlamaForCausalLM.from_pretrained(self.folder / "base", dtype=torch.float32)
        domains = range(len(DOMAINS)) if domain is None else (domain,)
        rows = 16 * steps // len(domains)
        pool = torch.cat([self.texts(n, rows, f"of {folder.name}") for n in domains]) + 1
        rng = generator(self.seed, "order", folder.name)
        order = torch.randperm(len(pool), generator=rng)
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for chosen in torch.split(order, 16):
            model(pool[chosen], labels=pool[chosen]).loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        model.save_pretrained(folder)
        _tokenizer().save_pretrained(folder)


def _divergence(wanted: Tensor, found: Tensor) -> float:
    return float((wanted.exp() * (wanted - found)).sum(dim=-1).mean())


def _config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=STATES + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {END: 0} | {f"s{state}": state + 1 for state in range(STATES)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def measure(world: World, rates: Sequence[float]) -> Iterator[tuple[str, Distances]]:
    """The distances of all models of a world, by what they are."""
    yield "the chain's expert", world.distances_of_experts()
    yield "knows both chains", world.distances_of_the_best()
    yield "merged", world.distances(world.merge)
    for (what, taught), usual in RATES.items():
        for rate in rates or usual:
            recipe = world.refined(what, taught=taught, rate=rate)
            learned = "distilled" if taught else "texts alone"
            yield f"{what}, {learned}, rate {rate}", world.distances(recipe)


def main() -> None:
    """Measure some seeds, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rates", type=float, nargs="*", default=())
    given = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    found: dict[str, list[Distances]] = defaultdict(list)
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            for name, distances in measure(World(Path(folder), seed), given.rates):
                found[name].append(distances)
                print(f"seed {seed}, {name}: {distances}", file=sys.stderr, flush=True)
    for what, of in (("expert", Distances.from_experts), ("chain", Distances.from_chains)):
        print(f"\n| KL from the {what} | {' | '.join(f'seed {seed}' for seed in seeds)} | mean |")
        print("| --- |" + " --- |" * (len(seeds) + 1))
        for name, each in found.items():
            values = [of(distances) for distances in each]
            cells = " | ".join(f"{value:.3f}" for value in [*values, statistics.mean(values)])
            print(f"| {name} | {cells} |")
    print(f"\n{time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
