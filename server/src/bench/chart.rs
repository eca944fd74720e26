//! Latency curves as a drawing: percentile to the right, time upwards, both logarithmic.
//!
//! **Owns**: axes, lines and legend, as SVG without any script.
//! **Does not own**: the page around them (`page`).

use std::fmt::Write;

use super::recorder::Latencies;

/// Drawing units: the drawing scales with the page, so only their ratio shows.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 220.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 44.0;

/// Lines that are told apart on white and on black, colour-blind readers included (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999",
];

/// Percentiles with a mark on the axis.
const MARKS: [(f64, &str); 6] = [
    (0.0, "0"),
    (0.5, "50"),
    (0.9, "90"),
    (0.99, "99"),
    (0.999, "99.9"),
    (0.9999, "99.99"),
];

/// The drawing of some curves, by label.
#[must_use]
pub(super) fn chart(curves: &[(&str, &Latencies)]) -> String {
    let curves: Vec<_> = curves
        .iter()
        .filter(|(_, times)| times.count() > 0)
        .collect();
    let times = || curves.iter().map(|(_, times)| times);
    let lowest = times().map(|times| times.min().as_micros() as f64);
    let highest = times().map(|times| times.max().as_micros() as f64);
    let low = lowest.fold(f64::INFINITY, f64::min).clamp(1.0, 1e8).log10();
    let high = highest.fold(10.0, f64::max).log10().max(low.floor() + 1.0);
    let axes = Axes {
        low: low.floor(),
        high: high.ceil(),
    };
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"latency by percentile\">\n"
    );
    axes.draw(&mut svg);
    for (number, (label, times)) in curves.iter().enumerate() {
        axes.curve(&mut svg, number, label, times);
    }
    svg += "</svg>\n";
    svg
}

/// Powers of ten, in µs, at the ends of the upward axis.
struct Axes {
    low: f64,
    high: f64,
}

impl Axes {
    /// The last percentile drawn: beyond it single writes decide.
    const SHARE_MAX: f64 = 0.9999;

    fn x(share: f64) -> f64 {
        let nines = -(1.0 - share.clamp(0.0, Self::SHARE_MAX)).log10();
        let all = -(1.0 - Self::SHARE_MAX).log10();
        LEFT + nines / all * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, time_us: f64) -> f64 {
        let part = (time_us.max(1.0).log10() - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut add = |text: String| svg.push_str(&text);
        for (share, name) in MARKS {
            let x = Self::x(share);
            add(format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name} %</text>\n",
                bottom + 18.0
            ));
        }
        for power in self.low as i32..=self.high as i32 {
            let y = self.y(10_f64.powi(power));
            let time_ms = 10_f64.powi(power - 3);
            add(format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{time_ms} ms</text>\n",
                LEFT - 6.0,
                y + 4.0
            ));
        }
        add(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">share of writes that were \
             acknowledged within the time</text>\n",
            f64::midpoint(LEFT, right),
            HEIGHT - 6.0
        ));
    }

    fn curve(&self, svg: &mut String, number: usize, label: &str, times: &Latencies) {
        let colour = COLOURS[number % COLOURS.len()];
        // Beyond the colours the lines are dashed.
        let dash = 4 * (number / COLOURS.len());
        let mut points = String::new();
        for (time_us, share, _) in times.curve().filter(|(_, share, _)| *share < 1.0) {
            let (x, y) = (Self::x(share), self.y(time_us as f64));
            write!(points, "{x:.1},{y:.1} ").expect("a string takes all text");
        }
        let (x, y) = (WIDTH - RIGHT + 14.0, TOP + 14.0 + 20.0 * number as f64);
        let style = format!("stroke=\"{colour}\" stroke-dasharray=\"{dash}\"");
        svg.push_str(&format!(
            "<polyline {style} points=\"{}\"/>\n\
             <line class=\"key\" {style} x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>\n",
            points.trim_end(),
            x + 18.0,
            x + 24.0,
            y + 4.0,
            escape(label)
        ));
    }
}

/// Text that cannot be taken for markup.
#[must_use]
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn latencies(times_ms: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::new();
        for time in times_ms {
            latencies.record(Duration::from_millis(time));
        }
        latencies
    }

    #[test]
    fn curves_lie_within_the_axes() {
        let (slow, fast, none) = (latencies(80..200), latencies(1..9), Latencies::new());
        let curves = [("<slow>", &slow), ("fast", &fast), ("none", &none)];
        let svg = chart(&curves);
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(svg.contains("&lt;slow&gt;") && !svg.contains("none"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let points = svg.split("points=\"").skip(1);
        for point in points.flat_map(|part| part.split('"').next().unwrap().split(' ')) {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT).contains(&x), "{point}");
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
    }

    #[test]
    fn nothing_measured_is_drawn_as_nothing() {
        let svg = chart(&[]);
        assert!(svg.contains("</svg>") && !svg.contains("polyline"));
        assert!(!svg.contains("NaN"));
    }
}
