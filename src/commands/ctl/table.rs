//! The API's JSON for people: lists as tables, single items as lines.

use std::cell::Cell;
use std::io::IsTerminal as _;

use serde_json::Value;

/// A column: its head, and where its cells stand in an item.
pub(super) type Column = (&'static str, &'static str);

/// Machines.
pub(super) const MACHINES: &[Column] = &[
    ("NAME", "/name"),
    ("STATE", "/state"),
    ("HEALTH", "/health/level"),
    ("RPO S", "/rpo_seconds"),
    ("OWNER", "/assignment/process_server_name"),
    ("EPOCH", "/assignment/epoch"),
    ("ID", "/id"),
];
/// Recovery points.
pub(super) const POINTS: &[Column] = &[
    ("CAPTURED AT", "/captured_at"),
    ("LSN", "/lsn"),
    ("KIND", "/kind"),
    ("DISKS", "/disks"),
    ("LABEL", "/label"),
    ("ID", "/id"),
];
/// What keeps points, whatever retention says.
pub(super) const HOLDS: &[Column] = &[
    ("KIND", "/kind"),
    ("LSN", "/lsn"),
    ("POINT", "/point/captured_at"),
    ("UNTIL", "/expires_at"),
    ("REASON", "/reason"),
    ("ID", "/id"),
];
/// Disks of one served point.
pub(super) const EXPORTS: &[Column] = &[("DISK", "/name"), ("BYTES", "/size_bytes"), ("URI", "/uri")];
/// Served points.
pub(super) const SERVED: &[Column] = &[
    ("ID", "/id"),
    ("STATE", "/state"),
    ("MACHINE", "/machine"),
    ("POINT", "/point/captured_at"),
    ("READ ONLY", "/read_only"),
    ("DISK 1", "/exports/0/uri"),
];
/// Process servers.
pub(super) const PROCESS_SERVERS: &[Column] = &[
    ("NAME", "/name"),
    ("STATE", "/state"),
    ("HEALTH", "/health/level"),
    ("MACHINES", "/machines"),
    ("BACKLOG BYTES", "/cache/backlog_bytes"),
    ("ADDRESSES", "/addresses"),
    ("ID", "/id"),
];
/// Jobs.
pub(super) const JOBS: &[Column] = &[
    ("ID", "/id"),
    ("KIND", "/kind"),
    ("STATE", "/state"),
    ("STEP", "/step"),
    ("MACHINE", "/machine"),
    ("UPDATED AT", "/updated_at"),
    ("TROUBLE", "/trouble"),
];
/// Samples of a history.
pub(super) const SAMPLES: &[Column] = &[
    ("AT", "/at"),
    ("RPO S", "/rpo_seconds"),
    ("WRITE B/S", "/write_bytes_per_second"),
    ("SHIPPED B/S", "/shipped_bytes_per_second"),
    ("UPLOADED B/S", "/uploaded_bytes_per_second"),
    ("BACKLOG BYTES", "/backlog_bytes"),
];
/// Entries of the audit log.
pub(super) const AUDIT: &[Column] = &[
    ("AT", "/at"),
    ("BY", "/by"),
    ("ROLE", "/role"),
    ("ACTION", "/action"),
    ("OUTCOME", "/outcome"),
    ("CODE", "/code"),
    ("TARGET", "/target"),
];
/// Tokens.
pub(super) const TOKENS: &[Column] = &[
    ("ID", "/id"),
    ("ROLE", "/role"),
    ("LABEL", "/label"),
    ("CREATED AT", "/created_at"),
    ("EXPIRES AT", "/expires_at"),
];
/// Events.
pub(super) const EVENTS: &[Column] = &[("AT", "/at"), ("SEVERITY", "/severity"), ("CODE", "/code"), ("TEXT", "/text")];

/// Webhooks.
pub(super) const WEBHOOKS: &[Column] = &[
    ("ID", "/id"),
    ("LABEL", "/label"),
    ("STATE", "/state"),
    ("PENDING", "/pending"),
    ("DROPPED", "/dropped"),
    ("TROUBLE", "/last_delivery/trouble"),
    ("URL", "/url"),
];
/// What a webhook was told.
pub(super) const DELIVERIES: &[Column] = &[
    ("ID", "/id"),
    ("AT", "/at"),
    ("EVENT", "/event"),
    ("STATE", "/state"),
    ("ATTEMPTS", "/attempts"),
    ("NEXT AT", "/next_attempt_at"),
    ("OF", "/health/name"),
    ("LEVEL", "/health/level"),
    ("CODE", "/health/code"),
    ("TROUBLE", "/trouble"),
];

/// A job's progress on a terminal's standard error; silent elsewhere.
#[derive(Default)]
pub(super) struct Bar(Cell<bool>);

impl Bar {
    /// Shows how far a job is.
    pub(super) fn show(&self, job: &Value) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let number = |name: &str| job["progress"][name].as_u64().unwrap_or(0);
        let (done, total) = (number("done_bytes"), number("total_bytes"));
        let width = 30;
        let filled = (u128::from(done) * width / u128::from(total.max(1))).min(width) as usize;
        let (full, step) = ("#".repeat(filled), job["step"].as_str().unwrap_or_default());
        let amount = if total > 0 { format!("{done} of {total} bytes") } else { String::new() };
        eprint!("\r\x1b[K[{full:<30}] {step} {amount}");
        self.0.set(true);
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.0.replace(false) {
            eprintln!();
        }
    }
}

/// Prints what the API says.
pub(super) fn print_json(value: &Value) {
    println!("{value:#}");
}

/// Prints a list as a table, an item's exports under it, and anything else line by line.
pub(super) fn print(columns: &[Column], value: &Value) {
    let lines = match (columns.is_empty(), value["items"].as_array()) {
        (false, Some(items)) => table(columns, items),
        (false, None) => {
            let mut lines = vec![format!("served point {}", cell(&value["id"]))];
            lines.extend(table(columns, value["exports"].as_array().map_or(&[], Vec::as_slice)));
            lines
        }
        (true, _) => lines(value),
    };
    lines.iter().for_each(|line| println!("{line}"));
}

fn table(columns: &[Column], items: &[Value]) -> Vec<String> {
    let head = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
    let row = |item: &Value| columns.iter().map(|(_, at)| item.pointer(at).map_or("-".into(), cell)).collect();
    let mut rows: Vec<Vec<String>> = vec![head];
    rows.extend(items.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let print = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(print).collect()
}

fn lines(value: &Value) -> Vec<String> {
    let mut pairs = Vec::new();
    flatten("", value, &mut pairs);
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.into_iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect()
}

fn flatten(above: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    let below = |name: &str| if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| flatten(&below(name), value, pairs)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(n, item)| flatten(&below(&n.to_string()), item, pairs));
        }
        other => pairs.push((above.to_owned(), cell(other))),
    }
}

/// A value in one line. Control characters are not shown: they are instructions to the terminal.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(fraction) => format!("{fraction:.1}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_lines_up_and_shows_no_control_characters() {
        let items = [json!({ "name": "mail\u{1b}[2J", "disks": [1, 2] }), json!({ "name": "db", "disks": null })];
        let lines = table(&[("NAME", "/name"), ("DISKS", "/disks"), ("RPO", "/rpo")], &items);
        assert_eq!(lines, ["NAME      DISKS  RPO", "mail?[2J  1,2    -", "db        -      -"]);
    }

    #[test]
    fn an_item_is_shown_field_by_field() {
        let shown = lines(&json!({ "id": "7", "health": { "level": "normal" }, "disks": [{ "name": "a" }] }));
        assert!(shown.contains(&"disks.0.name  a".to_owned()), "{shown:?}");
        assert!(shown.contains(&"health.level  normal".to_owned()), "{shown:?}");
    }
}
