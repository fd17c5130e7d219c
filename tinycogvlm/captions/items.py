"""What is to be captioned: pictures in folders, WebDataset tars and Parquet files, listed in order, read one by one."""
import glob
import io
import json
import os
import re
import tarfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..errors import UserError
from ..storage.reading import open_file, read_bytes

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".ico", ".tga")
LARGEST = 1 << 30                               # bytes of a picture's file
NAMES = ("image", "picture", "jpg", "png", "img", "image_path", "path", "file", "file_name")    # columns of Parquet


@dataclass(frozen=True)
class Item:
    """A picture that can be read later, and in another process.

    image: what rows call it. path: the file that holds it. size: in bytes, 0 if that is not known yet.
    """
    image: str
    path: str
    size: int = 0

    def read(self):
        """The bytes of the picture's file. UserError if there are none."""
        return read_bytes(self.path, limit=LARGEST)

    def file(self):
        """The picture as an open file, whose name messages can tell"""
        file = io.BytesIO(self.read())
        file.name = self.image
        return file

    def fields(self):
        """{name: text} of what else is known of it, for prompts such as "These words describe it: {tags}"."""
        return {"name": Path(self.path).stem, "folder": Path(self.path).absolute().parent.name}

    @property
    def alone(self):
        """Whether the picture is a file of its own, beside which a .txt can lie."""
        return True


@dataclass(frozen=True)
class Listed(Item):
    """A line of a list in JSON, whose other values are fields."""
    given: dict = field(default_factory=dict)

    def fields(self):
        return super().fields() | self.given


@dataclass(frozen=True)
class Unreadable(Item):
    """What cannot even be listed; it becomes a row with this error."""
    error: str = ""

    def read(self):
        raise UserError(self.error)

    @property
    def alone(self):
        return False


@dataclass(frozen=True)
class InTar(Item):
    """A picture in a sample of a tar. members: {ending: (offset, bytes)} of the sample's .json and .txt"""
    offset: int = 0
    members: dict = field(default_factory=dict)

    def read(self):
        return self._bytes(self.offset, self.size)

    def _bytes(self, offset, size):
        with open_file(self.path) as file:
            file.seek(offset)
            found = file.read(size)
        if len(found) < size:
            raise UserError(f"{self.image}: the tar ends in the middle of it")
        return found

    def fields(self):
        texts = {ending: self._bytes(*place).decode(errors="replace") for ending, place in self.members.items()}
        try:
            more = json.loads(texts.pop("json", "{}"))
        except ValueError as error:
            raise UserError(f"{self.image}: the .json beside it is not valid JSON ({error})") from None
        return {"name": key_of(self.image)} | texts | (more if isinstance(more, dict) else {})

    @property
    def alone(self):
        return False


@dataclass(frozen=True)
class InParquet(Item):
    """A row of a Parquet file, whose other columns are fields"""
    group: int = 0
    row: int = 0

    def read(self):
        found = _column(self.path, self.group, picture_column(self.path))[self.row]
        found = found.get("bytes") or found.get("path") if isinstance(found, dict) else found
        if isinstance(found, str):                          # a path, from the file's own folder
            return read_bytes(Path(self.path).parent / found, limit=LARGEST)
        if not isinstance(found, bytes):
            raise UserError(f"{self.image}: there is no picture in this row")
        return found

    def fields(self):
        picture = picture_column(self.path)
        others = [name for name in parquet(self.path).schema_arrow.names if name != picture]
        return {"name": str(self.row)} | {name: _column(self.path, self.group, name)[self.row] for name in others}

    @property
    def alone(self):
        return False


def arrow_for(path):
    """The package pyarrow. UserError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: to read and write Parquet, install pyarrow: pip install 'tinycogvlm[data]'") from None
    return pyarrow


def parquet(path):
    """A Parquet file, opened. UserError if it is none."""
    pyarrow = arrow_for(path)
    open_file(path).close()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged ({error})") from None


@lru_cache(4)
def picture_column(path):
    """The column with the pictures: the first of binary values or of {bytes, path}, else a known name's paths."""
    columns = list(parquet(path).schema_arrow)
    import pyarrow.types as types                           # installed, since the file is open
    for column in columns:
        of_struct = types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0
        if of_struct or types.is_binary(column.type) or types.is_large_binary(column.type):
            return column.name
    for column in columns:
        if column.name in NAMES and (types.is_string(column.type) or types.is_large_string(column.type)):
            return column.name
    raise UserError(f"{path}: no column holds pictures: one of binary values, of {{bytes, path}}, or of paths with the "
                    f"name {', '.join(NAMES[:2])} ...; it has {', '.join(column.name for column in columns)}")


@lru_cache(4)
def _column(path, group, name):
    """The values of one column in a row group, the part of the file that is in memory at a time"""
    try:
        return parquet(path).read_row_group(group, columns=[name]).column(0).to_pylist()
    except OSError as error:                                # pyarrow's errors are OSErrors or ValueErrors
        raise UserError(f"{path}: the rows of group {group} cannot be read ({error})") from None


def listed(places, lines=()):
    """[Item] of all places, in their order

    A place is a picture, a folder (searched to the bottom, by name), a pattern such as 'photos/*.jpg', a tar, a Parquet
    file, or "-" for `lines`, each a path or a JSON object with "image" and fields.
    """
    found = []
    for place in places:
        if place == "-":
            found += [_of_line(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        elif os.path.lexists(place) or not glob.has_magic(place):
            found += _at(place)
        else:
            paths = sorted(glob.glob(place, recursive=True))
            if not paths:
                raise UserError(f"no file has a name like {place}")
            found += [item for path in paths for item in _at(path)]
    if not found:
        raise UserError("there are no pictures to caption: the list is empty")
    return found


def _at(path):
    """The items at a path, which need not exist"""
    if os.path.isdir(path):
        paths = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
                 if name.lower().endswith((*PICTURES, ".tar", ".parquet"))]
        if not paths:
            raise UserError(f"{path}: no pictures in this folder, nor tars or Parquet files")
        return [item for path in sorted(paths) for item in _at(path)]
    name = path.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        return [_unreadable(path, f"{legible(path)}: a compressed tar; unpack it to a .tar first")]
    if name.endswith((".tar", ".parquet")):
        try:
            found = in_tar(path) if name.endswith(".tar") else in_parquet(path)
        except UserError as error:
            return [_unreadable(path, str(error))]
        return found or [_unreadable(path, f"{legible(path)}: no pictures in it")]
    return [_file(path)]


def _file(path):
    try:
        return Item(legible(path), path, os.path.getsize(path))
    except (OSError, ValueError):                           # what is wrong is said when it is read
        return Item(legible(path), path)


def _unreadable(path, error):
    return Unreadable(legible(path), path, error=error)


def _of_line(line, number):
    line = line.rstrip("\r\n")
    if not line.lstrip().startswith("{"):
        return _file(line)
    try:
        found = json.loads(line)
        path = found.pop("image")
        os.fsencode(path)
    except (ValueError, KeyError, TypeError):
        return _unreadable(f"line {number}", f'line {number} of the list is not JSON with the path of an "image"')
    item = _file(path)
    return Listed(item.image, path, item.size, given=found)


def in_tar(path):
    """The pictures of a tar, by WebDataset's rule: files with the same name up to the first dot are one sample."""
    found, samples = [], {}
    open_file(path).close()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                place = member.offset_data, member.size
                ending = member.name.rpartition(".")[2].lower()
                members = samples.setdefault(key_of(member.name), {})
                if f".{ending}" in PICTURES:
                    found.append(InTar(legible(f"{path}/{member.name}"), path, member.size, place[0], members))
                elif ending in ("json", "txt"):
                    members[ending] = place
                tar.members = []                            # else a tar of a million files stays in memory
    except (tarfile.TarError, OSError, EOFError) as error:
        found.append(_unreadable(path, f"{legible(path)}: not a tar, or damaged ({error})"))
    return found


def key_of(name):
    """"images/0001" of "images/0001.seg.png" """
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def in_parquet(path):
    picture_column(path)
    about, found = parquet(path).metadata, []
    for group in range(about.num_row_groups):
        found += [InParquet(legible(f"{path}/{len(found) + row}"), path, group=group, row=row)
                  for row in range(about.row_group(group).num_rows)]
    return found


def legible(path):
    """A path as text that can be written as UTF-8"""
    return re.sub("[\ud800-\udfff]", "\ufffd", path)
