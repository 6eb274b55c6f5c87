#!/usr/bin/env bash
# Makes the secrets of the registry in the cluster. Run it once, before the overlay is applied.
#
#   registry-tls      the registry's certificate and key, signed by an authority made for it alone
#   registry-ca       the certificate of that authority, which teachers and students trust
#   registry-users    the registry's list of users, with passwords and roles
#   registry-NAME     the name and password of one teacher or student
#
# It needs openssl, and kubectl with access to the cluster. The certificate is valid for a year. To
# make all secrets again, delete them, run this script again, and restart the registry (kubectl
# rollout restart deployment/registry).
set -euo pipefail
NAMESPACE=${NAMESPACE:-tutelage}
# Teachers register their schemas. Students only read, but for those that write queries: these are
# named as teachers (STUDENTS may be empty).
TEACHERS=${TEACHERS:-teacher1 teacher2}
STUDENTS=${STUDENTS-student}
# The host names of the registry, for its certificate.
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

# First the secret whose creation fails if the script was run before.
secret registry-users --from-file=users.properties
secret registry-tls --type=kubernetes.io/tls --from-file=tls.crt --from-file=tls.key
secret registry-ca --from-file=ca.crt
for name in $TEACHERS $STUDENTS; do secret "registry-$name" --from-file=user-info="$name.user"; done
