//! A histogram in the text form of the HdrHistogram tools (.hgrm), which plot it.
//!
//! **Owns**: the form.
//! **Does not own**: the figures (`recorder`).

use std::fmt::Write;

use super::recorder::Latencies;

/// The percentile distribution in milliseconds.
#[must_use]
pub(super) fn hgrm(latencies: &Latencies) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for (time_us, share, total) in latencies.curve() {
        let time_ms = time_us as f64 / 1000.0;
        let inverse = if share < 1.0 {
            format!("{:14.2}", 1.0 / (1.0 - share))
        } else {
            String::new()
        };
        let line = format!("{time_ms:12.3} {share:14.12} {total:10} {inverse}");
        writeln!(text, "{}", line.trim_end()).expect("a string takes all text");
    }
    let (mean_us, deviation_us) = latencies.mean_and_deviation_us();
    let summary = latencies.summary();
    let (mean, deviation) = (mean_us / 1000.0, deviation_us / 1000.0);
    let (max, count) = (summary.max_ms, summary.count);
    text += &format!(
        "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n\
         #[Max     = {max:12.3}, Total count    = {count:12}]\n"
    );
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_form_is_that_of_the_tools() {
        let mut latencies = Latencies::new();
        for time in [1, 2, 3, 400] {
            latencies.record(Duration::from_millis(time));
        }
        let text = hgrm(&latencies);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].contains("Percentile") && lines[0].contains("1/(1-Percentile)"));
        let last = lines.iter().rfind(|line| !line.starts_with('#')).unwrap();
        let fields: Vec<_> = last.split_whitespace().collect();
        assert_eq!(fields[1..], ["1.000000000000", "4"]);
        assert!(text.contains("#[Max     =") && text.contains("Total count    =            4]"));
    }
}
