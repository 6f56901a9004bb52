"""A recipe file is read or refused; each finding is one line with place, found and allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest

from evomerge.errors import RecipeError, VersionError
from evomerge.recipe import yaml
from evomerge.recipe.load import load, read_text, validate
from evomerge.recipe.merge import MergeRecipe
from evomerge.recipe.refine import Refinement
from evomerge.recipe.search import SearchRecipe, StrategyName

MERGE = "base: models/base\nsources:\n  - models/one\n  - models/two\noperator: linear\n"
SEARCH = "base: models/base\nsources: [models/one]\nevaluation:\n  tasks: [sums]\n"

*OTHERS, LAST = map(repr, get_args(StrategyName))
STRATEGY_NAMES = f"{', '.join(OTHERS)} or {LAST}"


def merge(text: str, *overrides: str) -> MergeRecipe:
    return validate(MergeRecipe, yaml.parse(MERGE + text, "r.yaml"), overrides)


def search(text: str = "", *overrides: str) -> SearchRecipe:
    return validate(SearchRecipe, yaml.parse(SEARCH + text, "r.yaml"), overrides)


def findings(text: str, *overrides: str, read=search) -> list[str]:
    with pytest.raises(RecipeError, match=r".") as caught:
        read(text, *overrides)
    return str(caught.value).split("\n")


def write(folder: Path, content: bytes) -> Path:
    file = folder / "r.yaml"
    file.write_bytes(content)
    return file


# Files


def test_a_recipe_file_is_loaded(tmp_path):
    recipe = load(SearchRecipe, write(tmp_path, SEARCH.encode()), ["search.seed=3"])
    assert recipe.base == "models/base"
    assert recipe.search.seed == 3


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"r\.yaml: no such file$"):
        read_text(tmp_path / "r.yaml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r": is a folder; give the recipe file itself$"):
        read_text(tmp_path)


def test_a_file_inside_a_file_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r": cannot be read: Not a directory$"):
        read_text(write(tmp_path, b"a: 1") / "inner.yaml")


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(RecipeError, match=r": cannot be read: Too many levels of symbolic links$"):
        read_text(tmp_path / "a")


def test_a_name_that_no_file_can_have_is_refused():
    with pytest.raises(RecipeError, match=r"^'a\\x00b': cannot be read: "):
        read_text(Path("a\0b"))


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path):
    content = b"\xef\xbb\xbf" + MERGE.replace("\n", "\r\n").encode()
    assert load(MergeRecipe, write(tmp_path, content)) == merge("")


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        (b"base: \xff\n", 6),
        (b"\xef\xbb\xbfbase: \xff\n", 9),
        ("base: é".encode("latin-1"), 6),
        (b"ab\xe2\x82", 2),
        ("base: x".encode("utf-16"), 0),
    ],
)
def test_bytes_that_are_not_utf_8_are_named_with_their_offset(tmp_path, content, offset):
    with pytest.raises(RecipeError, match=rf"r\.yaml: not UTF-8 text at byte {offset}$"):
        read_text(write(tmp_path, content))


def test_a_huge_file_is_refused_without_reading_it_whole(tmp_path):
    file = tmp_path / "r.yaml"
    with file.open("wb") as stream:
        stream.truncate(50_000_000)
    with pytest.raises(RecipeError, match=r"r\.yaml: larger than 1,000,000 bytes; not a recipe$"):
        load(MergeRecipe, file)


def test_an_endless_file_is_refused():
    with pytest.raises(RecipeError, match=r"^/dev/zero: larger than 1,000,000 bytes"):
        read_text(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["- a\n- b\n", "text\n", "---\n", "5\n"])
def test_a_recipe_must_have_keys(text):
    with pytest.raises(RecipeError, match=r"^r\.yaml: expected keys and values at the top$"):
        validate(MergeRecipe, yaml.parse(text, "r.yaml"))


# Findings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("popultion: 5", "r.yaml:5: popultion: unknown key; known: base, calibration, dtype, "),
        ("serch: {seed: 1}", "r.yaml:5: serch: unknown key; did you mean 'search'?"),
        ("search:\n  sede: 1", "r.yaml:6: search.sede: unknown key; did you mean 'seed'?"),
        (
            "genome:\n  fixt: {}\nexecutor: {knd: ray}",
            "r.yaml:6: genome.fixt: unknown key; did you mean 'fixed'?",
        ),
        ("dtype: bfloat", "'float64', found 'bfloat'; did you mean 'bfloat16'?"),
        (
            "search: {strategy: cma}",
            f"search.strategy: expected {STRATEGY_NAMES}, found 'cma'; did you mean 'CMA'?",
        ),
        (
            "genome: {components: [mpl]}",
            (
                "r.yaml:5: genome.components.0: expected 'attention', 'mlp', 'norm', 'embedding', "
                "'head' or 'other', found 'mpl'; did you mean 'mlp'?"
            ),
        ),
        (
            "search: {candidates: -5}",
            "r.yaml:5: search.candidates: input should be greater than 0, found -5",
        ),
        (
            "search: {candidates: 0}",
            "r.yaml:5: search.candidates: input should be greater than 0, found 0",
        ),
        ("search: {step: 0}", "r.yaml:5: search.step: input should be greater than 0, found 0"),
        (
            "search: {step: 0.6}",
            "r.yaml:5: search.step: input should be less than or equal to 0.5, found 0.6",
        ),
        ("search: {step: .nan}", "search.step: input should be a finite number, found nan"),
        ("search: {step: .inf}", "search.step: input should be a finite number, found inf"),
        ("search: {step: 1e400}", "search.step: input should be a finite number, found inf"),
        ("search: {step: '0.1'}", "r.yaml:5: search.step: expected a number, found '0.1'"),
        ("search: {step: true}", "r.yaml:5: search.step: expected a number, found True"),
        ("search: {seed: '5'}", "r.yaml:5: search.seed: expected a whole number, found '5'"),
        ("search: {seed: 5.0}", "r.yaml:5: search.seed: expected a whole number, found 5.0"),
        ("search: {seed: 1e-5}", "r.yaml:5: search.seed: expected a whole number, found 1e-05"),
        ("search: {seed: true}", "r.yaml:5: search.seed: expected a whole number, found True"),
        ("search: 5", "r.yaml:5: search: expected keys and values, found 5"),
        ("search:", "r.yaml:5: search: expected keys and values, found None"),
        ("genome: {operator: 5}", "r.yaml:5: genome.operator: expected text, found 5"),
        (
            "genome: {ranges: {weight: [1, 0.5]}}",
            "r.yaml:5: genome: ranges.weight: [1, 0.5] is empty or reversed",
        ),
        (
            "genome: {ranges: {weight: [0, .inf]}}",
            "genome.ranges.weight.1: input should be a finite number, found inf",
        ),
        ("genome: {ranges: {weight: [1]}}", "r.yaml:5: genome.ranges.weight.1: is missing"),
        (
            "genome: {ranges: {weight: [0, 1, 2]}}",
            "r.yaml:5: genome.ranges.weight: too many entries, found [0, 1, 2]",
        ),
        ("genome: {ranges: {weight: 1}}", "genome.ranges.weight: expected a list, found 1"),
        (
            "genome: {ranges: {weight: {low: 0, high: 3, log: true}}}",
            "r.yaml:5: genome: ranges.weight: with log, low must be above 0, found 0",
        ),
        (
            "genome: {ranges: {weight: {low: 3, high: 1}}}",
            "r.yaml:5: genome: ranges.weight: [3, 1] is empty or reversed",
        ),
        (
            "genome: {ranges: {weight: {low: 1, hihg: 3}}}",
            "r.yaml:5: genome.ranges.weight.high: is missing",
        ),
        (
            "genome: {ranges: {weight: {low: 1, high: 3, logs: true}}}",
            "genome.ranges.weight.logs: unknown key; did you mean 'log'?",
        ),
        ("genome: {layer_groups: all}", "layer_groups: expected 'each', found 'all'"),
        ("genome: {layer_groups: [2, 0]}", "layer_groups.1: input should be greater than 0"),
        ("genome: {layer_groups: 1.5}", "layer_groups: expected a whole number, found 1.5"),
        ("genome: {operator: []}", "r.yaml:5: genome.operator: give at least one operator"),
        ("genome: {operator: [ties, ties]}", "genome.operator: 'ties' is listed twice"),
        (
            "genome: {operator: [ties, aim], post: aim}",
            "aim is both the operator and what",
        ),
        (
            "genome: {shared: {density: [layer]}}",
            (
                "genome.shared.density.0: expected 'sources', 'layers' or 'components', found "
                "'layer'; did you mean 'layers'?"
            ),
        ),
        (
            "genome: {fixed: {weight: 1}, ranges: {weight: [0, 1]}}",
            "r.yaml:5: genome: weight is both in ranges and in fixed; keep one",
        ),
        (
            "genome: {fixed: {weight: [1]}}",
            "genome.fixed.weight: expected a finite number, true, false or a word, found [1]",
        ),
        ("executor: {kind: slurm}", "executor.kind: expected 'ray' or 'inline', found 'slurm'"),
        ("executor: {threads: 0}", "executor.threads: input should be greater than 0, found 0"),
    ],
)
def test_a_wrong_value_is_answered_with_place_found_and_allowed(text, message):
    assert message in findings(text)[0]


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ("tasks: []", "r.yaml:3: evaluation.tasks: give at least one task"),
        ("tasks: [a, {name: a}]", "r.yaml:3: evaluation.tasks: 'a' is listed twice"),
        ("tasks: a", "r.yaml:3: evaluation.tasks: expected a list, found 'a'"),
        ("include_path: x", "r.yaml:3: evaluation.tasks: is missing"),
        (
            "tasks: [{name: ''}]",
            "evaluation.tasks.0.name: string should have at least 1 character",
        ),
        (
            "tasks: [a, {name: b, metrc: acc}]",
            "r.yaml:3: evaluation.tasks.1.metrc: unknown key; did you mean 'metric'?",
        ),
        ("tasks: [{name: a, weight: 0}]", "tasks.0.weight: input should be greater than 0"),
        ("tasks: [5]", "r.yaml:3: evaluation.tasks.0: expected keys and values, found 5"),
        (
            "tasks: [a]\n  allow_task_code: no",
            "r.yaml:4: evaluation.allow_task_code: expected true or false, found 'no'",
        ),
        (
            "tasks: [a]\n  allow_task_code: 1",
            "r.yaml:4: evaluation.allow_task_code: expected true or false, found 1",
        ),
        (
            "tasks: [a]\n  allow_generated_code: no",
            "r.yaml:4: evaluation.allow_generated_code: expected true or false, found 'no'",
        ),
        ("tasks: [a]\n  device: gpu", "evaluation.device: string should match pattern"),
        ("tasks: [a]\n  items: {search: 0}", "evaluation.items.search: input should be greater"),
    ],
)
def test_a_wrong_evaluation_is_refused(evaluation, message):
    text = f"base: b\nsources: [o]\nevaluation:\n  {evaluation}\n".replace(
        "\n  tasks", " \n  tasks"
    )
    with pytest.raises(RecipeError, match=r"evaluation") as caught:
        validate(SearchRecipe, yaml.parse(text, "r.yaml"))
    found = re.sub(r":\d+:", ":N:", str(caught.value))
    assert re.sub(r":\d+:", ":N:", message) in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: 5", "r.yaml:6: parameters: expected keys and values, found 5"),
        ("parameters: {weight: []}", "parameters.weight: give a value or at least one rule"),
        ("parameters: {weight: null}", "expected a finite number, true, false or a word"),
        ("parameters: {weight: .nan}", "found nan"),
        ("parameters: {weight: 1e400}", "found inf"),
        (f"parameters: {{weight: 1{'0' * 390}}}", "parameters.weight: expected a finite number"),
        ("parameters: {weight: {a: 1}}", "a word, found {'a': 1}"),
        (
            "parameters:\n  weight:\n    - {value: 1, layer: [0, 2]}",
            "r.yaml:8: parameters.weight.0.layer: unknown key; did you mean 'layers'?",
        ),
        (
            "parameters:\n  weight:\n    - layers: [0, 2]",
            "r.yaml:8: parameters.weight.0.value: is missing",
        ),
        (
            "parameters: {weight: [{value: 1, layers: [4, 2]}]}",
            "r.yaml:6: parameters.weight.0: layers: [4, 2] is empty; the end is not included",
        ),
        ("parameters: {weight: [{value: 1, layers: [-1, 2]}]}", "layers.0: input should be great"),
        ("parameters: {weight: [{value: 1, layers: [0.5, 2]}]}", "layers.0: expected a whole"),
        ("parameters: {weight: [{value: 1, layers: [0]}]}", "weight.0.layers.1: is missing"),
        ("parameters: {weight: [{value: 1, component: attn}]}", "did you mean 'attention'?"),
        ("parameters: {weight: [0.1, 0.2]}", "weight.0: expected keys and values, found 0.1"),
        ("seed: -1", "r.yaml:6: seed: input should be greater than or equal to 0, found -1"),
    ],
)
def test_a_wrong_merge_recipe_is_refused(text, message):
    assert message in findings(text, read=merge)[0]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[]", "r.yaml:1: sources: give at least one source"),
        ("a", "r.yaml:1: sources: expected a list, found 'a'"),
        ("['']", "r.yaml:1: sources.0: string should have at least 1 character, found ''"),
        ("[{}]", "sources.0: give exactly one of model, candidate, recipe; found none of them"),
        ("[{model: a, candidate: b}]", "found model and candidate"),
        ("[a/m, b/m]", "r.yaml:1: sources: two sources are called 'm'; give each a 'name'"),
        ("[{model: a, paramters: {}}]", "sources.0.paramters: unknown key; did you mean 'parame"),
        (
            "[{model: a, parameters: {weight: [{valu: 1}]}}]",
            "parameters.weight.0.value: is missing",
        ),
        ('[{model: "\\ud800"}]', "r.yaml:1: sources.0.model: input should be a valid string"),
    ],
)
def test_wrong_sources_are_refused(sources, message):
    text = f"{{sources: {sources}, base: b, operator: linear}}"
    with pytest.raises(RecipeError, match=r"sources") as caught:
        validate(MergeRecipe, yaml.parse(text, "r.yaml"))
    assert message in str(caught.value)


def test_a_finding_inside_a_nested_recipe_has_its_whole_path():
    text = (
        "base: b\noperator: linear\nsources:\n"
        "  - name: inner\n    recipe:\n      base: b\n      operator: linear\n      sorces: [a]\n"
    )
    with pytest.raises(RecipeError, match=r"sorces") as caught:
        validate(MergeRecipe, yaml.parse(text, "r.yaml"))
    assert str(caught.value).split("\n") == [
        "r.yaml:5: sources.0.recipe.sources: is missing",
        "r.yaml:8: sources.0.recipe.sorces: unknown key; did you mean 'sources'?",
    ]


def test_all_findings_come_at_once_and_one_line_each():
    found = findings("serch: {}\ngenome: {layer_groups: 0}\nsearch: {seed: x, strategy: CMB}\n")
    assert [line.split(":")[2].strip() for line in found] == [
        "genome.layer_groups",
        "search.strategy",
        "search.seed",
        "serch",
    ]


def test_a_key_with_a_line_break_stays_on_one_line():
    assert findings('"a\\nb": 1') == [
        (
            "r.yaml:5: 'a\\nb': unknown key; known: base, calibration, dtype, evaluation, "
            "executor, genome, refine, search, sources, version"
        )
    ]


def test_a_long_value_is_shortened():
    assert findings(f"dtype: {'x' * 500}")[0].endswith("x...")


def test_a_missing_key_is_named():
    with pytest.raises(RecipeError, match=r"^r\.yaml:1: base: is missing\n") as caught:
        validate(SearchRecipe, yaml.parse("dtype: base", "r.yaml"))
    assert str(caught.value).count("is missing") == 3


# Versions


def test_version_1_is_read():
    assert merge("version: 1") == merge("")


def test_a_later_version_asks_for_a_later_evomerge():
    with pytest.raises(
        VersionError, match=r"^r\.yaml:6: version: found 99, this evomerge reads 1"
    ):
        merge("version: 99\nunheard_of: 1")


@pytest.mark.parametrize("version", ["0", "-1", "1.0", "true", "'1'", "null", "[1]"])
def test_what_is_no_version_is_refused(version):
    assert findings(f"version: {version}", read=merge)[0].startswith(
        "r.yaml:6: version: expected 1, found "
    )


# Overrides


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("search.seed=3", lambda recipe: recipe.search.seed == 3),
        ("genome.ranges.weight=[0, 2]", lambda recipe: recipe.genome.ranges["weight"] == (0, 2)),
        ("sources.0=models/other", lambda recipe: recipe.sources[0].model == "models/other"),
        ("evaluation.tasks.0={name: x, weight: 2}", lambda r: r.evaluation.tasks[0].weight == 2),
        ("genome.fixed.rescale=no", lambda recipe: recipe.genome.fixed["rescale"] == "no"),
        ("base=a=b", lambda recipe: recipe.base == "a=b"),
        ("search.step=", None),
    ],
)
def test_set_changes_one_value_and_reads_it_as_yaml(override, read):
    if read is None:
        assert findings("", override) == ["--set: search.step: expected a number, found ''"]
    else:
        assert read(search("", override))


def test_set_fills_a_section_that_is_there_but_empty():
    assert search("search:\n", "search.seed=3").search.seed == 3


def test_the_last_of_two_overrides_counts():
    assert search("", "search.seed=3", "search.seed=4").search.seed == 4


def test_an_override_of_an_alias_changes_one_place():
    tasks = "[{name: x, weight: &w 1}, {name: y, weight: *w}]"
    text = f"base: b\nsources: [o]\nevaluation: {{tasks: {tasks}}}"
    recipe = validate(SearchRecipe, yaml.parse(text, "r.yaml"), ["evaluation.tasks.0.weight=2"])
    assert [task.weight for task in recipe.evaluation.tasks] == [2, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.seed", "--set search.seed: expected KEY=VALUE, e.g. search.seed=3"),
        ("=3", "--set =3: expected KEY=VALUE, e.g. search.seed=3"),
        ("search..seed=3", "--set search..seed=3: expected KEY=VALUE, e.g. search.seed=3"),
        ("serch.seed=3", "--set: serch: unknown key; did you mean 'search'?"),
        ("search.sede=3", "--set: search.sede: unknown key; did you mean 'seed'?"),
        (
            "search.0=3",
            "--set: search.0: unknown key; known: candidates, elite_soup, ",
        ),
        (
            "search.²=3",
            "--set: search.²: unknown key; known: candidates, elite_soup, ",
        ),
        ("search.seed=x y", "--set: search.seed: expected a whole number, found 'x y'"),
        ("search.seed='3'", "--set: search.seed: expected a whole number, found '3'"),
        ("search.seed=-3", "--set: search.seed: input should be greater than or equal to 0"),
        ("search={seed: x}", "--set: search.seed: expected a whole number, found 'x'"),
        ("base.x=3", "--set base.x=3: base holds 'models/base', not keys"),
        ("base.x.y=3", "--set base.x.y=3: base holds 'models/base', not keys"),
        ("sources.1=x", "--set sources.1=x: sources has 1 entries, counted from 0, none of them"),
        ("sources.-1=x", "--set sources.-1=x: sources has 1 entries, counted from 0, none of th"),
        ("sources.a.b=x", "--set sources.a.b=x: sources has 1 entries, counted from 0"),
        ("search.seed=[1", "--set search.seed:1:3: not valid YAML"),
        ("search.seed=!!int 3", "--set search.seed:1: tags such as"),
        ("version=2", "--set: version: found 2, this evomerge reads 1"),
    ],
)
def test_a_wrong_override_shows_what_was_understood(override, message):
    with pytest.raises((RecipeError, VersionError), match=re.escape(message)):
        search("", override)


def test_a_finding_beside_an_override_keeps_its_line():
    assert findings("search: {seed: x, strategy: CMA}", "search.candidates=5") == [
        "r.yaml:5: search.seed: expected a whole number, found 'x'"
    ]


def test_bytes_of_the_command_line_that_are_no_text_are_refused():
    assert "unacceptable character" in findings("", "base=\udcff")[0]


# Examples

EXAMPLES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_every_example_recipe_is_read_and_fits_the_json_schema(file):
    model = Refinement if file.stem.endswith("-refine") else SearchRecipe
    load(model, file)
    data = yaml.parse(read_text(file), file.name).data
    jsonschema.validate(data, model.model_json_schema())


@pytest.mark.parametrize(
    ("model", "text", "told"),
    [
        (
            MergeRecipe,
            "base: a\nevaluation: {}\n",
            "is a search recipe; give it to evomerge search",
        ),
        (
            SearchRecipe,
            "base: a\noperator: ties\n",
            "is a merge recipe; give it to evomerge merge",
        ),
    ],
)
def test_a_recipe_of_the_other_kind_is_told_by_one_line(
    model: type[MergeRecipe | SearchRecipe], text: str, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load(model, file)
    assert str(caught.value).startswith(f"{file}: {told}")
    assert "\n" not in str(caught.value)
