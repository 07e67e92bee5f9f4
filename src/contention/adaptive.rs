//! How many permits a lock should have, from the times of the calls that hold them: pure.
//!
//! The three algorithms of Netflix's concurrency-limits: `Gradient2Limit`, `AIMDLimit` and `VegasLimit`.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::ConfigError;
use crate::util::time::Tick;

/// How the number of permits follows the times of the calls.
///
/// A sample is a call of a layer, or of [`run`](super::ResourceLock::run), that ended with `Ok`: the time it spent at the
/// service, and how many permits were in use. Errors, refusals and calls that were dropped are no samples. The number
/// changes at most once a second, after at least ten samples; while less than half of the permits were in use it does not
/// grow, because nothing is known then of what more would do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Adaptive {
    /// Compares the times of now with those of a long while: the best choice where nothing is known of the service.
    Gradient2,
    /// One more while it goes well, a tenth less when a call takes longer than `timeout`.
    #[non_exhaustive]
    Aimd {
        /// From when on a call took too long.
        #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
        #[cfg_attr(feature = "config", schemars(with = "crate::util::humane::Humane"))]
        timeout: Duration,
    },
    /// Estimates how many calls wait inside the service, from the shortest time that was ever seen.
    Vegas,
}

impl Adaptive {
    /// One more while it goes well, a tenth less when a call takes longer than `timeout`.
    #[must_use]
    pub const fn aimd(timeout: Duration) -> Self {
        Self::Aimd { timeout }
    }
}

/// An algorithm, and between which numbers it may choose.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "config", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct AdaptiveCapacity {
    /// The algorithm.
    pub algorithm: Adaptive,
    /// The least permits.
    pub min: usize,
    /// The most permits.
    pub max: usize,
}

#[cfg(feature = "serde")]
crate::util::humane::written_as_it_is!(AdaptiveCapacity);

impl AdaptiveCapacity {
    pub(super) fn new(algorithm: Adaptive, range: RangeInclusive<usize>) -> Self {
        let (min, max) = range.into_inner();
        Self {
            algorithm,
            min,
            max,
        }
    }

    pub(super) fn check(&self, start: usize) -> Result<(), ConfigError> {
        let (min, max) = (self.min, self.max);
        if min == 0 || max < min {
            let advice = "the least must be at least 1, and not above the most";
            return Err(ConfigError::new(
                "adaptive",
                format!("{min}..={max}"),
                advice,
            ));
        }
        if !(min..=max).contains(&start) {
            let advice = "it is the number to begin with: give one between the least and the most of `adaptive`";
            return Err(ConfigError::new("max_concurrent", start, advice));
        }
        if let Adaptive::Aimd { timeout } = self.algorithm
            && timeout.is_zero()
        {
            let advice = "every call would take too long: give a duration above zero";
            return Err(ConfigError::new("adaptive", timeout, advice));
        }
        Ok(())
    }
}

/// One sample, or the mean of some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) time: Duration,
    pub(super) in_use: u32,
    /// A call was refused by the service, or took too long.
    pub(super) dropped: bool,
}

#[derive(Debug)]
enum Algorithm {
    Gradient2 {
        long: f64,
        samples: u32,
        smoothing: f64,
        queue: f64,
        tolerance: f64,
    },
    Aimd {
        timeout: Duration,
        ratio: f64,
    },
    Vegas {
        shortest: Option<Duration>,
        samples: u64,
    },
}

/// An estimate of how many calls the service can do at once.
#[derive(Debug)]
pub(super) struct Estimate {
    algorithm: Algorithm,
    limit: f64,
    min: f64,
    max: f64,
}

impl Estimate {
    /// Whether one call that takes so long says that there are too many.
    fn is_too_long(&self, time: Duration) -> bool {
        match self.algorithm {
            Algorithm::Aimd { timeout, .. } => time > timeout,
            _ => false,
        }
    }

    pub(super) fn new(capacity: &AdaptiveCapacity, start: usize) -> Self {
        let algorithm = match capacity.algorithm {
            Adaptive::Gradient2 => Algorithm::Gradient2 {
                long: 0.0,
                samples: 0,
                smoothing: 0.2,
                queue: 4.0,
                tolerance: 1.5,
            },
            Adaptive::Aimd { timeout } => Algorithm::Aimd {
                timeout,
                ratio: 0.9,
            },
            Adaptive::Vegas => Algorithm::Vegas {
                shortest: None,
                samples: 0,
            },
        };
        Self {
            algorithm,
            limit: start as f64,
            min: capacity.min as f64,
            max: capacity.max as f64,
        }
    }

    /// The number of permits after another sample.
    pub(super) fn sample(&mut self, sample: Sample) -> f64 {
        let limit = self.limit;
        let is_used = f64::from(sample.in_use) * 2.0 >= limit;
        let wanted = match &mut self.algorithm {
            Algorithm::Gradient2 {
                long,
                samples,
                smoothing,
                queue,
                tolerance,
            } => {
                let short = sample.time.as_secs_f64();
                let mean = remembered(long, samples, short);
                if is_used {
                    let gradient = (*tolerance * mean / short).clamp(0.5, 1.0);
                    let wanted = limit * gradient + *queue;
                    limit * (1.0 - *smoothing) + wanted * *smoothing
                } else {
                    limit
                }
            }
            Algorithm::Aimd { timeout, ratio } => {
                if sample.dropped || sample.time > *timeout {
                    (limit * *ratio).floor()
                } else if is_used {
                    limit + 1.0
                } else {
                    limit
                }
            }
            Algorithm::Vegas { shortest, samples } => vegas(shortest, samples, limit, sample),
        };
        self.limit = wanted.clamp(self.min, self.max);
        self.limit
    }
}

/// The mean of the first samples, then one in which each further sample weighs a 300th. It follows a service that has
/// become much faster.
fn remembered(long: &mut f64, samples: &mut u32, sample: f64) -> f64 {
    const WINDOW: f64 = 600.0;
    const WARM_UP: u32 = 10;
    if *samples < WARM_UP {
        *long = (*long * f64::from(*samples) + sample) / f64::from(*samples + 1);
        *samples += 1;
    } else {
        let factor = 2.0 / (WINDOW + 1.0);
        *long += (sample - *long) * factor;
    }
    let mean = *long;
    if mean / sample > 2.0 {
        *long *= 0.95;
    }
    mean
}

/// The shortest time of a service that has changed is looked for anew after so many samples for each permit.
const PROBE_EVERY: f64 = 30.0;

fn vegas(shortest: &mut Option<Duration>, samples: &mut u64, limit: f64, sample: Sample) -> f64 {
    *samples += 1;
    if *samples as f64 >= limit * PROBE_EVERY {
        (*samples, *shortest) = (0, None);
    }
    let best = match *shortest {
        Some(best) if sample.time >= best => best,
        _ => {
            *shortest = Some(sample.time);
            return limit;
        }
    };
    let step = limit.log10().floor().max(1.0);
    let ratio = best.as_secs_f64() / sample.time.as_secs_f64();
    let waiting = (limit * (1.0 - ratio)).ceil();
    if sample.dropped {
        limit - step
    } else if f64::from(sample.in_use) * 2.0 < limit {
        limit
    } else if waiting <= step {
        limit + 6.0 * step
    } else if waiting < 3.0 * step {
        limit + step
    } else if waiting > 6.0 * step {
        limit - step
    } else {
        limit
    }
}

/// Gathers samples, and asks for another number of permits from time to time.
#[derive(Debug)]
pub(super) struct Controller {
    estimate: Estimate,
    window_ends: Tick,
    samples: u32,
    sum: Duration,
    most_in_use: u32,
    dropped: bool,
}

impl Controller {
    const WINDOW: Duration = Duration::from_secs(1);
    const LEAST_SAMPLES: u32 = 10;

    pub(super) fn new(capacity: &AdaptiveCapacity, start: usize) -> Self {
        Self {
            estimate: Estimate::new(capacity, start),
            window_ends: Tick(0),
            samples: 0,
            sum: Duration::ZERO,
            most_in_use: 0,
            dropped: false,
        }
    }

    /// The number of permits from here on, if it is time for another.
    pub(super) fn sample(&mut self, sample: Sample, now: Tick) -> Option<u32> {
        if self.window_ends == Tick(0) {
            self.window_ends = now.after(Self::WINDOW);
        }
        self.samples += 1;
        self.sum = self.sum.saturating_add(sample.time);
        self.most_in_use = self.most_in_use.max(sample.in_use);
        self.dropped |= sample.dropped || self.estimate.is_too_long(sample.time);
        if now < self.window_ends || self.samples < Self::LEAST_SAMPLES {
            return None;
        }
        let mean = Sample {
            time: (self.sum / self.samples).max(Duration::from_nanos(1)),
            in_use: self.most_in_use,
            dropped: self.dropped,
        };
        (self.samples, self.sum) = (0, Duration::ZERO);
        (self.most_in_use, self.dropped) = (0, false);
        self.window_ends = now.after(Self::WINDOW);
        Some(self.estimate.sample(mean) as u32)
    }

    /// Somebody has set the number by hand: it goes on from there.
    pub(super) fn goes_on_from(&mut self, permits: usize) {
        self.estimate.limit = permits as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTORS: &str = include_str!("../../tests/vectors/concurrency_limits.json");

    fn estimate(case: &serde_json::Value) -> Option<Estimate> {
        let params = &case["params"];
        let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
        let algorithm = match case["algorithm"].as_str()? {
            "vegas" => Adaptive::Vegas,
            "aimd" => Adaptive::Aimd {
                timeout: Duration::from_secs_f64(number("timeout_ms", 5e3) / 1e3),
            },
            "gradient2" => Adaptive::Gradient2,
            _ => return None,
        };
        // Of these, the crate has no setting.
        if !params["smooth"].is_null() || !params["decrease"].is_null() {
            return None;
        }
        let max = number("mx", number("max", 1e3));
        let capacity = AdaptiveCapacity::new(algorithm, number("min", 1.0) as usize..=max as usize);
        Some(Estimate::new(&capacity, number("init", 20.0) as usize))
    }

    #[test]
    fn the_numbers_are_those_of_the_published_algorithms() {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        let mut driven = 0;
        for case in vectors["cases"].as_array().unwrap() {
            let Some(mut estimate) = estimate(case) else {
                continue;
            };
            driven += 1;
            let samples = case["samples"].as_array().unwrap();
            for (sample, limit) in samples.iter().zip(case["limits"].as_array().unwrap()) {
                let given = estimate.sample(Sample {
                    time: Duration::from_secs_f64(sample["rtt_ms"].as_f64().unwrap() / 1e3),
                    in_use: sample["inflight"].as_u64().unwrap() as u32,
                    dropped: sample["drop"].as_bool().unwrap_or(false),
                });
                let limit = limit.as_f64().unwrap();
                assert!(
                    (given - limit).abs() < 1e-6,
                    "{}: {given} for {limit}",
                    case["id"]
                );
            }
        }
        assert!(driven >= 16, "{driven}");
    }

    #[test]
    fn a_window_needs_a_second_and_ten_samples() {
        let capacity = AdaptiveCapacity::new(Adaptive::Gradient2, 1..=100);
        let mut controller = Controller::new(&capacity, 20);
        let sample = Sample {
            time: Duration::from_millis(10),
            in_use: 20,
            dropped: false,
        };
        let at = |millis: u64| Tick(1).after(Duration::from_millis(millis));
        for n in 0..100 {
            assert_eq!(controller.sample(sample, at(n)), None, "within a second");
        }
        assert_eq!(controller.sample(sample, at(1_001)), Some(20));
        for n in 1..10 {
            assert_eq!(
                controller.sample(sample, at(5_000 + n)),
                None,
                "{n} samples"
            );
        }
        assert_eq!(controller.sample(sample, at(6_000)), Some(21));
    }

    #[test]
    fn no_time_and_no_number_is_too_large_or_too_small() {
        for algorithm in [
            Adaptive::Gradient2,
            Adaptive::Vegas,
            Adaptive::Aimd {
                timeout: Duration::from_secs(1),
            },
        ] {
            let capacity = AdaptiveCapacity::new(algorithm, 1..=usize::MAX);
            let mut estimate = Estimate::new(&capacity, 1);
            for time in [
                Duration::from_nanos(1),
                Duration::MAX,
                Duration::from_nanos(1),
            ] {
                for in_use in [0, 1, u32::MAX] {
                    for dropped in [false, true] {
                        let limit = estimate.sample(Sample {
                            time,
                            in_use,
                            dropped,
                        });
                        assert!(limit >= 1.0 && limit.is_finite(), "{limit}");
                    }
                }
            }
        }
    }
}
