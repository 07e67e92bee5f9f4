//! The shared lock: the pure core against what is promised of it, and the scripts against the core. The very files of the
//! crate are compiled here.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the files are compiled for what is checked here, and have more in them"
)]

#[path = "../../src/fleet/lock/core.rs"]
mod core;
#[path = "../../src/fleet/lock/op.rs"]
mod op;
#[path = "../../src/fleet/lock/scripts.rs"]
mod scripts;
#[path = "../../src/fleet/lock/wire.rs"]
mod wire;
#[path = "../../src/fleet/lock/zset.rs"]
mod zset;

mod conformance;
mod differential;
mod faults;
mod model;
mod mutants;
mod script_edges;
mod world;

use super::support;
