"""A whole run of `moeplan check`: the files as they are, against an earlier run or another commit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moeplan.api.check import Checker, Options
from moeplan.check.baseline import Before, compare
from moeplan.check.policy import overall
from moeplan.domain.budget import CheckReport
from moeplan.errors import MoeplanError, SpecError

if TYPE_CHECKING:
    from moeplan.readers.catalog import Catalog

MAX_BASELINE_BYTES = 50_000_000


def run_check(
    paths: Sequence[str],
    options: Options,
    catalog: Catalog,
    *,
    baseline: str | None = None,
    git_base: str | None = None,
) -> CheckReport:
    """Check ``paths``; with a baseline only what became worse, or is new and does not hold, blocks.

    ``baseline`` is the JSON of an earlier run, ``git_base`` a commit whose files are checked with the
    catalog of now, so that only the change of the files shows.
    """
    if baseline is not None and git_base is not None:
        raise SpecError("--baseline and --git-base: name one")
    report = Checker(catalog, options).check(paths)
    if baseline is not None:
        from moeplan.readers.paths import read_text
        from moeplan.report.check_json import read_baseline

        raw = read_text(Path(baseline), max_bytes=MAX_BASELINE_BYTES).encode()
        return against(report, read_baseline(raw, baseline), Path(baseline).name)
    if git_base is not None:
        before, note = _of_commit(paths, options, catalog, git_base)
        return against(report, before, git_base, note)
    return report


def against(report: CheckReport, before: Mapping[str, Before], name: str, *notes: str) -> CheckReport:
    """``report`` compared with ``before``, which is called ``name``."""
    from msgspec.structs import replace

    results, gone = compare(report.results, before)
    return replace(
        report,
        results=results,
        gone=gone,
        baseline=name,
        verdict=overall(results, report.unsure, against_baseline=True),
        notes=(*report.notes, *(note for note in notes if note)),
    )


def _of_commit(
    paths: Sequence[str], options: Options, catalog: Catalog, commit: str
) -> tuple[dict[str, Before], str]:
    """(results of the commit's files, a remark). Files it does not have are new."""
    import tempfile

    from moeplan.readers.git_tree import export_commit, repository_root

    root = repository_root(Path(paths[0]).parent if paths else Path())
    found: dict[str, Before] = {}
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        export_commit(root, commit, Path(folder))
        here = Path(folder) / os.path.relpath(Path.cwd(), root.resolve())
        checker = Checker(catalog, options, here)
        for path in paths:
            inside = os.path.relpath(path) if Path(path).is_absolute() else path
            if not (here / inside).is_file():
                notes.append(f"{path} is new since {commit}")
                continue
            try:
                report = checker.check([inside])
            except MoeplanError as error:
                notes.append(f"{path} of {commit} cannot be checked: {error}")
                continue
            for result in report.results:
                value = result.amount.expected if result.amount else None
                found[result.id] = Before(result.verdict, value, result.limit, result.inputs)
    return found, "; ".join(notes).replace(folder + os.sep, "")
