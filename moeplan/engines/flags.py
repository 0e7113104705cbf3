"""Engine command lines both ways: words to settings, and settings to words.

The tables (configs/engines/*.yaml) say which options there are and what they mean.
An option that no table knows, or whose effect is not modelled, is an error at its place: it may decide
whether the model fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from moeplan.domain.deployment import EngineOption, EngineTable, Launch, ServeSettings, Setting, Word
from moeplan.errors import SpecError, nearest

# Words a command may stand behind: launchers, package runners.
_MAX_WORDS_BEFORE = 6
# Commands that mention an engine without running it.
_TALKERS = frozenset(
    {"echo", "printf", "cat", "pip", "pip3", "apt", "apt-get", "which", "pkill", "killall", "grep"}
)
_ON = frozenset({"on", "true", "1", "yes", "enabled", "auto"})
_OFF = frozenset({"off", "false", "0", "no", "disabled"})
# vLLM's human_readable_int (vllm/utils/argparse_utils.py): small letters are decimal, capitals binary.
_HUMAN = {
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40,
}  # fmt: skip
MAX_VALUE = 10**12


def recognise(launch: Launch, tables: Iterable[EngineTable]) -> tuple[EngineTable, tuple[Word, ...]] | None:
    """The engine that ``launch`` starts, and its options; None when it is no engine of the tables."""
    words = tuple(word for word in launch.argv if word != "-u")  # python -u
    tables = tuple(tables)
    if words and words[0] in _TALKERS:
        return None
    if launch.kind == "modelfile":
        return next(table for table in tables if table.id == "ollama"), words[1:]
    for table in tables:
        for start in range(min(len(words), _MAX_WORDS_BEFORE)):
            for command in table.commands:
                if _starts_with(words[start:], command):
                    return table, words[start + len(command) :]
    if launch.image is not None:
        for table in tables:
            if any(_is_image(launch.image, image) for image in table.images):
                return table, words
    return None


def parse(
    table: EngineTable, words: Sequence[Word], launch: Launch, ignore: frozenset[str] = frozenset()
) -> ServeSettings:
    """The settings that ``words`` and the environment of ``launch`` state.

    ``ignore`` are options that the user vouches for. SpecError at the word that is not understood.
    """
    found: dict[str, Setting] = {}
    unused: list[Word] = []
    for stated, name, text_of in _environment(table, launch.env):
        _take(found, stated, name, text_of, launch.path)
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not _is_option(word):
            if not table.positional or table.positional in found:
                raise _error(launch, word, f"unexpected word {_shown(word)}")
            found[table.positional] = Setting(value=str(word), flag="", word=word)
            continue
        flag, equals, text = _split(word)
        known, option = _lookup(table, flag, ignore)
        if not known:
            raise _unknown(launch, table, word, flag)
        value: Word | None = word.at(text) if equals else None
        if value is None and i < len(words) and _takes_value(table, option, flag, words[i]):
            value = words[i]
            i += 1
        if option is None:
            unused.append(word)
        else:
            _take(found, option, flag, value if value is not None else word.at(""), launch.path, word)
    return ServeSettings(table=table, settings=found, unused=tuple(unused))


def write(table: EngineTable, settings: Mapping[str, str | int | float | bool]) -> list[str]:
    """The words of a command line with ``settings`` (what they mean -> value); unknown ones are left out.

    The first flag of an option is written, the longest where an engine has long ones.
    """
    words = list(table.commands[0]) if table.commands else []
    for means, value in settings.items():
        option = option_that_means(table, means)
        if means == table.positional:
            words.append(str(value))
        elif option is not None and option.kind == "switch":
            words += [long_flag(option)] if value else []
        elif option is not None and option.kind == "on-off":
            words += [long_flag(option), "on" if value else "off"]
        elif option is not None:
            words += [long_flag(option), str(value)]
    return words


def option_that_means(table: EngineTable, means: str) -> EngineOption | None:
    """The option of ``table`` that means ``means``."""
    return next((option for option in table.options.values() if option.means == means), None)


def long_flag(option: EngineOption) -> str:
    """The flag people write in files: the first long one."""
    return next((flag for flag in option.flags if flag.startswith("--")), option.flags[0])


# ── recognising ─────────────────────────────────────────────────────────────────────────────────


def _starts_with(words: Sequence[Word], command: Sequence[str]) -> bool:
    if len(words) < len(command):
        return False
    first = words[0].rsplit("/", 1)[-1].removesuffix(".exe")
    if first.startswith("python") and command[0] == "python":
        return [str(word) for word in words[1 : len(command)]] == list(command[1:])
    same = first == command[0].rsplit("/", 1)[-1].removesuffix(".exe")
    return same and all(word == part for word, part in zip(words[1:], command[1:], strict=False))


def _is_image(image: str, known: str) -> bool:
    """Whether ``image`` is ``known`` with any registry in front and any tag behind."""
    name = image.split("@", 1)[0]
    head, _, tail = name.rpartition("/")
    name = f"{head}/{tail.split(':', 1)[0]}" if head else tail.split(":", 1)[0]
    if "*" in known:
        from fnmatch import fnmatchcase

        return fnmatchcase(name.rsplit("/", 1)[-1], known)
    return name == known or name.endswith("/" + known)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


def _is_option(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and word[1] != "."


def _split(word: Word) -> tuple[str, str, str]:
    flag, equals, text = word.partition("=")
    if flag.startswith("--"):
        flag = "--" + flag[2:].replace("_", "-")
    return flag, equals, text


def _lookup(table: EngineTable, flag: str, ignore: frozenset[str]) -> tuple[bool, EngineOption | None]:
    """(whether the flag is known, its option); options that change nothing are known and have none."""
    if flag in ignore:
        return True, None
    if flag in table.options:
        return True, table.options[flag]
    head = flag.split(".", 1)[0]  # vLLM: --compilation-config.level 3
    if head in table.options and head != flag:
        return True, table.options[head]
    if {flag, head} & (table.ignored_switches | table.ignored_values):
        return True, None
    patterns = (known for known in table.ignored_switches if known.endswith("*"))
    return any(flag.startswith(pattern[:-1]) for pattern in patterns), None


def _takes_value(table: EngineTable, option: EngineOption | None, flag: str, following: Word) -> bool:
    if option is None:
        return flag not in table.ignored_switches and not flag.startswith("-O") and not _is_option(following)
    if option.kind == "switch":
        return False
    if option.kind == "on-off":
        return following.lower() in _ON | _OFF
    return True


def _environment(table: EngineTable, env: Mapping[str, Word]) -> Iterable[tuple[EngineOption, str, Word]]:
    for option in {id(option): option for option in table.options.values()}.values() if env else ():
        value = env.get(option.env) if option.env else None
        if value is None or value == "":
            continue
        if option.kind == "switch" and value.lower() in _OFF:
            continue
        yield option, option.env, value


def _take(
    found: dict[str, Setting],
    option: EngineOption,
    flag: str,
    value: Word,
    path: str,
    word: Word | None = None,
) -> None:
    """Put one option's value where it belongs, or raise what is wrong with it."""
    place = value if value.line else word or value
    if option.kind not in ("switch", "on-off") and not value:
        raise SpecError(
            f"{flag} needs a value", path=path, line=place.line or None, column=place.column or None
        )
    if option.why:
        if option.above is None or option.kind == "switch" or not _at_most(value, option.above):
            raise SpecError(
                f"not modelled: {flag} ({option.why})",
                path=path,
                line=place.line or None,
                column=place.column or None,
                help=f"--ignore-flag {flag} checks as if it were not there",
            )
        return
    setting = _value(option, flag, value, path, place)
    if setting == "unset":
        return
    if option.repeats and option.means in found:
        setting = f"{found[option.means].value},{setting}"
    found[option.means] = Setting(value=setting, flag=flag, word=place)


def _at_most(value: str, limit: float) -> bool:
    try:
        return float(value) <= limit
    except ValueError:
        return False


def _value(option: EngineOption, flag: str, value: Word, path: str, place: Word) -> str | int | float | bool:
    """The value in the type of its kind; SpecError at its place when it is none."""

    def wrong(expected: str, hint: str | None = None) -> SpecError:
        return SpecError(
            f"{flag}: expected {expected}, got {_shown(value)}",
            path=path,
            line=place.line or None,
            column=place.column or None,
            hint=hint,
        )

    if option.kind == "switch" or (option.kind == "on-off" and not value):
        return True
    if "$" in value or "`" in value:
        raise wrong("a value", "only running the script would tell it; write the value out")
    if value.lower() in option.words:
        return option.words[value.lower()]
    if option.kind == "on-off":
        if value.lower() not in _ON | _OFF:
            raise wrong("on or off")
        return value.lower() in _ON
    if option.kind == "text":
        return str(value)
    number = _number(value, human=option.kind == "human")
    if option.kind == "fraction":
        if number is None or not 0 < number <= 1:
            raise wrong(
                "a share between 0 and 1", f"{number / 100:g}?" if number and 1 < number <= 100 else None
            )
        return number
    low = 0 if option.kind == "layers" else 1
    if number is None or number != int(number) or not low <= number <= MAX_VALUE:
        raise wrong(f"a whole number from {low}", _size_hint(value))
    return int(number)


def _number(text: str, *, human: bool) -> float | None:
    factor = _HUMAN.get(text[-1:], 0) if human else 0
    body = text[:-1] if factor else text
    if not body.replace(".", "", 1).isdigit() or not body.isascii():
        return None
    return float(body) * (factor or 1)


def _size_hint(value: str) -> str | None:
    """What was probably meant by ``32k`` or ``32GB`` where a count of tokens belongs."""
    digits = value.rstrip("kKmMgGiIbB")
    if digits == value or not digits.isdigit():
        return None
    if value[len(digits) :] in ("k", "K"):
        return f"write {int(digits) * 1024}"
    return "a count of tokens, not a size in bytes"


# ── errors ──────────────────────────────────────────────────────────────────────────────────────


def _error(launch: Launch, word: Word, message: str, hint: str | None = None) -> SpecError:
    return SpecError(
        message, path=launch.path, line=word.line or launch.line, column=word.column or None, hint=hint
    )


def _unknown(launch: Launch, table: EngineTable, word: Word, flag: str) -> SpecError:
    known = [*table.options, *table.ignored_switches, *table.ignored_values]
    close = nearest(flag, sorted(known), n=1)
    error = _error(
        launch,
        word,
        f"unknown option {_shown(flag)} of {table.id} (options of {table.version} are known)",
        f"did you mean {close[0]}?" if close else None,
    )
    error.help = f"--ignore-flag {flag[:40]} checks as if it were not there"
    return error


def _shown(text: str) -> str:
    return repr(text[:57] + "..." if len(text) > 60 else str(text))
