//! One row of the table: what happened, what is true of it, and what the crate says.
use std::error::Error as StdError;

use tower_bulwark::grpc::GrpcClassify;
use tower_bulwark::http::{ErrorKind, HttpClassify};
use tower_bulwark::{Outcome, RetrySafety, Verdict};

use crate::chain;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sent {
    /// Not a byte of the request left.
    Never,
    /// It may have left, and the protocol promises that nothing was done.
    SureNot,
    Maybe,
    /// A response had begun.
    Begun,
    /// The caller's fault.
    Own,
    /// A limit of this side.
    Local,
    /// The service answered, and its code or status says what.
    Answered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    Service,
    Network,
    Caller,
}

#[derive(Clone, Copy, Debug)]
pub struct Truth {
    pub sent: Sent,
    pub who: Who,
    /// The server is well, and says goodbye or not now: ignored, failure and overload are all right.
    pub graceful: bool,
    /// Another attempt meets the same.
    pub moot: bool,
}

pub const fn truth(sent: Sent, who: Who) -> Truth {
    Truth {
        sent,
        who,
        graceful: false,
        moot: false,
    }
}
impl Truth {
    pub const fn graceful(mut self) -> Self {
        self.graceful = true;
        self
    }
    pub const fn moot(mut self) -> Self {
        self.moot = true;
        self
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Said {
    pub outcome: &'static str,
    pub repeat: &'static str,
    pub at_once: bool,
}

impl Said {
    pub fn of(v: &Verdict) -> Self {
        Self {
            outcome: match v.outcome() {
                Outcome::Success => "success",
                Outcome::Failure => "failure",
                Outcome::Overload => "overload",
                Outcome::Ignored => "ignored",
                _ => "?",
            },
            repeat: match v.retry_safety() {
                RetrySafety::Never => "Never",
                RetrySafety::IfKeyed => "IfKeyed",
                RetrySafety::IfIdempotent => "IfIdem",
                RetrySafety::Always => "Always",
                _ => "?",
            },
            at_once: v.retries_immediately(),
        }
    }
    pub fn text(&self) -> String {
        format!(
            "{}/{}{}",
            self.outcome,
            self.repeat,
            if self.at_once { "!" } else { "" }
        )
    }
}

#[derive(Clone, Debug)]
pub struct Row {
    pub group: &'static str,
    pub what: String,
    pub variant: Option<String>,
    pub client: String,
    pub stage: String,
    pub links: Vec<chain::Link>,
    pub sig: String,
    pub received: String,
    pub response: String,
    pub truth: Truth,
    pub kind: String,
    pub http: Option<Said>,
    pub grpc: Option<Said>,
    pub tonic: bool,
    /// What it should be, where that is known by other means.
    pub expect: Option<String>,
}

pub fn judge(
    error: &(dyn StdError + 'static),
    tonic: bool,
) -> (Vec<chain::Link>, String, Option<Said>, Option<Said>) {
    let links = chain::chain(error);
    let kind = format!("{:?}", ErrorKind::of(error));
    let http = Said::of(&HttpClassify::new().error(error));
    let grpc = tonic.then(|| Said::of(&GrpcClassify::new().classify_error(error)));
    (links, kind, Some(http), grpc)
}

impl Row {
    pub fn verdict(&self) -> Option<&Said> {
        match self.tonic {
            true => self.grpc.as_ref(),
            false => self.http.as_ref(),
        }
    }

    /// What is wrong with the verdict. The worst first.
    pub fn marks(&self) -> Vec<&'static str> {
        self.marks_of(self.verdict())
    }

    pub fn marks_of(&self, v: Option<&Said>) -> Vec<&'static str> {
        let Some(v) = v else { return vec![] };
        // hyper's connections are dialled by the caller's own code.
        if self.client.starts_with("hyper") && self.stage == "connect" {
            return vec![];
        }
        let mut m = Vec::new();
        if self.expect.as_ref().is_some_and(|e| *e != v.text()) {
            m.push("STATUS");
        }
        match (self.truth.sent, v.repeat) {
            (Sent::Maybe | Sent::Begun, "Always") => m.push("DOUBLE"),
            (Sent::Never | Sent::SureNot, "IfIdem" | "IfKeyed") if !self.truth.moot => {
                m.push("lost-nonidem")
            }
            (Sent::Never | Sent::SureNot, "Never")
                if !self.truth.moot && self.truth.who != Who::Caller =>
            {
                m.push("lost")
            }
            (Sent::Maybe, "Never") if !self.truth.moot => m.push("lost-idem"),
            (Sent::Own | Sent::Local, "Always" | "IfIdem") => m.push("futile"),
            _ => {}
        }
        match (self.truth.who, v.outcome) {
            _ if self.truth.sent == Sent::Answered => {}
            (_, "failure" | "overload") if matches!(self.truth.sent, Sent::Own | Sent::Local) => {
                m.push("BLAMED")
            }
            (Who::Caller, "failure" | "overload") => m.push("BLAMED"),
            (Who::Service | Who::Network, "ignored" | "success")
                if !self.truth.graceful && !matches!(self.truth.sent, Sent::Own | Sent::Local) =>
            {
                m.push("BLIND")
            }
            _ => {}
        }
        m
    }
}

/// Whether other rows with the very same chain make the verdict right there: the error says no more.
pub fn cannot_be_told(rows: &[Row], row: &Row, mark: &str) -> bool {
    let last = |row: &Row| row.links.last().map(|link| link.display.clone());
    let twin = |other: &&Row| {
        other.sig == row.sig
            && last(other) == last(row)
            && other.tonic == row.tonic
            && other.client == row.client
            && other.stage == row.stage
            && other.verdict() == row.verdict()
    };
    !matches!(mark, "DOUBLE" | "STATUS")
        && rows
            .iter()
            .filter(twin)
            .any(|other| other.marks().is_empty())
}
