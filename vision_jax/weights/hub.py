"""Files from the Hugging Face hub, through its own cache. HF_HUB_OFFLINE=1 uses only what is cached."""

import os
import pathlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Sequence

from vision_jax.errors import ConfigError, not_installed
from vision_jax.files import nearest_path, printable
from vision_jax.models.others_names import names_meant
from vision_jax.models.registry import MODELS
from vision_jax.weights.readers import shards_of

_PREFIXES = ("hf-hub:", "hf_hub:", "hf://")  # timm's and open_clip's
_INDEX = ".index.json"
_SUFFIXES = (".npz", ".safetensors", ".pt", ".pth", ".bin", ".json")  # of files, never of model ids


def fetch(
    source: str | pathlib.Path,
    filenames: Sequence[str | Sequence[str]],
    optional: Sequence[str] = (),
    revision: str | None = None,
) -> pathlib.Path:
    """The folder with the files of `source`; a local file or folder is returned as it is.

    Args:
        source: a local path, or the id of a model on the hub such as "google/vit-base-patch16-224", optionally after
            "hf-hub:".
        filenames: the files needed. A sequence among them stands for the first of its names that the model has. An
            index of several files (`*.index.json`) brings those files too.
        optional: files to take if the model has them.
        revision: a branch, tag or commit of the model; by default its main branch.

    Raises:
        ConfigError: there is no such path or model, a file is missing, huggingface_hub is not installed, or the files are
            not in the cache and the hub cannot be reached.
    """
    if path := local_path(source):
        return path
    model = _Model(_hub_id(source), revision)
    needed = [model.first([wanted] if isinstance(wanted, str) else wanted) for wanted in filenames]
    for wanted in optional:
        model.file(wanted)
    for index in [path for path in needed if path.name.endswith(_INDEX)]:
        for shard in dict.fromkeys(shards_of(index).values()):
            model.first([(index.relative_to(model.folder).parent / shard).as_posix()])
    if model.folder is None:
        raise model.error("the model has no such file, or it cannot be reached", optional)
    return model.folder


def local_path(source: str | pathlib.Path) -> pathlib.Path | None:
    """The local file or folder that a source names; None if it looks like the id of a model on the hub.

    Raises ConfigError if it is neither: a missing file in an existing folder, close to the name of an existing one, or
    the name of an architecture.
    """
    local, name = os.path.expanduser(source), _hub_id(source)
    if local and os.path.exists(local):
        return pathlib.Path(local)
    shown, hint = printable(name), nearest_path(name)
    if name.startswith(("/", ".", "~")) or name.endswith(_SUFFIXES) or name.count("/") > 1 or not name:
        raise ConfigError(f"'{shown}': no such file or folder, and no id of a model of the hub{hint}")
    if name in MODELS or ("/" not in name and names_meant(name)):
        raise ConfigError(
            f"'{shown}' is an architecture, without weights: name a work folder, a file or folder of weights, or a model of the"
            " hub such as google/vit-base-patch16-224"
        )
    if name == str(source) and (hint or os.path.isdir(os.path.dirname(name))):
        raise ConfigError(f"there is no file or folder '{shown}'{hint or f'; of the hub it would be hf-hub:{shown}'}")
    return None


def _hub_id(source: str | pathlib.Path) -> str:
    name = str(source)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _is_reachable(endpoint: str) -> bool:
    """Whether the endpoint answers; huggingface_hub itself would try for half a minute."""
    address = urllib.parse.urlsplit(endpoint)
    if urllib.request.getproxies():  # which may reach what this machine cannot
        return True
    try:
        socket.create_connection(
            (address.hostname, address.port or (80 if address.scheme == "http" else 443)), 3
        ).close()
    except OSError:
        return False
    return True


class _Model:
    def __init__(self, name: str, revision: str | None):
        try:
            import huggingface_hub.constants
            import huggingface_hub.errors
        except ImportError:
            what = f"'{printable(name)}' is no local file or folder, and a model of the hub"
            raise not_installed(what, "huggingface_hub") from None
        self._hub, self.name, self.revision = huggingface_hub, name, revision
        self.folder: pathlib.Path | None = None
        constants = huggingface_hub.constants
        self._is_unreachable = constants.HF_HUB_OFFLINE or not _is_reachable(constants.ENDPOINT)

    def first(self, names: Sequence[str]) -> pathlib.Path:
        """The first of these files that the model has."""
        for name in names:
            if path := self.file(name):
                return path
        if self._is_unreachable:
            raise self.error(
                "the hub cannot be reached, or HF_HUB_OFFLINE is set, and it is neither in the cache nor a local path",
                names,
            )
        raise self.error("the model has no such file", names)

    def file(self, name: str) -> pathlib.Path | None:
        """A file's path; None if the model does not have it, or it is not cached and the hub cannot be reached."""
        errors = self._hub.errors
        try:
            # Once the hub is known to be unreachable, trying again would cost its retries for every further file.
            path = self._hub.hf_hub_download(
                self.name, name, revision=self.revision, local_files_only=self._is_unreachable
            )
        except errors.LocalEntryNotFoundError:
            self._is_unreachable = True
            return None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError:
            raise self.error("the model's owner must grant access; then log in with `hf auth login`", [name]) from None
        except errors.RepositoryNotFoundError:
            raise self.error(
                "there is no such local path and no such model, or it is private (log in with `hf auth login`)", [name]
            ) from None
        except errors.RevisionNotFoundError:
            raise self.error(f"the model has no revision '{self.revision}'", [name]) from None
        except Exception as error:  # network, disk or proxy: the types depend on the client's version
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise self.error(printable(reason), [name]) from error
        self.folder = pathlib.Path(path).parents[name.count("/")]
        return pathlib.Path(path)

    def error(self, problem: str, names: Sequence[str]) -> ConfigError:
        files = " or ".join(names) if len(names) < 3 else f"{names[0]}, or another file of weights,"
        return ConfigError(f"cannot get {files} of '{printable(self.name)}' from the hub: {problem}")
