"""The vocabulary of CLIP's byte-pair encoding: where to find it, and the files to read it from."""

import importlib
import importlib.util
import os
import pathlib
import re
import zlib
from typing import NamedTuple

from vision_jax import limits
from vision_jax.errors import ConfigError, not_installed
from vision_jax.files import printable, read_json, read_regular

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_URL = f"https://github.com/openai/CLIP/raw/main/clip/{_FILE}"
_PACKAGES = ("open_clip", "clip")  # the packages that include the file
_MERGES = 49152 - 256 - 2  # the official file has more merges, which CLIP does not use
_SPECIALS = (("<|startoftext|>", "<|endoftext|>"), ("<start_of_text>", "<end_of_text>"))  # OpenAI's, open_clip's


class Vocabulary(NamedTuple):
    """Ids of the symbols, the pairs to merge, highest priority first, and the names of the start and end tokens."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    specials: tuple[str, str]


def byte_symbols() -> list[str]:
    """The printable character for each byte, as in GPT-2: its own if printable, else one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def find_vocabulary(where: str) -> Vocabulary:
    """The vocabulary from a file, folder or hub id; if `where` is empty, from an installed package."""
    if not where:
        return read_vocabulary(_installed_file())
    path = pathlib.Path(os.path.expanduser(where))
    if os.path.exists(path):
        return read_vocabulary(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", where) and not where.endswith((".gz", ".txt", ".json")):
        return _from_hub(where)
    raise ConfigError(f"the vocabulary '{printable(where)}' of tokenizer 'clip' does not exist; {_ways()}")


def read_vocabulary(path: pathlib.Path) -> Vocabulary:
    """The vocabulary from bpe_simple_vocab_16e6.txt.gz (or unpacked), tokenizer.json, or vocab.json and merges.txt.

    Raises:
        ConfigError: `path` is none of these, is damaged, or is not of CLIP's kind; the message names the file.
    """
    if path.is_dir():
        found = [path / name for name in ("vocab.json", "tokenizer.json", _FILE) if (path / name).is_file()]
        if not found:
            raise ConfigError(f"folder '{printable(path)}' has no vocabulary; {_ways()}")
        path = found[0]
    try:
        if path.name.endswith(".json"):
            vocabulary = _of_json(path, read_json(path, limits.VOCABULARY_BYTES))
        else:
            vocabulary = _of_merges(_merges(path))
    except ConfigError:
        raise
    except (OSError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or printable(error)
        raise ConfigError(f"cannot read the vocabulary '{printable(path)}': {reason}") from None
    _check(path, vocabulary)
    return vocabulary


def _of_merges(merges: list[tuple[str, str]]) -> Vocabulary:
    """The vocabulary in OpenAI's order: bytes, printable first; the same at the end of a word; merges; start and end."""
    symbols = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) >= 256, ord(symbol)))
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), *_SPECIALS[0]]
    return Vocabulary({name: id for id, name in enumerate(names)}, merges, _SPECIALS[0])


def _of_json(path: pathlib.Path, content: dict) -> Vocabulary:
    if not isinstance(content, dict):
        raise ConfigError(f"'{printable(path)}' is no vocabulary of CLIP: it is not a JSON object")
    if isinstance(model := content.get("model"), dict):  # a tokenizer.json
        if (model.get("type"), model.get("end_of_word_suffix")) != ("BPE", "</w>"):
            raise ConfigError(
                f"'{printable(path)}' is no vocabulary of CLIP: its model is not byte-pair encoding with '</w>'"
            )
        ids, merges = _of_tokenizer(path, content)
    elif (path.parent / "merges.txt").is_file():
        ids, merges = content, _merges(path.parent / "merges.txt")
    else:
        raise ConfigError(f"'{printable(path)}' needs its merges.txt in the same folder; {_ways()}")
    if len(ids) > limits.VOCABULARY_TOKENS or not all(type(id) is int for id in ids.values()):
        raise ConfigError(f"'{printable(path)}' is no vocabulary of CLIP: it does not give each symbol a number")
    for specials in _SPECIALS:
        if all(name in ids for name in specials):
            return Vocabulary(ids, merges, specials)
    raise ConfigError(
        f"'{printable(path)}' is no vocabulary of CLIP: it has no '{_SPECIALS[0][0]}' and '{_SPECIALS[0][1]}'"
    )


def _of_tokenizer(path: pathlib.Path, content: dict) -> tuple[dict, list[tuple[str, str]]]:
    """Ids and merges from a tokenizer.json; only their types are checked."""
    vocab, merges, added = (
        content["model"].get("vocab"),
        content["model"].get("merges"),
        content.get("added_tokens") or [],
    )
    if not (isinstance(vocab, dict) and isinstance(merges, list) and isinstance(added, list)):
        raise ConfigError(f"'{printable(path)}' is no vocabulary of CLIP: its model has no 'vocab' and 'merges'")
    pairs = [
        tuple(pair.split(" ") if isinstance(pair, str) else pair if isinstance(pair, list) else ()) for pair in merges
    ]
    if wrong := [pair for pair in pairs if len(pair) != 2 or not all(isinstance(symbol, str) for symbol in pair)]:
        raise ConfigError(
            f"'{printable(path)}' is no vocabulary of CLIP: a merge is not two symbols, {printable(repr(wrong[0]))}"
        )
    if not all(isinstance(token, dict) and isinstance(token.get("content"), str) and "id" in token for token in added):
        raise ConfigError(f"'{printable(path)}' is no vocabulary of CLIP: an added token has no 'content' and 'id'")
    return vocab | {token["content"]: token["id"] for token in added}, pairs


def _unpacked(path: pathlib.Path) -> bytes:
    """The content of a text file, or of a gzip file with one member."""
    content = read_regular(path, limits.VOCABULARY_BYTES)
    if not path.name.endswith(".gz"):
        return content
    stream = zlib.decompressobj(wbits=31)  # of gzip
    text = stream.decompress(content, limits.VOCABULARY_BYTES)
    if not stream.eof:
        kind = "more" if stream.unconsumed_tail else "less"
        raise ValueError(f"it unpacks to {kind} than it should ({limits.VOCABULARY_BYTES:,} bytes at most)")
    if stream.unused_data:
        raise ValueError("bytes follow its end")
    return text


def _merges(path: pathlib.Path) -> list[tuple[str, str]]:
    lines = _unpacked(path).decode("utf-8").rstrip("\n").split("\n", 1 + _MERGES)
    merges = [tuple(line.split()) for line in lines[1 : 1 + _MERGES]]  # the first line is the version
    if not merges:
        raise ConfigError(f"'{printable(path)}' is no list of merges: it holds none")
    for number, merge in enumerate(merges, 2):
        if len(merge) != 2:
            raise ConfigError(
                f"'{printable(path)}' is no list of merges: line {number} is not two symbols, {printable(repr(lines[number - 1]))}"
            )
    return merges


def _check(path: pathlib.Path, vocabulary: Vocabulary) -> None:
    ids, merges, (start, end) = vocabulary
    if set(ids.values()) != set(range(len(ids))) or (ids[start], ids[end]) != (len(ids) - 2, len(ids) - 1):
        raise ConfigError(
            f"'{printable(path)}' is no vocabulary of CLIP: '{start}' and '{end}' must be the last of its ids"
        )
    if not all(name.isascii() or _is_text(name) for name in ids):
        raise ConfigError(f"'{printable(path)}' is no vocabulary of CLIP: it holds halves of characters")
    needed = {symbol + suffix for symbol in byte_symbols() for suffix in ("", "</w>")}
    needed.update(name for first, second in merges for name in (first, second, first + second))
    if missing := needed - ids.keys():
        raise ConfigError(
            f"'{printable(path)}' is no vocabulary of CLIP: it lacks {len(missing)} symbols, such as {printable(repr(min(missing)))}"
        )


def _is_text(name: str) -> bool:
    """Whether a name from JSON can be encoded: escapes there may be halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _installed_file() -> pathlib.Path:
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)  # finds the folder without importing
        for folder in (spec and spec.submodule_search_locations) or ():
            if (file := pathlib.Path(folder) / _FILE).is_file():
                return file
    raise ConfigError(f"tokenizer 'clip' finds no vocabulary: no installed package carries it; {_ways()}")


def _from_hub(model: str) -> Vocabulary:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise not_installed(f"tokenizer 'clip:{model}'", "huggingface_hub") from None
    try:
        try:
            hf_hub_download(model, "merges.txt")
            file = hf_hub_download(model, "vocab.json")
        except LocalEntryNotFoundError:  # no connection, and not in the cache
            raise
        except EntryNotFoundError:
            file = hf_hub_download(model, "tokenizer.json")
    except (OSError, ValueError, EntryNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"cannot get the vocabulary of '{model}' from the hub: {reason}; {_ways()}") from None
    return read_vocabulary(pathlib.Path(file))


def _ways() -> str:
    return (
        f"get OpenAI's file '{_FILE}' from {_URL} and pass it as 'clip:FILE', name a folder with vocab.json and "
        "merges.txt as 'clip:FOLDER' or a model of the hub as 'clip:openai/clip-vit-base-patch32', or "
        "pip install open_clip_torch and pass 'clip'"
    )
