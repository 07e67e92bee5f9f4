//! The scripts on a real server do what the core does, operation by operation: every answer and every message is equal.
//! The time is given to both, so that it can do what no clock should.

use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use redis::Value;

use super::core::SemCore;
use super::op::{Answer, Handoff, Op};
use super::scripts::{self, Source};
use super::support::server::Server;
use super::wire;
use super::world::{Faults, Step, World};

const NAME: &str = "gpu|x";
const BATCH: usize = 250;

/// The scripts as they are, or with a change that should be noticed.
pub(super) type Edit<'a> = &'a dyn Fn(Source) -> String;

fn connect(server: &Server) -> redis::Connection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_connection().unwrap()
}

pub(super) fn unchanged((_, code): Source) -> String {
    code.to_owned()
}

pub(super) fn keys() -> [String; 4] {
    wire::PARTS.map(|part| format!("t:lock:{{{NAME}}}:{part}"))
}

pub(super) struct Scripts {
    connection: redis::Connection,
    messages: Receiver<(String, String)>,
    shas: Vec<(&'static str, String)>,
    keys: [String; 4],
}

impl Scripts {
    pub(super) fn load(server: &Server, edit: Edit<'_>) -> Self {
        let mut connection = connect(server);
        let messages = listen(connect(server));
        let all = [
            scripts::ACQUIRE,
            scripts::RELEASE,
            scripts::CANCEL,
            scripts::RENEW,
            scripts::BEAT,
            scripts::RESIZE,
            scripts::LIST,
        ];
        let shas = all.map(|source| {
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(edit(source));
            (source.0, load.query(&mut connection).unwrap())
        });
        Self {
            connection,
            messages,
            shas: shas.into(),
            keys: keys(),
        }
    }

    fn command(&self, op: &Op, time: &str) -> redis::Cmd {
        let (name, _) = script_of(op);
        let sha = &self.shas.iter().find(|it| it.0 == name).unwrap().1;
        let mut command = redis::cmd("EVALSHA");
        command.arg(sha).arg(4).arg(&self.keys);
        for arg in wire::args(op, time, NAME) {
            command.arg(arg);
        }
        command
    }

    /// By the clock of the server, which is `time` unless that is empty.
    pub(super) fn run(&mut self, op: &Op, time: &str) -> Result<Answer, redis::RedisError> {
        let value: Value = self.command(op, time).query(&mut self.connection)?;
        Ok(wire::answer(op, value).unwrap())
    }

    pub(super) fn connection(&mut self) -> &mut redis::Connection {
        &mut self.connection
    }

    /// The messages of hand-offs, which come in order.
    fn handoffs(&self, n: usize) -> Vec<Handoff> {
        let next = || {
            let (inbox, message) = self
                .messages
                .recv_timeout(Duration::from_secs(10))
                .expect("a message of a hand-off");
            wire::handoff(&inbox, &message).unwrap()
        };
        std::iter::repeat_with(next).take(n).collect()
    }

    pub(super) fn forget_everything(&mut self) {
        redis::cmd("FLUSHDB").exec(&mut self.connection).unwrap();
    }
}

/// What is published, until the server ends.
fn listen(mut connection: redis::Connection) -> Receiver<(String, String)> {
    let (heard, messages) = channel();
    let (ready, is_ready) = channel();
    thread::spawn(move || {
        let mut pubsub = connection.as_pubsub();
        pubsub.psubscribe("in:*").unwrap();
        ready.send(()).unwrap();
        while let Ok(message) = pubsub.get_message() {
            let channel = message.get_channel_name().to_owned();
            if heard
                .send((channel, message.get_payload().unwrap()))
                .is_err()
            {
                break;
            }
        }
    });
    is_ready.recv().unwrap();
    messages
}

fn script_of(op: &Op) -> Source {
    match op {
        Op::Acquire { .. } => scripts::ACQUIRE,
        Op::Release(_) => scripts::RELEASE,
        Op::Cancel(_) => scripts::CANCEL,
        Op::Renew(_) => scripts::RENEW,
        Op::Beat(_) => scripts::BEAT,
        Op::Resize { .. } => scripts::RESIZE,
        Op::List => scripts::LIST,
    }
}

struct Expected {
    op: Op,
    time: String,
    answer: Answer,
}

/// What was the same; or the first difference.
#[derive(Default)]
pub(super) struct Same {
    pub(super) operations: usize,
    pub(super) handoffs: usize,
}

pub(super) fn compare(
    scripts: &mut Scripts,
    seed: u64,
    steps: usize,
    faults: Faults,
) -> Result<Same, String> {
    scripts.forget_everything();
    let mut world = World::new(seed, faults);
    let mut core = SemCore::new();
    let mut same = Same::default();
    let mut batch = Vec::new();
    let mut told = Vec::new();
    for _ in 0..steps {
        world.tick();
        match world.step() {
            Step::Op(op) => {
                let answer = core.apply(&op, world.clock);
                let handoffs = core.take_handoffs();
                world.hear(&op, &answer, &handoffs);
                told.extend(handoffs);
                let time = format!("{}:{}", world.clock.now, world.clock.history);
                batch.push(Expected { op, time, answer });
                if batch.len() == BATCH {
                    send(scripts, &mut batch, &mut told, &mut same)?;
                }
            }
            Step::Loss => {
                send(scripts, &mut batch, &mut told, &mut same)?;
                scripts.forget_everything();
                core = SemCore::new();
            }
            Step::Failover => {}
        }
    }
    send(scripts, &mut batch, &mut told, &mut same)?;
    Ok(same)
}

fn send(
    scripts: &mut Scripts,
    batch: &mut Vec<Expected>,
    told: &mut Vec<Handoff>,
    same: &mut Same,
) -> Result<(), String> {
    if batch.is_empty() {
        return Ok(());
    }
    let mut pipe = redis::pipe();
    for it in batch.iter() {
        pipe.add_command(scripts.command(&it.op, &it.time));
    }
    // A script that fails is no difference: it is broken.
    let values: Vec<Value> = pipe.query(&mut scripts.connection).unwrap();
    assert_eq!(values.len(), batch.len());
    for (it, value) in batch.iter().zip(values) {
        let got = wire::answer(&it.op, value)?;
        if got != it.answer {
            let Expected { op, answer, .. } = it;
            return Err(format!("{op:?}\n core: {answer:?}\nscript: {got:?}"));
        }
    }
    let messages = scripts.handoffs(told.len());
    if messages != *told {
        return Err(format!("core: {told:?}\nscript: {messages:?}"));
    }
    same.operations += batch.len();
    same.handoffs += told.len();
    batch.clear();
    told.clear();
    Ok(())
}

#[test]
fn every_answer_of_the_scripts_is_that_of_the_core() {
    let Some(server) = Server::start_blocking(&[]) else {
        return;
    };
    let mut scripts = Scripts::load(&server, &unchanged);
    let (mut operations, mut handoffs) = (0, 0);
    for seed in 0..24 {
        let faults = Faults {
            grace: seed % 3 == 2,
            ..Faults::ALL
        };
        let same = compare(&mut scripts, seed, 5_000, faults);
        let same = same.unwrap_or_else(|difference| panic!("seed {seed}: {difference}"));
        operations += same.operations;
        handoffs += same.handoffs;
    }
    assert!(operations > 100_000, "{operations}");
    assert!(handoffs > 5_000, "{handoffs}");
}
