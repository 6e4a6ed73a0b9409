//! The machine a figure was measured on, in words.

use crate::kernels::Kernels;

/// CPU model, number of CPUs and kernels, e.g. `AMD EPYC, 2 CPUs, avx512_vnni`.
pub(super) fn describe(kernels: Kernels) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim()));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {cpus} CPUs, {}", model.unwrap_or("unknown CPU"), kernels.isa())
}

/// Bytes of this process that are in RAM; none where there is no `/proc`. Resident pages are the second number of
/// `/proc/self/statm` (proc(5)), of 4 KiB on x86.
pub(super) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

/// The command line that this program was started with, as one may type it.
pub(super) fn command() -> String {
    std::iter::once("octet".to_string())
        .chain(std::env::args().skip(1).map(|word| quoted(&word)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a POSIX shell takes it: in single quotes where it has more than letters, digits and `-_./=,:@+`.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=,:@+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Today as `YYYY-MM-DD` (UTC), from the days since 1970 by Howard Hinnant's `civil_from_days`.
pub(super) fn today() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    date((now.as_secs() / 86_400) as i64)
}

fn date(days: i64) -> String {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        for (word, said) in
            [("a/b-c.csv", "a/b-c.csv"), ("two words", "'two words'"), ("it's", "'it'\\''s'"), ("", "''")]
        {
            assert_eq!(super::quoted(word), said);
        }
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(super::date(0), "1970-01-01");
        assert_eq!(super::date(11_016), "2000-02-29");
        assert_eq!(super::date(20_779), "2026-11-22");
    }
}
