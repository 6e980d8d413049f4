//! Durations and sizes as people write them: `5s`, `128MiB`.

use std::time::Duration;

/// Longest duration that is read: a year. Longer ones are mistakes.
const DURATION_MS_MAX: f64 = 365.0 * 86_400_000.0;

const DURATIONS: [(&str, f64); 5] =
    [("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0)];

const SIZES: [(&str, f64); 7] = [
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
];

/// Reads a duration.
///
/// # Errors
/// What is wrong, and how to write it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let how = "write a number and ms, s, m, h or d, such as 500ms or 1.5s";
    let ms = read(text, &DURATIONS, how)?;
    if ms > DURATION_MS_MAX {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(Duration::from_secs_f64(ms / 1_000.0))
}

/// Reads a duration in whole ms, never less than one for what is more than none.
///
/// # Errors
/// What is wrong, and how to write it.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let duration = duration(text)?;
    let ms = duration.as_secs_f64() * 1_000.0;
    Ok(if duration.is_zero() { 0 } else { (ms.round() as u64).max(1) })
}

/// Reads a size in bytes.
///
/// # Errors
/// What is wrong, and how to write it.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let how = "write a number and B, KiB, MiB, GiB, KB, MB or GB, such as 128MiB";
    let bytes = read(text, &SIZES, how)?;
    if bytes > u64::MAX as f64 / 2.0 {
        return Err(format!("`{text}` is more than any machine has"));
    }
    Ok(bytes.round() as u64)
}

/// A duration as [`duration`] reads it.
pub(crate) fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0ms".to_owned(),
        // One day is 24h, as durations of a manifest are written.
        ms if ms.is_multiple_of(86_400_000) && ms > 86_400_000 => format!("{}d", ms / 86_400_000),
        ms if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        ms if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        ms if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

fn read(text: &str, units: &[(&str, f64)], how: &str) -> Result<f64, String> {
    let bad = || format!("`{text}` is not valid: {how}");
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim_start();
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    // Zero is zero in every unit.
    match factor {
        Some(factor) => Ok(number * factor),
        None if unit.is_empty() && number == 0.0 => Ok(0.0),
        None => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_and_sizes_are_read_with_their_units() {
        let ms = |text| duration_ms(text).unwrap();
        assert_eq!(
            [ms("5s"), ms("50ms"), ms("1.5 s"), ms("10m"), ms("2h")],
            [5_000, 50, 1_500, 600_000, 7_200_000]
        );
        assert_eq!((ms("0"), ms("0.2ms")), (0, 1));
        let bytes = |text| size(text).unwrap();
        assert_eq!(
            [bytes("128MiB"), bytes("10MB"), bytes("1.5KiB"), bytes("7B")],
            [134_217_728, 10_000_000, 1_536, 7]
        );
    }

    #[test]
    fn what_is_no_duration_or_size_is_refused_with_the_way_to_write_it() {
        for bad in ["", "5", "s", "5 sec", "-1s", "1.2.3s", "5S", "1e3s", "9000000h", "∞s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        for bad in ["", "5", "MiB", "5mib", "-1B", "5Mi", "99999999999999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(
            duration("5").unwrap_err(),
            "`5` is not valid: write a number and ms, s, m, h or d, such as 500ms or 1.5s"
        );
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back(ms in 0u64..10_000_000) {
            let shown = show(Duration::from_millis(ms));
            prop_assert_eq!(duration_ms(&shown).unwrap(), ms);
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
