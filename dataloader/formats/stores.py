"""Folders of chunked arrays, on disc or at an address, as key-value stores of tensorstore."""

import json
import multiprocessing
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from dataloader.formats.base import MEMORY_SHARE, message_of
from utils.errors import UserError
from utils.optional import wanted
from utils.paths import address_of
from utils.runtime.memory import available_memory

# Waits double from the first to the longest: about two minutes while a volume is read, and eight
# seconds for its metadata, as the address may be wrong.
RETRIES = {"max_retries": 9, "initial_delay": "500ms", "max_delay": "30s"}
FIRST_RETRIES = 4
TIMEOUT = 600.0  # seconds for a part of a section, or a file of metadata
LEAST_CACHE = 2**28  # bytes, if the available memory is unknown
GOOGLE = "https://storage.googleapis.com/"  # of public buckets
FORMATS = {  # as neuroglancer and tensorstore call them in addresses
    "n5": "n5",
    "precomputed": "precomputed",
    "neuroglancer-precomputed": "precomputed",
    "zarr": "zarr",
    "zarr2": "zarr",
    "zarr3": "zarr",
}
CONTAINERS = (".n5", ".zarr")


class Address(NamedTuple):
    """An address, taken apart.

    Attributes:
        url: of the folder, without a slash at its end.
        kind: "n5", "precomputed" or "zarr"; None: to be found out.
    """

    url: str
    kind: str | None

    @classmethod
    def of(cls, text: str) -> Self:
        """From ``URL``, ``FORMAT://URL``, ``URL|FORMAT:PATH`` or ``URL.zarr:PATH``.

        Raises:
            UserError: the format is unknown.
        """
        url, _, ending = text.partition("|")
        form, _, inside = ending.partition(":")
        before, _, after = url.partition("://")
        if "://" in after:
            form, url = before, after
        if form and form not in FORMATS:
            raise UserError(f"{text}: found format {form}, expected one of {', '.join(FORMATS)}")
        for suffix in CONTAINERS:
            url = url.replace(f"{suffix}:", f"{suffix}/")
        url = "/".join(part for part in (url.rstrip("/"), inside.strip("/")) if part)
        return cls(url, FORMATS.get(form))


class Store:
    """A folder that tensorstore reads.

    Args:
        spec: of tensorstore, JSON; ``path`` ends with a slash.
        where: path or address, for messages.
    """

    def __init__(self, spec: dict[str, Any], where: str) -> None:
        self.spec, self.where = spec, where

    @classmethod
    def on_disc(cls, folder: Path) -> Self:
        """A local folder."""
        whole = folder.resolve().as_posix()
        return cls({"driver": "file", "path": f"{whole}/"}, str(folder))

    @classmethod
    def at(cls, url: str) -> Self:
        """A folder at an ``http``, ``https``, ``s3`` or ``gs`` address.

        Buckets are read without credentials, unless the usual variables name some.

        Raises:
            UserError: tensorstore is not installed, or it does not accept the address.
        """
        tensorstore = _tensorstore()
        full = url
        if url.startswith("gs://") and "GOOGLE_APPLICATION_CREDENTIALS" not in os.environ:
            full = GOOGLE + url.removeprefix("gs://")
        try:
            spec = tensorstore.KvStore.Spec(f"{full}/" if "?" not in full else full).to_json()
        except ValueError as error:
            raise UserError(f"{url}: not an address that is read ({reason(error)})") from None
        if spec["driver"] == "s3" and not {"AWS_PROFILE", "AWS_ACCESS_KEY_ID"} & set(os.environ):
            spec["aws_credentials"] = {"type": "anonymous"}
        spec["path"] = spec.get("path", "").rstrip("/") + "/"
        return cls(spec, url)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.spec["path"].rstrip("/").rpartition("/")[2]

    @property
    def above(self) -> "Store | None":
        """The folder above; None at the top."""
        before, _, name = self.spec["path"].rstrip("/").rpartition("/")
        if not name:
            return None
        path = f"{before}/" if before or self.spec["driver"] in ("file", "http") else ""
        return Store(self.spec | {"path": path}, self.where.rstrip("/").rpartition("/")[0])

    def below(self, name: str) -> "Store":
        """A folder below; its name may have slashes."""
        name = name.strip("/")
        path = f"{self.spec['path']}{name}/" if name else self.spec["path"]
        return Store(self.spec | {"path": path}, f"{self.where}/{name}" if name else self.where)

    def metadata(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The JSON objects in the files of these names; those that are missing or differ are not.

        Raises:
            UserError: the store cannot be reached, or refuses all of the files.
        """
        names = list(names)
        found, refusals = {}, []
        try:
            opened = _tensorstore().KvStore.open(self.spec, context=context(os.getpid(), True))
            store = opened.result(timeout=TIMEOUT)
            reads = {name: store.read(name) for name in names}
        except (ValueError, TimeoutError) as error:
            raise UserError(f"{self.where}: cannot be reached ({reason(error)})") from None
        for name, read in reads.items():
            try:
                result = read.result(timeout=TIMEOUT)
            except (ValueError, TimeoutError) as error:
                if "PERMISSION_DENIED" not in str(error):  # S3 hides so that a file is missing
                    raise UserError(f"{self.where}: cannot be read ({reason(error)})") from None
                refusals.append(error)
                continue
            if result.state == "value" and (value := _json(result.value)) is not None:
                found[name] = value
        if names and len(refusals) == len(names):
            raise UserError(f"{self.where}: cannot be read ({reason(refusals[0])})")
        return found

    def open_array(self, spec: dict[str, Any]) -> Any:
        """Open an array in the folder for reading.

        Args:
            spec: ``driver`` of tensorstore and its options.

        Raises:
            ValueError, TimeoutError: tensorstore cannot open it.
        """
        whole = spec | {
            "kvstore": self.spec,
            # chunks in the cache are not asked for again
            "recheck_cached_data": "open",
            "recheck_cached_metadata": "open",
        }
        shared = context(os.getpid(), False)
        return _tensorstore().open(whole, context=shared, open=True, read=True).result(TIMEOUT)


class LazyArray:
    """An array of tensorstore, from index 0; an index reads what it selects.

    Args:
        array: open for reading.
    """

    def __init__(self, array: Any) -> None:
        tensorstore = _tensorstore()
        self.array = array[tensorstore.d[:].translate_to[0]] if array.rank else array
        self.shape, self.dtype = tuple(array.shape), array.dtype.numpy_dtype

    def __getitem__(self, place: tuple[int | slice, ...]) -> Any:
        parts = zip(place, self.shape, strict=True)
        # tensorstore refuses slices beyond the end
        within = tuple(
            slice(*part.indices(side)[:2]) if isinstance(part, slice) else part
            for part, side in parts
        )
        try:
            return self.array[within].read().result(timeout=TIMEOUT)
        except TimeoutError:
            raise TimeoutError(f"no answer in {TIMEOUT:g} s") from None
        except ValueError as error:
            raise ValueError(reason(error)) from None


def name_of(address: str) -> str:
    """A name for what is made of the volume at an address, which can be that of a folder.

    It is that of the folder at the address, or that of the container with the path in it.
    """
    parts = Address.of(address).url.partition("://")[2].partition("?")[0].split("/")
    inside = [n for n, part in enumerate(parts) if part.endswith(CONTAINERS)]
    parts = parts[inside[-1] :] if inside else parts[-1:]
    name = "-".join(part.removesuffix(".n5").removesuffix(".zarr") for part in parts)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "volume"


def store_of(path: Path) -> tuple[Store, str | None]:
    """The folder at a path or an address, and the format that the address names, if it does."""
    if text := address_of(path):
        address = Address.of(text)
        return Store.at(address.url), address.kind
    return Store.on_disc(path), None


def reason(error: Exception) -> str:
    """The message of tensorstore without places in its source and bodies of web pages."""
    text = str(error)
    for end in (" [http_response_body", " [source locations", " [curl_code", " [tensorstore_spec"):
        text = text.partition(end)[0]
    return message_of(type(error)(text))


def _tensorstore() -> Any:
    return wanted("tensorstore", "to read N5, precomputed volumes and addresses")


@cache
def context(process: int, first: bool) -> Any:
    """The cache and the retries of a process.

    Args:
        process: number of the process; those of a forked one are its own.
        first: for metadata, which is asked for first.
    """
    retries = RETRIES | ({"max_retries": FIRST_RETRIES} if first else {})
    names = ("http_request_retries", "s3_request_retries", "gcs_request_retries")
    resources = dict.fromkeys(names, retries)
    resources["cache_pool"] = {"total_bytes_limit": 0 if first else cache_bytes()}
    return _tensorstore().Context(resources)


def cache_bytes() -> int:
    """Bytes for the chunks that this process keeps; the workers of a loader share them."""
    free = available_memory()
    return LEAST_CACHE if free is None else int(MEMORY_SHARE * free) // _workers()


def _workers() -> int:
    if multiprocessing.parent_process() is None:
        return 1
    from torch.utils.data import get_worker_info  # loaded in a worker

    worker = get_worker_info()
    return worker.num_workers if worker else 1


def _json(value: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(value)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
