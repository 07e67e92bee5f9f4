use std::convert::Infallible;
use std::fmt;

use super::*;
use crate::CircuitBreaker;

#[derive(Debug, PartialEq)]
struct Down;

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("down")
    }
}

impl StdError for Down {}

fn refusal() -> CircuitOpen {
    let breaker = CircuitBreaker::new("api");
    breaker.force_open();
    breaker.try_acquire().unwrap_err()
}

fn flat<L>(error: impl IntoError<L>) -> Error<L> {
    error.into_error()
}

#[test]
fn the_leaf_is_inferred_through_any_number_of_layers() {
    // No annotation: `L` can only be `Down`.
    let once = flat(Down);
    let twice = flat(once);
    let thrice = flat(twice);
    assert_eq!(thrice.into_inner().unwrap(), Down);
}

#[test]
fn an_infallible_service_has_a_flat_error_too() {
    let refused: Error<Infallible> = Error::CircuitOpen(refusal());
    assert!(flat(refused).is_rejection());
}

#[test]
fn a_rejection_comes_out_of_a_box_as_what_it_is() {
    let error: Error<Down> = Error::CircuitOpen(refusal());
    let boxed: BoxError = Box::new(error);
    let wrapped: BoxError = std::io::Error::other(boxed).into();
    let Error::CircuitOpen(open) = flat(wrapped) else {
        panic!("the rejection was lost");
    };
    assert_eq!(open.name(), "api");
}

#[test]
fn a_box_without_a_rejection_stays_a_leaf() {
    let boxed: BoxError = Box::new(Down);
    let Error::Inner(leaf) = flat(boxed) else {
        panic!("a leaf was taken for something else");
    };
    assert!(leaf.downcast_ref::<Down>().is_some());
    assert!(matches!(flat("text"), Error::Inner(Boxed(_))));
}

#[test]
fn the_leaf_and_the_rejection_are_the_source() {
    let inner: Error<Down> = Error::Inner(Down);
    assert!(inner.source().unwrap().is::<Down>());
    assert_eq!(inner.to_string(), "down");

    let refused: Error<Down> = Error::CircuitOpen(refusal());
    assert!(refused.source().unwrap().is::<CircuitOpen>());
    assert_eq!(Rejection::find(&refused).unwrap().name(), "api");
}

#[test]
fn an_endless_chain_is_given_up() {
    #[derive(Debug)]
    struct Ouroboros;
    impl fmt::Display for Ouroboros {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("ouroboros")
        }
    }
    impl StdError for Ouroboros {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&Self)
        }
    }
    assert!(Rejection::find(&Ouroboros).is_none());
}

#[test]
fn an_exhausted_error_gives_its_leaf() {
    let exhausted = Error::Exhausted(Exhausted::new(
        LastFailure::Inner(Down),
        Report {
            name: "r".into(),
            attempts: 4,
            elapsed: std::time::Duration::from_secs(7),
            reason: StopReason::MaxRetries,
            refusal: None,
            history: Vec::new(),
        },
    ));
    assert_eq!(exhausted.as_inner(), Some(&Down));
    assert_eq!(
        exhausted.to_string(),
        "gave up after 4 attempts, because all retries were made: down"
    );
    assert!(exhausted.source().unwrap().is::<Down>());
    assert!(Rejection::find(&exhausted).is_none());
    assert_eq!(exhausted.into_inner().unwrap(), Down);
}

#[test]
fn a_wrong_setting_says_what_to_change() {
    let error = ConfigError::new("max_probes", 0, "give at least 1");
    assert_eq!(
        error.to_string(),
        "`max_probes` cannot be 0: give at least 1"
    );
}
