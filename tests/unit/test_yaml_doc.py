"""The YAML dialect: what is accepted, what is refused, and where an error points."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from moeplan.errors import SpecError
from moeplan.readers.yaml_convert import convert
from moeplan.readers.yaml_doc import load_document, parse_document


def fault(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_document(text, "spec.yaml")
    return caught.value


# ── scalars ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        # YAML 1.1 has 1e9 as text and 1_000 as a number; people mean a number by both.
        ("1e9", 10**9),
        ("46.7e9", 46.7e9),
        ("1_000", 1000),
        ("+5", 5),
        ("-3", -3),
        (".5", 0.5),
        ("1.", 1.0),
        ("2.5E-3", 0.0025),
        # Booleans of YAML 1.1 that are country codes, switches and initials to people.
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("y", "y"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        # 010 is 8 in YAML 1.1 and 10 in 1.2; 1:30 is 90 in YAML 1.1; dates and versions are text.
        ("010", "010"),
        ("1:30", "1:30"),
        ("2023-12-11", "2023-12-11"),
        ("1.2.3", "1.2.3"),
        ("0x10", "0x10"),
        ("1__0", "1__0"),
        ("1_", "1_"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("٣", "٣"),
        ("", None),
        ("~", None),
        ("null", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("'~'", "~"),
    ],
)
def test_scalars_mean_what_people_mean(written: str, meant: object) -> None:
    value = parse_document(f"key: {written}\n", "spec.yaml").data["key"]
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: .nan", "not a usable number"),
        ("a: 1\nb: -.INF", "not a usable number"),
        ("a: 1\nb: 1e999", "out of range"),
        ("a: 1\na: 2", "duplicate key `a` (first on line 1)"),
        ("a: 1\nb: &x 2", "anchors and aliases"),
        ("a: 1\nb: *x", "anchors and aliases"),
        ("a: 1\nb: &x {c: 1}", "anchors and aliases"),
        ("a: 1\nb: !!python/object:os.system {}", "tags such as"),
        ("a: 1\nb: !!int '3'", "tags such as"),
        ("a: 1\n2: 3", "a key must be text"),
        ("a: 1\ntrue: 3", "a key must be text"),
        ("a: 1\n? [b]\n: 3", "a key must be text"),
        ("a: 1\n--- {}", "a second document"),
        ("a: 1\nb: [1, 2", "not valid YAML"),
        ("a: 1\nb: c: d", "not valid YAML"),
        ("a: 1\nb: 'open", "not valid YAML"),
    ],
)
def test_what_is_refused_is_refused_with_its_line(text: str, says: str) -> None:
    error = fault(text)
    assert says in error.message
    assert error.path == "spec.yaml"
    assert error.line is not None
    assert error.line >= 2
    assert error.column is not None


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n", "a: \x07", "a: \ud800"])
def test_text_without_usable_data_is_refused(text: str) -> None:
    assert fault(text).path == "spec.yaml"


def test_nesting_ends_at_forty_levels() -> None:
    assert parse_document("[" * 40 + "]" * 40, "spec.yaml").data is not None
    assert "deeper than 40" in fault("[" * 41 + "]" * 41).message


def test_an_alias_bomb_stops_at_its_first_anchor() -> None:
    doublings = (f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    assert fault("a: &a [x, x]\n" + "".join(doublings)).line == 1


# ── places ──────────────────────────────────────────────────────────────────────────────────────

PLACES = """\
# a comment
id: x
blocks:
  moe:
    ffn: {kind: moe, topk: 2}
list:
  - 1
  - name: two
"""


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ((), (2, 1), (2, 1)),
        (("id",), (2, 1), (2, 5)),
        (("blocks", "moe"), (4, 3), (5, 5)),
        (("blocks", "moe", "ffn", "topk"), (5, 22), (5, 28)),
        (("list", 1), (8, 5), (8, 5)),
        (("list", 1, "name"), (8, 5), (8, 11)),
        (("list", 7, "name"), (6, 1), (6, 1)),  # absent: the nearest parent's key
    ],
)
def test_places_are_those_an_editor_shows(path: Any, key: tuple[int, int], value: tuple[int, int]) -> None:
    document = parse_document(PLACES, "spec.yaml")
    assert document.location(path) == key
    if path != ("list", 7, "name"):
        assert document.location(path, value=True) == value


def test_snippets_are_source_lines_and_never_huge() -> None:
    document = parse_document("id: x\nlong: " + "y" * 500, "spec.yaml")
    assert document.snippet(1) == "id: x"
    assert document.snippet(2) is None
    assert document.snippet(3) is None


# ── conversion ──────────────────────────────────────────────────────────────────────────────────


class Wheel(msgspec.Struct, tag="wheel", tag_field="kind", forbid_unknown_fields=True):
    size_mm: Annotated[int, msgspec.Meta(ge=1)]
    rim: Literal["steel", "alloy"] = "steel"
    spare: bool = False


class Track(msgspec.Struct, tag="track", tag_field="kind", forbid_unknown_fields=True):
    links: int


class Vehicle(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    runs_on: dict[str, Wheel | Track]
    seats: list[int] = []
    price: float | None = None
    limits: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}


VEHICLE = """\
name: cart
runs_on:
  left: {kind: wheel, size_mm: 500}
  right:
    kind: wheel
    size_mm: 500
"""


def test_a_sound_document_converts() -> None:
    vehicle = convert(parse_document(VEHICLE + "price: 1e3\n", "v.yaml"), Vehicle)
    assert vehicle.runs_on["right"] == Wheel(size_mm=500)
    assert vehicle.price == 1000.0


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "message", "hint"),
    [
        (
            "    size_mm: 500\n",
            "    sizemm: 500\n",
            6,
            5,
            "unknown key `sizemm` in `runs_on.right`",
            "did you mean `size_mm`?",
        ),
        (
            "    size_mm: 500\n",
            "    diameter: 500\n",
            6,
            5,
            "unknown key `diameter` in `runs_on.right`",
            "did you mean `size_mm`?",
        ),
        (
            "    size_mm: 500\n",
            "    size_mm: 500\n    zzz: 1\n",
            7,
            5,
            "unknown key `zzz` in `runs_on.right`",
            "known keys: size_mm, rim, spare",
        ),
        ("    size_mm: 500\n", "", 4, 3, "missing key `size_mm` in `runs_on.right` (kind wheel)", None),
        (
            "    size_mm: 500\n",
            "    size_mm: big\n",
            6,
            14,
            "`runs_on.right.size_mm`: expected a whole number, got 'big'",
            None,
        ),
        (
            "    size_mm: 500\n",
            "    size_mm: 0\n",
            6,
            14,
            "`runs_on.right.size_mm`: expected a whole number >= 1, got 0",
            None,
        ),
        (
            "    size_mm: 500\n",
            "    size_mm: true\n",
            6,
            14,
            "`runs_on.right.size_mm`: expected a whole number, got true",
            None,
        ),
        (
            "    kind: wheel\n",
            "    kind: weel\n",
            5,
            11,
            "`runs_on.right.kind`: 'weel' is not possible here; one of wheel, track",
            "did you mean `wheel`?",
        ),
        ("    kind: wheel\n", "", 4, 3, "missing key `kind` in `runs_on.right`", None),
        (
            "    kind: wheel\n",
            "    kind: wheel\n    rim: tin\n",
            6,
            10,
            "`runs_on.right.rim`: 'tin' is not possible here; one of alloy, steel",
            None,
        ),
        (
            "    kind: wheel\n",
            "    kind: wheel\n    spare: no\n",
            6,
            12,
            "`runs_on.right.spare`: expected true or false, got 'no'",
            "write `true` or `false`",
        ),
        ("name: cart", "name: 2023", 1, 7, "`name`: expected text, got 2023", "put quotes around it"),
        ("name: cart", "nme: cart", 1, 1, "unknown key `nme`", "did you mean `name`?"),
        ("name: cart\n", "", 1, 1, "missing key `name`", None),
        (
            "name: cart",
            "name: cart\nseats: [2, two]",
            2,
            12,
            "`seats[1]`: expected a whole number, got 'two'",
            None,
        ),
        ("name: cart", "name: cart\nseats: 2", 2, 8, "`seats`: expected a list, got 2", None),
        (
            "name: cart",
            "name: cart\nprice: [1]",
            2,
            8,
            "`price`: expected a number or nothing, got a list of 1",
            None,
        ),
        (
            "name: cart",
            "name: cart\nlimits: {a: 1, b: 0}",
            2,
            19,
            "`limits.b`: expected a number > 0.0, got 0",
            None,
        ),
    ],
)
def test_a_mismatch_is_told_with_place_and_hint(
    old: str, new: str, line: int, column: int, message: str, hint: str | None
) -> None:
    assert old in VEHICLE
    document = parse_document(VEHICLE.replace(old, new), "v.yaml")
    with pytest.raises(SpecError) as caught:
        convert(document, Vehicle, synonyms={"diameter": "size_mm"}, help="moeplan schema vehicle")
    error = caught.value
    assert (error.message, error.hint) == (message, hint)
    assert (error.path, error.line, error.column) == ("v.yaml", line, column)
    assert error.snippet == document.text.splitlines()[line - 1]
    assert error.help == "moeplan schema vehicle"


@pytest.mark.parametrize("text", ["- 1", "just text", "12"])
def test_a_document_of_the_wrong_shape_is_told_at_its_start(text: str) -> None:
    with pytest.raises(SpecError, match="expected a mapping of keys to values") as caught:
        convert(parse_document(text, "v.yaml"), Vehicle)
    assert (caught.value.line, caught.value.column) == (1, 1)


# ── files ───────────────────────────────────────────────────────────────────────────────────────


def refused(path: Path) -> str:
    started = time.process_time()
    with pytest.raises(SpecError) as caught:
        load_document(path)
    assert time.process_time() - started < 1
    assert caught.value.path == str(path)
    return caught.value.message


def test_files_that_are_no_small_text_are_refused_at_once(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    with big.open("wb") as file:
        file.truncate(10_000_000_000)  # sparse: reading it would take minutes
    assert "too large" in refused(big)
    for name, content, says in [
        ("empty.yaml", b"", "is empty"),
        ("binary.yaml", b"\x00\x01\x02GGUF", "not a text file"),
        ("latin.yaml", "id: caf\xe9".encode("latin-1"), "not UTF-8"),
        ("utf16.yaml", "id: x".encode("utf-16"), "not"),
        ("spaces.yaml", b"   \n", "holds no data"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert says in refused(tmp_path / name)
    assert "is a directory" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "absent.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")  # opening it would wait for a writer for ever
    assert "not a regular file" in refused(tmp_path / "pipe.yaml")
    assert "not a regular file" in refused(Path("/dev/zero"))


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbfid: x\r\nn: 2\r\n")
    assert load_document(path).data == {"id": "x", "n": 2}


def test_a_megabyte_of_small_values_is_read_in_bounded_time() -> None:
    text = "x: [" + ", ".join(["1"] * 300_000) + "]"
    started = time.process_time()
    assert len(parse_document(text, "spec.yaml").data["x"]) == 300_000
    assert time.process_time() - started < 6
