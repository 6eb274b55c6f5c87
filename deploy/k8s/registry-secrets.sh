#!/usr/bin/env bash
# Makes the secrets of the registry in the cluster, once, before the overlay is applied:
#
#   registry-tls      its certificate and key, of an authority that is made here and thrown away
#   registry-ca       that authority's certificate: whom teachers and students trust
#   registry-users    who may come in: the registry's own list, with passwords and roles
#   registry-NAME     for each teacher and student, its own name and password, and no other's
#
# Needs openssl, and kubectl that reaches the cluster. The certificate lasts a year. To make all anew: delete the secrets that this has made, run it
# again, and restart the registry (kubectl rollout restart deployment/registry).
set -euo pipefail
NAMESPACE=${NAMESPACE:-tutelage}
# Teachers register their schemas, students only read.
TEACHERS=${TEACHERS:-teacher1 teacher2}
STUDENTS=${STUDENTS:-student}
# By what names clients call it.
NAMES=${NAMES:-DNS:registry,DNS:registry.$NAMESPACE,DNS:registry.$NAMESPACE.svc,DNS:registry.$NAMESPACE.svc.cluster.local}
DAYS=365

umask 077
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

secret() {
    kubectl --namespace "$NAMESPACE" create secret generic "$@"
}

key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -keyout ca.key -out ca.crt -days $DAYS -subj "/CN=$NAMESPACE-registry-ca" \
    -addext "basicConstraints=critical,CA:true,pathlen:0" -addext "keyUsage=critical,keyCertSign" 2>openssl.log
openssl req "${key[@]}" -keyout tls.key -out tls.csr -subj "/CN=registry" 2>>openssl.log
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:false\n' "$NAMES" >extensions
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days $DAYS -extfile extensions -out tls.crt 2>>openssl.log

user() {
    local name=$1 role=$2 password
    password=$(openssl rand -hex 24)
    printf 'quarkus.security.users.embedded.users."%s"=%s\n' "$name" "$password" >>users.properties
    printf 'quarkus.security.users.embedded.roles."%s"=%s\n' "$name" "$role" >>users.properties
    printf '%s:%s' "$name" "$password" >"$name.user"
}
for name in $TEACHERS; do user "$name" sr-developer; done
for name in $STUDENTS; do user "$name" sr-readonly; done

# First what fails where this was done before.
secret registry-users --from-file=users.properties
secret registry-tls --type=kubernetes.io/tls --from-file=tls.crt --from-file=tls.key
secret registry-ca --from-file=ca.crt
for name in $TEACHERS $STUDENTS; do secret "registry-$name" --from-file=user-info="$name.user"; done
