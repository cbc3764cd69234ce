"""Files of the Hugging Face hub, through its own cache. HF_HUB_OFFLINE=1 keeps to what is there already."""

import os
import pathlib
from collections.abc import Sequence

from vision_jax.errors import ConfigError, not_installed
from vision_jax.files import printable
from vision_jax.weights.readers import shards_of

_PREFIXES = ("hf-hub:", "hf_hub:", "hf://")  # timm's and open_clip's
_INDEX = ".index.json"
_SUFFIXES = (".npz", ".safetensors", ".pt", ".pth", ".bin", ".json")  # of files, never of models


def fetch(
    source: str | pathlib.Path,
    filenames: Sequence[str | Sequence[str]],
    optional: Sequence[str] = (),
    revision: str | None = None,
) -> pathlib.Path:
    """The folder that has the files of `source`; a local file or folder is given back as it is.

    Args:
        source: a local path, or the id of a model of the hub such as "google/vit-base-patch16-224", optionally after
            "hf-hub:".
        filenames: what is needed. A sequence among them stands for the first of its names that the model has. With an
            index of several files (`*.index.json`) come these files.
        optional: what is taken where the model has it.
        revision: a branch, tag or commit of the model; by default its main branch.

    Raises:
        ConfigError: there is no such path or model, a file is missing, huggingface_hub is not installed, or the files are
            not in the cache and the hub cannot be reached.
    """
    name = str(source)
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    local = os.path.expanduser(source)
    if local and os.path.exists(local):
        return pathlib.Path(local)
    if name.startswith(("/", ".", "~")) or name.endswith(_SUFFIXES) or name.count("/") > 1 or not name:
        raise ConfigError(f"'{printable(name)}': no such file or folder, and no id of a model of the hub")
    model = _Model(name, revision)
    needed = [model.first([wanted] if isinstance(wanted, str) else wanted) for wanted in filenames]
    for wanted in optional:
        model.file(wanted)
    for index in [path for path in needed if path.name.endswith(_INDEX)]:
        for shard in dict.fromkeys(shards_of(index).values()):
            model.first([(index.relative_to(model.folder).parent / shard).as_posix()])
    if model.folder is None:
        raise model.error("the model has no such file, or it cannot be reached", optional)
    return model.folder


class _Model:
    def __init__(self, name: str, revision: str | None):
        try:
            import huggingface_hub.errors
        except ImportError:
            what = f"'{printable(name)}' is no local file or folder, and a model of the hub"
            raise not_installed(what, "huggingface_hub") from None
        self._hub, self.name, self.revision = huggingface_hub, name, revision
        self.folder: pathlib.Path | None = None
        self._is_unreachable = False

    def first(self, names: Sequence[str]) -> pathlib.Path:
        """The first of these files that the model has."""
        for name in names:
            if path := self.file(name):
                return path
        if self._is_unreachable:
            raise self.error("the hub cannot be reached, or HF_HUB_OFFLINE is set, and it is not in the cache", names)
        raise self.error("the model has no such file", names)

    def file(self, name: str) -> pathlib.Path | None:
        """A file's path; None: the model does not have it, or it is not in the cache and the hub cannot be reached."""
        errors = self._hub.errors
        try:
            # Once the hub was found unreachable, trying again would cost its retries for every further file.
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
        except Exception as error:  # of the network, the disk, a proxy: the kinds differ with the client's version
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise self.error(printable(reason), [name]) from error
        self.folder = pathlib.Path(path).parents[name.count("/")]
        return pathlib.Path(path)

    def error(self, problem: str, names: Sequence[str]) -> ConfigError:
        return ConfigError(f"cannot get {' or '.join(names)} of '{printable(self.name)}' from the hub: {problem}")
