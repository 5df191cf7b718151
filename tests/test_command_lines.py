"""Command lines end to end: what they print and write, and their exit codes."""

import dataclasses
import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import environment, run
from runs_compared import assert_same_run

from experiments.evidence import rows
from mnist_jax.models import model_entry, model_names
from mnist_jax.recipe import Recipe, options
from mnist_jax.schedules import Cosine
from mnist_jax.training import devices
from mnist_jax.transforms import Affine


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory without datasets."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def workdir(home: Path) -> Path:
    """A run of two epochs on scikit-learn's digits, evaluated by its moving averages."""
    path = home / "run"
    done = run(
        home,
        "mnist_jax.train",
        "--model=dbl_conv_relu",
        "--dataset=digits",
        "--epochs=2",
        "--learning_rate=0.1",
        "--average_decay=0.9",
        "--tensorboard",
        f"--workdir={path}",
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.lstrip().startswith("epoch ") for line in lines) == 2
    assert any("1×12×12×20" in line for line in lines)  # The layer table.
    assert any("85,670" in line for line in lines)
    return path


def test_run_writes_its_files(workdir: Path) -> None:
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"] == "dbl_conv_relu"
    assert config["dataset"] == "digits"
    assert config["learning_rate"] == 0.1
    assert config["weight_decay"] == 0.00005  # The article's.
    environment = json.loads((workdir / "environment.json").read_text())
    assert environment["dataset"] == "digits"
    assert len(environment["dataset_sha256"]) == 64
    assert environment["packages"]["jax"]
    assert environment["device"]["platform"]
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["step"] for row in rows] == [150, 300]
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy"):
        assert all(np.isfinite(row[name]) for row in rows)
    assert all(row["images_per_second"] > 0 and row["seconds"] > 0 for row in rows)
    result = json.loads((workdir / "result.json").read_text())
    assert result["test_accuracy"] == rows[-1]["test_accuracy"] > 0.7
    assert result["parameters"] == 85_670
    assert result["selection"] == "last"
    assert list((workdir / "tensorboard").iterdir())


def test_evaluate_reproduces_the_accuracy_of_the_run(home: Path, workdir: Path) -> None:
    assert workdir == home / "run"
    done = run(home, "mnist_jax.evaluate", "--workdir=~/run")
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((workdir / "result.json").read_text())["test_accuracy"]
    assert f"test accuracy {accuracy:.2%} of 297 images" in done.stdout
    table = [line.split() for line in done.stdout.splitlines() if line[:2].strip().isdigit()]
    per_class = [line for line in table if len(line) == 4]
    confusion = np.asarray([line[1:] for line in table if len(line) == 11], int)
    assert confusion.shape == (10, 10)
    assert confusion.sum() == 297
    assert confusion.trace() == round(accuracy * 297)
    assert [int(line[2]) for line in per_class] == confusion.diagonal().tolist()


def test_report_writes_page_and_plots(home: Path, workdir: Path) -> None:
    # In a new interpreter, so that only the program itself keeps standard error clean.
    command = [sys.executable, "-m", "mnist_jax.report", f"--workdir={workdir}"]
    command.append(f"--out={home}/pictures")
    done = subprocess.run(command, capture_output=True, text=True, env=environment(home))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    names = {path.name for path in (home / "pictures").iterdir()}
    assert names >= {"report.html", "loss-by-epoch.png", "misclassified.png", "filters-conv2.png"}


def test_two_seeds_of_a_recipe_with_validation_on_the_digits(home: Path) -> None:
    path = home / "shallow"
    arguments = ("--model=shallow", "--dataset=digits", "--epochs=1", f"--workdir={path}")
    done = run(home, "mnist_jax.train", *arguments, "--num_seeds=2")
    assert done.returncode == 0, done.stderr
    assert json.loads((path / "seed-0/config.json").read_text())["validation"] == 250
    assert "Holding out 250 images for validation instead of 10000" in done.stderr
    assert done.stdout.count("  val ") == 2
    results = [json.loads((path / f"seed-{seed}/result.json").read_text()) for seed in (0, 1)]
    assert f"(best validation accuracy, after step {results[0]['selected_step']})" in done.stdout
    accuracies = [100 * result["test_accuracy"] for result in results]
    spread = f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}%"
    assert f"mean test accuracy {spread} (n = 2)" in done.stdout
    alone = run(home, "mnist_jax.train", *arguments)
    assert alone.returncode == 2
    assert f"{path} holds the runs of several seeds (seed-0, seed-1); give" in alone.stderr


def test_every_recipe_field_is_a_flag_and_config_json_repeats_the_run(home: Path) -> None:
    protocol = {
        "validation": 100,
        "mean": 0.5,
        "std": 0.25,
        "one_pixel_shifts": True,
        "shuffle": "once",
        "batch_size": 50,
        "epochs": 1,
        "loss": "mean_squared_error",
        "optimizer": "adam",
        "learning_rate": 0.5,
        "momentum": 0.0,
        "weight_decay": 0.1,
        "weight_decay_sense": "nielsen",
        "selection": "best_validation",
        "evaluation": "exact",
        "eval_every": 60,
        "seed": 7,
        "augmentation": [dataclasses.asdict(Affine(rotation=5, fill="zero"))],
        "learning_rate_schedule": [dataclasses.asdict(Cosine(epochs=1, end=0.1))],
        "b1": 0.8,
        "b2": 0.9,
        "eps": 1e-6,
        "eps_sense": "keras",
        "average_decay": 0.5,
        "held_out": "random",
        "last_batch": "dropped",
        "patience": 9,
    }
    plain = {option.name for option in options()} - {"model", "model_args", "dataset", "init_from"}
    assert protocol.keys() == plain
    shown = run(home, "mnist_jax.train", "--help").stdout
    assert [name for name in plain if f"{name}:" not in shown.replace("]", "")] == []
    flags = [
        f"--{name}={json.dumps(value) if isinstance(value, list) else value}"
        for name, value in protocol.items()
    ]
    path = home / "protocol"
    done = run(
        home, "mnist_jax.train", "--model=dense", "--dataset=digits", f"--workdir={path}", *flags
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((path / "config.json").read_text())
    assert {name: config[name] for name in protocol} == protocol
    again = run(
        home, "mnist_jax.train", f"--config={path}/config.json", f"--workdir={home / 'again'}"
    )
    assert again.returncode == 0, again.stderr
    assert_same_run(path, home / "again")
    ended = run(home, "mnist_jax.train", f"--config={path}/config.json", f"--workdir={path}")
    assert "has ended; --overwrite starts it again" in " ".join(ended.stdout.split())


def test_experiment_flag_trains_the_recipe_of_a_row(home: Path) -> None:
    name, path = "nested_software/dbl_conv_relu", home / "row"
    flags = (f"--experiment={name}", "--dataset=digits", "--epochs=1", f"--workdir={path}")
    done = run(home, "mnist_jax.train", *flags)
    assert done.returncode == 0, done.stderr
    expected = dataclasses.replace(rows.find(name).recipe, dataset="digits", epochs=1)
    assert Recipe.load(path / "config.json") == expected


def test_run_directory_named_by_an_earlier_version_is_found(home: Path, tmp_path: Path) -> None:
    recipe = model_entry("expanded_double_fc").recipe
    arguments = {**recipe.model_args, "hidden": 30}
    named = dataclasses.replace(
        recipe, model_args=arguments, dataset="digits", validation=100, epochs=1
    )
    assert named.to_json() != named.canonical()
    digest = hashlib.sha256(named.to_json().encode()).hexdigest()[:8]
    old = tmp_path / f"runs/expanded_double_fc-digits-{digest}/seed-0"
    old.mkdir(parents=True)
    (old / "config.json").write_text("{")
    flags = ("--dataset=digits", "--validation=100", '--model_args={"hidden": 30}')
    done = run(home, "mnist_jax.train", "--model=expanded_double_fc", *flags, cwd=tmp_path)
    assert f"{old.relative_to(tmp_path)}/config.json is damaged" in done.stderr


def test_list_shows_every_network(home: Path) -> None:
    done = run(home, "mnist_jax.train", "--list")
    assert done.returncode == 0, done.stderr
    for name in model_names():
        assert name in done.stdout
    assert "1,672,570" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "add --model=NAME"),
        (["--model=dense", "--config=config.json"], "only one of --model=NAME, --config=FILE and"),
        (["--experiment=nielsen/dense"], "nielsen has no row 'dense'; its rows are"),
        (["--experiment=nielson/dbl_conv"], "There is no article 'nielson'; give ARTICLE/ROW"),
        (["--config=nowhere.json"], "nowhere.json can't be read (No such file or directory)"),
        (["--model=dbl_conv_rleu"], "did you mean 'dbl_conv_relu'"),
        (["--model=lenet", "--dataset=cifar"], "--dataset=cifar: value should be one of"),
        (["--model=lenet", "--epochs=0"], "epochs is 0; give 1 or more"),
        (["--model=lenet", "--learning_rate=-1"], "learning_rate is -1.0; give a positive number"),
        (["--model=lenet", "--learning_rate=nan"], "learning_rate is nan"),
        (["--model=lenet", "--momentum=1"], "momentum is 1.0"),
        (["--model=lenet", "--optimizer=adam", "--momentum=0.9"], "momentum is for sgd"),
        (["--model=lenet", "--seed=-1"], "seed is -1"),
        (
            ["--model=lenet", "--dataset=digits", "--num_seeds=2", "--workdir={run}"],
            "holds the run of a single seed; give another --workdir for several",
        ),
        (["--model=lenet", f"--num_seeds={10**399}"], "in the range [1, 4294967296]"),
        (
            ["--model=lenet", f"--learning_rate={10**399}"],
            "learning_rate is inf; give a number that",
        ),
        (["--model=lenet", "--save_every=nan"], "--save_every is nan; give a number of seconds."),
        (["--model=lenet", "--save_every=-1"], "-1.0 is not a non-negative number. See --help."),
        (
            [
                *("--model=dense", "--dataset=digits", "--num_devices=1"),
                '--learning_rate_schedule=[{"name": "exponential", "epochs": 1e6, "factor": 2}]',
            ],
            "epochs of exponential is 1000000.0; give fewer, so that the rate stays finite",
        ),
        (["--model=lenet", "--augmentation=null"], "it is null; [] is an empty list"),
        (["--model=lenet", "--augmentation=affine"], "--augmentation=affine: it is not JSON"),
        (["--model=lenet", '--augmentation=[{"name": "x"}]'], "with one of affine, crop_resize"),
        (["--model=lenet", '--learning_rate_schedule={"name": "cosine"}'], "give a list such as"),
        (["--model=lenet", "--model_args={"], "--model_args is not JSON"),
        (
            ["--model=lenet", "--model_args=" + 10**5 * "["],
            "--model_args is not JSON (it is nested",
        ),
        (
            ["--model=lenet", "--data_dir=/nowhere", '--model_args={"poling": 1}'],
            "takes no argument 'poling'",
        ),
        (["--model=dbl_conv_relu", '--model_args={"hidden": "300"}'], "hidden is '300'"),
        (["--model=lenet", "--dataset=digits", "--batch_size=1501"], "has 1500 training images"),
        (["--model=lenet", "--dataset=digits", "--num_devices=999"], "give 1 to"),
        (["--model=lenet", "--data_dir=/nowhere"], "The data folder /nowhere can't be read"),
        (["--model=lenet", "--init_from=~no-such-user/x"], "~no-such-user/x names a home folder"),
        (
            ["--model=dense", "--dataset=digits", "--workdir={run}/lr[0.1]"],
            "lr[0.1] can't have checkpoints",
        ),
        (["--model=dense", "--dataset=digits", "--workdir=gs://a/b"], "gs:/a/b can't have checkp"),
        (
            [
                *("--model=strided_cnn", "--dataset=digits", "--batch_size=1"),
                *("--num_devices=1", "--validation=0", "--workdir={run}/alone"),
            ],
            "A batch of one image gives batch normalisation only one value",
        ),
        (["--model=lenet", "--sped=1"], "Unknown command line flag 'sped'"),
        (["lenet"], "'lenet' is not a flag"),
    ],
)
def test_misuse_is_one_sentence_and_exit_code_2(
    home: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "config.json").touch()  # As in the run of a single seed.
    arguments = [argument.replace("{run}", str(tmp_path)) for argument in arguments]
    done = run(home, "mnist_jax.train", *arguments)
    assert sentence in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["train --model=dense --workdir=", "predict --model=dense "])
def test_too_long_path_is_one_sentence(home: Path, command: str) -> None:
    module, *arguments = (command + 300 * "a").split()
    done = run(home, f"mnist_jax.{module}", *arguments)
    assert done.returncode == 1
    assert "File name too long; give another path." in done.stderr
    assert "Traceback" not in done.stderr


def test_seeds_resume_with_the_number_of_threads_they_began_with(home: Path) -> None:
    path = home / "threads"
    arguments = ("--model=dense", "--dataset=digits", "--epochs=1", f"--workdir={path}")
    assert run(home, "mnist_jax.train", *arguments, "--num_seeds=2").returncode == 0
    count = devices.cores()
    for seed, threads in ((0, count + 1), (1, count + 2)):
        file = path / f"seed-{seed}" / "environment.json"
        environment = json.loads(file.read_text())
        assert environment["device"]["threads"] == count
        assert environment["device"]["processor"] == devices.processor()
        device = environment["device"] | {"threads": threads}
        file.write_text(json.dumps(environment | {"device": device}))
    # The number of a finished seed has no effect; the other seed resumes with its own.
    (path / "seed-1" / "result.json").unlink()
    done = run(home, "mnist_jax.train", *arguments, "--num_seeds=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Resuming with {count + 2} CPU devices and threads, as it began." in done.stdout
    (path / "seed-1" / "environment.json").write_text('{"device": {"threads": "many"}}')
    (path / "seed-1" / "result.json").unlink()
    done = run(home, "mnist_jax.train", *arguments, "--num_seeds=2")
    assert done.returncode == 1
    assert "environment.json is damaged or of another version (threads is 'many')" in done.stderr


def test_seeds_that_exceed_memory_are_refused_before_training(home: Path) -> None:
    path = home / "many"
    flags = ("--model=dense", "--dataset=digits", "--num_seeds=1000000000", f"--workdir={path}")
    done = run(home, "mnist_jax.train", *flags)
    assert done.returncode == 2
    # Each needs four copies of 79,510 parameters of 4 bytes.
    assert done.stderr.startswith(
        "1,000,000,000 seeds of dense need about 1,184,791.3 GiB, but cpu has "
    )
    assert done.stderr.endswith(" GiB for them; give fewer, or train them one after another.\n")
    assert not path.exists()


def test_unwritable_workdir_is_one_sentence(home: Path) -> None:
    (home / "file").touch()
    done = run(
        home, "mnist_jax.train", "--model=dense", "--dataset=digits", f"--workdir={home}/file/run"
    )
    assert done.returncode == 1
    assert "can't be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("model", "hidden"),
    [
        ("lenet", [2**31 - 1]),  # 3.4 TB, refused when an array is placed on the device.
        # 5.5 TB, refused by a compiled program.
        pytest.param("dbl_conv_relu", 2**31 - 1, marks=pytest.mark.slow),
    ],
)
def test_network_larger_than_memory_is_one_sentence(home: Path, model: str, hidden: object) -> None:
    arguments = json.dumps({"hidden": hidden})
    done = run(
        home,
        "mnist_jax.train",
        f"--model={model}",
        "--dataset=digits",
        f"--model_args={arguments}",
        f"--workdir={home}/large-{model}",
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Out of memory allocating ")
    assert "use a smaller network or batch" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "end"),
    [
        ("MemoryError()", "Out of memory; use a smaller"),
        ("MemoryError('No 2 TiB for it.')", "No 2 TiB for it; use a smaller"),
        ("RuntimeError('a mistake of ours')", "RuntimeError: a mistake of ours"),
    ],
)
def test_out_of_memory_is_a_sentence_and_other_errors_a_traceback(error: str, end: str) -> None:
    program = f"from mnist_jax import cli\ndef main(_): raise {error}\ncli.run(main)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(end)
    assert ("Traceback" in done.stderr) == ("mistake" in error)


def test_overwrite_removes_nothing_if_any_directory_is_refused(home: Path) -> None:
    for seed in range(2):
        (home / f"busy/seed-{seed}").mkdir(parents=True)
    for name in ("config.json", "result.json"):
        (home / "busy/seed-0" / name).write_text("{}")
    flags = ("--model=dense", "--dataset=digits", "--num_seeds=2", "--overwrite")
    with (home / "busy/seed-1/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run(home, "mnist_jax.train", *flags, f"--workdir={home / 'busy'}")
    assert done.returncode == 1
    assert "Another process is training in" in done.stderr
    (home / "busy/seed-1/checkpoints").mkdir()
    done = run(home, "mnist_jax.train", *flags, f"--workdir={home / 'busy'}")
    assert done.returncode == 2
    assert "seed-1 has checkpoints but no config.json" in done.stderr
    assert (home / "busy/seed-0/result.json").exists()


def test_a_run_on_a_dataset_without_names_of_classes_is_refused(
    home: Path, workdir: Path, tmp_path: Path
) -> None:
    shutil.copytree(workdir, tmp_path / "run")
    file = tmp_path / "run/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dataset": "kmnist"}))
    done = run(home, "mnist_jax.export", f"--workdir={tmp_path}/run", f"--to={tmp_path}/k.onnx")
    assert done.returncode == 2
    assert "There is no dataset 'kmnist'; did you mean 'mnist'?" in done.stderr


def test_evaluating_a_folder_without_a_run_is_one_sentence(home: Path) -> None:
    done = run(home, "mnist_jax.evaluate", f"--workdir={home}")
    assert done.returncode == 1
    assert f"is {home} the workdir of a run?" in done.stderr
    assert "Traceback" not in done.stderr
