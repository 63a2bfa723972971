#!/bin/sh
# A registry beside the kind cluster: localhost:5001 here and on its nodes, so that an image has a digest that both know.
# Safe to repeat. https://kind.sigs.k8s.io/docs/user/local-registry/
set -eu
docker inspect medmim-registry >/dev/null 2>&1 \
    || docker run --detach --restart=always --publish 127.0.0.1:5001:5000 --name medmim-registry registry:3.0.0
for node in $(kind get nodes --name medmim); do
    docker exec "$node" mkdir -p /etc/containerd/certs.d/localhost:5001
    echo '[host."http://medmim-registry:5000"]' | docker exec --interactive "$node" cp /dev/stdin /etc/containerd/certs.d/localhost:5001/hosts.toml
done
docker network connect kind medmim-registry 2>/dev/null || docker network inspect kind | grep -q medmim-registry
