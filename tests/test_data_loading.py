"""Finding datasets on this machine, and refusing damaged or wrong files."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_files import (
    assert_dataset_equals,
    make_contents,
    make_file_set,
    write_idx,
    write_prepared,
)

from mnist_jax.data import (
    Dataset,
    DatasetNotFound,
    catalog,
    frame_digit,
    hold_out,
    load_dataset,
    loading,
    prepared,
    resolve_dataset,
)
from mnist_jax.data.catalog import FILE_SETS
from mnist_jax.errors import Failure, UsageError

TINY = make_contents(0)
OTHER = make_contents(1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory; there are datasets `tiny` and `other`, and no mirrors."""
    for variable in ("MNIST_JAX_DATA_DIR", "TFDS_DATA_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file_sets = {name: replace(files, mirrors=()) for name, files in FILE_SETS.items()}
    file_sets |= {"tiny": make_file_set("tiny", TINY), "other": make_file_set("other", OTHER)}
    for module in (catalog, loading):
        monkeypatch.setattr(module, "FILE_SETS", file_sets)
    return tmp_path / "home"


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    return record.getMessage()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("layout", ["", "tiny", "TINY/raw"])
def test_idx_files_are_found_in_the_usual_layouts(
    tmp_path: Path, layout: str, compressed: bool
) -> None:
    write_idx(tmp_path / "data" / layout, TINY, compressed)
    dataset = load_dataset("tiny", tmp_path / "data")
    assert_dataset_equals(dataset, TINY)
    assert dataset.source == str(tmp_path / "data" / layout)
    assert (len(dataset.train), len(dataset.test)) == (7, 5)


@pytest.mark.parametrize("layout", ["", "1.0.0", "tiny/1.0.0", "tensorflow_datasets/tiny/1.0.0"])
def test_prepared_datasets_are_found_and_their_order_restored(tmp_path: Path, layout: str) -> None:
    write_prepared(tmp_path / "data" / layout, TINY)
    dataset = load_dataset("tiny", tmp_path / "data")
    assert_dataset_equals(dataset, TINY)
    assert dataset.source == str(tmp_path / "data" / layout)


def test_digest_identifies_the_content_whatever_the_source(tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", TINY)
    write_prepared(tmp_path / "prepared/tiny/1.0.0", TINY)
    write_idx(tmp_path / "other/other", OTHER)
    digest = load_dataset("tiny", tmp_path / "idx").sha256
    assert digest == load_dataset("tiny", tmp_path / "prepared").sha256
    assert digest != load_dataset("other", tmp_path / "other").sha256


def test_folders_are_searched_in_order(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir, first, second = tmp_path / "data_dir", tmp_path / "first", tmp_path / "second"
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(first))
    monkeypatch.setenv("TFDS_DATA_DIR", str(second))
    roots = [home / ".cache/mnist_jax", home / "tensorflow_datasets", second, first, data_dir]
    for root in roots:
        write_idx(root / "tiny", TINY)
        given = data_dir if root == data_dir else None
        assert load_dataset("tiny", given).source == str(root / "tiny")


def test_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    write_idx(tmp_path / "xdg/mnist_jax/tiny", TINY)
    assert load_dataset("tiny").source == str(tmp_path / "xdg/mnist_jax/tiny")


def test_unknown_dataset_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="no dataset 'fashion-mnist'; did you mean 'fashion_"):
        load_dataset("fashion-mnist")
    with pytest.raises(UsageError, match="give one of mnist, fashion_mnist, digits"):
        load_dataset("@")


@pytest.mark.parametrize("name", ["tiny", "digits"])
def test_data_dir_must_be_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    for data_dir in (tmp_path / "absent", str(tmp_path / "file")):
        with pytest.raises(UsageError, match=f"data folder {data_dir} can't be read"):
            load_dataset(name, data_dir)


def test_message_for_a_missing_dataset_says_where_and_what(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(tmp_path / "absent"))
    write_idx(tmp_path / "data/tiny", {file: TINY[file] for file in list(TINY)[:3]})
    with pytest.raises(DatasetNotFound) as caught:
        load_dataset("tiny", tmp_path / "data")
    message = str(caught.value)
    headline, looked, asked, needed = message.splitlines()
    assert headline.startswith("tiny was not found and can't be downloaded; name its folder with ")
    assert "--dataset=digits" in headline
    assert f"{tmp_path}/data (without t10k-labels-idx1-ubyte), {tmp_path}/absent, " in looked
    assert looked.endswith(f"{home}/tensorflow_datasets, {home}/.cache/mnist_jax")
    assert "no mirror is known" in asked
    assert "train-images-idx3-ubyte, train-labels" in needed
    assert f"in {home}/.cache/mnist_jax/tiny" in needed


def test_damaged_file_is_not_masked_by_a_good_copy(tmp_path: Path, home: Path) -> None:
    write_idx(home / ".cache/mnist_jax/tiny", TINY)
    damaged = bytearray(TINY["t10k-images-idx3-ubyte"])
    damaged[100] ^= 1
    write_idx(tmp_path / "data", TINY | {"t10k-images-idx3-ubyte": bytes(damaged)})
    path = tmp_path / "data/t10k-images-idx3-ubyte.gz"
    match = rf"^{path} is damaged \(SHA-256 \w{{12}}… instead of \w{{12}}…\); replace it with"
    for load in (load_dataset, resolve_dataset):
        with pytest.raises(Failure, match=match):
            load("tiny", tmp_path / "data")


@pytest.mark.parametrize("layout", ["tiny/1.0.0", "tiny"])
def test_another_datasets_files_under_this_name_are_refused(tmp_path: Path, layout: str) -> None:
    if layout == "tiny":
        write_idx(tmp_path / layout, OTHER)
    else:
        write_prepared(tmp_path / layout, OTHER)
    with pytest.raises(Failure, match=r"train-images-idx3-ubyte.* is a file of other, not of tiny"):
        load_dataset("tiny", tmp_path)


def test_unnamed_folder_with_another_dataset_is_skipped(tmp_path: Path, home: Path) -> None:
    write_idx(tmp_path / "data", OTHER)
    with pytest.raises(DatasetNotFound, match=r"data \(which holds other\)"):
        load_dataset("tiny", tmp_path / "data")
    write_idx(home / "tensorflow_datasets/tiny", TINY)
    assert_dataset_equals(load_dataset("tiny", tmp_path / "data"), TINY)


def test_images_and_labels_of_different_counts_are_refused(tmp_path: Path) -> None:
    labels = "train-labels-idx1-ubyte"
    write_idx(tmp_path / "tiny", TINY | {labels: make_contents(0, train=6)[labels]})
    with pytest.raises(Failure, match=r"holds 7 images but .*train-labels-idx1-ubyte.gz 6 labels"):
        load_dataset("tiny", tmp_path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "tiny", TINY)
    path = tmp_path / "tiny/train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Failure, match=f"^{path} is truncated gzip; replace it"):
        load_dataset("tiny", tmp_path)


def test_prepared_dataset_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_prepared(tmp_path / "tiny/1.0.0", TINY)
    assert_dataset_equals(load_dataset("tiny", tmp_path), TINY)
    monkeypatch.setattr(prepared, "read", None)
    assert_dataset_equals(load_dataset("tiny", tmp_path), TINY)


def test_damaged_prepared_dataset_is_not_masked_by_its_decoded_copy(tmp_path: Path) -> None:
    folder = tmp_path / "tiny/1.0.0"
    write_prepared(folder, TINY)
    load_dataset("tiny", tmp_path)
    shard = folder / "tiny-train.array_record-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(Failure, match=rf"{folder} can't be read \(.*\); prepare it again"):
        load_dataset("tiny", tmp_path)


@pytest.mark.parametrize("file", ["features.json", "tiny-test.array_record-00000-of-00001"])
def test_incomplete_prepared_dataset_is_refused(tmp_path: Path, file: str) -> None:
    write_prepared(tmp_path / "tiny/1.0.0", TINY)
    (tmp_path / "tiny/1.0.0" / file).unlink()
    with pytest.raises(Failure, match=r"1\.0\.0 can't be read \(.*\); prepare it again"):
        load_dataset("tiny", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", 10**5 * "["])
def test_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    write_prepared(tmp_path / "tiny/1.0.0", TINY)
    (tmp_path / "tiny/1.0.0/dataset_info.json").write_text(text)
    with pytest.raises(Failure, match=r"dataset_info\.json is damaged"):
        load_dataset("tiny", tmp_path)


@pytest.mark.parametrize("text", ['{"name": "tiny", "fileFormat": "tfrecord"}', '{"name": "tiny"}'])
def test_prepared_dataset_that_needs_tensorflow_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    info = tmp_path / "tiny/2.0.0/dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text(text)
    write_prepared(tmp_path / "tiny/1.0.0", TINY)
    write_prepared(tmp_path / "tiny/3.0.0.incompleteABC", OTHER)
    assert_dataset_equals(load_dataset("tiny", tmp_path), TINY)
    assert only_warning(caplog) == f"Skipping {info.parent}: reading tfrecord needs TensorFlow"


def test_newest_version_of_a_prepared_dataset_is_used(tmp_path: Path) -> None:
    write_prepared(tmp_path / "tiny/3.0.2", OTHER)
    write_prepared(tmp_path / "tiny/3.0.10", TINY)
    assert_dataset_equals(load_dataset("tiny", tmp_path), TINY)


def test_user_without_a_home_folder_needs_a_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_dataset("digits").name == "digits"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(UsageError, match=r"no home folder .*; set \$XDG_CACHE_HOME to a folder"):
        load_dataset("digits")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    monkeypatch.setenv("MNIST_JAX_DATA_DIR", str(locked))
    with pytest.raises(DatasetNotFound):
        load_dataset("tiny")


def test_auto_uses_an_existing_dataset_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_idx(tmp_path, TINY)
    assert_dataset_equals(resolve_dataset("tiny", tmp_path), TINY)
    assert not caplog.records


def test_auto_falls_back_to_digits_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_dataset("tiny").name == "digits"
    message = only_warning(caplog)
    headline = message.splitlines()[0]
    assert headline.startswith(
        "Using digits INSTEAD of tiny, because tiny was not found and can't be "
    )
    assert len(headline) < 200


def test_auto_does_not_replace_an_unknown_name() -> None:
    with pytest.raises(UsageError, match="no dataset '"):
        resolve_dataset("tinny")


def test_hold_out_takes_the_last_examples(tmp_path: Path) -> None:
    write_idx(tmp_path, TINY)
    whole = load_dataset("tiny", tmp_path).train
    train, validation = hold_out(whole, 2)
    assert (len(train), len(validation)) == (5, 2)
    np.testing.assert_array_equal(np.concatenate([train.images, validation.images]), whole.images)
    np.testing.assert_array_equal(validation.labels, whole.labels[5:])


@pytest.mark.parametrize("count", [0, -1, 7, 8])
def test_hold_out_leaves_neither_part_empty(tmp_path: Path, count: int) -> None:
    write_idx(tmp_path, TINY)
    with pytest.raises(UsageError, match=f"validation is {count}, of 7 .* from 1 to 6"):
        hold_out(load_dataset("tiny", tmp_path).train, count)


REAL = os.environ.get("MNIST_JAX_DATA_DIR")


def load_real(name: str, data_dir: str | Path | None = REAL) -> Dataset:
    if data_dir is None:
        pytest.skip("MNIST_JAX_DATA_DIR is not set")
    try:
        return load_dataset(name, data_dir)
    except DatasetNotFound:
        pytest.skip(f"no {name} in {data_dir}")


@pytest.mark.parametrize(
    ("name", "first"), [("mnist", [5, 0, 4, 1, 9]), ("fashion_mnist", [9, 0, 0, 3, 0])]
)
def test_real_data_has_the_published_order(name: str, first: list[int]) -> None:
    dataset = load_real(name)
    assert dataset.train.images.shape == (60_000, 28, 28)
    assert dataset.test.images.shape == (10_000, 28, 28)
    assert dataset.train.labels[:5].tolist() == first


def test_real_prepared_data_equals_the_original_files() -> None:
    from_files = load_real("mnist")
    from_prepared = load_real("mnist", prepared.find("mnist", Path(str(REAL))))
    np.testing.assert_array_equal(from_prepared.train.images, from_files.train.images)
    np.testing.assert_array_equal(from_prepared.test.labels, from_files.test.labels)


def test_framing_leaves_mnist_as_it_is() -> None:
    images = load_real("mnist").train.images[:500]
    framed = np.stack([frame_digit(image) for image in images])
    assert (framed == images).all(axis=(1, 2)).mean() > 0.99
