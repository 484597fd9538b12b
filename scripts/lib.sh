# What the scripts share; to be sourced by them. Sets `root` to the workspace.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Prints one sentence on stderr and ends the script.
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Whether there is a program of this name.
have() {
    command -v "$1" >/dev/null 2>&1
}

# Whether version $1 is at least version $2, both as 2.14.0; pre-releases and
# missing parts count as zero.
at_least() {
    local -a found wanted
    local part
    IFS=. read -r -a found <<<"${1%%[-+]*}"
    IFS=. read -r -a wanted <<<"$2"
    for part in 0 1 2; do
        if ((10#${found[part]:-0} != 10#${wanted[part]:-0})); then
            ((10#${found[part]:-0} > 10#${wanted[part]:-0}))
            return
        fi
    done
}
