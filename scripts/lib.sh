# shellcheck shell=bash
# What the scripts share. To be sourced, from the root of the repository.

INSTALL_LOG=.cache/install.log

# Prints a Python of 3.10 or newer: $PYTHON, then the one of .venv, then whatever is found.
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
No usable Python was found: version 3.10 or newer is needed, with its venv module. Install one:
  Debian, Ubuntu:  sudo apt-get install python3 python3-venv python3-dev
  Fedora:          sudo dnf install python3 python3-devel
  macOS:           brew install python
or say where it is:  PYTHON=/path/to/python3 ./scripts/quickstart
TEXT
    return 1
}

# Makes .venv, unless there is one that works.
make_venv() {
    if .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        return 0
    fi
    local python
    python=$(pick_python) || return 1
    echo "Making an environment in .venv with $("$python" --version) ..."
    "$python" -m venv --clear .venv
}

# Installs this package into .venv, with the extras given, such as "test". Does nothing when that was done already.
install_package() {
    local extras=${1:-} target stamp want
    stamp=.venv/installed${extras:+-$extras}
    target=".${extras:+[$extras]}"
    want=$(cat pyproject.toml kachery_p2p/__init__.py | cksum)
    if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then
        return 0
    fi
    check_compiler || return 1
    echo "Installing into .venv (one to three minutes the first time) ..."
    mkdir -p .cache
    if ! .venv/bin/python -m pip install --editable "$target" >"$INSTALL_LOG" 2>&1; then
        tail -n 40 "$INSTALL_LOG" >&2
        echo "The installation failed. The end of its output is above, all of it is in $INSTALL_LOG" >&2
        return 1
    fi
    echo "$want" >"$stamp"
}

# Installs the programs that some tests need, where this user may do so: several machines on this one (network
# namespaces), curl, a browser without a screen, other shells, what checks manual pages, age. Without them these tests are
# skipped, and say why.
install_test_tools() {
    local missing=() tool
    [ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
    for tool in ip:iproute2 nft:nftables curl:curl chromium:chromium zsh:zsh fish:fish mandoc:mandoc age:age; do
        command -v "${tool%%:*}" >/dev/null 2>&1 || missing+=("${tool##*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    echo "Installing ${missing[*]} ..."
    mkdir -p .cache
    { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$INSTALL_LOG" 2>&1 && return 0
    # One that cannot be had must not take the others with it.
    local package failed=()
    for package in "${missing[@]}"; do
        apt-get install -y --no-install-recommends "$package" >>"$INSTALL_LOG" 2>&1 || failed+=("$package")
    done
    [ "${#failed[@]}" -eq 0 ] ||
        echo "No ${failed[*]} (see $INSTALL_LOG); the tests that need them are skipped." >&2
}

# Sees to it that fastecdsa, which libp2p needs, can be installed: from a wheel, or built here with GMP.
check_compiler() {
    if .venv/bin/python -c 'import fastecdsa.curve' >/dev/null 2>&1 || has_fastecdsa_wheel; then
        return 0
    fi
    local headers
    gmp_flags
    headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
    if ! compiles '' ''; then
        need "a C compiler" "build-essential" "gcc" "gcc" "xcode-select --install"
    elif ! compiles '#include <gmp.h>' -lgmp; then
        need "the headers of GMP (gmp.h)" "libgmp-dev" "gmp-devel" "gmp" "brew install gmp"
    elif ! compiles '#include <Python.h>' "-I$headers"; then
        need "the headers of Python (Python.h)" "python3-dev" "python3-devel" "python" "brew install python"
    fi
}

# Where GMP is, for what is compiled from here on, when Homebrew has it.
gmp_flags() {
    if [ "$(uname)" = Darwin ] && command -v brew >/dev/null 2>&1 && brew --prefix gmp >/dev/null 2>&1; then
        CFLAGS="-I$(brew --prefix gmp)/include ${CFLAGS:-}"
        LDFLAGS="-L$(brew --prefix gmp)/lib ${LDFLAGS:-}"
        export CFLAGS LDFLAGS
    fi
}

has_fastecdsa_wheel() {
    local folder found=1
    folder=$(mktemp -d)
    .venv/bin/python -m pip download --quiet --no-deps --only-binary :all: --dest "$folder" fastecdsa==2.3.2 \
        >/dev/null 2>&1 && found=0
    rm -rf "$folder"
    return "$found"
}

# Whether a program with the line $1 compiles and links with the option $2.
compiles() {
    local folder ok=1
    folder=$(mktemp -d)
    printf '%s\nint main(void) { return 0; }\n' "$1" >"$folder/try.c"
    # shellcheck disable=SC2086
    ${CC:-cc} ${CFLAGS:-} -o "$folder/try" "$folder/try.c" ${LDFLAGS:-} ${2:+"$2"} >/dev/null 2>&1 && ok=0
    rm -rf "$folder"
    return "$ok"
}

# Says what is missing and the command that installs it: $2 by apt-get, $3 by dnf, $4 by pacman, $5 on macOS.
need() {
    local command="install the package $2 (Debian), $3 (Fedora) or $4 (Arch)" sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    if [ "$(uname)" = Darwin ]; then
        command=$5
    elif command -v apt-get >/dev/null 2>&1; then
        command="${sudo}apt-get install $2"
    elif command -v dnf >/dev/null 2>&1; then
        command="${sudo}dnf install $3"
    elif command -v pacman >/dev/null 2>&1; then
        command="${sudo}pacman -S $4"
    fi
    {
        echo "Missing: $1. It is needed to build fastecdsa, which comes without a wheel for this system. Please run"
        echo "    $command"
        echo "and then this script again."
    } >&2
    return 1
}
