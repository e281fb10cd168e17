//! Arithmetic on what was measured.

use std::time::Duration;

/// The same number with a fraction; exact up to 2^53.
pub(crate) fn float(number: u64) -> f64 {
    Duration::from_secs(number).as_secs_f64()
}

/// The middle value; of an even number the mean of both. Zero of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(values[middle - 1], *value),
    }
}

/// `part` for each of `whole`; zero if there are none.
pub(crate) fn per(part: f64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part / float(whole) }
}
