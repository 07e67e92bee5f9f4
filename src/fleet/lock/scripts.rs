//! The scripts, each with what all of them begin with.

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
