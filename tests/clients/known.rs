//! Where a verdict is known to differ from what happened, and why it stays.

use crate::rows::Row;

pub struct Known {
    pub mark: &'static str,
    /// What the name of the situation begins with.
    pub what: &'static str,
    pub why: &'static str,
}

impl Known {
    pub fn covers(&self, mark: &str, row: &Row) -> bool {
        self.mark == mark && row.what.starts_with(self.what)
    }
}

/// Marks of the price that safety costs: what was certainly not done, and could not be proved, is sent again only if
/// it may be done twice; and what fails again fails again.
pub fn is_the_price(mark: &str) -> bool {
    matches!(mark, "lost-nonidem" | "futile")
}

pub const KNOWN: &[Known] = &[
    Known {
        mark: "DOUBLE",
        what: "POST answered by 302 to a host that refuses",
        why: "reqwest says of the second host what it says of the first",
    },
    Known {
        mark: "DOUBLE",
        what: "UNAVAILABLE in trailers, after a message",
        why: "a typed status does not say whether a message came before it",
    },
    Known {
        mark: "BLIND",
        what: "grpc-encoding that the client does not speak",
        why: "tonic makes the status that a server without the method sends",
    },
    Known {
        mark: "BLAMED",
        what: "the connection's runtime ended",
        why: "hyper says no more than that a connection's task is gone",
    },
    Known {
        mark: "BLAMED",
        what: "upload body panics",
        why: "hyper says no more than that a connection's task is gone",
    },
    Known {
        mark: "BLAMED",
        what: "channel whose worker is gone",
        why: "tonic makes UNKNOWN of it, without a cause",
    },
    Known {
        mark: "BLAMED",
        what: "request head larger than the server's MAX_HEADER_LIST_SIZE",
        why: "tonic makes UNKNOWN of it, without a cause",
    },
    Known {
        mark: "BLAMED",
        what: "client certificate wanted",
        why: "to the client it is a handshake that the server ended",
    },
    Known {
        mark: "BLAMED",
        what: "filter",
        why: "an error of the caller's own type: a classifier of the caller's own knows it",
    },
    Known {
        mark: "BLAMED",
        what: "https without TLS",
        why: "a connector's own error, whose type has no name",
    },
    Known {
        mark: "BLAMED",
        what: "proxy answers CONNECT with 407",
        why: "a connector's own error, whose type has no name",
    },
    Known {
        mark: "BLAMED",
        what: "Limited response body, too long",
        why: "an error of `http-body-util`, which this crate does not depend on",
    },
    Known {
        mark: "BLAMED",
        what: "user agent with a line end",
        why: "`Endpoint` makes an error without a cause of it",
    },
    Known {
        mark: "lost-idem",
        what: "‹kind› before a response",
        why: "ENHANCE_YOUR_CALM: who asks to be left alone is left alone",
    },
    Known {
        mark: "lost",
        what: "‹kind›",
        why: "ENHANCE_YOUR_CALM: who asks to be left alone is left alone",
    },
    Known {
        mark: "STATUS",
        what: "HTTP ‹status› of a proxy with a page, no grpc-status",
        why: "a typed client reads the content type first, and makes INTERNAL of it",
    },
];
