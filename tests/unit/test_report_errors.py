from __future__ import annotations

from moeplan.errors import Infeasible, MissingExtra, NotModelled, SpecError, UnknownName
from moeplan.report.errors import error_lines, message_lines, one_line
from moeplan.report.layout import plain

GIB = 2**30


def shown(error: object, width: int = 80) -> str:
    return plain(error_lines(error, width))  # type: ignore[arg-type]


def test_a_wrong_key_in_a_file() -> None:
    error = SpecError(
        "unknown key `topk` in moe",
        path="configs/models/mixtral/8x7b.yaml",
        line=14,
        column=3,
        snippet="  topk: 2",
        hint="did you mean `top_k`?",
        help="moeplan schema model",
    )
    assert shown(error) == (
        "error: unknown key `topk` in moe           configs/models/mixtral/8x7b.yaml:14:3\n"
        "   14 |   topk: 2\n"
        "      |   ^^^^ did you mean `top_k`?\n"
        " help: moeplan schema model\n"
    )


def test_a_long_message_has_its_place_below() -> None:
    error = SpecError("x" * 70, path="model.yaml", line=3, column=1)
    assert shown(error) == f"error: {'x' * 70}\n  at model.yaml:3:1\n"


def test_a_whole_file_stands_in_front() -> None:
    assert shown(SpecError("is empty", path="model.yaml")) == "error: model.yaml: is empty\n"


def test_a_hint_without_a_line_is_a_help() -> None:
    assert shown(SpecError("unknown unit 'parsec'", hint="use GB or GiB")) == (
        "error: unknown unit 'parsec'\n help: use GB or GiB\n"
    )


def test_one_huge_line_is_cut_around_the_error() -> None:
    error = SpecError("no", path="a.json", line=1, column=5001, snippet="a" * 5000 + "bad" + "c" * 5000)
    _, source, caret = shown(error).splitlines()
    assert len(source) < 140
    assert source[caret.index("^")] == "b"


def test_control_characters_are_not_printed() -> None:
    error = SpecError("key \x1b[31m", path="a\x07.yaml", line=1, column=1, snippet="\x1b]0;title\x07: 1")
    text = shown(error)
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_message_is_one_line_of_bounded_length() -> None:
    assert one_line("a\n b\r\n\tc") == "a b c"
    assert len(one_line("x" * 10_000)) < 450
    assert len(plain(message_lines("first\nsecond")).splitlines()) == 1


def test_the_other_kinds() -> None:
    assert shown(UnknownName("model", "mixtrl", ["mixtral-8x7b"], help="moeplan models list")) == (
        "error: unknown model 'mixtrl'; did you mean `mixtral-8x7b`?\n help: moeplan models list\n"
    )
    assert shown(NotModelled("pipeline parallelism")) == "error: not modelled: pipeline parallelism\n"
    assert "pip install 'moeplan[hub]'" in shown(MissingExtra("huggingface_hub", "hub"))
    infeasible = Infeasible(
        "weights do not fit", need_bytes=26 * GIB, have_bytes=24 * GIB, device="gpu0", fix="--cpu-moe 4"
    )
    assert shown(infeasible) == (
        "error: weights do not fit (needs 26.0 GiB, gpu0 has 24.0 GiB)\n help: --cpu-moe 4\n"
    )
