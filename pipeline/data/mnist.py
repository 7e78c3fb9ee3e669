"""MNIST and Fashion-MNIST with their official train/test split, from a folder or from the official places."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline.data.augment import Augment
from pipeline.data.download import cache_folder, fetch
from pipeline.data.encode import Encoding, require_timesteps, unrolled
from pipeline.data.idx import read_idx
from pipeline.data.split import count_of, digest_of, stratified
from pipeline.types import DataError, Dataset, Split, require

Which = Literal["mnist", "fashion_mnist"]
TRAIN, TEST, SIDE = 60_000, 10_000, 28
FILES: dict[str, tuple[int, ...]] = {
    "train-images-idx3-ubyte": (TRAIN, SIDE, SIDE),
    "train-labels-idx1-ubyte": (TRAIN,),
    "t10k-images-idx3-ubyte": (TEST, SIDE, SIDE),
    "t10k-labels-idx1-ubyte": (TEST,),
}
# sha256 of the unpacked files, in the order of FILES; computed from the official archives.
SHA256: dict[str, tuple[str, str, str, str]] = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
# yann.lecun.com refuses downloads; the copies of PyTorch's and Google's data groups are the same bytes.
ADDRESSES: dict[str, tuple[str, ...]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion_mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
# Folders below data.root that are searched: ours, the usual names, and torchvision's layout.
FOLDERS: dict[str, tuple[str, ...]] = {
    "mnist": ("mnist", "MNIST", "MNIST/raw", "."),
    "fashion_mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "."),
}


@dataclass(frozen=True)
class Mnist:
    """MNIST (LeCun et al. 1998) or Fashion-MNIST (Xiao et al. 2017), [1, 28, 28], 10 classes.

    The test split is the official one, all 10,000 images. The official 60,000 training images give
    `validation` images, then `limit` training images (the same ones whatever `limit` is), stratified.
    """

    timesteps: int
    encoding: Encoding
    which: Which = "mnist"
    root: str | None = None
    """Folder with the four idx files, plain or .gz, in it or its mnist/ or fashion-mnist/; None: download."""
    limit: int | None = None
    """Number of training images; None: all that validation leaves."""
    validation: int | float = 5000
    """Images cut from the 60,000: a count, or a fraction."""
    split_seed: int | None = 0
    """Cuts validation from train; None: follow the trial's seed."""
    augment: Augment | None = None
    """Changes of training images; None: as they are."""

    def __post_init__(self) -> None:
        require_timesteps(self.timesteps)
        require(self.which in SHA256, "which", f"be one of {', '.join(SHA256)}", self.which)
        left = TRAIN - count_of(self.validation, TRAIN, "validation")
        if self.limit is not None:
            require(
                1 <= self.limit <= left,
                "limit",
                f"be in [1, {left}] beside the validation images",
                self.limit,
            )

    def load(self, seed: int) -> Dataset:
        """[N, 1, 28, 28] uint8 splits, read once per process and shared; do not write into them.

        `seed` matters only where `split_seed` is None. Raises DataError for files missing or damaged.
        """
        held_out = count_of(self.validation, TRAIN, "validation")
        size = TRAIN - held_out if self.limit is None else self.limit
        cut_seed = seed if self.split_seed is None else self.split_seed
        (train, validation, test), digest = _cut(self.which, self.root, held_out, size, cut_seed)
        return Dataset(
            name=self.which, classes=10, shape=(1, SIDE, SIDE), timesteps=self.timesteps,
            train=train, validation=validation, test=test,
            encode=unrolled(self.encoding, self.timesteps), digest=digest, augment=self.augment,
        )  # fmt: skip


@functools.lru_cache(maxsize=2)
def _cut(
    which: Which, root: str | None, held_out: int, size: int, seed: int
) -> tuple[tuple[Split, Split, Split], str]:
    """Train, validation and test with their digest: the same for every encoding and number of steps."""
    x, y, test = _read(which, root)
    validation, train = stratified(y, (held_out, size), seed)
    splits = (Split(x[train], y[train]), Split(x[validation], y[validation]), test)
    return splits, digest_of(splits)


@functools.lru_cache(maxsize=2)
def _read(which: Which, root: str | None) -> tuple[Tensor, Tensor, Split]:
    """Official training images and labels, and the test split. A trial asks for them again and again."""
    arrays = []
    for path, shape, sha256 in zip(_locate(which, root), FILES.values(), SHA256[which], strict=True):
        arrays.append(torch.from_numpy(read_idx(path, shape, sha256).copy()))
    images, labels, test_images, test_labels = arrays
    test = Split(test_images.unsqueeze(1), test_labels.to(torch.int64))
    return images.unsqueeze(1), labels.to(torch.int64), test


def _locate(which: Which, root: str | None) -> list[Path]:
    """The four files: under root, else in the download cache, else downloaded into it."""
    if root is not None:
        try:
            if not Path(root).expanduser().is_dir():
                raise DataError(f"data.root = {root} (or $PIPELINE_DATA) is not a folder.")
            for folder in FOLDERS[which]:
                if found := _complete(Path(root).expanduser() / folder, which):
                    return found
        except OSError as error:
            raise DataError(f"data.root = {root} (or $PIPELINE_DATA) cannot be read: {error}.") from error
    cache = cache_folder() / which
    try:
        return [_download(which, name, cache) for name in FILES]
    except DataError as error:
        looked = f"{root} (also in {', '.join(FOLDERS[which])}) and {cache}" if root else str(cache)
        names = ", ".join(FILES)
        raise DataError(
            f"{which} is neither on this machine nor could it be downloaded. Searched: {looked}. "
            f"Put the files {names} (each plain or .gz) into one folder and set data.root or $PIPELINE_DATA "
            f"to it. {error}"
        ) from error


def _complete(folder: Path, which: Which) -> list[Path] | None:
    """The four files of a folder; None when it has none of them; DataError when it has only some."""
    found = [next((p for p in (folder / f"{n}.gz", folder / n) if p.is_file()), None) for n in FILES]
    if not any(found):
        return None
    missing = [name for name, path in zip(FILES, found, strict=True) if path is None]
    if missing:
        raise DataError(f"{folder} has some files of {which}, but not {', '.join(missing)} (plain or .gz).")
    return [path for path in found if path is not None]


def _download(which: Which, name: str, cache: Path) -> Path:
    position = list(FILES).index(name)

    def check(part: Path) -> None:
        read_idx(part, FILES[name], SHA256[which][position])

    return fetch([f"{base}{name}.gz" for base in ADDRESSES[which]], cache / f"{name}.gz", check)
