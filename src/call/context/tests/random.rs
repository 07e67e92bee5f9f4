use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::*;
use crate::call::context::is_at_rest;
use crate::util::time::{Tick, now};

pub(super) mod naive {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    /// Counts by explicit handle what the account infers.
    #[derive(Default)]
    pub(crate) struct Truth {
        waits: u32,
        services: u32,
        since: Option<Tick>,
        pub waited: Duration,
    }
    impl Truth {
        fn step(&mut self, change: impl FnOnce(&mut Self)) {
            if let Some(since) = self.since.take() {
                self.waited += now().since(since)
            }
            change(self);
            self.since = (self.waits > 0 && self.services == 0).then(now);
        }
    }
    pub(crate) type Shared = Rc<RefCell<Truth>>;
    pub(crate) struct Random(pub u64);
    impl Random {
        pub(crate) fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }
    struct Undo<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Undo<F> {
        fn drop(&mut self) {
            (self.0)()
        }
    }

    pub(crate) fn program(
        r: &mut Random,
        truth: Shared,
        depth: u64,
    ) -> Pin<Box<dyn Future<Output = ()>>> {
        let took = (1 + r.below(50)) as u32 * MS;
        let kind = if depth == 0 { r.below(2) } else { r.below(8) };
        if std::env::var("SHOW").is_ok() {
            eprintln!("{:>w$}{kind} {took:?}", "", w = 2 * (4 - depth as usize));
        }
        let mut sub = |n: u64| {
            (0..n)
                .map(|_| program(r, truth.clone(), depth - 1))
                .collect::<Vec<_>>()
        };
        match kind {
            0 => {
                let t = truth;
                Box::pin(async move {
                    t.borrow_mut().step(|t| t.waits += 1);
                    let _undo = Undo(|| t.borrow_mut().step(|t| t.waits -= 1));
                    wait(took).await
                })
            }
            1 => {
                let t = truth;
                Box::pin(async move {
                    t.borrow_mut().step(|t| t.services += 1);
                    let _undo = Undo(|| t.borrow_mut().step(|t| t.services -= 1));
                    service(took).await
                })
            }
            2 => {
                let parts = sub(3);
                Box::pin(async move {
                    for part in parts {
                        part.await
                    }
                })
            }
            3 => {
                let parts = sub(3);
                Box::pin(async move {
                    join_all(parts).await;
                })
            }
            4 => {
                let parts = sub(4);
                Box::pin(async move {
                    parts
                        .into_iter()
                        .collect::<FuturesUnordered<_>>()
                        .collect::<Vec<_>>()
                        .await;
                })
            }
            5 => {
                let part = sub(1).remove(0);
                Box::pin(async move {
                    let _ = timeout(took, part).await;
                })
            }
            6 => {
                let part = sub(1).remove(0);
                Box::pin(Framed::new(part))
            }
            _ => {
                let parts = sub(2);
                Box::pin(async move {
                    futures::future::select_all(parts).await;
                })
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn random_programs_are_accounted_as_a_naive_model_does() {
    let mut total = Duration::ZERO;
    let from = std::env::var("SEED").map_or(1, |s| s.parse().unwrap());
    for seed in from..4000 {
        let mut random = naive::Random(0x9E37_79B9_7F4A_7C15u64.wrapping_mul(seed));
        let truth = naive::Shared::default();
        let mut call = Framed::new(naive::program(&mut random, truth.clone(), 4));
        let (start, cut) = (now(), random.below(200) as u32 * MS);
        let cut = timeout(cut, &mut call).await.is_err();
        let (waited, ran) = (call.1.waited(now()), now().since(start));
        let mut expected = truth.borrow().waited;
        if cut {
            drop(call); // Turns the naive clock off.
            expected = truth.borrow().waited;
        }
        total += waited;
        assert!(waited <= ran);
        assert_eq!(waited, expected, "seed {seed}, cut {cut}");
    }
    assert!(is_at_rest());
    assert!(total > 40 * S, "{total:?}");
}
