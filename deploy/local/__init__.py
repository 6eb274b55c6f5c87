"""A real Kafka broker and schema registry on this machine, without containers."""

from tutelage.deploy.local.programs import StackError
from tutelage.deploy.local.stack import Stack, StackAddresses

__all__ = ["Stack", "StackAddresses", "StackError"]
