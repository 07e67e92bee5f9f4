//! Which of several keys are much worse than the others. Pure: numbers in, numbers out.

use std::time::Duration;

use crate::error::{ConfigChange, ConfigError, config_change};

/// By what an [`Outliers`](super::Outliers) goes: plain data, checked when it is built or updated.
///
/// The rules and their numbers are those of
/// [gRFC A50](https://github.com/grpc/proposal/blob/master/A50-xds-outlier-detection.md).
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct OutlierConfig {
    /// How often [`run`](super::Outliers::run) compares. Default: 10 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    pub interval: Duration,
    /// How long the circuit of a key is opened: this, times the number of its ejections so far, less one for each interval
    /// since without one. Default: 30 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    pub base_ejection_time: Duration,
    /// The longest of these times, unless the base is longer. Default: 300 s.
    #[cfg_attr(feature = "serde", serde(with = "crate::util::humane"))]
    pub max_ejection_time: Duration,
    /// As long as a smaller share of the keys with traffic is out, one more may go: from 0 to 1. So the first is always
    /// allowed, if the share is above zero, and of 15 keys at 0.1 a second. Circuits that opened by their own rules count; one
    /// that is half-open only if it is called. Default: 0.1.
    pub eject_at_most: f64,
    /// Keys whose success rate is far below the mean of all. On by default.
    pub success_rate: Option<SuccessRateRule>,
    /// Keys that fail too often, whatever the others do. Off by default.
    pub failure_share: Option<FailureShareRule>,
}

/// A success rate below the mean of all keys by more than `stdev_factor` standard deviations.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SuccessRateRule {
    /// Default: 1.9.
    pub stdev_factor: f64,
    /// With fewer keys that have enough calls nothing is compared. Default: 5.
    pub minimum_keys: usize,
    /// A key with fewer calls in the interval is left out. Default: 100.
    pub minimum_calls: u64,
}

/// A share of failures above `threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct FailureShareRule {
    /// From 0 to 1. Default: 0.85.
    pub threshold: f64,
    /// With fewer keys that have enough calls nobody is ejected. Default: 5.
    pub minimum_keys: usize,
    /// A key with fewer calls in the interval is left out. Default: 50.
    pub minimum_calls: u64,
}

impl Default for OutlierConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            eject_at_most: 0.1,
            success_rate: Some(SuccessRateRule::default()),
            failure_share: None,
        }
    }
}

impl Default for SuccessRateRule {
    fn default() -> Self {
        Self {
            stdev_factor: 1.9,
            minimum_keys: 5,
            minimum_calls: 100,
        }
    }
}

impl Default for FailureShareRule {
    fn default() -> Self {
        Self {
            threshold: 0.85,
            minimum_keys: 5,
            minimum_calls: 50,
        }
    }
}

fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

impl OutlierConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.interval.is_zero() {
            let advice = "nothing happens in no time: give a duration above zero";
            return Err(ConfigError::new("interval", self.interval, advice));
        }
        if self.base_ejection_time.is_zero() {
            let advice = "an ejected key must be out for a while: give a duration above zero";
            let base = self.base_ejection_time;
            return Err(ConfigError::new("base_ejection_time", base, advice));
        }
        if !is_share(self.eject_at_most) {
            let advice = "it is a share of the keys: give a number from 0 to 1";
            return Err(ConfigError::new(
                "eject_at_most",
                self.eject_at_most,
                advice,
            ));
        }
        if let Some(rule) = self.success_rate
            && !(rule.stdev_factor >= 0.0 && rule.stdev_factor.is_finite())
        {
            let advice = "it is a number of standard deviations: give one of at least 0";
            return Err(ConfigError::new("stdev_factor", rule.stdev_factor, advice));
        }
        if let Some(rule) = self.failure_share
            && !is_share(rule.threshold)
        {
            let advice = "it is a share of the calls: give a number from 0 to 1";
            return Err(ConfigError::new("threshold", rule.threshold, advice));
        }
        Ok(())
    }

    /// What differs in `new`.
    pub(super) fn difference(&self, new: &Self) -> ConfigChange {
        config_change!(
            self,
            new,
            interval,
            base_ejection_time,
            max_ejection_time,
            eject_at_most,
            success_rate,
            failure_share
        )
    }

    /// How long a key is out that has been ejected so many `times`.
    pub(super) fn ejection_time(&self, times: u32) -> Duration {
        let longest = self.base_ejection_time.max(self.max_ejection_time);
        self.base_ejection_time.saturating_mul(times).min(longest)
    }

    /// Whether one more of `keys` may go while `out` of them are out.
    pub(super) fn allows_one_more(&self, out: usize, keys: usize) -> bool {
        // Divided: 7 of 100 is 0.07.
        (out as f64 / keys.max(1) as f64) < self.eject_at_most
    }

    /// The places of those in `calls` that are outliers: by the success rate first, then by the share of failures.
    pub(super) fn outliers(&self, calls: &[Calls]) -> Vec<usize> {
        let by_rate = self.success_rate.and_then(|rule| rule.threshold(calls));
        let by_rate = by_rate.map_or(Vec::new(), |(least, minimum)| {
            let has = |it: &Calls| it.all() >= minimum && it.success_rate() < least;
            places(calls, has)
        });
        let by_share = self.failure_share.map_or(Vec::new(), |rule| {
            let enough = |it: &Calls| it.all() >= rule.minimum_calls;
            match calls.iter().filter(|it| enough(it)).count() >= rule.minimum_keys {
                true => places(calls, |it| {
                    enough(it) && it.failure_share() > rule.threshold
                }),
                false => Vec::new(),
            }
        });
        let mut all = by_rate;
        let more = by_share.into_iter().filter(|place| !all.contains(place));
        let more: Vec<_> = more.collect();
        all.extend(more);
        all
    }
}

fn places(calls: &[Calls], is_one: impl Fn(&Calls) -> bool) -> Vec<usize> {
    let found = calls.iter().enumerate().filter(|(_, it)| is_one(it));
    found.map(|(place, _)| place).collect()
}

impl SuccessRateRule {
    /// Below which success rate a key is an outlier, and how many calls it must have had. `None` if there is too little to
    /// compare.
    pub(super) fn threshold(&self, calls: &[Calls]) -> Option<(f64, u64)> {
        // A key without calls has no rate.
        let minimum = self.minimum_calls.max(1);
        let rates = calls.iter().filter(|it| it.all() >= minimum);
        let rates: Vec<f64> = rates.map(Calls::success_rate).collect();
        if rates.is_empty() || rates.len() < self.minimum_keys {
            return None;
        }
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / n;
        // Equal rates have a mean that is off by its rounding.
        const ROUNDING: f64 = 1e-9;
        let least = mean - variance.sqrt() * self.stdev_factor;
        Some((least - ROUNDING, minimum))
    }
}

/// The calls of one key in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) successes: u64,
    pub(super) failures: u64,
}

impl Calls {
    pub(super) const fn all(&self) -> u64 {
        self.successes.saturating_add(self.failures)
    }

    pub(super) fn success_rate(&self) -> f64 {
        self.successes as f64 / self.all().max(1) as f64
    }

    /// Divided, not subtracted from 1: 85 of 100 is 0.85.
    fn failure_share(&self) -> f64 {
        self.failures as f64 / self.all().max(1) as f64
    }

    /// What came since `earlier`. Totals that were reset begin anew.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        match (
            self.successes.checked_sub(earlier.successes),
            self.failures.checked_sub(earlier.failures),
        ) {
            (Some(successes), Some(failures)) => Self {
                successes,
                failures,
            },
            _ => *self,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn cases(list: &str) -> Vec<Value> {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/vectors/outlier.json")).unwrap();
        let cases = file[list].as_array().unwrap().clone();
        assert!(!cases.is_empty());
        cases
    }

    fn number(value: &Value) -> u64 {
        value.as_u64().unwrap()
    }

    #[test]
    fn success_rates_far_below_the_mean_are_outliers() {
        for case in cases("success_rate_cases") {
            let (rates, volumes) = (case["success_rates"].as_array(), case["volumes"].as_array());
            let pairs = rates.unwrap().iter().zip(volumes.unwrap());
            let calls: Vec<_> = pairs
                .map(|(rate, volume)| {
                    let successes = number(rate) * number(volume) / 100;
                    let failures = number(volume) - successes;
                    Calls {
                        successes,
                        failures,
                    }
                })
                .collect();
            let threshold = SuccessRateRule::default().threshold(&calls);
            assert_eq!(
                threshold.is_some(),
                case["computed"].as_bool().unwrap(),
                "{case}"
            );
            let Some((threshold, _)) = threshold else {
                assert_eq!(OutlierConfig::default().outliers(&calls), [0_usize; 0]);
                continue;
            };
            let wanted = case["threshold"].as_f64().unwrap();
            assert!(
                (threshold * 100.0 - wanted).abs() < 1e-6,
                "{threshold} {case}"
            );
            let wanted: Vec<_> = case["candidates"]
                .as_array()
                .unwrap()
                .iter()
                .map(number)
                .collect();
            let found = OutlierConfig::default().outliers(&calls);
            let found: Vec<_> = found.into_iter().map(|place| place as u64).collect();
            assert_eq!(found, wanted, "{case}");
        }
    }

    #[test]
    fn shares_of_failures_are_compared_as_grpc_does() {
        let config = OutlierConfig {
            success_rate: None,
            failure_share: Some(FailureShareRule::default()),
            ..OutlierConfig::default()
        };
        for case in cases("failure_percentage_cases") {
            let volume = number(&case["volume"]);
            // The others are well, and have calls enough.
            let mut calls = vec![
                Calls {
                    successes: 100,
                    failures: 0
                };
                number(&case["hosts"]) as usize
            ];
            let failures = number(&case["failure_percent"]) * volume / 100;
            calls[0] = Calls {
                successes: volume - failures,
                failures,
            };
            // Whether there are keys enough is not what the cases of small volume ask.
            calls.push(Calls {
                successes: u64::from(volume < 50) * 100,
                failures: 0,
            });
            let ejected = config.outliers(&calls) == [0];
            assert_eq!(ejected, case["grpc_eject"].as_bool().unwrap(), "{case}");
        }
    }

    #[test]
    fn the_time_out_grows_with_each_ejection_in_a_row() {
        for case in cases("ejection_time_cases") {
            let config = OutlierConfig {
                base_ejection_time: Duration::from_secs(number(&case["base_s"])),
                max_ejection_time: Duration::from_secs(number(&case["max_s"])),
                ..OutlierConfig::default()
            };
            let times = number(&case["times_ejected_in_a_row"]) as u32;
            let wanted = Duration::from_secs(number(&case["ejection_s"]));
            assert_eq!(config.ejection_time(times), wanted, "{case}");
        }
    }

    #[test]
    fn no_more_than_the_share_is_out_at_once_but_one_always_may_be() {
        for case in cases("max_percent_cases") {
            let config = OutlierConfig {
                eject_at_most: case["max_percent"].as_f64().unwrap() / 100.0,
                ..OutlierConfig::default()
            };
            let (out, keys) = (number(&case["ejected"]), number(&case["hosts"]));
            let allowed = config.allows_one_more(out as usize, keys as usize);
            assert_eq!(
                allowed,
                case["grpc_allows_one_more"].as_bool().unwrap(),
                "{case}"
            );
        }
    }
}
