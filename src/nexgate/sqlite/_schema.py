"""The tables of one part, and how a file of an older version becomes one of this version."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ._errors import StoreDamaged

__all__ = ["Schema"]


@dataclass(frozen=True, slots=True)
class Schema:
    """A part's tables as steps, each a tuple of statements: the first makes them, the others
    change them. A step that was released is never edited.

    The version is kept in a table of ours and not in ``user_version``: an outbox lives in the
    application's own file, beside the application's own tables.
    """

    part: str
    steps: tuple[tuple[str, ...], ...]

    def migrate(self, connection: sqlite3.Connection) -> None:
        """Bring the file up to date, in one transaction. Raises ``StoreDamaged`` for a newer
        one.
        """
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS nexgate_schema"
                " (part TEXT PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID"
            )
            row = connection.execute(
                "SELECT version FROM nexgate_schema WHERE part = ?", (self.part,)
            ).fetchone()
            version = row[0] if row is not None else 0
            if version > len(self.steps):
                raise StoreDamaged(
                    f"its {self.part} are of version {version}, this Nexgate knows"
                    f" {len(self.steps)}: it was written by a newer one"
                )
            for step in self.steps[version:]:
                for statement in step:
                    connection.execute(statement)
            connection.execute(
                "INSERT INTO nexgate_schema VALUES (?, ?)"
                " ON CONFLICT (part) DO UPDATE SET version = excluded.version",
                (self.part, len(self.steps)),
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
