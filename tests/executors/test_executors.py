"""Promise: an executor gives every candidate an outcome, whatever happens to its workers."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import ray
from programs import program_task, write_program_task

from evomerge.errors import MergeError, RunError
from evomerge.evaluation.generated_code import code_tasks
from evomerge.evaluation.scores.outcome import Evaluated, Failed
from evomerge.evaluation.tasks.items import TaskItems
from evomerge.evaluation.tasks.lm_eval_tasks import TaskSpec
from evomerge.executors.contract import Job, evaluate
from evomerge.executors.inline import InlineExecutor
from evomerge.executors.ray import RayExecutor
from evomerge.executors.worker import WorkerSettings, one_line
from evomerge.recipe.merge import MergeRecipe, Rule, Source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TASKS = ("tiny_choice", "tiny_answer")


def settings(family: Path, **changes: object) -> WorkerSettings:
    values: dict[str, object] = {
        "root": str(family),
        "base": "base",
        "tasks": [TaskSpec(name=name, include_path=str(family / "tasks")) for name in TASKS],
        "items": [TaskItems(task=name, search=(0, 5, 9, 2), held_out=(1, 3)) for name in TASKS],
        "rungs": (0.5,),
        "batch_tokens": 512,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    return WorkerSettings(**(values | changes))  # type: ignore[arg-type]


def jobs() -> list[Job]:
    def recipe(weight: float) -> MergeRecipe:
        return MergeRecipe(
            base="base",
            sources=(Source(model="one"), Source(model="two"), Source(model="base+lora")),
            operator="task_arithmetic",
            parameters={"weight": weight},
        )

    overflowing = MergeRecipe(
        base="base",
        sources=(Source(model="one"),),
        operator="task_arithmetic",
        parameters={"weight": (Rule(value=1e38, component="norm"), Rule(value=1.0))},
        dtype="float16",
    )
    recipes = [recipe(0.1), recipe(0.4), overflowing, recipe(0.7)]
    return [Job(number=n, recipe=r, split="search") for n, r in enumerate(recipes)]


@pytest.fixture(scope="module")
def inline(family: Path) -> dict[int, object]:
    executor = InlineExecutor(settings(family))
    return {job.number: outcome for job, outcome in evaluate(executor, jobs())}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One Ray for all executors of this module: starting it takes seconds."""
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        logging_level="error",
    )
    yield
    ray.shutdown()


def test_a_candidate_that_overflows_fails_alone_and_names_the_tensor(
    inline: dict[int, object],
) -> None:
    failed = inline[2]
    assert isinstance(failed, Failed)
    assert failed.stage == "merge"
    assert failed.reason.startswith("tensor model.layers.0.input_layernorm.weight: ")
    assert failed.reason.endswith("the merge overflowed float16")
    assert all(isinstance(inline[n], Evaluated) for n in (0, 1, 3))


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_scores_as_this_process(
    family: Path, inline: dict[int, object]
) -> None:
    executor = RayExecutor(settings(family), workers=2)
    outcomes = {job.number: outcome for job, outcome in evaluate(executor, jobs())}
    executor.close()
    assert outcomes.keys() == inline.keys()
    for number, outcome in outcomes.items():
        expected = inline[number]
        if isinstance(outcome, Failed) or isinstance(expected, Failed):
            assert outcome == expected
        else:
            assert isinstance(expected, Evaluated)
            assert outcome.scores == expected.scores


FATAL = """
import os, pathlib

def process_results(doc, results):
    for name in ("once", "always"):
        marker = pathlib.Path(__file__).parent / name
        if marker.exists():
            if name == "once":
                marker.unlink()
            os._exit(1)
    return {"acc": 1.0}
"""


@pytest.fixture
def fatal(family: Path, tmp_path: Path) -> Path:
    """A task folder whose task ends the process while a file `once` or `always` is there."""
    task = json.loads((family / "tasks" / "tiny_cloze.yaml").read_text())
    lines = [f"{key}: {json.dumps(value)}" for key, value in (task | {"task": "fatal"}).items()]
    lines.append("process_results: !function fatal.process_results")
    (tmp_path / "fatal.yaml").write_text("\n".join(lines))
    (tmp_path / "fatal.py").write_text(FATAL)
    return tmp_path


def fatal_settings(family: Path, folder: Path) -> WorkerSettings:
    task = TaskSpec(name="fatal", include_path=str(folder), allow_code=True)
    items = TaskItems(task="fatal", search=(0, 1), held_out=(2,))
    return settings(family, tasks=[task], items=[items])


@pytest.mark.xdist_group("ray")
def test_a_dead_worker_is_replaced_and_its_candidate_tried_again(
    family: Path, fatal: Path
) -> None:
    executor = RayExecutor(fatal_settings(family, fatal), workers=1)
    (fatal / "once").touch()
    outcomes = [outcome for _, outcome in evaluate(executor, jobs()[:2])]
    executor.close()
    assert not (fatal / "once").exists()
    assert all(isinstance(outcome, Evaluated) for outcome in outcomes)


@pytest.mark.xdist_group("ray")
def test_a_candidate_that_kills_every_worker_fails_and_the_next_one_does_not(
    family: Path, fatal: Path
) -> None:
    executor = RayExecutor(fatal_settings(family, fatal), workers=1)
    (fatal / "always").touch()
    ((_, poisoned),) = evaluate(executor, jobs()[:1])
    (fatal / "always").unlink()
    ((_, healthy),) = evaluate(executor, jobs()[1:2])
    executor.close()
    assert isinstance(poisoned, Failed)
    assert poisoned.stage == "worker"
    assert "died" in poisoned.reason
    assert isinstance(healthy, Evaluated)


def test_a_worker_that_cannot_be_built_is_explained(family: Path) -> None:
    with pytest.raises(RunError, match=r"a worker could not be built: .*include_path"):
        RayExecutor(
            settings(family, tasks=[TaskSpec(name="x", include_path="/nowhere")]), workers=1
        )


def printed_by(script: str, given: object, folder: Path) -> str:
    """What a process of its own prints, which may join or lose a Ray as it likes."""
    what = folder / "given.pickle"
    what.write_bytes(pickle.dumps(given))
    command = [sys.executable, "-c", script, str(what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


CROWDED = """
import pickle, sys
from pathlib import Path
import ray
from evomerge.errors import RunError
from evomerge.executors.ray import RayExecutor

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
try:
    RayExecutor(settings, workers=2)
except RunError as error:
    print(error)
"""


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(("threads", "fitting"), [(2, 1), (4, 0)])
def test_workers_for_which_a_joined_ray_has_no_room_are_refused_and_not_waited_for(
    family: Path, tmp_path: Path, threads: int, fitting: int
) -> None:
    assert printed_by(CROWDED, settings(family, threads=threads), tmp_path) == (
        f"executor.workers: 2 of executor.threads {threads} do not fit into the Ray that runs "
        f"already, {fitting} do; ask for fewer or smaller ones, or join a larger one\n"
    )


LOST = """
import pickle, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from evomerge.errors import RunError
from evomerge.executors.ray import RayExecutor

settings, jobs, cpus_that_stay = pickle.loads(Path(sys.argv[1]).read_bytes())
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus_that_stay})
lost = cluster.add_node(num_cpus=1)
executor = RayExecutor(settings, 1 + cpus_that_stay, cluster.address)
for job in jobs:
    executor.submit(job)
cluster.remove_node(lost)
try:
    outcomes = [executor.collect() for _ in jobs]
    print(sorted((job.number, type(outcome).__name__) for job, outcome in outcomes))
except RunError as error:
    print(error)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    ("cpus_that_stay", "printed"),
    [
        (1, "[(0, 'Evaluated'), (1, 'Evaluated'), (2, 'Failed'), (3, 'Evaluated')]\n"),
        (0, "executor.workers: 1 of executor.threads 1 do not fit"),
    ],
)
def test_when_a_cluster_loses_a_machine_the_others_do_its_work_if_there_are_others(
    family: Path, tmp_path: Path, cpus_that_stay: int, printed: str
) -> None:
    """The third merge overflows wherever it is made."""
    given = (settings(family), jobs(), cpus_that_stay)
    assert printed_by(LOST, given, tmp_path).startswith(printed)


LISTENING = """
import os
from pathlib import Path
from evomerge.executors.ray import join_or_start

def parent(process):
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])

def descendants(ancestor):
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = parent(process)
        except OSError:
            continue
    found = {ancestor}
    while more := {child for child, above in parents.items() if above in found} - found:
        found |= more
    return found

def sockets(process):
    try:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            yield os.readlink(entry)
    except OSError:
        return

join_or_start(1, None)
owners = {
    socket: Path(f"/proc/{process}/comm").read_text().strip()
    for process in descendants(os.getpid())
    for socket in sockets(process)
}
for protocol in ("tcp", "tcp6"):
    for row in (line.split() for line in open(f"/proc/net/{protocol}")):
        if row[3] == "0A" and f"socket:[{row[9]}]" in owners:
            print(row[1].rpartition(":")[0], owners[f"socket:[{row[9]}]"])
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_local_ray_listens_on_loopback_only() -> None:
    """Only the processes of this Ray are asked: other programs of the machine may listen too."""
    done = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, check=True
    )
    opened = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert len(opened) > 3
    assert [(address, owner) for address, owner in opened if address not in LOOPBACK] == []


def test_an_error_becomes_one_line() -> None:
    assert one_line(MergeError("tensor x:\n bad")) == "tensor x: bad"
    assert one_line(ValueError("no\nway")) == "ValueError: no way"
    assert one_line(KeyError()) == "KeyError: no message"


@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(
    code_tasks._no_sandbox() is not None, reason="the kernel has no sandbox for us"
)
def test_a_worker_of_ray_runs_generated_code_in_the_sandbox(family: Path, tmp_path: Path) -> None:
    write_program_task(tmp_path / "tasks", items=4)
    items = [TaskItems(task="programs", search=(0, 2, 1), held_out=(3,))]
    wanted = settings(family, tasks=[program_task(tmp_path / "tasks")], items=items)
    executor = RayExecutor(wanted, workers=1)
    outcomes = [outcome for _, outcome in evaluate(executor, jobs()[:2])]
    executor.close()
    for outcome in outcomes:
        assert isinstance(outcome, Evaluated)
        # Four random characters are no program.
        assert outcome.scores[0].items == (0.0, 0.0, 0.0)
