"""What a table is, what it checks, and the only way to write and read one.

Tables are long (one observation a row). Shares are fractions from 0 to 1, never percent. A table is a Parquet file
that explains itself (see `explained`), with a CSV twin beside it. A missing value is allowed only in a column declared
nullable, and only in a row whose `note` says why, unless the column's own meaning says it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

SHARE_TOLERANCE = 1e-9  # a sum of floats may leave 0..1 by this much
STORED = {
    "string": pa.large_string(), "int64": pa.int64(), "Int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_(),
    "boolean": pa.bool_(),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table.

    dtype: "string", "int64", "Int64" (integers that may be missing), "float64", "bool" or "boolean" (may be missing).
    unit: "share" and "probability" lie in 0..1 and are checked; "" where there is none.
    nullable: whether a value may be missing. needs_note: whether a missing one needs the row's note to say why; not so
    where its meaning says it already (a layer's number in a row about all layers).
    """

    name: str
    dtype: str
    unit: str
    meaning: str
    nullable: bool = False
    needs_note: bool = True


@dataclass(frozen=True)
class Table:
    """A table's name, what one row is and which stage writes it, its columns in order, and the columns that together
    name a row (no two rows share them).
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The columns' names in order."""
        return [column.name for column in self.columns]

    def frame(self, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
        """Rows as a checked frame; no rows give an empty frame with all columns. Raises ValueError as `conform`."""
        listed = list(rows)
        return conform(pd.DataFrame(listed) if listed else pd.DataFrame(columns=self.names), self)


def conform(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """The frame with the table's columns in order, cast to their dtypes, checked.

    Raises ValueError, naming table and column, for missing or unknown columns, a missing or infinite value that is
    not allowed or has no note beside it, a value of another kind than the dtype, a share or probability outside 0..1,
    or two rows of one key.
    """
    missing = [name for name in table.names if name not in frame.columns]
    unknown = [str(name) for name in frame.columns if name not in table.names]
    if missing or unknown:
        raise ValueError(
            f"table {table.name}: missing columns {missing}, unknown columns {unknown}; "
            f"its columns are {', '.join(table.names)}"
        )
    done = pd.DataFrame(
        {column.name: _cast(frame[column.name], column, table.name) for column in table.columns}
    ).reset_index(drop=True)
    repeated = done[done.duplicated(list(table.key), keep=False)]
    if len(repeated):
        raise ValueError(
            f"table {table.name}: {len(repeated)} rows share their key ({', '.join(table.key)}), for example "
            f"{repeated[list(table.key)].iloc[0].to_dict()}; each may occur once"
        )
    _explained(done, table)
    return done


def _explained(frame: pd.DataFrame, table: Table) -> None:
    """Raises ValueError for a row that lacks a value and has no note (in `note` or a note of its own column)."""
    notes = [name for name in table.names if name.endswith("note")]
    silent = (frame[notes] == "").to_numpy().all(axis=1)
    for column in table.columns:
        if column.nullable and column.needs_note:
            unexplained = frame[column.name].isna().to_numpy(dtype=bool) & silent
            if unexplained.any():
                row = frame[unexplained].iloc[0]
                raise ValueError(
                    f"table {table.name}, column {column.name}: a value is missing and no note says why, in the row of "
                    f"{row[list(table.key)].to_dict()}; give the row a note"
                )


def _cast(values: pd.Series, column: Column, table: str) -> pd.Series:
    where = f"table {table}, column {column.name}"
    gaps = values.isna().to_numpy(dtype=bool)
    if gaps.any() and not column.nullable:
        raise ValueError(f"{where}: {int(gaps.sum())} of {len(values)} values are missing; none may be")
    present = values[~gaps]
    if column.dtype == "string":
        strange = [value for value in present if not isinstance(value, str)]
    elif column.dtype in ("bool", "boolean"):
        strange = [value for value in present if not isinstance(value, (bool, np.bool_))]
    else:
        numbers = pd.to_numeric(present, errors="coerce").to_numpy(dtype=float)
        wrong = ~np.isfinite(numbers)
        if column.dtype in ("int64", "Int64"):
            wrong |= numbers != np.round(numbers)
        if column.unit in ("share", "probability"):
            wrong |= (numbers < -SHARE_TOLERANCE) | (numbers > 1 + SHARE_TOLERANCE)
        strange = list(present[wrong])
    if strange:
        allowed = "a finite number" if column.dtype == "float64" else f"a value of dtype {column.dtype}"
        if column.unit in ("share", "probability"):
            allowed = "a number from 0 to 1"
        raise ValueError(f"{where}: found {strange[0]!r}; it holds {allowed}")
    # "str" compares to plain numpy booleans under every supported pandas, "string" does not.
    return values.astype("str" if column.dtype == "string" else column.dtype)  # type: ignore[call-overload]


def write(frame: pd.DataFrame, path: str | Path, table: Table) -> None:
    """Write the table as Parquet at `path` and as CSV beside it (same name, suffix .csv).

    Raises ValueError as `conform`, before anything is written.
    """
    done = conform(frame, table)
    write_parts([done], path, table)
    done.to_csv(Path(path).with_suffix(".csv"), index=False)


def write_parts(frames: Iterable[pd.DataFrame], path: str | Path, table: Table) -> int:
    """Write a table that memory may not hold, part by part, as Parquet alone; the number of its rows.

    No frames give a table without rows. Raises ValueError as `conform`, which sees one part at a time: that no two
    parts share a key is for the caller to know.
    """
    schema, rows = explained(table), 0
    with parquet.ParquetWriter(path, schema) as file:
        for frame in frames:
            done = conform(frame, table)
            file.write_table(pa.Table.from_pandas(done, schema=schema, preserve_index=False))
            rows += len(done)
    return rows


def explained(table: Table) -> pa.Schema:
    """The table's columns as Parquet holds them, with what they mean, so that a file explains itself.

    Metadata of the file: table, meaning, key (JSON list of columns); of each column: unit, meaning.
    """
    fields = [
        pa.field(column.name, STORED[column.dtype], metadata={"unit": column.unit, "meaning": column.meaning})
        for column in table.columns
    ]
    return pa.schema(fields, {"table": table.name, "meaning": table.meaning, "key": json.dumps(table.key)})


def read(
    paths: str | Path | Sequence[str | Path], table: Table, filters: Sequence[tuple[str, str, Any]] | None = None
) -> pd.DataFrame:
    """One or several Parquet files of a table, one below the other, checked as `conform` does.

    filters: (column, comparison, value) that the rows must meet, as pandas.read_parquet takes them; the other rows of a
    table of millions are never in memory.
    Raises ValueError for an empty list of paths or a file that is not of this table, naming the file.
    """
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not listed:
        raise ValueError(f"table {table.name}: no file to read; give at least one path")
    frames = []
    for path in listed:
        try:
            rows = pd.read_parquet(path, filters=list(filters) if filters else None)
            frames.append(conform(rows.reset_index(drop=True), table))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    filled = [frame for frame in frames if len(frame)]  # pandas warns about concatenating empty frames
    return conform(pd.concat(filled, ignore_index=True), table) if filled else frames[0]
