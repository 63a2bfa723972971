#!/bin/sh
# Builds an image with the first of docker, podman and buildah that works, then tells name, size and time.
#   [DOCKERFILE=FILE] infra/images/build.sh NAME [BUILD FLAGS...]
set -eu
name=$1
shift
cd "$(dirname "$0")/../.."
for builder in docker podman buildah; do
    if $builder info >/dev/null 2>&1; then break; fi
    builder=
done
if [ -z "$builder" ]; then
    echo "error: no image builder: docker, podman and buildah are absent or do not answer" >&2
    echo "fix: start docker, or install one: apt-get install buildah" >&2
    exit 2
fi
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
revision=$(git describe --always --abbrev=40 --dirty 2>/dev/null || true)
# The commit's own time, so that the same commit makes the same labels.
created=$(git log -1 --format=%cI 2>/dev/null || true)
title=${name##*/}
oci=org.opencontainers.image
if [ "$builder" = buildah ]; then set -- --layers "$@"; fi # as the others do: the second image takes the first's
start=$(date +%s)
$builder build --file "${DOCKERFILE:-infra/images/Dockerfile}" --tag "$name" \
    --label $oci.title="${title%%[:@]*}" \
    --label $oci.description="$(sed -n 's/^description = "\(.*\)"/\1/p' pyproject.toml)" \
    --label $oci.licenses="$(sed -n 's/^license = "\(.*\)"/\1/p' pyproject.toml)" \
    --label $oci.version="$version" --label $oci.revision="$revision" --label $oci.created="$created" "$@" .
seconds=$(($(date +%s) - start))
case $builder in
    buildah) size=$(buildah images --format '{{.Size}}' "$name") ;;
    *) size=$($builder image inspect --format '{{.Size}}' "$name" | awk '{printf "%.2f GB", $1 / 1e9}') ;;
esac
echo "$name: $size, built in $seconds s by $builder"
