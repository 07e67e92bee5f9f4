//! Hears that other processes have begun a pause. How long it lasts is for the store to say: a message may come late. It may also
//! be lost: each answer of the store tells of a pause too.

use std::future::pending;

use tokio::sync::watch;

use crate::fleet::redis::{Inbox, News};

pub(super) struct Listener {
    /// What it says itself is no news to it.
    node: String,
    from: From,
}

enum From {
    InProcess(watch::Receiver<String>),
    /// What begins the messages about this limit.
    Inbox(Inbox, String),
    #[cfg(test)]
    Nowhere,
}

impl Listener {
    pub(super) fn in_process(begun: watch::Receiver<String>, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            from: From::InProcess(begun),
        }
    }

    /// `mark` begins the messages about a limit; who has begun the pause follows.
    pub(super) fn on_server(inbox: Inbox, mark: String, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            from: From::Inbox(inbox, mark),
        }
    }

    #[cfg(test)]
    pub(super) fn deaf() -> Self {
        Self {
            node: String::new(),
            from: From::Nowhere,
        }
    }

    /// Returns when another has begun a pause, or may have: a message may have been lost. Dropped before, it loses none.
    pub(super) async fn next(&mut self) {
        match &mut self.from {
            From::InProcess(begun) => loop {
                if begun.changed().await.is_err() {
                    // The fleet has ended.
                    pending::<()>().await;
                }
                if *begun.borrow_and_update() != self.node {
                    return;
                }
            },
            From::Inbox(inbox, mark) => loop {
                match inbox.next().await {
                    Some(News::Common(text)) => {
                        let by = text.strip_prefix(mark.as_bytes());
                        if by.is_some_and(|by| by != self.node.as_bytes()) {
                            return;
                        }
                    }
                    Some(News::Gap) => return,
                    Some(News::Own(_)) => {}
                    None => pending().await,
                }
            },
            #[cfg(test)]
            From::Nowhere => pending().await,
        }
    }
}
