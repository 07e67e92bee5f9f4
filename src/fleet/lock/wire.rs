//! Operations as arguments of scripts, and what scripts answer.

use redis::Value;

use super::op::{Answer, Cancelled, Handoff, Held, Listed, Member, Micros, Op, Reply};

/// What its keys end with: meta, leases, queue, beats.
pub(crate) const PARTS: [&str; 4] = ["m", "h", "w", "x"];

/// What a script takes. `time` is empty: the server knows it; a test says it.
pub(crate) fn args(op: &Op, time: &str, name: &str) -> Vec<Vec<u8>> {
    let mut args = Args(vec![time.into(), name.into()]);
    match op {
        Op::Acquire {
            member,
            may_wait,
            max,
            version,
            grace,
            retry,
        } => {
            args.text(member.text());
            for number in [member.lease(), *may_wait, *max, *version, *grace] {
                args.number(number);
            }
            args.text(if *retry { "1" } else { "0" });
        }
        Op::Release(held) => {
            for (slot, token) in held {
                args.slot(*slot);
                args.number(token);
            }
        }
        Op::Cancel(members) | Op::Beat(members) => {
            for member in members {
                args.text(member.text());
            }
        }
        Op::Renew(held) => {
            for it in held {
                args.slot(it.slot);
                args.number(it.token);
                args.number(it.expiry);
                args.text(it.member.text());
            }
        }
        Op::Resize { max, version } => {
            args.number(max);
            args.text(&version.map(|it| it.to_string()).unwrap_or_default());
        }
        Op::List => {}
    }
    args.0
}

struct Args(Vec<Vec<u8>>);

impl Args {
    fn text(&mut self, text: &str) {
        self.0.push(text.into());
    }

    fn number(&mut self, number: impl std::fmt::Display) {
        self.text(&number.to_string());
    }

    /// All of one length, so that they sort as numbers do.
    fn slot(&mut self, slot: u32) {
        self.text(&format!("{slot:07}"));
    }
}

/// What a script has answered to `op`; `Err` says what of it makes no sense.
pub(crate) fn answer(op: &Op, value: Value) -> Result<Answer, String> {
    let Value::Array(values) = value else {
        return Err(format!("no array: {value:?}"));
    };
    let mut reader = Reader(values.into_iter());
    let (now, max, version) = (reader.number()?, reader.number()?, reader.number()?);
    let reply = reader.reply(op)?;
    match reader.0.next() {
        None => Ok(Answer {
            now,
            max,
            version,
            reply,
        }),
        Some(more) => Err(format!("one too many: {more:?}")),
    }
}

struct Reader(std::vec::IntoIter<Value>);

impl Reader {
    fn next(&mut self) -> Result<Value, String> {
        self.0.next().ok_or_else(|| "it is too short".to_owned())
    }

    fn number(&mut self) -> Result<i64, String> {
        match self.next()? {
            Value::Int(number) => Ok(number),
            other => Err(format!("no number: {other:?}")),
        }
    }

    fn unsigned<T: TryFrom<i64>>(&mut self) -> Result<T, String> {
        let number = self.number()?;
        T::try_from(number).map_err(|_| format!("out of range: {number}"))
    }

    fn member(&mut self) -> Result<Member, String> {
        match self.next()? {
            Value::BulkString(bytes) => Ok(Member::read(&String::from_utf8_lossy(&bytes))),
            Value::SimpleString(text) => Ok(Member::read(&text)),
            other => Err(format!("no text: {other:?}")),
        }
    }

    fn rest<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut all = Vec::new();
        while self.0.len() > 0 {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn reply(&mut self, op: &Op) -> Result<Reply, String> {
        Ok(match op {
            Op::Acquire { .. } => match self.number()? {
                1 => Reply::Granted {
                    slot: self.unsigned()?,
                    token: self.unsigned()?,
                    expiry: self.number()?,
                },
                2 => Reply::Waits {
                    rank: self.number()?,
                    next: self.number()?,
                },
                3 => Reply::Refused {
                    waiting: self.number()?,
                },
                other => return Err(format!("no such answer: {other}")),
            },
            Op::Release(_) => Reply::Released(self.rest(|it| Ok(it.number()? != 0))?),
            Op::Cancel(_) => Reply::Cancelled(self.rest(|it| {
                Ok(match it.number()? {
                    0 => Cancelled::Unknown,
                    1 => Cancelled::LeftTheQueue,
                    _ => Cancelled::GaveBack,
                })
            })?),
            Op::Renew(_) => Reply::Renewed(self.rest(Self::number)?),
            Op::Beat(_) => Reply::Beaten {
                next: self.number()?,
                waiting: self.number()?,
                ranks: self.rest(Self::number)?,
            },
            Op::Resize { .. } => Reply::Resized,
            Op::List => Reply::Listed(self.listed()?),
        })
    }

    fn listed(&mut self) -> Result<Listed, String> {
        let (waiting, live, named) = (self.number()?, self.number()?, self.number()?);
        let mut held = Vec::new();
        for _ in 0..named {
            held.push(Held {
                slot: self.unsigned()?,
                token: self.unsigned()?,
                expiry: self.number()?,
                member: self.member()?,
            });
        }
        Ok(Listed {
            waiting,
            live,
            held,
            queue: self.rest(|it| Ok((it.member()?, it.number()?)))?,
        })
    }
}

/// A message of a hand-off: `lock|id|slot|token|expiry|now|name`.
pub(crate) fn handoff(inbox: &str, message: &str) -> Option<Handoff> {
    let mut parts = message.strip_prefix("lock|")?.splitn(6, '|');
    let id = parts.next()?.to_owned();
    let slot = parts.next()?.parse().ok()?;
    let token = parts.next()?.parse().ok()?;
    let mut time = || parts.next()?.parse::<Micros>().ok();
    Some(Handoff {
        inbox: inbox.to_owned(),
        id,
        slot,
        token,
        expiry: time()?,
        now: time()?,
    })
}
