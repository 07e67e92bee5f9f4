//! A cluster of three primaries: one of them is killed, and a slot moves while it is in use.
