# shellcheck shell=bash
# What the scripts share. To be sourced, from the root of the repository.

# Prints a Python of 3.10 or newer, preferring $PYTHON, then the environment in .venv, then the newest that is found.
pick_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} .venv/bin/python python3 python3.13 python3.12 python3.11 python3.10 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
            command -v "$candidate"
            return 0
        fi
    done
    cat >&2 <<'TEXT'
No usable Python was found: version 3.10 or newer is needed, with its venv module.
  Debian, Ubuntu:  sudo apt-get install python3 python3-venv python3-dev
  Fedora:          sudo dnf install python3 python3-devel
  macOS:           brew install python
Or say which one to use:  PYTHON=/path/to/python3 ./scripts/quickstart
TEXT
    return 1
}
