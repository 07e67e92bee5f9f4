//! What only a real server shows: its clock, no memory left, keys of another type, keys that go by themselves.

use redis::Value;

use super::differential::{Scripts, keys, unchanged};
use super::op::{Answer, Cancelled, Held, Member, Op, Reply};
use super::support::server::Server;

fn acquire(id: &str) -> Op {
    Op::Acquire {
        member: Member::new(id, 10_000_000, "in:a", "node", "job"),
        may_wait: 10,
        max: 1,
        version: 1,
        grace: 0,
        retry: false,
    }
}

fn member(op: &Op) -> Member {
    match op {
        Op::Acquire { member, .. } => member.clone(),
        _ => panic!("{op:?}"),
    }
}

fn granted(answer: &Answer) -> (u32, u64, i64) {
    match answer.reply {
        Reply::Granted {
            slot,
            token,
            expiry,
        } => (slot, token, expiry),
        _ => panic!("{answer:?}"),
    }
}

fn query<T: redis::FromRedisValue>(scripts: &mut Scripts, command: &[&str]) -> T {
    let mut cmd = redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    cmd.query(scripts.connection()).unwrap()
}

fn start() -> Option<(Server, Scripts)> {
    let server = Server::start_blocking(&[])?;
    let scripts = Scripts::load(&server, &unchanged);
    Some((server, scripts))
}

#[test]
fn a_lease_runs_by_the_clock_of_the_server() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let (seconds, _): (i64, i64) = query(&mut scripts, &["TIME"]);
    let answer = scripts.run(&acquire("a"), "").unwrap();
    let (_, token, expiry) = granted(&answer);
    assert_eq!(expiry, answer.now + 10_000_000);
    assert_eq!(token, answer.now.cast_unsigned());
    assert!((0..5).contains(&(answer.now / 1_000_000 - seconds)));
}

#[test]
fn what_is_held_can_be_renewed_and_given_back_where_no_memory_is_left() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let (first, second) = (acquire("a"), acquire("b"));
    let (slot, token, expiry) = granted(&scripts.run(&first, "").unwrap());
    scripts.run(&second, "").unwrap();
    let () = query(&mut scripts, &["CONFIG", "SET", "maxmemory", "1"]);

    let held = Held {
        slot,
        token,
        expiry,
        member: member(&first),
    };
    let renewed = scripts.run(&Op::Renew(vec![held]), "").unwrap();
    assert!(matches!(renewed.reply, Reply::Renewed(it) if it[0] > expiry));
    let released = scripts.run(&Op::Release(vec![(slot, token)]), "").unwrap();
    assert_eq!(released.reply, Reply::Released(vec![true]));
    // The one that waited has it now.
    let cancelled = scripts.run(&Op::Cancel(vec![member(&second)]), "").unwrap();
    assert_eq!(cancelled.reply, Reply::Cancelled(vec![Cancelled::GaveBack]));
}

#[test]
fn a_key_of_another_type_is_an_error_and_leaves_nothing_behind() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let keys = keys();
    for wrong in &keys {
        scripts.forget_everything();
        let () = query(&mut scripts, &["SET", wrong, "text"]);
        let error = scripts.run(&acquire("a"), "").unwrap_err();
        assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
        let left: Vec<String> = query(&mut scripts, &["KEYS", "*"]);
        assert_eq!(left, [wrong.as_str()]);
    }
}

#[test]
fn every_key_goes_by_itself_a_day_after_the_name_was_last_used() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let keys = keys();
    let ttls = |scripts: &mut Scripts| {
        keys.each_ref()
            .map(|key| query::<i64>(scripts, &["TTL", key]))
    };
    scripts.run(&acquire("a"), "1000000000000000:1").unwrap();
    scripts.run(&acquire("b"), "1000000000000000:1").unwrap();
    let day = 86_390..=86_400;
    let of_new = ttls(&mut scripts);
    assert!(of_new.iter().all(|it| day.contains(it)), "{of_new:?}");

    for key in &keys {
        let () = query(&mut scripts, &["EXPIRE", key, "100"]);
    }
    let minutes = |n: u64| format!("{}:1", 1_000_000_000_000_000 + n * 60_000_000);
    scripts.run(&Op::Release(vec![]), &minutes(59)).unwrap();
    assert!(ttls(&mut scripts)[0] <= 100);
    scripts.run(&Op::Release(vec![]), &minutes(61)).unwrap();
    assert!(ttls(&mut scripts)[..2].iter().all(|it| day.contains(it)));
}

#[test]
fn a_lease_that_is_taken_up_after_a_loss_goes_by_itself_too() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    // One waits, and nobody has a lease.
    let mut waits = acquire("a");
    if let Op::Acquire { grace, .. } = &mut waits {
        *grace = 10_000_000;
    }
    let answer = scripts.run(&waits, "").unwrap();
    assert_eq!(answer.reply, Reply::Waits { rank: 0, next: 0 });
    let held = Held {
        slot: 0,
        token: answer.now.cast_unsigned(),
        expiry: answer.now + 5_000_000,
        member: member(&acquire("b")),
    };
    let renewed = scripts.run(&Op::Renew(vec![held]), "").unwrap();
    assert!(matches!(renewed.reply, Reply::Renewed(it) if it[0] > answer.now));
    for key in keys() {
        let ttl: i64 = query(&mut scripts, &["TTL", &key]);
        assert!((86_390..=86_400).contains(&ttl), "{key}: {ttl}");
    }
}

#[test]
fn a_grace_begins_with_the_history_of_the_server_and_admits_nobody_before_its_end() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let Op::Acquire { member, .. } = acquire("a") else {
        panic!("it is one");
    };
    let strict = Op::Acquire {
        member,
        may_wait: 10,
        max: 1,
        version: 1,
        grace: 10_000_000,
        retry: false,
    };
    let answer = scripts.run(&strict, "").unwrap();
    assert_eq!(answer.reply, Reply::Waits { rank: 0, next: 0 });
    let id: String = query(&mut scripts, &["HGET", &keys()[0], "rid"]);
    let info: Value = query(&mut scripts, &["INFO", "replication"]);
    assert_eq!(id.len(), 40);
    assert!(format!("{info:?}").contains(&id));
}

#[test]
fn a_lease_that_is_taken_up_again_after_a_loss_goes_by_itself_too() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let first = acquire("a");
    let (slot, token, expiry) = granted(&scripts.run(&first, "").unwrap());
    let () = query(&mut scripts, &["FLUSHALL"]);
    // Somebody new comes first, and has to wait for the grace.
    let Op::Acquire { member: new, .. } = acquire("b") else {
        panic!("it asks for a permit");
    };
    let waits = Op::Acquire {
        member: new,
        may_wait: 10,
        max: 1,
        version: 1,
        grace: 10_000_000,
        retry: false,
    };
    let waits = scripts.run(&waits, "").unwrap();
    assert!(matches!(waits.reply, Reply::Waits { .. }), "{waits:?}");
    let held = Held {
        slot,
        token,
        expiry,
        member: member(&first),
    };
    let renewed = scripts.run(&Op::Renew(vec![held]), "").unwrap();
    assert!(matches!(renewed.reply, Reply::Renewed(it) if it[0] > expiry));
    for key in keys() {
        let ttl: i64 = query(&mut scripts, &["PTTL", &key]);
        assert!(ttl > 80_000_000, "{key}: {ttl}");
    }
}

fn named(id: &str, max: i64, retry: bool) -> Op {
    let Op::Acquire {
        member,
        may_wait,
        version,
        grace,
        ..
    } = acquire(id)
    else {
        panic!("it asks for a permit");
    };
    Op::Acquire {
        member,
        may_wait,
        max,
        version,
        grace,
        retry,
    }
}

/// How many commands of this kind the server has done.
fn done(scripts: &mut Scripts, command: &str) -> u64 {
    let stats: String = query(scripts, &["INFO", "commandstats"]);
    let line = stats.lines().find_map(|it| {
        let it = it.strip_prefix("cmdstat_")?.strip_prefix(command)?;
        it.strip_prefix(":calls=")?.split(',').next()
    });
    line.map_or(0, |it| it.parse().unwrap())
}

#[test]
fn who_asks_again_or_gives_up_does_not_make_the_server_look_at_every_lease() {
    const HELD: u64 = 1_000;
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    for n in 0..HELD {
        granted(
            &scripts
                .run(&named(&n.to_string(), 2_000, false), "")
                .unwrap(),
        );
    }
    let before = done(&mut scripts, "hget");
    let again = scripts.run(&named("7", 2_000, true), "").unwrap();
    assert_eq!(granted(&again).0, 7);
    let gone = ["8", "9", "never"].map(|id| member(&acquire(id)));
    let cancelled = scripts.run(&Op::Cancel(gone.into()), "").unwrap();
    let (there, unknown) = (Cancelled::GaveBack, Cancelled::Unknown);
    assert_eq!(
        cancelled.reply,
        Reply::Cancelled(vec![there, there, unknown])
    );
    let looks = done(&mut scripts, "hget") - before;
    assert!((1..50).contains(&looks), "{looks} of {HELD}");
}

#[test]
fn what_is_kept_of_a_lock_does_not_grow_with_those_who_had_it() {
    let Some((_server, mut scripts)) = start() else {
        return;
    };
    let mut sizes = Vec::new();
    for n in 0..100 {
        let (slot, token, _) = granted(&scripts.run(&acquire(&n.to_string()), "").unwrap());
        let size: u64 = query(&mut scripts, &["HLEN", &keys()[0]]);
        sizes.push(size);
        scripts.run(&Op::Release(vec![(slot, token)]), "").unwrap();
    }
    assert_eq!(sizes[99], sizes[0]);
}
