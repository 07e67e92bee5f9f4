//! What a call has taken from a rate limit, to be corrected when its body has been read.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Extensions, Response};

use crate::rate_limit::{CallReservation, Cost, Learn, MadeCall, RateLimitLayer};

/// What a call has taken from a rate limit: an extension of its response, for those who learn only from the body what was used,
/// as of the `usage` of a model. See [`settle_later`](RateLimitLayer::settle_later).
///
/// ```no_run
/// # async fn ask(client: tower_bulwark::http::ResilientClient) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_bulwark::http::Unsettled;
///
/// let response = client.post("http://localhost:8080/v1/chat/completions").send().await?;
/// let unsettled = Unsettled::of(response.extensions());
/// let body = response.text().await?;
/// let tokens = body.len() as u64 / 4; // or what the body says
/// unsettled.settle([1, tokens]);
/// # Ok(())
/// # }
/// ```
///
/// A cheap clone; the first of them that settles counts. Dropped, what was taken stays taken.
#[derive(Clone, Default)]
pub struct Unsettled(Arc<Mutex<Option<CallReservation>>>);

impl Unsettled {
    /// That of a response, or one that has taken nothing, if there is none.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    fn new(reservation: CallReservation) -> Self {
        Self(Arc::new(Mutex::new(Some(reservation))))
    }

    /// Says what was used in truth: what is left over is given back, and what was used beyond it is owed. Said twice, the first
    /// counts. Nothing happens if there is no rate limit.
    pub fn settle(&self, used: impl Into<Cost>) {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reservation) = taken {
            reservation.settle(used);
        }
    }
}

impl fmt::Debug for Unsettled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unsettled")
    }
}

/// Lets the response carry what was taken.
#[derive(Clone, Copy, Debug)]
pub struct SettleLater<R> {
    pub(super) rest: R,
}

/// A response that can carry something.
pub trait CarriesExtensions {
    #[doc(hidden)]
    fn extensions_to_mark(&mut self) -> &mut Extensions;
}

impl<B> CarriesExtensions for Response<B> {
    fn extensions_to_mark(&mut self) -> &mut Extensions {
        self.extensions_mut()
    }
}

#[cfg(feature = "reqwest")]
#[cfg_attr(docsrs, doc(cfg(feature = "reqwest")))]
impl CarriesExtensions for reqwest::Response {
    fn extensions_to_mark(&mut self) -> &mut Extensions {
        self.extensions_mut()
    }
}

impl<Res: CarriesExtensions, L, R: Learn<Res, L>> Learn<Res, L> for SettleLater<R> {
    fn learn(&self, call: &mut MadeCall<'_>, result: Result<&Res, &L>) {
        self.rest.learn(call, result);
    }

    fn mark(&self, call: &MadeCall<'_>, response: &mut Res) {
        self.rest.mark(call, response);
        if let Some(reservation) = call.reservation() {
            let unsettled = Unsettled::new(reservation);
            response.extensions_to_mark().insert(unsettled);
        }
    }
}

impl<L, C, T, A, K> RateLimitLayer<L, C, T, A, K> {
    /// Where what was used is known only from the body: the response carries [`Unsettled`], which settles the call when that has
    /// been read. It allocates for each call.
    #[must_use]
    pub fn settle_later(self) -> RateLimitLayer<L, C, SettleLater<T>, A, K> {
        self.learning(|rest| SettleLater { rest })
    }
}
