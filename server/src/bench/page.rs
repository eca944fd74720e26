//! The report as a page that needs nothing else: no script, no font, no network.
//!
//! **Owns**: its layout and colours.
//! **Does not own**: the drawing in it (`chart`).

use super::chart::{chart, escape};
use super::recorder::Latencies;
use crate::rig::Table;

const STYLE: &str = "\
:root { color-scheme: light dark; --text: #1b1b1b; --ground: #fff; --faint: #8884; }\n\
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --ground: #16181b; } }\n\
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--ground);\n\
       max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }\n\
pre { overflow-x: auto; font: 13px/1.45 ui-monospace, monospace; }\n\
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--text); }\n\
svg .grid { stroke: var(--faint); } svg polyline { fill: none; stroke-width: 2; }\n\
svg .key { stroke-width: 3; }\n";

/// The page.
#[must_use]
pub(super) fn page(
    title: &str,
    header: &str,
    curves: &[(&str, &Latencies)],
    tables: &[(String, Table)],
    checks: &Table,
    notes: &[String],
) -> String {
    let title = escape(title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <pre>{}</pre>\n",
        escape(header)
    );
    if !curves.is_empty() {
        html += "<h2>Latency</h2>\n";
        html += &chart(curves);
    }
    for (title, table) in tables {
        let (title, table) = (escape(title), escape(&table.to_string()));
        html += &format!("<h2>{title}</h2>\n<pre>{table}</pre>\n");
    }
    for note in notes {
        html += &format!("<p>{}</p>\n", escape(note));
    }
    let checks = escape(&checks.to_string());
    html += &format!("<h2>Checks</h2>\n<pre>{checks}</pre>\n</body>\n</html>\n");
    html
}
