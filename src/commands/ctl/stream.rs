//! The event stream through the shell: a line for each thing that changes. A stream that breaks is opened again behind
//! the last thing that was shown.

use std::time::Duration;

use farshore_web::show;
use serde_json::{Value, json};

use super::client::Client;
use crate::exit::{ExitKind, Failure, Outcome};

/// Wait before a stream that broke is opened again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One thing that changed.
#[derive(Debug, Default, PartialEq)]
struct Frame {
    id: String,
    kind: String,
    data: String,
}

/// Cuts a stream of server-sent events into frames.
#[derive(Debug, Default)]
struct Frames {
    rest: Vec<u8>,
    now: Frame,
}

impl Frames {
    fn take(&mut self, bytes: &[u8]) -> Vec<Frame> {
        self.rest.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            match line.trim_end().split_once(": ") {
                Some(("id", id)) => self.now.id = id.to_owned(),
                Some(("event", kind)) => self.now.kind = kind.to_owned(),
                Some(("data", data)) => self.now.data = data.to_owned(),
                // A blank line ends a frame; anything else is a comment that keeps the connection alive.
                _ if line.trim_end().is_empty() && !self.now.kind.is_empty() => {
                    frames.push(std::mem::take(&mut self.now));
                }
                _ => {}
            }
        }
        frames
    }
}

/// Shows what changes, until `count` things were shown.
pub(super) async fn follow(client: &Client, kinds: &[String], count: Option<u64>, json: bool) -> Outcome {
    let (mut shown, mut last) = (0, None);
    loop {
        let ended = once(client, kinds, count, json, &mut shown, &mut last).await;
        match ended {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // A server that restarts comes back.
            Err(failure) if failure.kind == ExitKind::Unreachable => eprintln!("farshore: {}", failure.text),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// One stream; whether enough was shown.
async fn once(
    client: &Client,
    kinds: &[String],
    count: Option<u64>,
    json: bool,
    shown: &mut u64,
    last: &mut Option<String>,
) -> Result<bool, Failure> {
    let mut answer = client.stream("stream", last.as_deref()).await?;
    let mut frames = Frames::default();
    while let Ok(Some(bytes)) = answer.chunk().await {
        for frame in frames.take(&bytes) {
            let wanted = kinds.is_empty() || kinds.contains(&frame.kind);
            *last = Some(frame.id.clone()).filter(|id| !id.is_empty());
            if !wanted {
                continue;
            }
            println!("{}", if json { as_json(&frame) } else { in_words(&frame) });
            *shown += 1;
            if count.is_some_and(|count| *shown >= count) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn as_json(frame: &Frame) -> String {
    let data: Value = serde_json::from_str(&frame.data).unwrap_or(Value::Null);
    json!({ "id": frame.id, "kind": frame.kind, "data": data }).to_string()
}

fn in_words(frame: &Frame) -> String {
    let data: Value = serde_json::from_str(&frame.data).unwrap_or(Value::Null);
    let text = |at: &str| match data.pointer(at) {
        Some(Value::String(text)) => text.chars().filter(|c| !c.is_control()).collect(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(Value::Number(number)) => number.as_f64().map_or("-".into(), |number| format!("{number:.1}")),
        Some(other) => other.to_string(),
    };
    let words = match frame.kind.as_str() {
        "machine" => {
            format!("{}  {}  {}  RPO {} s", text("/name"), text("/state"), text("/health/level"), text("/rpo_seconds"))
        }
        "process_server" => format!("{}  {}  {}", text("/name"), text("/state"), text("/health/level")),
        "job" => format!("{} {}  {}  {}", text("/kind"), text("/id"), text("/state"), text("/step")),
        "event" => format!("{}  {}  {}", text("/severity"), text("/code"), text("/text")),
        "overview" => format!("{}  backlog {} bytes", text("/health"), text("/backlog_bytes")),
        _ => String::new(),
    };
    let at = data["at"].as_str().map_or_else(|| show::time(farshore_actors::supervise::wall_clock()), str::to_owned);
    format!("{at}  {:<14}  {words}", frame.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_wherever_the_network_cuts_them() {
        let text = "id: 1-1\nevent: job\ndata: {\"id\": \"7\"}\n\n: still here\n\nid: 1-2\nevent: event\ndata: {}\n\n";
        for cut in 1..text.len() {
            let mut frames = Frames::default();
            let mut seen = frames.take(&text.as_bytes()[..cut]);
            seen.extend(frames.take(&text.as_bytes()[cut..]));
            let ids: Vec<&str> = seen.iter().map(|frame| frame.id.as_str()).collect();
            assert_eq!(ids, ["1-1", "1-2"], "cut at {cut}");
            assert_eq!(seen[0].data, "{\"id\": \"7\"}");
        }
    }

    #[test]
    fn a_frame_in_words_holds_no_control_characters() {
        let frame = Frame { id: "1".into(), kind: "event".into(), data: json!({ "text": "a\u{1b}[2J" }).to_string() };
        assert!(!in_words(&frame).contains('\u{1b}'));
    }
}
