import os
import runpy

import numpy as np
import pytest
import torch

from mmlib.data import MultimodalDataset, cache, concatenate, load, with_shuffled_labels
from mmlib.data.cache import atomic_path, cached_arrays, load_arrays, save_arrays
from mmlib.data.dataset import draw_evenly


def test_from_arrays_accepts_numpy_and_names_everything():
    data = MultimodalDataset.from_arrays({"x": np.ones((4, 2)), "y": np.zeros((4, 3, 3), np.uint8)}, [0, 1, 1, 0])
    assert data.modalities == ("x", "y") and data.inputs["x"].dtype == torch.float32
    assert data.class_names == ("0", "1") and data.domain_names == ("0",)
    assert data.input_shapes == {"x": (2,), "y": (3, 3)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": {}}, ValueError, "at least one modality"),
        ({"labels": np.array([], int)}, ValueError, "at least one sample"),
        ({"inputs": {"x": np.ones((3, 2))}}, ValueError, "'x' has shape"),
        ({"inputs": {"x": np.ones(4)}}, ValueError, "'x' has shape"),
        ({"inputs": {"x": np.ones((4, 2), np.int32)}}, TypeError, "'x' has dtype torch.int32"),
        ({"inputs": {"x": np.array([[1.0], [2.0], [np.nan], [3.0]])}}, ValueError, "'x' has NaN.*sample 2"),
        (
            {"inputs": {"x": np.array([[1.0], [-1e30], [2.0], [3.0]])}},
            ValueError,
            r"beyond ±1e\+09.*sample 1: .* rescale",
        ),
        *(
            ({"inputs": {name: np.ones((4, 2))}}, ValueError, f"cannot be called '{name}'")
            for name in ("half", "fused")
        ),
        ({"inputs": {"x": np.ones((4, 0, 2))}}, ValueError, "'x' has shape .*: its samples are empty"),
        ({"inputs": {"x": np.array([[1], [2], [3], [np.inf]], "float16")}}, ValueError, "infinite values.*sample 3"),
        ({"labels": [0, 1, -1, 0]}, ValueError, "labels has the value -1"),
        ({"labels": [0.5, 1, 1, 0]}, TypeError, "labels must be integers"),
        ({"labels": [[0, 1], [1, 0]]}, ValueError, "one-dimensional"),
        ({"class_names": ["only one"]}, ValueError, "only 1 names"),
        ({"domains": [0, 0]}, ValueError, "domains has 2 entries"),
        ({"truth": {"quality": np.ones(3)}}, ValueError, "quality has 3 entries"),
    ],
)
def test_from_arrays_refuses_with_a_message_that_names_the_fault(arguments, error, message):
    right = {"inputs": {"x": np.ones((4, 2))}, "labels": [0, 1, 1, 0]}
    with pytest.raises(error, match=message):
        MultimodalDataset.from_arrays(**{**right, **arguments})


def test_batches_are_shuffled_by_the_generator_alone_and_cover_everything(toy):
    def order(seed):
        batches = list(toy.batches(50, torch.Generator().manual_seed(seed)))
        assert [len(batch.labels) for batch in batches] == [50, 50, 50, 50, 40]
        for batch in batches:
            assert torch.equal(batch.inputs["left"], toy.inputs["left"][batch.indices])
            assert torch.equal(batch.labels, toy.labels[batch.indices])
        return torch.cat([batch.indices for batch in batches])

    assert torch.equal(order(1), order(1)) and not torch.equal(order(1), order(2))
    assert torch.equal(order(1).sort().values, torch.arange(len(toy)))


def test_batches_of_chosen_rows_keep_their_indices(toy):
    rows = torch.tensor([7, 7, 3, 100, 9])
    batches = list(toy.batches(2, torch.Generator().manual_seed(0), rows=rows))
    indices = torch.cat([batch.indices for batch in batches])
    assert [len(batch.labels) for batch in batches] == [2, 3], "a single sample is no last batch"
    assert torch.equal(indices.sort().values, rows.sort().values) and not torch.equal(indices, rows)
    assert torch.equal(batches[0].inputs["left"], toy.inputs["left"][batches[0].indices])


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (5, 4, [5])],
)
def test_a_last_batch_of_one_sample_joins_the_one_before(toy, count, size, sizes):
    batches = list(toy.subset(range(count)).batches(size))
    assert [len(batch.labels) for batch in batches] == sizes
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(count))


def test_networks_read_small_types_as_the_same_numbers():
    inputs = {"bytes": np.array([[0], [255]], np.uint8), "short": np.array([[0.5], [-2]], np.float16)}
    data = MultimodalDataset.from_arrays(inputs, [0, 1])
    for seen in (data.whole().inputs, next(data.batches(2)).inputs):
        assert {name: value.dtype for name, value in seen.items()} == dict.fromkeys(inputs, torch.float32)
        assert seen["bytes"].flatten().tolist() == [0, 255] and seen["short"].flatten().tolist() == [0.5, -2]


def test_even_draws_repeat_nothing_before_everything_was_drawn():
    drawn = draw_evenly(torch.tensor([4, 5, 6]), 8, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn)[4:].sort().values.tolist() == [2, 3, 3]


def test_split_is_disjoint_and_stratified_by_domain_and_class(toy):
    parts = toy.split([0.5, 0.3, 0.2], torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [120, 72, 48]
    seen = torch.cat([part.inputs["left"].flatten(1) for part in parts])
    assert len(seen.unique(dim=0)) == len(toy)
    for part, share in zip(parts, (0.5, 0.3, 0.2), strict=True):
        counts = torch.bincount(part.domains * 3 + part.labels)
        assert (counts == round(40 * share)).all()
    with pytest.raises(ValueError, match="sum to at most 1"):
        toy.split([0.9, 0.2], torch.Generator())


def test_selections_name_what_is_not_there(toy):
    assert set(toy.select_domains("there").domains.tolist()) == {1}
    assert toy.select_modalities("right").modalities == ("right",)
    with pytest.raises(ValueError, match="no domain 'mars'; this data has here, there"):
        toy.select_domains("mars")
    with pytest.raises(ValueError, match="no modality 'smell'"):
        toy.select_modalities("smell")
    with pytest.raises(IndexError, match="0 … 239"):
        toy.subset([240])
    with pytest.raises(ValueError, match="mask has shape"):
        toy.subset(torch.ones(3, dtype=torch.bool))


def test_memory_mapped_arrays_are_not_read_into_memory(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(80, dtype=np.float32).reshape(40, 2))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    data = MultimodalDataset.from_arrays({"x": mapped}, np.arange(40) % 2)
    assert data.inputs["x"].data_ptr() == mapped.ctypes.data
    batch = next(data.batches(4, torch.Generator().manual_seed(0), device="cpu"))
    assert torch.equal(batch.inputs["x"][:, 0], batch.indices * 2.0)


def test_fingerprint_changes_with_any_value(toy):
    changed = toy.subset(range(len(toy)))
    assert changed.fingerprint() == toy.fingerprint()
    changed.inputs["right"][17, 0, 3, 3] += 1e-3
    assert changed.fingerprint() != toy.fingerprint()


def test_leave_out_never_lets_the_target_into_training(toy_splits):
    protocol = toy_splits.leave_out("there")
    for part in protocol[:3]:
        assert set(part.domains.tolist()) == {0}
    assert set(protocol.target.domains.tolist()) == {1} and len(protocol.target) == 120
    single = toy_splits.single_source("there", "here")
    assert set(single.train.domains.tolist()) == {1} and set(single.target.domains.tolist()) == {0}
    with pytest.raises(ValueError, match="no domain 'mars'"):
        toy_splits.leave_out("mars")


def test_shuffled_labels_keep_their_counts(toy_splits):
    shuffled = with_shuffled_labels(toy_splits, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.train.labels.bincount(), toy_splits.train.labels.bincount())
    assert (shuffled.train.labels != toy_splits.train.labels).float().mean() > 0.5


def test_concatenate_refuses_other_names(toy):
    with pytest.raises(ValueError, match="same class and domain names"):
        concatenate([toy, MultimodalDataset.from_arrays({"left": np.ones((2, 1))}, [0, 1])])


def test_load_names_the_data_sets_there_are():
    with pytest.raises(ValueError, match="no data set 'imagenet'; choose one of spoken_digits, av_digits"):
        load("imagenet")


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"x": np.arange(3)})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert load_arrays(path)["x"].tolist() == [0, 1, 2] and list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"a\.npz is damaged"):
        load_arrays(path)


def test_a_relative_cache_is_the_same_folder_in_every_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMLIB_CACHE", "here")
    runpy.run_path(cache.__file__)  # as where it is imported first
    assert os.environ["MMLIB_CACHE"] == str(tmp_path / "here")


def test_what_is_made_is_made_again_where_it_is_damaged_or_cannot_be_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    path, made = tmp_path / "a.npz", []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    def arrays():
        assert cached_arrays("a", make)["x"].tolist() == [0, 1, 2]
        return len(made), capsys.readouterr().out

    assert arrays() == (1, "")
    os.utime(path, (0, 0))
    assert arrays() == (1, "") and path.stat().st_mtime > 1e9, "its last use"
    path.write_bytes(path.read_bytes()[:-30])
    count, said = arrays()
    assert count == 2 and "and was renamed to a.npz.damaged: it is made again." in said and arrays() == (2, "")
    path.unlink()
    path.mkdir()  # which cannot be read
    count, said = arrays()
    assert count == 3 and f"{path} cannot be read (" in said
    monkeypatch.setenv("MMLIB_CACHE", str(path.with_name("a.npz.damaged")))
    count, said = arrays()
    assert count == 4 and "it is made for this time only" in said

    def cannot():
        made.append(1)
        raise FileNotFoundError("no voices")

    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no voices"):
        cached_arrays("b", cannot)
    assert len(made) == 5 and not capsys.readouterr().out, "not for lack of a place"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_data_too_large_for_the_gpu_stays_and_its_batches_move(toy, monkeypatch):
    device = torch.device("cuda")
    assert toy.resident(device).device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    kept = toy.resident(device)
    assert kept.device.type == "cpu"
    assert next(kept.batches(8, device=device)).inputs["left"].device.type == "cuda"
