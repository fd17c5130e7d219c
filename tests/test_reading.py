"""Files of other people: nothing waits, nothing is read without end, and each failure is a sentence with the path."""
import os

import pytest

from tinycogvlm.errors import UserError
from tinycogvlm.storage.reading import read_bytes, read_json, read_text, short


def test_what_is_read(tmp_path):
    path = tmp_path / "a"
    for content, text in ((b"", ""), ("zwölf\n".encode(), "zwölf\n"), (b"\xef\xbb\xbfBOM", "BOM"),
                          (b"a\r\nb", "a\r\nb")):
        path.write_bytes(content)
        assert (read_bytes(path), read_text(str(path))) == (content, text)
    path.write_bytes(b'\xef\xbb\xbf {"a": [1.5, null, "\\u00e9"]}\n')
    assert read_json(path) == {"a": [1.5, None, "é"]}


def test_the_limit_is_the_largest_size(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, limit=5) == b"12345"
    with pytest.raises(UserError, match="a: has 5 bytes, but such a file has at most 4"):
        read_bytes(path, limit=4)
    with open(path, "wb") as file:
        file.truncate(60 << 30)                                                 # a hole: as large as you like
    with pytest.raises(UserError, match="a: has 64424509440 bytes, but such a file has at most 64000000"):
        read_json(path)


@pytest.mark.parametrize("content, said", [
    (b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[1]", r"not a JSON object, but \[1\]"), (b"7", "but 7"),
    (b'"' + b"x" * 999 + b'"', r"not a JSON object, but 'x{199}\.\.\.$"), (b"[" * 100_000, "not valid JSON"),
    (b'{"a": ' * 100_000, "not valid JSON"), (b"{" + b"9" * 5000 + b"}", "not valid JSON"),
    (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
    (b"\xff\xfe{\0}\0", "not UTF-8 text .invalid start byte at byte 0"),
    (b'{"a": "\xe9"}', "not UTF-8 text .* at byte 7"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer, not the file itself; fe")])
def test_json_that_is_none(content, said, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ") and len(str(error.value)) < 500 and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    for path, said in ((tmp_path / "no", "no: cannot be read .No such file or directory.; it holds x"),
                       (tmp_path, "is not a file; it holds x")):
        with pytest.raises(UserError, match=said):
            read_json(path, "; it holds x")
    if os.name == "nt":
        return
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, said in ((tmp_path / "pipe", "is not a file"), ("/dev/zero", "is not a file"),
                       (tmp_path / "loop", "cannot be read .Too many levels")):
        with pytest.raises(UserError, match=said):
            read_bytes(path)
    (tmp_path / "locked").write_bytes(b"{}")
    (tmp_path / "locked").chmod(0)
    if not os.access(tmp_path / "locked", os.R_OK):                             # root may read everything
        with pytest.raises(UserError, match="locked: cannot be read .Permission denied"):
            read_json(tmp_path / "locked")


def test_values_in_messages():
    assert short("a\x1b[31m") == "'a\\x1b[31m'" and short({1: "é"}) == "{1: 'é'}"
    assert short("x" * 197) == repr("x" * 197) and short("x" * 198) == repr("x" * 198) + "..."
