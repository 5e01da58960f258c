"""What is kept on disk between epochs and runs: resized pixels, and the output of a frozen image tower."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from jaxtyping import Bool
from torch import Tensor

from afr_clip.data.disk.loaded import DatasetDigest
from afr_clip.data.disk.pixels import Pixels, SampleReader
from afr_clip.data.errors import DataError
from afr_clip.data.feed.store import Record, Store, StoreRequest, open_store
from afr_clip.data.progress import tracked
from afr_clip.data.records import AnomalySample

FORMAT_VERSION = 3  # 3: pictures are turned by their EXIF orientation


@dataclass(frozen=True)
class PixelCache:
    """Images and masks of a dataset at the model's input size."""

    store: Store

    def read(self, index: int) -> Pixels:
        """Read one sample; its pixels equal what ``SampleReader.read`` returns."""
        record = self.store.read(index)
        return Pixels(torch.from_numpy(record["image"]), torch.from_numpy(record["mask"]))


def open_cache(
    samples: Sequence[AnomalySample], reader: SampleReader, digest: DatasetDigest, directory: Path
) -> PixelCache:
    """Open the pixel cache of a dataset; fill it first if it is absent or damaged.

    Args:
        directory: The folder of all caches; made if absent.
    """
    # Everything that decides a pixel: the files, the size, the threshold, and the packages that decode and resize.
    versions = (FORMAT_VERSION, torch.__version__, torchvision.__version__, PIL.__version__)
    parts = (*versions, *reader.size, reader.mask_threshold, digest.images, digest.masks)
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    height, width = reader.size
    dataset = re.sub(r"[^\w.-]", "_", samples[0].dataset)
    folder = directory / f"{dataset}-{height}x{width}-{key[:16]}"

    def compute(start: int) -> Iterator[Record]:
        for sample in tracked(samples[start:], "Caching images"):
            pixels = reader.read(sample)
            yield {"image": pixels.image.numpy(), "mask": pixels.mask.numpy()}

    advice = "Free some space, set cache_dir=DIR, or run with data.cache=false."
    request = StoreRequest(folder, key, len(samples), "image cache", advice, is_costly=False)
    return PixelCache(open_store(request, compute))


@dataclass(frozen=True)
class TappedSample:
    """The image tower's output for one image, with its ground truth.

    Attributes:
        mask: Pixel truth at the model's input size.
        tapped: The tower's tensors, without a batch axis.
    """

    mask: Bool[Tensor, "height width"]
    tapped: tuple[Tensor, ...]


@dataclass(frozen=True)
class FeatureRequest:
    """The requested feature cache.

    Attributes:
        folder: Its folder when it is complete.
        key: Hash of everything that decides a record.
        dtype: Type of the tensors on disk, ``float32`` or ``float16``; they are read as float32.
    """

    folder: Path
    key: str
    num_samples: int
    dtype: str


@dataclass(frozen=True)
class FeatureCache:
    """The image tower's output for each image of a dataset."""

    store: Store

    @property
    def num_bytes(self) -> int:
        """Bytes of one sample's tensors, at most."""
        return 2 * self.store.record_bytes  # float16 on disk becomes float32

    def read(self, index: int) -> TappedSample:
        """Read one sample."""
        mask, *tapped = self.store.read(index).values()
        return TappedSample(torch.from_numpy(mask), tuple(torch.from_numpy(one.astype(np.float32)) for one in tapped))


def open_features(request: FeatureRequest, compute: Callable[[int], Iterable[TappedSample]]) -> FeatureCache:
    """Open a feature cache; fill it first if it is absent. One process fills it while the others wait.

    Args:
        compute: Yields the samples from a position on, in order.

    Raises:
        DataError: If the cache cannot be written, or a value is not finite in ``dtype``.
    """

    def records(start: int) -> Iterator[Record]:
        for sample in compute(start):
            with np.errstate(over="ignore"):  # checked below
                tapped = [tensor.float().cpu().numpy().astype(request.dtype) for tensor in sample.tapped]
            if not all(np.isfinite(one).all() for one in tapped):
                msg = (
                    f"The image tower returned NaN or infinite values in {request.dtype}. "
                    f"Set data.feature_dtype=float32 or data.feature_cache=false."
                )
                raise DataError(msg)
            yield {"mask": sample.mask.cpu().numpy(), **{f"tapped_{i}": one for i, one in enumerate(tapped)}}

    advice = (
        "Free some space and run again, which resumes; or set cache_dir=DIR, data.feature_dtype=float16 or "
        "data.feature_cache=false."
    )
    wanted = StoreRequest(request.folder, request.key, request.num_samples, "feature cache", advice, is_costly=True)
    return FeatureCache(open_store(wanted, records))
