//! What a bench has measured: a table for people, JSON under `target/bench` for programs.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// What a figure must be.
#[derive(Debug, Clone, Copy)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

struct Row {
    what: String,
    figure: f64,
    unit: &'static str,
    bar: Option<Bar>,
}

impl Row {
    fn met(&self) -> bool {
        match self.bar {
            None => true,
            Some(Bar::AtLeast(bar)) => self.figure >= bar,
            Some(Bar::AtMost(bar)) => self.figure <= bar,
        }
    }

    fn bar_text(&self) -> String {
        match self.bar {
            None => String::new(),
            Some(Bar::AtLeast(bar)) => format!(">= {bar}"),
            Some(Bar::AtMost(bar)) => format!("<= {bar}"),
        }
    }
}

/// A bench's report.
pub struct Report {
    name: &'static str,
    load_before: String,
    rows: Vec<Row>,
}

/// The machine's load averages, as the kernel tells them.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Where measurements lie.
pub fn folder() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&folder).expect("make target/bench");
    folder
}

impl Report {
    pub fn new(name: &'static str) -> Self {
        Self { name, load_before: load(), rows: Vec::new() }
    }

    /// A figure that is only told.
    pub fn tell(&mut self, what: impl Into<String>, figure: f64, unit: &'static str) {
        self.row(what.into(), figure, unit, None);
    }

    /// A figure with a bar.
    pub fn judge(&mut self, what: impl Into<String>, figure: f64, unit: &'static str, bar: Bar) {
        self.row(what.into(), figure, unit, Some(bar));
    }

    fn row(&mut self, what: String, figure: f64, unit: &'static str, bar: Option<Bar>) {
        let row = Row { what, figure, unit, bar };
        let verdict = if row.met() { "" } else { "  MISSED" };
        println!("{:<58} {:>12.2} {:<6} {:<9}{verdict}", row.what, row.figure, row.unit, row.bar_text());
        self.rows.push(row);
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let bar = match row.bar {
                    None => Value::Null,
                    Some(Bar::AtLeast(bar)) => json!({ "at_least": bar }),
                    Some(Bar::AtMost(bar)) => json!({ "at_most": bar }),
                };
                json!({ "what": row.what, "figure": row.figure, "unit": row.unit, "bar": bar, "met": row.met() })
            })
            .collect();
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        json!({
            "bench": self.name,
            "at_unix_seconds": at,
            "quick": super::is_quick(),
            "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
            "cores": std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            "load_before": self.load_before,
            "load_after": load(),
            "rows": rows,
        })
    }

    /// Keeps the report; the exit code says whether every bar was met.
    pub fn finish(self) -> ExitCode {
        let path = folder().join(format!("{}.json", self.name));
        let text = serde_json::to_string_pretty(&self.json()).expect("figures are JSON");
        fs::write(&path, text).expect("write the report");
        println!("load {} before, {} after; kept in {}", self.load_before, load(), path.display());
        let met = self.rows.iter().all(Row::met) || super::is_quick();
        if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
