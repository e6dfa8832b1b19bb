//! The shape of a scenario: which tables have which keys, of which kind, within which bounds. What does not fit is refused with
//! its line and its field, and `farshore chaos schema` prints the same as a JSON schema.

use std::fmt;

use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The most seconds that anything takes.
const SECONDS_MAX: f64 = 86_400.0;

/// What a key holds.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    OneOf(&'static [&'static str]),
    Texts,
    Flag,
    /// Between these, both included.
    Whole(u64, u64),
    Number(f64, f64),
    /// A number, or two of which the second is not smaller.
    Span(f64, f64),
    Table(&'static [Key]),
    Tables(&'static [Key]),
    Fault,
}

use Kind::{Fault, Flag, Number, OneOf, Span, Table, Tables, Text, Texts, Whole};

/// A key of a table.
#[derive(Debug, Clone, Copy)]
struct Key {
    name: &'static str,
    kind: Kind,
    needed: bool,
}

const fn must(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, needed: true }
}

const fn may(name: &'static str, kind: Kind) -> Key {
    Key { name, kind, needed: false }
}

const SECONDS: Kind = Span(0.0, SECONDS_MAX);
const LARGE: u64 = 1 << 20;

const SCENARIO: &[Key] = &[
    must("name", Text),
    must("about", Text),
    may("site", Table(SITE)),
    may("load", Table(LOAD)),
    may("step", Tables(STEP)),
    may("random", Table(RANDOM)),
    may("expect", Table(EXPECT)),
];
const SITE: &[Key] = &[
    may("process_servers", Whole(1, 8)),
    may("machines", Whole(1, 16)),
    may("disks", Whole(1, 16)),
    may("disk_mib", Whole(1, LARGE)),
    may("cache_mib", Whole(64, LARGE)),
    may("agent_memory_mib", Whole(16, LARGE)),
    may("restarts_max", Whole(1, 1000)),
    may("namespaces", OneOf(&["never", "root", "always"])),
];
const LOAD: &[Key] =
    &[may("writes_per_second", Number(0.1, 1e6)), may("span_mib", Whole(1, LARGE)), may("blocks_max", Whole(1, 64))];
const STEP: &[Key] = &[must("at", Number(0.0, SECONDS_MAX)), must("do", Fault)];
const RANDOM: &[Key] = &[must("every", SECONDS), must("choose", Tables(CHOICE))];
const CHOICE: &[Key] = &[may("weight", Whole(0, 1000)), must("do", Fault)];
const EXPECT: &[Key] = &[
    may("rpo_seconds", Number(0.0, SECONDS_MAX)),
    may("within_seconds", Number(0.0, SECONDS_MAX)),
    may("settle_seconds", Number(0.0, SECONDS_MAX)),
    may("full_resync", Flag),
    may("points", Whole(0, 1000)),
    may("seen", Texts),
    may("health", Texts),
];
const TARGET: Key = must("target", Text);
const LINK: Key = must("link", Text);
const LASTS: Key = must("seconds", SECONDS);
const ACTORS: &[&str] = &[
    "process_server",
    "machine",
    "disk",
    "upload_stream",
    "agent_session",
    "orchestrator",
    "process_server_link",
    "job",
];

/// Every fault and its keys, beside `fault`.
const FAULTS: &[(&str, &[Key])] = &[
    ("kill", &[TARGET, LASTS]),
    ("pause", &[TARGET, LASTS]),
    ("restart", &[TARGET]),
    ("storm", &[TARGET, LASTS, must("every", SECONDS)]),
    ("skew", &[TARGET, LASTS, must("offset", Span(-1e9, 1e9))]),
    ("black_hole", &[LINK, LASTS]),
    ("half_open", &[LINK, LASTS, must("way", OneOf(&["up", "down"]))]),
    ("slow_link", &[LINK, LASTS, must("latency_ms", Whole(0, 60_000)), may("kib_per_second", Whole(0, LARGE))]),
    ("reset", &[LINK]),
    ("refuse", &[LINK, LASTS]),
    ("vault_fail", &[TARGET, LASTS, may("after_effect", Flag)]),
    ("vault_slow", &[TARGET, LASTS, must("delay_ms", Whole(0, 600_000))]),
    ("cache_full", &[TARGET, LASTS]),
    ("lose_cache", &[TARGET, LASTS]),
    ("corrupt", &[LASTS, may("object", Span(0.0, 1.0)), may("bit", Span(0.0, 1.0))]),
    ("cut", &[TARGET, LASTS]),
    ("panic", &[TARGET, LASTS, must("actor", OneOf(ACTORS)), may("times", Whole(1, LARGE))]),
    ("move", &[TARGET, must("to", Text)]),
];

/// What is wrong with a scenario, and in which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The field, as `step[1].do.target`.
    pub(crate) field: String,
    why: String,
}

impl Wrong {
    /// This is wrong with this field.
    pub(crate) fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self { field: field.into(), why: why.into() }
    }

    /// The field is one of this table.
    pub(crate) fn within(self, table: &str) -> Self {
        let field = match table {
            "" => self.field,
            table => format!("{table}.{}", self.field),
        };
        Self { field, ..self }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

/// Holds a text against the shape.
pub(crate) fn examine(text: &str) -> Result<(), String> {
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        format!("line {}: {}", line_at(text, at), error.message())
    })?;
    let wrong = examine_table(document.get_ref(), SCENARIO);
    wrong.map_err(|wrong| format!("line {}: {wrong}", line_of(text, &wrong.field)))
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The line of a field, or of the table that lacks it.
pub(crate) fn line_of(text: &str, field: &str) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 1 };
    let (mut table, mut at) = (document.get_ref(), document.span().start);
    for part in field.split('.') {
        let (name, number) = match part.split_once('[') {
            Some((name, number)) => (name, number.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, value)) = table.iter().find(|(key, _)| key.get_ref() == name) else { break };
        at = key.span().start;
        let item = number.and_then(|number| value.get_ref().as_array()?.get(number));
        if let Some(item) = item {
            at = item.span().start;
        }
        match item.unwrap_or(value).get_ref().as_table() {
            Some(inner) => table = inner,
            None => break,
        }
    }
    line_at(text, at)
}

fn examine_table(table: &DeTable<'_>, keys: &[Key]) -> Result<(), Wrong> {
    for key in table.keys() {
        if !keys.iter().any(|known| known.name == key.get_ref()) {
            let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
            let why = format!("nobody knows this key; there are {}", known.join(", "));
            return Err(Wrong::new(key.get_ref().as_ref(), why));
        }
    }
    for key in keys {
        match table.iter().find(|(name, _)| name.get_ref() == key.name) {
            Some((_, value)) => examine_value(value, key.kind).map_err(|wrong| match wrong.field.as_str() {
                "" => Wrong { field: key.name.to_owned(), ..wrong },
                field if field.starts_with('[') => Wrong { field: format!("{}{field}", key.name), ..wrong },
                _ => wrong.within(key.name),
            })?,
            None if key.needed => return Err(Wrong::new(key.name, "it is missing")),
            None => {}
        }
    }
    Ok(())
}

fn examine_value(value: &Spanned<DeValue<'_>>, kind: Kind) -> Result<(), Wrong> {
    let value = value.get_ref();
    let bad = |why: &str| Err(Wrong::new("", why));
    match kind {
        Text if value.is_str() => Ok(()),
        Text => bad("expected a text"),
        OneOf(words) if value.as_str().is_some_and(|text| words.contains(&text)) => Ok(()),
        OneOf(words) => bad(&format!("expected one of {}", words.join(", "))),
        Texts if value.as_array().is_some_and(|list| list.iter().all(|item| item.get_ref().is_str())) => Ok(()),
        Texts => bad("expected a list of texts"),
        Flag if value.is_bool() => Ok(()),
        Flag => bad("expected true or false"),
        Whole(from, to) => match number(value).filter(|_| value.is_integer()) {
            Some(number) if number >= from as f64 && number <= to as f64 => Ok(()),
            Some(number) => bad(&format!("it is {number}; it must lie between {from} and {to}")),
            None => bad("expected a whole number"),
        },
        Number(from, to) => match number(value) {
            Some(number) => within(number, from, to),
            None => bad("expected a number"),
        },
        Span(from, to) => match (number(value), ends(value)) {
            (Some(number), _) => within(number, from, to),
            (None, Some([low, high])) if low > high => bad("it must rise, as [1, 2]"),
            (None, Some(both)) => both.into_iter().try_for_each(|number| within(number, from, to)),
            (None, None) => bad("expected a number, or two as [1, 2]"),
        },
        Table(keys) => value.as_table().map_or_else(|| bad("expected a table"), |table| examine_table(table, keys)),
        Tables(keys) => match value.as_array() {
            Some(list) => list.iter().enumerate().try_for_each(|(at, item)| {
                let table = examine_value(item, Table(keys));
                table.map_err(|wrong| match wrong.field.as_str() {
                    "" => Wrong { field: format!("[{at}]"), ..wrong },
                    _ => wrong.within(&format!("[{at}]")),
                })
            }),
            None => bad("expected a list of tables"),
        },
        Fault => value.as_table().map_or_else(|| bad("expected a table, as { fault = ... }"), examine_fault),
    }
}

fn examine_fault(table: &DeTable<'_>) -> Result<(), Wrong> {
    let name = table.iter().find(|(key, _)| key.get_ref() == "fault").and_then(|(_, value)| value.get_ref().as_str());
    let Some(name) = name else { return Err(Wrong::new("fault", "it is missing: which fault")) };
    let Some((_, keys)) = FAULTS.iter().find(|(known, _)| *known == name) else {
        let all: Vec<&str> = FAULTS.iter().map(|(name, _)| *name).collect();
        return Err(Wrong::new("fault", format!("no fault is called '{name}'; there are {}", all.join(", "))));
    };
    let keys: Vec<Key> = [must("fault", Text)].into_iter().chain(keys.iter().copied()).collect();
    examine_table(table, &keys)
}

fn within(number: f64, from: f64, to: f64) -> Result<(), Wrong> {
    match number >= from && number <= to {
        true => Ok(()),
        false => Err(Wrong::new("", format!("it is {number}; it must lie between {from} and {to}"))),
    }
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let text = match value {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        DeValue::Float(number) => number.as_str(),
        _ => return None,
    };
    text.replace('_', "").parse().ok()
}

fn ends(value: &DeValue<'_>) -> Option<[f64; 2]> {
    let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(|item| number(item.get_ref())).collect();
    numbers?.try_into().ok()
}

/// The shape as a JSON schema.
pub(crate) fn schema() -> Value {
    let mut schema = table_schema(SCENARIO, None);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "A scenario of farshore chaos run".into();
    let faults: Vec<Value> = FAULTS.iter().map(|(name, keys)| table_schema(keys, Some(name))).collect();
    schema["$defs"] = json!({ "fault": { "oneOf": faults } });
    schema
}

fn table_schema(keys: &[Key], fault: Option<&str>) -> Value {
    let mut properties: Map<String, Value> = keys.iter().map(|key| (key.name.into(), kind_schema(key.kind))).collect();
    let mut needed: Vec<&str> = keys.iter().filter(|key| key.needed).map(|key| key.name).collect();
    if let Some(fault) = fault {
        properties.insert("fault".into(), json!({ "const": fault }));
        needed.insert(0, "fault");
    }
    json!({ "type": "object", "properties": properties, "required": needed, "additionalProperties": false })
}

fn kind_schema(kind: Kind) -> Value {
    let number = |from: f64, to: f64| json!({ "type": "number", "minimum": from, "maximum": to });
    match kind {
        Text => json!({ "type": "string" }),
        OneOf(words) => json!({ "enum": words }),
        Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Flag => json!({ "type": "boolean" }),
        Whole(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
        Number(from, to) => number(from, to),
        Span(from, to) => json!({
            "oneOf": [
                number(from, to),
                { "type": "array", "items": number(from, to), "minItems": 2, "maxItems": 2 },
            ]
        }),
        Table(keys) => table_schema(keys, None),
        Tables(keys) => json!({ "type": "array", "items": table_schema(keys, None) }),
        Fault => json!({ "$ref": "#/$defs/fault" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(keys: &[Key], into: &mut Vec<&'static str>) {
        for key in keys {
            into.push(key.name);
            if let Table(inner) | Tables(inner) = key.kind {
                names(inner, into);
            }
        }
    }

    #[test]
    fn the_manual_names_every_key_and_every_fault() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/chaos.md");
        let manual = std::fs::read_to_string(path).expect("the manual");
        let mut all = Vec::new();
        names(SCENARIO, &mut all);
        for (name, keys) in FAULTS {
            all.push(name);
            names(keys, &mut all);
        }
        for name in all {
            let named = manual.contains(&format!("`{name}`")) || manual.contains(&format!("[{name}]"));
            assert!(named, "docs/chaos.md does not name `{name}`");
        }
    }

    #[test]
    fn the_mix_has_every_fault_and_every_actor() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/scenarios/mix.toml");
        let mix = std::fs::read_to_string(path).expect("the mix");
        for (name, _) in FAULTS {
            assert!(mix.contains(&format!("fault = \"{name}\"")), "{name} is not in the mix");
        }
        for actor in ACTORS {
            assert!(mix.contains(&format!("actor = \"{actor}\"")), "{actor} does not panic in the mix");
        }
    }

    #[test]
    fn the_schema_says_what_the_shape_says() {
        let schema = schema();
        assert_eq!(schema["required"], json!(["name", "about"]));
        assert_eq!(schema["properties"]["site"]["properties"]["machines"]["maximum"], 16);
        let faults = schema["$defs"]["fault"]["oneOf"].as_array().expect("faults");
        assert_eq!(faults.len(), FAULTS.len());
        assert_eq!(faults[0]["required"], json!(["fault", "target", "seconds"]));
    }
}
