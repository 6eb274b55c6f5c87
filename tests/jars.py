"""SHA-256 of the jars that only tests use; those of the stack are in deploy/local/checksums.txt."""

from __future__ import annotations

JARS = {
    "api-1.2.0.jar": "566961ae5e5646a001ae91312beda5cba3a5d467e740e205e1b761754335fe4e",
    "avro-tools-1.12.2.jar": "6220e8bc089aaf917cdad4cd358bd651fc0394c0e5ddb8b36da402012c294a68",
    "crd-generator-1.2.0.jar": "76bb2430e702a1e6a24c071d26c865d5e9572cbc630d176d3b912033ae23ed00",
}
