//! The page of `--report html:FILE` in a real browser: it draws, zooms, filters, leads from the console to the timeline and
//! back, runs nothing that a guest says, asks for nothing, and complains of nothing.
//!
//! Needs Chromium; `scripts/browser` fetches it where it may and runs this. It is not among the tests of `cargo test`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod devtools;
#[allow(dead_code, reason = "each test program uses its part")]
#[path = "../common/scratch.rs"]
mod scratch;

use devtools::Browser;
use hostel::debug::counters::Counted;
use hostel::debug::event::{DeviceRegister, ExitEvent, ExitKind};
use hostel::debug::explain::table::one_line;
use hostel::debug::page::Page;
use hostel::debug::sink::{Milestone, TraceEnd, TraceSink, Traced};
use hostel::kvm::exit::{Exit, Reply};
use scratch::Scratch;
use std::fs::File;
use std::io::BufWriter;
use std::process::Command;

/// Lines that a guest prints to take over the page that shows them.
const HOSTILE: [&str; 6] = [
    "</script><script>window.taken = 1</script>",
    "<img src=x onerror='window.taken = 2'><!-- <script>",
    "\" onmouseover=\"window.taken = 3\" ' ` ${window.taken = 4} \\",
    "\u{202e}right to left\u{2028}\u{2029}",
    "&lt;b&gt; {{script}} ]]>",
    "\x1b]0;title\x07\x1b[31mred\x07\x08\x00",
];

/// Writes the page of `exits` exits on two vCPUs, a microsecond apart, which print `console`. Every fourth exit on vCPU 0 is
/// a read of the line status.
fn page(file: &str, exits: u64, console: &[u8]) {
    let mut page = Page::new(Box::new(BufWriter::new(File::create(file).unwrap())));
    let mut bytes = console.iter().copied();
    for i in 0..exits {
        let named = |register| Some(DeviceRegister { device: "COM1", register });
        let (exit, reply, register) = match i % 4 {
            0 => (Exit::PioRead { port: 0x3fd, size: 1 }, Reply::Value(0x60), named("LSR")),
            1 => (Exit::MmioWrite { addr: 0xd000_0000, size: 8, value: u64::MAX }, Reply::Resume, None),
            _ => match bytes.next() {
                Some(byte) => {
                    let write = Exit::PioWrite { port: 0x3f8, size: 1, value: byte.into() };
                    (write, Reply::Resume, named("THR"))
                }
                None => (Exit::Halt, Reply::Resume, None),
            },
        };
        let (vcpu, at_ns) = (u32::from(i % 4 == 1), 1_000_000 + i * 1000);
        let (guest_ns, host_ns, reply) = (600, 100 + i % 7 * 40, Some(reply));
        let event = ExitEvent { vcpu, at_ns, guest_ns, host_ns, exit, reply, register, code: None };
        page.exit(&Traced { event: &event, instruction: None, symbol: None }).unwrap();
    }
    let end = TraceEnd {
        ended_ns: 1_000_000 + exits * 1000,
        reason: "</p><script>window.taken = 5</script>".into(),
        dropped: 3,
        milestones: vec![(Milestone::ProcessStart, 0), (Milestone::FirstEntry, 999_000)],
        counted: Counted::default(),
        facts: vec![("image", "<b>image</b>".into()), ("command", "hostel run --cmdline '</script>'".into())],
    };
    page.finish(&end).unwrap();
}

/// A browser with that page.
fn opened(name: &str, exits: u64, console: &[u8]) -> Browser {
    let scratch = Scratch::new(name);
    let file = scratch.join("page.html");
    page(&file, exits, console);
    let mut browser = Browser::start(scratch);
    browser.open(&file);
    browser
}

/// Exits that the timeline says are in its window.
const IN_SIGHT: &str =
    "Number(document.getElementById('range').textContent.match(/, ([\\d,]+) exits/)[1].replace(/,/g, ''))";

fn in_sight(browser: &mut Browser) -> u64 {
    // What was done shows with the next frame.
    browser.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))");
    browser.value(IN_SIGHT).as_u64().unwrap()
}

/// Colours in the middle line of a canvas.
fn colours(browser: &mut Browser) -> u64 {
    let script = "(() => { const canvas = document.getElementById('tracks');
        const { data } = canvas.getContext('2d').getImageData(0, 60, canvas.width, 1);
        return new Set(new Uint32Array(data.buffer)).size; })()";
    browser.value(script).as_u64().unwrap()
}

#[test]
fn it_draws_zooms_moves_and_filters() {
    let mut browser = opened("browser-zoom", 2000, b"one\ntwo\nthree\n");
    assert_eq!(browser.text("#image"), "<b>image</b>");
    assert_eq!(browser.text("#classes tbody").matches("COM1").count(), 2);
    assert_eq!(browser.text("#dropped"), "3 exits are missing here: the trace fell behind.");
    assert!(browser.text("#kinds details").contains(one_line(ExitKind::PioRead)), "kinds are explained");
    assert!(colours(&mut browser) >= 3, "ground, guest and exits");
    assert_eq!(in_sight(&mut browser), 2000);

    let (x, y) = browser.place("#tracks", 0.5, 0.4);
    browser.wheel(x, y, -400);
    let closer = in_sight(&mut browser);
    assert!((100..1500).contains(&closer), "{closer}");
    let range = browser.text("#range");
    browser.drag((x, y), (x - 100.0, y));
    in_sight(&mut browser);
    assert_ne!(browser.text("#range"), range);
    browser.click("[data-act=fit]");
    assert_eq!(in_sight(&mut browser), 2000);
    browser.value("document.getElementById('tracks').focus()");
    browser.key("+");
    browser.key("ArrowRight");
    assert!(in_sight(&mut browser) < 2000);
    browser.key("0");
    assert_eq!(in_sight(&mut browser), 2000);

    browser.click("#filter-kind button");
    assert_eq!(in_sight(&mut browser), 500, "reads only");
    assert_eq!(browser.value("document.querySelectorAll('#classes tr.off').length"), 3);
    browser.click("#filter-kind button");
    browser.click("#filter-vcpu button:nth-child(2)");
    assert_eq!(in_sight(&mut browser), 500, "vCPU 1 only");
    assert_eq!(browser.complaints, [""; 0]);
}

#[test]
fn console_and_timeline_lead_to_each_other() {
    let mut browser = opened("browser-console", 2000, b"one\ntwo\nthree\n");
    for _ in 0..6 {
        browser.click("[data-act=in]");
    }
    browser.click("#line-1");
    browser.wait_for("document.querySelector('#line-1').getAttribute('aria-selected') === 'true'");
    browser.wait_for("!document.querySelector('#line-1').classList.contains('outside')");
    browser.key("ArrowDown");
    browser.wait_for("document.querySelector('#line-2').getAttribute('aria-selected') === 'true'");
    assert_eq!(browser.text("#line-2 span"), "three");

    browser.key("Home");
    browser.wait_for("document.querySelector('#line-0').getAttribute('aria-selected') === 'true'");
    browser.click("[data-act=guest]");
    in_sight(&mut browser);
    // All was printed at the very left.
    let (x, y) = browser.place("#tracks", 0.5, 0.35);
    browser.click_at(x, y);
    browser.wait_for("document.querySelector('#exit h3') !== null");
    browser.wait_for("document.querySelector('#line-2').getAttribute('aria-selected') === 'true'");
    browser.click("#classes tbody tr:last-child button");
    browser.wait_for("document.querySelector('#exit').textContent.includes('vCPU')");
    let name = browser.text("#classes tbody tr:last-child td:nth-child(2)");
    assert!(browser.text("#exit h3").contains(&name), "{name}");
    assert_eq!(browser.complaints, [""; 0]);
}

#[test]
fn what_a_guest_prints_is_only_text() {
    let console = HOSTILE.join("\n").into_bytes().into_iter().chain(*b"\n\xff\xfe\xc0\x80\n").collect::<Vec<_>>();
    let mut browser = opened("browser-hostile", 4000, &console);
    browser.value(
        "document.querySelectorAll('.line, button').forEach((found) => found.dispatchEvent(new Event('mouseover')))",
    );
    assert_eq!(browser.value("window.taken === undefined"), true);
    assert_eq!(browser.value("document.scripts.length"), 2);
    let foreign = "img, iframe, object, embed, link, #image *, #facts dd *, #lines :not(div, time, span)";
    assert_eq!(browser.value(&format!("document.querySelectorAll('{foreign}').length")), 0);
    for (index, line) in HOSTILE.iter().take(5).enumerate() {
        assert_eq!(browser.text(&format!("#line-{index} span")), *line);
    }
    assert_eq!(browser.text("#line-5 span"), "red\u{2407}\u{2408}\u{2400}");
    assert_eq!(browser.text("#line-6 span"), "\u{fffd}".repeat(4));
    assert_eq!(browser.complaints, [""; 0]);
    // The policy stands behind the escapes: a script that came in all the same does not run.
    browser
        .value("document.body.append(Object.assign(document.createElement('script'), { text: 'window.taken = 6' }))");
    assert_eq!(browser.value("window.taken === undefined"), true);
}

#[test]
fn it_fits_a_phone_and_says_what_is_aggregated() {
    let mut browser = opened("browser-phone", 250_000, b"");
    assert!(browser.text("#aggregated").starts_with("250,000 exits are drawn as "), "{}", browser.text("#aggregated"));
    assert_eq!(in_sight(&mut browser), 250_000);
    for width in [1280, 390] {
        browser.resize(width, 800);
        in_sight(&mut browser);
        let scrolls = browser.value("document.documentElement.scrollWidth > innerWidth");
        assert_eq!(scrolls, false, "it does not scroll sideways at {width}");
        assert_eq!(browser.value("document.getElementById('tracks').getBoundingClientRect().width > 300"), true);
    }
    assert_eq!(browser.complaints, [""; 0]);
}

#[test]
fn the_page_of_a_run_tells_of_it() {
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    if kvm.is_err() {
        eprintln!("skipped: {}: no /dev/kvm", file!());
        return;
    }
    let scratch = Scratch::new("browser-run");
    let file = scratch.join("page.html");
    let run = Command::new(env!("CARGO_BIN_EXE_hostel"))
        .args(["run", "smp", "--cpus", "2", "--report", &format!("html:{file}")])
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    assert_eq!(run.stderr, b"", "no line of the trace is printed");
    let mut browser = Browser::start(scratch);
    browser.open(&file);
    assert_eq!((browser.text("#image").as_str(), browser.text("#reason").as_str()), ("smp", "the guest powered off"));
    let console = String::from_utf8(run.stdout).unwrap();
    for (index, line) in console.lines().enumerate() {
        assert_eq!(browser.text(&format!("#line-{index} span")), line);
    }
    assert!(browser.text("#milestones").contains("first serial byte"));
    assert!(browser.text("#facts").contains(env!("CARGO_PKG_VERSION")));
    assert!(browser.text("#instructions").contains("out dx, al"));
    assert_eq!(browser.complaints, [""; 0]);
}
