//! threads: what threads cost when the library, the kernel or both carry them, in one table.
//!
//! Words: `--model n:1|1:1|m:n` for a column alone, `--threads N` to be created at a time (1 to 10000, without: 1000), `--work N`
//! million steps to be shared by the processors (1 to 10000, without: 20). `docs/threads.md` explains the table.

#![no_std]
#![no_main]

mod measure;
mod table;
mod work;

use measure::{Question, measure};
use table::Column;
use threads::kernel::{self, Arguments};
use threads::many_to_many::ManyToMany;
use threads::many_to_one::ManyToOne;
use threads::model::Model;
use threads::one_to_one::OneToOne;
use threads::text::Line;

const THREADS_MAX: usize = 10_000;
const WORK_MAX: usize = 10_000;

/// What was typed.
struct Options {
    model: Option<&'static [u8]>,
    threads: usize,
    million_steps: usize,
}

#[unsafe(no_mangle)]
fn main(arguments: Arguments) -> usize {
    let Some(options) = options(arguments) else {
        Line::new().text("threads [--model n:1|1:1|m:n] [--threads 1..10000] [--work 1..10000]").print();
        return 2;
    };
    let question = Question {
        threads: options.threads,
        steps: options.million_steps as u64 * 1_000_000,
        cpus: kernel::cpus(),
        memory_before: kernel::memory(),
    };
    let mut columns = [const { None }; 3];
    let models: [(&str, fn(Question) -> measure::Figures); 3] = [
        (ManyToOne::NAME, measure::<ManyToOne>),
        (OneToOne::NAME, measure::<OneToOne>),
        (ManyToMany::NAME, measure::<ManyToMany>),
    ];
    for (column, (name, measure)) in columns.iter_mut().zip(models) {
        if options.model.is_none_or(|model| model == name.as_bytes()) {
            *column = Some(Column { name, figures: measure(question) });
        }
    }
    table::print(question, &columns);
    0
}

/// The options, if all are right.
fn options(mut words: Arguments) -> Option<Options> {
    let mut options = Options { model: None, threads: 1000, million_steps: 20 };
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word {
            b"--model" if matches!(value, b"n:1" | b"1:1" | b"m:n") => options.model = Some(value),
            b"--threads" => options.threads = number(value, THREADS_MAX)?,
            b"--work" => options.million_steps = number(value, WORK_MAX)?,
            _ => return None,
        }
    }
    Some(options)
}

/// A number from 1 to `most`.
fn number(word: &[u8], most: usize) -> Option<usize> {
    let value = core::str::from_utf8(word).ok()?.parse().ok()?;
    (1..=most).contains(&value).then_some(value)
}
