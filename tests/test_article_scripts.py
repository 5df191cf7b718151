"""The script of an article: what it trains, lists and prints."""

import shutil
import signal
import time

import commands
import numpy as np
import pytest

from experiments.evidence import records


def test_a_million_seeds_start_without_delay(tmp_path):
    arguments = [f"--results={tmp_path}/results", f"--workdir={tmp_path}/runs", "--experiment=row"]
    env = commands.environment(tmp_path)
    command = commands.Command("toy_article", *arguments, "--num_seeds=1000000", env=env)
    end = time.monotonic() + 120
    while not (tmp_path / "results/toy.jsonl").exists():
        assert command.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    command.send_signal(signal.SIGTERM)
    done = command.end()
    assert done.returncode == 128 + signal.SIGTERM
    assert max(map(len, done.stdout.splitlines())) < 1000


def test_a_folder_that_cannot_have_records_is_refused_before_training(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/.lock").mkdir()
    arguments = [f"--results={tmp_path}/results", f"--workdir={tmp_path}/runs", "--experiment=row"]
    done = commands.run(tmp_path, "toy_article", *arguments)
    assert done.returncode == 1
    assert "can't be written (Is a directory); give another --results." in done.stderr
    assert not (tmp_path / "runs").exists()


def test_flags_of_training_without_a_row_are_refused(tmp_path):
    done = commands.run(tmp_path, "toy_article", "--num_seeds=2")
    assert done.returncode == 2
    assert "--num_seeds is for training; add --experiment=ROW, or all.\n" in done.stderr


def test_an_article_script_trains_only_missing_seeds(tmp_path):
    def run(*flags):
        arguments = [f"--results={tmp_path}/results", f"--workdir={tmp_path}/runs", *flags]
        done = commands.run(tmp_path, "toy_article", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = run()  # Without a row, it only lists them.
    assert "seeds to run" not in listed
    assert "vote  mean of 2 `row`" in listed
    # The duration is estimated from records of other networks.
    (tmp_path / "results").mkdir()
    shutil.copy(records.RESULTS / "batchnorm_cnn.jsonl", tmp_path / "results")
    done = run("--num_seeds=2", "--experiment=all")
    assert "toy/row: a seed may take ≈ 0.0 min on a CPU" in done
    assert "seeds to run [0, 1]" in done
    first = records.load("toy", tmp_path / "results")
    assert [r.seed for r in first] == [0, 1]
    # 1,400 images to train on: 14 steps an epoch, evaluated every 10 and at its end.
    assert first[0].curve["step"] == [10, 14, 20, 28]
    best = np.max(first[0].curve["validation_accuracy"])
    selected = first[0].curve["step"].index(first[0].selected_step)
    assert first[0].curve["validation_accuracy"][selected] == best
    for one in first:  # The probabilities that the vote averages.
        assert one.probabilities is not None
        np.testing.assert_array_equal(one.probabilities.argmax(-1), one.predictions)
        np.testing.assert_allclose(one.probabilities.sum(-1), 1, atol=1e-4)
    done = run("--num_seeds=2", "--experiment=vote")
    assert "toy/vote is the mean of 2 `row`, seeds 0 to 1" in done
    assert "toy/row: all of these seeds are recorded" in done
    # A record that was lost is made again from the run directory.
    lines = (tmp_path / "results/toy.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results/toy.jsonl").write_text(lines[0])
    assert "epoch" not in run("--num_seeds=2", "--experiment=row")
    assert (tmp_path / "results/toy.jsonl").read_text().splitlines(keepends=True) == lines
    # An unfinished run is resumed on its own; trained with a new seed it would have to restart.
    (tmp_path / "results/toy.jsonl").unlink()
    shutil.rmtree(tmp_path / "runs/toy/row/seed-1")
    (tmp_path / "runs/toy/row/seed-0/result.json").unlink()
    done = run("--num_seeds=2", "--experiment=row")
    assert "Resuming at step 28" in done.split("seeds to run [1]")[0]
    again = records.load("toy", tmp_path / "results")
    assert [r.curve for r in again] == [r.curve for r in first]


def test_rows_without_a_torch_reference_are_refused_by_name_and_skipped_with_all(tmp_path):
    pytest.importorskip("torch")

    def run(article, rows):
        flags = [f"--experiment={rows}", f"--results={tmp_path}/results", "--framework=torch"]
        return commands.run(tmp_path, f"experiments.{article}", *flags)

    named = run("nested_software", "dense_normalized,dbl_conv_relu_expanded")
    assert named.returncode == 2
    assert named.stderr == "The PyTorch side has no one_pixel_shifts; choose a row without it.\n"
    everything = run("cdeotte", "all")
    assert everything.returncode == 0, everything.stderr
    assert everything.stdout.startswith("cdeotte/strided_cnn is left out. The PyTorch side has no ")
    assert not (tmp_path / "results").exists()
