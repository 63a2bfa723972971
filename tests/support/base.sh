#!/bin/sh
# Makes the image's base where no registry can be reached: Debian from its package archive, as root, in one to three minutes.
#   tests/support/base.sh [NAME] && make image-cpu BASE_IMAGE=NAME
# MIRROR names the archive (default: debootstrap's own); apt checks its signatures.
set -eu
name=${1:-localhost/debian:bookworm}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,wget bookworm "$root" ${MIRROR:+"$MIRROR"} >&2
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
for builder in docker podman; do
    if $builder info >/dev/null 2>&1; then
        tar -C "$root" -c . | $builder import - "$name"
        exit
    fi
done
container=$(buildah from scratch)
buildah copy --quiet "$container" "$root" / >/dev/null
buildah config --cmd bash "$container"
buildah commit --quiet --rm "$container" "$name"
