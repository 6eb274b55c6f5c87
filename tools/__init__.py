"""What the command line does, as a library: record, replay, verify, repair, inspect, watch. Prints nothing."""
