"""Rows of captions as JSONL, Parquet or a tar, written and read again; and as .txt files beside their pictures."""
import io
import json
import os
import tarfile
from pathlib import Path

from PIL import Image

from ..errors import UserError
from ..storage.reading import open_file
from .items import arrow_for, parquet

KINDS = (".jsonl", ".parquet", ".tar")


def kind_of(out):
    """The ending of OUT. UserError if nothing is written like that."""
    kind = Path(out).suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{out}: captions are written to a file with the ending {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if kind == ".parquet":
        arrow_for(out)
    return kind


def line(row):
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def rows_of(path):
    """An iterator of the rows in a file of JSONL. UserError names the line that is none."""
    with open_file(path) as file:
        for number, text in enumerate(file, 1):
            try:
                row = json.loads(text)
                row["image"], row["error"], row["key"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path}: line {number} is not a row of captions; move the file away") from None
            yield row


def read(path):
    """An iterator of the rows in an output of any kind"""
    kind = kind_of(path)
    if kind == ".jsonl":
        yield from rows_of(path)
        return
    try:
        if kind == ".parquet":
            for batch in parquet(str(path)).iter_batches():
                yield from _checked(path, batch.to_pylist())
        else:
            with tarfile.open(path, "r:") as tar:
                yield from _checked(path, (json.load(tar.extractfile(member)) for member in tar
                                           if member.name.endswith(".json")))
    except (tarfile.TarError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read ({error}); move the file away") from None


def _checked(path, rows):
    for row in rows:
        if not (isinstance(row, dict) and {"image", "error", "key"} <= row.keys()):
            raise UserError(f"{path}: holds something other than captions; move the file away")
        yield row


def write(file, kind, rows, items, settings):
    """Write all rows into an open binary file. items: of the rows; a tar gets their pictures."""
    if kind == ".jsonl":
        for row in rows:
            file.write(line(row).encode())
    elif kind == ".parquet":
        _write_parquet(file, rows, settings)
    else:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for i, (row, item) in enumerate(zip(rows, items)):
                _write_sample(tar, f"{i:09d}", row, item, settings)


def _write_parquet(file, rows, settings):
    import pyarrow as pa
    import pyarrow.parquet
    columns = list(settings.prompts)

    def of_each(kind):
        return kind if columns == ["caption"] else pa.struct([(column, kind) for column in columns])
    fields = [("image", pa.string()), *((column, pa.string()) for column in columns)]
    if settings.boxes:
        fields.append(("boxes", of_each(pa.list_(pa.list_(pa.int64())))))
    schema = pa.schema([*fields, ("tokens", of_each(pa.int64())), ("finish", of_each(pa.string())),
                        ("error", pa.string()), ("key", pa.string())])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        some = []
        for row in rows:
            some.append(row)
            if len(some) == 4096:
                writer.write_table(pa.Table.from_pylist(some, schema))
                some = []
        writer.write_table(pa.Table.from_pylist(some, schema))


def _write_sample(tar, name, row, item, settings):
    """The picture, a .txt for each column and the row as .json. Of a picture that failed only the row."""
    files = {"json": line(row).encode()}
    if row["error"] is None:
        picture = item.read()
        with Image.open(io.BytesIO(picture)) as opened:
            ending = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2"}.get(opened.format, opened.format.lower())
        files = {ending: picture} | {text_ending(column): row[column].encode() for column in settings.prompts} | files
    for ending, content in files.items():
        member = tarfile.TarInfo(f"{name}.{ending}")        # no time and no owner: the same rows are the same bytes
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


def text_ending(column):
    return "txt" if column == "caption" else f"{column}.txt"


def write_texts(rows, items, settings):
    """A .txt beside each picture, or one for each column -> [which were not written, and why]; other words are kept."""
    kept = []
    for row, item in zip(rows, items):
        if row["error"] is not None:
            continue
        if not item.alone:
            kept.append(f"{item.image}: no .txt, since it is not a file of its own")
            continue
        for column in settings.prompts:
            path, text = Path(item.path).with_suffix(f".{text_ending(column)}"), (row[column] + "\n").encode()
            try:
                if not path.exists():
                    _write_text(path, text)
                elif path.read_bytes() != text:
                    kept.append(f"{path}: has other words, which are kept")
            except OSError as error:
                kept.append(f"{path}: cannot be written ({error.strerror or error})")
    return kept


def _write_text(path, text):
    temporary = Path(f"{path}.part")                        # not one of atomic.py's, which a kill would leave beside it
    try:
        with open(temporary, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
