"""A real Kafka broker and schema registry on this machine, without containers."""

from tutelage.deploy.local.programs import StackError
from tutelage.deploy.local.stack import Stack
from tutelage.deploy.local.stack_file import StackAddresses

__all__ = ["Stack", "StackAddresses", "StackError"]
