"""Projects in `lab.sqlite`: what they are called, for whom they are, and who is in them.

Files are not here: a file of a project is a pin of the pinning service whose metadata names it. So two lists can never
say different things about what is kept.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from kachery_cloud.lab_places import ROLES, VISIBILITIES, ProjectRole, Visibility
from kachery_p2p.pinning.server.requests import Refusal
from kachery_p2p.sqlite import storable
from kachery_p2p.text import printable, shown

if TYPE_CHECKING:
    from kachery_cloud.lab.database import LabDatabase

#: The name of these tables among those of the lab.
PART = "projects"
_TABLES = """
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    folded TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    visibility TEXT NOT NULL,
    grp TEXT,
    creator TEXT NOT NULL,
    created REAL NOT NULL
);
CREATE INDEX projects_by_creator ON projects (creator);
CREATE INDEX projects_by_group ON projects (grp);
CREATE TABLE project_members (
    project TEXT NOT NULL REFERENCES projects(id),
    member TEXT NOT NULL,
    role TEXT NOT NULL,
    added REAL NOT NULL,
    PRIMARY KEY (project, member)
) WITHOUT ROWID;
CREATE INDEX projects_of_members ON project_members (member)
"""

#: Characters of a name and of a description.
MAX_NAME = 64
MAX_DESCRIPTION = 2000
#: Projects that one member can have made, so that nobody fills the list for all.
MAX_PROJECTS_EACH = 500
#: Members of one project: no lab has more.
MAX_MEMBERS = 2000
#: Random bytes of an ID. It is no secret; it is only not to be guessed by counting.
_ID_BYTES = 9

_COLUMNS = "id, name, description, visibility, grp, creator, created"


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes:
        id: of it, which never changes.
        name: which people type; unique, whether written large or small.
        visibility: "public", or "members": only its members' machines can load what is in it.
        group: the ID of the group of their machines, where it is for members alone.
        creator: the ID of the member who made it.
        created: seconds since 1970.
    """

    id: str
    name: str
    description: str
    visibility: Visibility
    group: str | None
    creator: str
    created: float


@dataclass(frozen=True)
class ProjectMember:
    """A member of a project: the ID of a member of the lab, and their role."""

    id: str
    role: ProjectRole


def check_name(name: object) -> str:
    """A name that a project can have: one word of up to 64 characters, as groups have it.

    Raises:
        Refusal: it is none.
    """
    from kachery_p2p.membership.lists import problem_of_name

    if not isinstance(name, str):
        raise Refusal(400, "BAD_NAME", f"name is {shown(name)}; it must be text.")
    if problem := problem_of_name(name):
        raise Refusal(400, "BAD_NAME", f"A project cannot be called {shown(name)}: {problem}.")
    return name


def check_description(text: object) -> str:
    """A description, of several lines at most.

    Raises:
        Refusal: it is none.
    """
    if not isinstance(text, str) or len(text) > MAX_DESCRIPTION or any(printable(s) != s for s in text.split("\n")):
        raise Refusal(
            400,
            "BAD_DESCRIPTION",
            f"description must be text that can be shown, of up to {MAX_DESCRIPTION} characters.",
        )
    return text


def check_visibility(word: object) -> Visibility:
    """For whom a project is.

    Raises:
        Refusal: it is no such word.
    """
    if word not in VISIBILITIES:
        raise Refusal(400, "BAD_VISIBILITY", f"visibility is {shown(word)}; it must be 'public' or 'members'.")
    return cast("Visibility", word)


def check_role(word: object) -> ProjectRole:
    """A role in a project.

    Raises:
        Refusal: it is none.
    """
    if word not in ROLES:
        raise Refusal(400, "BAD_ROLE", f"role is {shown(word)}; it must be one of {', '.join(ROLES)}.")
    return cast("ProjectRole", word)


class ProjectsStore:
    """The projects of a lab. Safe to use from many threads.

    All methods raise RepoError when the file cannot be used, DiskFull and NoPermission.

    Args:
        database: of the lab.
    """

    def __init__(self, database: LabDatabase) -> None:
        from kachery_cloud.lab.database import Tables

        database.use(Tables(PART, (_TABLES,)))
        self._db = database
        self._wall = database.wall

    # --- looking ----------------------------------------------------------------------------------------------------

    def get(self, project: str) -> Project | None:
        """A project by its ID."""
        row = self._db.one(f"SELECT {_COLUMNS} FROM projects WHERE id = ?", (storable(project),))
        return None if row is None else Project(*row)

    def find(self, text: str) -> Project | None:
        """A project by its ID, or by its name."""
        return self.get(text) or self._named(text)

    def _named(self, name: str) -> Project | None:
        row = self._db.one(f"SELECT {_COLUMNS} FROM projects WHERE folded = ?", (storable(name).casefold(),))
        return None if row is None else Project(*row)

    def of_group(self, group: str) -> Project | None:
        """The project that has a group."""
        row = self._db.one(f"SELECT {_COLUMNS} FROM projects WHERE grp = ?", (group,))
        return None if row is None else Project(*row)

    def projects(self) -> list[Project]:
        """All of them, by name."""
        return [Project(*row) for row in self._db.all(f"SELECT {_COLUMNS} FROM projects ORDER BY folded")]

    def roles_of(self, member: str) -> dict[str, ProjectRole]:
        """The projects that somebody is in, by ID, and their role in each."""
        return dict(self._db.all("SELECT project, role FROM project_members WHERE member = ?", (member,)))

    def role_of(self, project: str, member: str) -> ProjectRole | None:
        """Somebody's role in a project; None where they are not in it."""
        row = self._db.one(
            "SELECT role FROM project_members WHERE project = ? AND member = ?", (storable(project), member)
        )
        return None if row is None else row[0]

    def members(self, project: str) -> list[ProjectMember]:
        """Who is in a project, those first who were first."""
        rows = self._db.all(
            "SELECT member, role FROM project_members WHERE project = ? ORDER BY added, member", (project,)
        )
        return [ProjectMember(*row) for row in rows]

    def all_members(self) -> dict[str, list[ProjectMember]]:
        """The same of all projects, by ID."""
        found: dict[str, list[ProjectMember]] = {}
        for project, *row in self._db.all(
            "SELECT project, member, role FROM project_members ORDER BY project, added, member"
        ):
            found.setdefault(project, []).append(ProjectMember(*row))
        return found

    # --- changing ---------------------------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        creator: str,
        *,
        description: str = "",
        visibility: Visibility = "public",
        group: str | None = None,
    ) -> Project:
        """Make a project. Who makes it administers it.

        Raises:
            Refusal: there is one of that name, or they have made too many.
        """
        made = Project(
            secrets.token_urlsafe(_ID_BYTES), name, description, visibility, group, creator, float(self._wall())
        )
        with self._db.write() as db:
            (count,) = db.execute("SELECT count(*) FROM projects WHERE creator = ?", (creator,)).fetchone()
            if count >= MAX_PROJECTS_EACH:
                raise Refusal(
                    409, "TOO_MANY_PROJECTS", f"You have made {count} projects, which is as many as there can be."
                )
            _check_free(db, name, "")
            db.execute(
                f"INSERT INTO projects ({_COLUMNS}, folded) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (made.id, name, description, visibility, group, creator, made.created, name.casefold()),
            )
            db.execute(
                "INSERT INTO project_members VALUES (?, ?, 'administrator', ?)", (made.id, creator, made.created)
            )
        return made

    def change(self, project: str, *, name: str | None = None, description: str | None = None) -> Project | None:
        """Call it something else, or describe it otherwise; None where there is no such project.

        Raises:
            Refusal: there is one of that name.
        """
        with self._db.write() as db:
            if name is not None:
                _check_free(db, name, project)
                db.execute("UPDATE projects SET name = ?, folded = ? WHERE id = ?", (name, name.casefold(), project))
            if description is not None:
                db.execute("UPDATE projects SET description = ? WHERE id = ?", (description, project))
        return self.get(project)

    def set_visibility(self, project: str, visibility: Visibility, group: str | None) -> None:
        """For whom it is from now on, and by which group."""
        with self._db.write() as db:
            db.execute("UPDATE projects SET visibility = ?, grp = ? WHERE id = ?", (visibility, group, project))

    def delete(self, project: str) -> bool:
        """Forget a project; whether there was one."""
        with self._db.write() as db:
            db.execute("DELETE FROM project_members WHERE project = ?", (project,))
            return db.execute("DELETE FROM projects WHERE id = ?", (project,)).rowcount > 0

    def set_member(self, project: str, member: str, role: ProjectRole, *, keep_one: bool = True) -> None:
        """Let somebody be in a project, or have another role there.

        Args:
            project: its ID.
            member: the ID of a member of the lab.
            role: from now on.
            keep_one: refuse to leave the project without an administrator.

        Raises:
            Refusal: there is no such project, it has too many members, or it would have no administrator.
        """
        with self._db.write() as db:
            if db.execute("SELECT 1 FROM projects WHERE id = ?", (project,)).fetchone() is None:
                raise no_project()
            if role != "administrator" and keep_one:
                _check_another(db, project, member)
            (count,) = db.execute(
                "SELECT count(*) FROM project_members WHERE project = ? AND member <> ?", (project, storable(member))
            ).fetchone()
            if count >= MAX_MEMBERS:
                raise Refusal(409, "TOO_MANY_MEMBERS", f"The project has {count} members; no project has more.")
            db.execute(
                "INSERT INTO project_members VALUES (?, ?, ?, ?) "
                "ON CONFLICT (project, member) DO UPDATE SET role = excluded.role",
                (project, member, role, self._wall()),
            )

    def remove_member(self, project: str, member: str, *, keep_one: bool = True) -> bool:
        """Take somebody out of a project; whether they were in it.

        Raises:
            Refusal: it would have no administrator.
        """
        with self._db.write() as db:
            if keep_one:
                _check_another(db, project, member)
            return (
                db.execute(
                    "DELETE FROM project_members WHERE project = ? AND member = ?", (project, storable(member))
                ).rowcount
                > 0
            )

    def forget_member(self, member: str) -> list[str]:
        """Somebody is not in the lab any more: the IDs of the projects that they were in."""
        with self._db.write() as db:
            rows = db.execute("SELECT project FROM project_members WHERE member = ?", (member,)).fetchall()
            db.execute("DELETE FROM project_members WHERE member = ?", (member,))
        return [project for (project,) in rows]


def no_project() -> Refusal:
    """What is said of a project that is not there, and of one that whoever asks may not know of: the same."""
    return Refusal(404, "NO_SUCH_PROJECT", "There is no such project, or it is not for you.")


def _check_free(db: sqlite3.Connection, name: str, but: str) -> None:
    row = db.execute("SELECT id FROM projects WHERE folded = ?", (name.casefold(),)).fetchone()
    if row is not None and row[0] != but:
        raise Refusal(409, "NAME_TAKEN", f"There is a project {shown(name)} already. Choose another name.")


def _check_another(db: sqlite3.Connection, project: str, member: str) -> None:
    """Refuse to take away the role of the only administrator."""
    rows = db.execute(
        "SELECT member FROM project_members WHERE project = ? AND role = 'administrator' LIMIT 2", (project,)
    ).fetchall()
    if rows == [(member,)]:
        raise Refusal(
            409, "LAST_ADMINISTRATOR", "That is the only administrator of the project. Make somebody else one first."
        )
