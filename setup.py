"""What pyproject.toml cannot say: the manual pages are made of the texts of the commands when the package is built."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))


class BuildWithPages(build_py):
    """Also writes the manual pages, for `share/man/man1` beside the programs."""

    def run(self) -> None:
        from kachery_cloud.commands.man_pages import write_pages

        super().run()
        folder = Path(self.get_finalized_command("build").build_base) / "man" / "man1"
        self.distribution.data_files = [("share/man/man1", [str(path) for path in write_pages(folder)])]


setup(cmdclass={"build_py": BuildWithPages})
