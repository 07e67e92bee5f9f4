//! The scripts, each with what all of them begin with.

use super::op::Op;

macro_rules! script {
    ($name:literal) => {
        concat!(
            include_str!("lua/prelude.lua"),
            include_str!(concat!("lua/", $name, ".lua"))
        )
    };
}

/// One script: its name, and what is sent to the server.
pub(crate) type Source = (&'static str, &'static str);

pub(crate) const ACQUIRE: Source = ("lock/acquire", script!("acquire"));
pub(crate) const RELEASE: Source = ("lock/release", script!("release"));
pub(crate) const CANCEL: Source = ("lock/cancel", script!("cancel"));
pub(crate) const RENEW: Source = ("lock/renew", script!("renew"));
pub(crate) const BEAT: Source = ("lock/beat", script!("beat"));
pub(crate) const RESIZE: Source = ("lock/resize", script!("resize"));
pub(crate) const LIST: Source = ("lock/list", script!("list"));

pub(crate) fn of(op: &Op) -> Source {
    match op {
        Op::Acquire { .. } => ACQUIRE,
        Op::Release(_) => RELEASE,
        Op::Cancel(_) => CANCEL,
        Op::Renew(_) => RENEW,
        Op::Beat(_) => BEAT,
        Op::Resize { .. } => RESIZE,
        Op::List => LIST,
    }
}
