//! `--report html:FILE`: a traced run as one page that needs nothing but a browser. The timeline, the tables and the console
//! share one axis of time; `page/` holds what the page is made of and the sink's parts.
//!
//! The page carries its data as JSON in a script block that is not executed. Whatever a guest chose (console, symbols) is
//! text there, in which no tag can begin, and is shown as text only; a content security policy names the page's own script
//! and style by hash and forbids everything else, the network with it.
//! Sources: HTML Living Standard §4.12.1 "The script element"; Content Security Policy Level 3 §2.3.1.

mod classes;
mod console;
mod instructions;
mod marks;

use self::classes::Classes;
use self::console::ConsoleLines;
use self::instructions::Instructions;
use self::marks::{Mark, Marks};
use super::event::ExitKind;
use super::explain::entry::Entry;
use super::explain::table;
use super::sink::{TraceEnd, TraceSink, Traced, Verdict};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::io::{self, Write};

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In the order in which they need each other.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/trace.js"),
    include_str!("page/view.js"),
    include_str!("page/timeline.js"),
    include_str!("page/overview.js"),
    include_str!("page/gestures.js"),
    include_str!("page/exit.js"),
    include_str!("page/console.js"),
    include_str!("page/tables.js"),
    include_str!("page/explanations.js"),
    include_str!("page/main.js"),
);

/// Collects a trace and writes the page at its end.
pub struct Page {
    out: Box<dyn Write + Send>,
    exits: u64,
    classes: Classes,
    instructions: Instructions,
    marks: Marks,
    console: ConsoleLines,
}

/// What the page's script reads.
#[derive(Serialize)]
struct Data<'a> {
    reason: &'a str,
    ended_ns: u64,
    exits: u64,
    dropped: u64,
    facts: &'a [(&'static str, String)],
    milestones: Vec<(&'static str, u64)>,
    kinds: [&'static str; ExitKind::ALL.len()],
    explanations: [Explanation; ExitKind::ALL.len()],
    classes: classes::Table<'a>,
    instructions: instructions::Table<'a>,
    marks: marks::Table,
    console: console::Table,
}

/// What `hostel explain` says of a kind.
#[derive(Serialize)]
struct Explanation {
    summary: &'static str,
    why: &'static str,
    vmx: &'static str,
    svm: &'static str,
    kvm: &'static str,
    hostel: &'static str,
    files: &'static [&'static str],
    sources: &'static [&'static str],
}

impl Explanation {
    fn of(kind: ExitKind) -> Explanation {
        let Entry { summary, why, vmx, svm, kvm, hostel, files, sources, .. } = *table::of_kind(kind);
        Explanation { summary, why, vmx, svm, kvm, hostel, files, sources }
    }
}

impl Page {
    /// A page to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Page {
        Page {
            out,
            exits: 0,
            classes: Classes::default(),
            instructions: Instructions::default(),
            marks: Marks::default(),
            console: ConsoleLines::default(),
        }
    }
}

impl TraceSink for Page {
    fn exit(&mut self, traced: &Traced) -> io::Result<()> {
        let event = traced.event;
        self.exits += 1;
        self.console.exit(event);
        let class = self.classes.count(event);
        let instruction = self.instructions.count(traced, class);
        self.marks.add(Mark::of(event, class, instruction));
        Ok(())
    }

    fn finish(&mut self, end: &TraceEnd) -> io::Result<Verdict> {
        let data = Data {
            reason: &end.reason,
            ended_ns: end.ended_ns,
            exits: self.exits,
            dropped: end.dropped,
            facts: &end.facts,
            milestones: end.milestones.iter().map(|(milestone, at_ns)| (milestone.name(), *at_ns)).collect(),
            kinds: ExitKind::ALL.map(ExitKind::name),
            explanations: ExitKind::ALL.map(Explanation::of),
            classes: self.classes.table(),
            instructions: self.instructions.table(),
            marks: self.marks.table(),
            console: self.console.table(),
        };
        let mut rest = PAGE;
        let mut upto = |mark: &str| {
            let (before, after) = rest.split_once(mark).expect("the page has each mark once, in this order");
            rest = after;
            before
        };
        let policy = format!("default-src 'none'; style-src {}; script-src {}", hash(STYLE), hash(SCRIPT));
        write!(self.out, "{}{policy}{}{STYLE}{}", upto("{{policy}}"), upto("{{style}}"), upto("{{trace}}"))?;
        serde_json::to_writer(InScript(&mut self.out), &data)?;
        write!(self.out, "{}{SCRIPT}{rest}", upto("{{script}}"))?;
        self.out.flush()?;
        Ok(Verdict::Fine)
    }
}

/// JSON inside a script element: of what begins or ends a tag or a reference, nothing is left as it is. All three stand in
/// strings only.
struct InScript<W>(W);

impl<W: Write> Write for InScript<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plain = bytes.iter().position(|byte| b"<>&".contains(byte)).unwrap_or(bytes.len());
        self.0.write_all(&bytes[..plain])?;
        match bytes.get(plain) {
            None => Ok(plain),
            Some(special) => write!(self.0, "\\u{special:04x}").map(|()| plain + 1),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A hash as the policy names it: 'sha256-' and base64 (RFC 4648 §4).
fn hash(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::from("'sha256-");
    for group in Sha256::digest(text).chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            encoded.push(if digit <= group.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    encoded + "'"
}

#[cfg(test)]
mod tests {
    use super::super::event::ExitEvent;
    use super::super::fixture::{Written, serial};
    use super::super::sink::Milestone;
    use super::*;
    use serde_json::Value;

    /// The page of a guest that prints `console`, a byte each microsecond, from code with this symbol.
    fn page(console: &[u8], symbol: &str) -> String {
        let file = Written::default();
        let mut page = Page::new(Box::new(file.clone()));
        for (at_ns, byte) in (1000..).step_by(1000).zip(console) {
            let event = ExitEvent { at_ns, ..serial(*byte) };
            page.exit(&Traced { event: &event, instruction: None, symbol: Some(symbol) }).unwrap();
        }
        let end = TraceEnd {
            ended_ns: 5000,
            milestones: vec![(Milestone::FirstEntry, 500)],
            facts: vec![("image", symbol.to_owned())],
            ..TraceEnd::default()
        };
        assert_eq!(page.finish(&end).unwrap(), Verdict::Fine);
        file.text()
    }

    fn data(page: &str) -> Value {
        let (_, json) = page.split_once(r#"id="trace">"#).unwrap();
        serde_json::from_str(json.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn a_page_holds_the_trace_by_columns() {
        let data = data(&page(b"a\nb", "x"));
        assert_eq!((&data["exits"], &data["classes"]["name"][0]), (&3.into(), &"COM1 THR".into()));
        assert_eq!(data["marks"]["at_ns"].to_string(), "[1000,1000,1000]");
        assert_eq!(data["marks"]["value"].to_string(), "[97,10,98]");
        assert_eq!(data["console"]["text"].to_string(), r#"["a","b"]"#);
        assert_eq!(data["classes"]["p50_ns"][0], 500);
        assert_eq!(data["kinds"][data["classes"]["kind"][0].as_u64().unwrap() as usize], "pio-write");
        assert_eq!(data["explanations"][1]["summary"], "OUT, or one element of OUTS: the guest writes to a port");
        assert_eq!(data["milestones"].to_string(), r#"[["first entry",500]]"#);
    }

    #[test]
    fn what_a_guest_says_begins_no_tag_and_ends_no_script() {
        let hostile = "</script><script>alert(1)</script><!-- <script> &lt; {{script}} ]]> \u{2028} \\ \" ' \0\x1b[2J";
        let plain = page(b"", "");
        let written = page(hostile.as_bytes(), hostile);
        for tag in ["<", ">", "</script", "<script", "<!--", "{{script}}"] {
            // The mark is text like any other, once the template has been cut at its own.
            let more = if tag == "{{script}}" { 2 } else { 0 };
            assert_eq!(written.matches(tag).count(), plain.matches(tag).count() + more, "{tag}");
        }
        let data = data(&written);
        assert_eq!(data["facts"][0][1], hostile);
        let shown = data["console"]["text"][0].as_str().unwrap();
        assert_eq!(shown, hostile.replace('\0', "\u{2400}").replace("\x1b[2J", ""));
    }

    #[test]
    fn a_page_loads_nothing() {
        let page = page(b"x", "x");
        for way in
            ["http:", "https:", "src=", "href=", "url(", "@import", "fetch(", "XMLHttpRequest", "innerHTML", "eval("]
        {
            assert!(!page.contains(way), "{way}");
        }
        assert!(page.contains("content=\"default-src 'none'; style-src 'sha256-"));
    }

    #[test]
    fn hashes_are_those_of_the_policy() {
        // echo -n abc | openssl dgst -sha256 -binary | base64
        assert_eq!(hash("abc"), "'sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0='");
    }
}
