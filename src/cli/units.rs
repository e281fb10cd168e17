//! Amounts in words: bytes, spans of time. Decimal units, as they are printed on cards.

/// Bytes: `0 B`, `950 B`, `1.2 GB`, `310 MB`.
pub(super) fn bytes(count: f64) -> String {
    let (mut amount, mut unit) = (count, "B");
    for larger in ["kB", "MB", "GB", "TB", "PB"] {
        // What would be printed as 1000 is one of the next unit.
        if amount < 999.5 {
            break;
        }
        (amount, unit) = (amount / 1000.0, larger);
    }
    let digits = usize::from(unit != "B" && amount < 9.95);
    format!("{amount:.digits$} {unit}")
}

/// A span of time in its two largest units: `12 s`, `3 min`, `5 h 12 min`, `40 days`.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (minutes, hours, days) {
        (0, ..) => format!("{seconds} s"),
        (_, 0, _) => format!("{minutes} min"),
        (_, _, 0) => format!("{hours} h {} min", minutes % 60),
        (_, _, 1) => format!("1 day {} h", hours % 24),
        _ => format!("{days} days"),
    }
}

/// Years: `12 days`, `3.5 years`, `176 years`, `more than 1000 years`.
pub(super) fn years(years: f64) -> String {
    if years < 1.0 {
        format!("{:.0} days", years * 365.25)
    } else if years < 10.0 {
        format!("{years:.1} years")
    } else if years <= 1000.0 {
        format!("{years:.0} years")
    } else {
        "more than 1000 years".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_in_words() {
        for (count, words) in [
            (0.0, "0 B"),
            (950.0, "950 B"),
            (999.0, "999 B"),
            (999.6, "1.0 kB"),
            (9_940.0, "9.9 kB"),
            (9_960.0, "10 kB"),
            (310e6, "310 MB"),
            (1.24e9, "1.2 GB"),
            (20e12, "20 TB"),
            (5e18, "5000 PB"),
        ] {
            assert_eq!(bytes(count), words);
        }
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_599, "59 min"),
            (18_720, "5 h 12 min"),
            (90_000, "1 day 1 h"),
            (172_800, "2 days"),
        ] {
            assert_eq!(span(seconds), words);
        }
        for (count, words) in [
            (0.0, "0 days"),
            (0.5, "183 days"),
            (1.04, "1.0 years"),
            (176.3, "176 years"),
            (1e9, "more than 1000 years"),
        ] {
            assert_eq!(years(count), words);
        }
    }
}
