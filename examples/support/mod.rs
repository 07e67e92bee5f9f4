//! What the examples share: a fake LLM server whose faults are scripted, and a table to print.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each example is a program, and uses a part of it"
)]

pub mod chat;
pub mod clock;
pub mod fake_llm;
pub mod scenario;
pub mod table;
