"""Folders of classes: `class/…files` or `split/class/…files`."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fer_batch.data.images import (
    IMAGE_SUFFIXES,
    LabelledExample,
    read_images,
    read_padded_image,
    shorten_list,
)
from fer_batch.data.labels import SPLIT_SYNONYMS, normalize_label
from fer_batch.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ClassFile:
    """A file in a folder of classes, or a labelled part of a video."""

    path: Path
    label: str
    """Name of the class folder, unchanged."""
    split: str
    """"train", "select", "test", or "" without split folders."""
    start_s: float | None = None
    end_s: float | None = None
    """The part of a video that has the label, in seconds since the start of the file; None for all of it."""


def read_folder(
    option: str, path: Path, counts: Counter[str], default_split: str = ""
) -> list[LabelledExample]:
    """Read the images of a folder of classes, at any depth, of any size and colour.

    The images should be faces cut as the pipeline cuts them: squares of about the height of the face box.
    `default_split` is for images without a split folder. Raises InputError, which begins with `option`.
    """
    files = list_class_files(option, path, IMAGE_SUFFIXES, counts)
    return [
        LabelledExample(
            images=image[None],
            label=normalize_label(file.label),
            split=file.split or default_split,
            source=str(file.path.relative_to(path)),
        )
        for image, file in read_images(option, ((file.path, file) for file in files), counts)
    ]


def read_numbered_folder(
    option: str, path: Path, counts: Counter[str], numbers: Mapping[int, str]
) -> list[LabelledExample]:
    """Read the images of folders that are named by a class, or by its number in `numbers`.

    Images keep their proportions. Copies of public data sets often name the published test part "val".
    Without a folder of the split "test", the split "select" is therefore "test". Raises InputError, which
    begins with `option`.
    """
    files = list_class_files(option, path, IMAGE_SUFFIXES, counts)
    labels = {str(number): name for number, name in numbers.items()}
    labels |= {name: name for name in numbers.values()}
    named = [(file, labels.get(normalize_label(file.label))) for file in files]
    if unexpected := sorted({file.label for file, label in named if label is None}):
        raise InputError(
            f"{option}: unexpected class folders: {shorten_list(unexpected)}; allowed are the names or "
            f"numbers of {', '.join(f'{number} {name}' for number, name in numbers.items())}"
        )
    sources = ((file.path, (file, label or "")) for file, label in named)
    examples = [
        LabelledExample(
            images=image[None],
            label=label,
            split=file.split,
            source=str(file.path.relative_to(path)),
        )
        for image, (file, label) in read_images(option, sources, counts, read_padded_image)
    ]
    if any(file.split == "test" for file in files):
        return examples
    return [
        dataclasses.replace(example, split="test") if example.split == "select" else example
        for example in examples
    ]


def check_single_layout(
    option: str, path: Path, numbers: Mapping[int, str], others: Sequence[Path], expected: str
) -> None:
    """Raise InputError, which begins with `option`, unless a folder has one layout of a data set.

    `others` are the files and folders of layouts other than `read_numbered_folder` reads. `expected`
    describes all layouts.
    """
    if not path.is_dir():
        raise InputError(f"{option}: is a file; expected a folder with {expected}")
    names = {*map(str, numbers), *numbers.values()}
    folders = [p for base in (path, *_subfolders(path)) for p in _split_folders(base)]
    folders += [p for p in _subfolders(path) if normalize_label(p.name) in names]
    found = [*others, *folders[:1]]
    if not found:
        raise InputError(f"{option}: expected a folder with {expected}")
    if len(found) > 1:
        raise InputError(
            f"{option}: {found[0].relative_to(path)} and {found[1].relative_to(path)} belong to different "
            "layouts of the data set; give a folder with one of them"
        )


def list_class_files(
    option: str, folder: Path, suffixes: Iterable[str], counts: Counter[str]
) -> list[ClassFile]:
    """List the files of `class/…` or `split/class/…` with one of `suffixes`, sorted by path.

    Class folders may have subfolders. Split folders are named by a `SPLIT_SYNONYMS` key, and are in
    `folder` or in its only subfolder. Hidden folders are ignored. Files outside class folders are counted as
    "without_class". Raises InputError, which begins with `option`, if the folder or such files do not exist,
    if a split folder is empty, or if other folders are beside split folders.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{option}: {problem}; give a folder with a subfolder for each class")
    allowed_suffixes = frozenset(suffixes)
    base = folder
    if not _split_folders(base) and len(inside := _subfolders(base)) == 1 and _split_folders(inside[0]):
        base = inside[0]
    splits = _split_folders(base)
    files: list[ClassFile] = []
    unexpected: set[str] = set()
    filled: set[Path] = set()
    for path in sorted(base.rglob("*")):
        parts = path.relative_to(base).parts
        if (
            path.suffix.lower() not in allowed_suffixes
            or any(_is_hidden(part) for part in parts)
            or not path.is_file()
        ):
            continue
        split = SPLIT_SYNONYMS[parts[0].lower()] if splits and base / parts[0] in splits else ""
        if len(parts) < (3 if split else 2):
            counts["without_class"] += 1
        elif splits and not split:
            unexpected.add(parts[0])
        else:
            files.append(ClassFile(path=path, label=parts[1 if split else 0], split=split))
            filled.add(base / parts[0])
    if unexpected:
        raise InputError(
            f"{option}: split folders ({shorten_list(s.name for s in splits)}) and other folders "
            f"({shorten_list(sorted(unexpected))}) are mixed; move the class folders into the split folders"
        )
    if not files:
        examples = ", ".join(sorted(allowed_suffixes)[:4])
        raise InputError(
            f"{option}: no files like {examples} … in class folders, and {counts['without_class']} outside "
            "them; expected folders that are named after their class, for example happy/"
        )
    if empty := [s.name for s in splits if s not in filled]:
        raise InputError(
            f"{option}: the split folder {empty[0]} is empty; fill it with class folders, or remove it"
        )
    return files


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def _split_folders(folder: Path) -> list[Path]:
    return [p for p in _subfolders(folder) if p.name.lower() in SPLIT_SYNONYMS]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
