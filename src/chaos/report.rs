//! What a run came to: for people, for programs, and for what reads JUnit.

use std::fmt::Write as _;

use serde::Serialize;

use super::schedule::Due;

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// What was checked, as a sentence that is true where it passed.
    pub(crate) check: String,
    /// Whether it holds.
    pub(crate) passed: bool,
    /// Figures, or what is wrong.
    pub(crate) detail: String,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The scenario's name.
    pub(crate) scenario: String,
    /// The seed.
    pub(crate) seed: u64,
    /// The command that does it again.
    pub(crate) replay: String,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// What was done.
    pub(crate) schedule: Vec<Due>,
    /// What was found.
    pub(crate) verdicts: Vec<Verdict>,
    /// Where everything lies, where it was kept.
    pub(crate) kept: Option<String>,
}

impl Report {
    /// Whether every check passed, and any was made.
    pub(crate) fn passed(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|verdict| verdict.passed)
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{}, seed {}: {} in {:.1} s, {} faults\n",
            self.scenario,
            self.seed,
            if self.passed() { "passed" } else { "FAILED" },
            self.seconds,
            self.schedule.len()
        );
        for Verdict { check, passed, detail } in &self.verdicts {
            let mark = if *passed { "ok    " } else { "FAILED" };
            // Writing into a string cannot fail.
            let _ = writeln!(text, "  {mark} {check}: {}", detail.replace('\n', "\n         "));
        }
        if let Some(kept) = &self.kept {
            let _ = writeln!(text, "  kept: {kept}");
        }
        if !self.passed() {
            let _ = writeln!(text, "  again: {}", self.replay);
        }
        text
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            // XML 1.0 has no other control characters.
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Runs as a JUnit document: a suite for each run, a case for each check.
pub(crate) fn junit(reports: &[Report]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for report in reports {
        let failures = report.verdicts.iter().filter(|verdict| !verdict.passed).count();
        let name = escaped(&format!("{} seed {}", report.scenario, report.seed));
        // Writing into a string cannot fail.
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{:.3}\">",
            report.verdicts.len(),
            report.seconds
        );
        for verdict in &report.verdicts {
            let case = format!("    <testcase classname=\"{name}\" name=\"{}\"", escaped(&verdict.check));
            let detail = escaped(&verdict.detail);
            let _ = match verdict.passed {
                true => writeln!(xml, "{case}><system-out>{detail}</system-out></testcase>"),
                false => writeln!(xml, "{case}><failure message=\"failed\">{detail}</failure></testcase>"),
            };
        }
        let schedule: Vec<String> = report.schedule.iter().map(Due::to_string).collect();
        let out = escaped(&format!("{}\n{}", report.replay, schedule.join("\n")));
        let _ = writeln!(xml, "    <system-out>{out}</system-out>\n  </testsuite>");
    }
    xml.push_str("</testsuites>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(passed: bool) -> Report {
        let verdict = Verdict { check: "a < b & \"c\"".into(), passed, detail: "1\u{1b}2".into() };
        Report {
            scenario: "x".into(),
            seed: 7,
            replay: "again".into(),
            seconds: 1.5,
            schedule: Vec::new(),
            verdicts: vec![verdict],
            kept: None,
        }
    }

    #[test]
    fn a_report_passes_only_where_every_check_did_and_one_was_made() {
        assert!(report(true).passed() && !report(false).passed());
        assert!(!Report { verdicts: Vec::new(), ..report(true) }.passed());
        assert!(report(false).text().contains("again: again"));
    }

    #[test]
    fn junit_is_xml_whatever_the_texts_hold() {
        let xml = junit(&[report(true), report(false)]);
        assert!(xml.contains("name=\"a &lt; b &amp; &quot;c&quot;\"") && !xml.contains('\u{1b}'));
        assert_eq!((xml.matches("<failure").count(), xml.matches("<testsuite ").count()), (1, 2));
    }
}
