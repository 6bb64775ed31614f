//! threads: what threads cost when the library, the kernel or both carry them, in one table.
//!
//! Words: `--model n:1|1:1|m:n` for a column alone, `--threads N` to be created at a time (1 to 4000, without: 1000), `--work N`
//! million steps to be shared by the processors (1 to 10000, without: 20). `docs/threads.md` explains the table.

#![no_std]
#![no_main]

mod measure;
mod table;
mod work;

use measure::{Question, measure};
use models::kernel;
use models::many_to_many::ManyToMany;
use models::many_to_one::ManyToOne;
use models::model::Model;
use models::one_to_one::OneToOne;
use models::words::Words;
use models::{line, program};
use table::Column;

const MODELS: [&[u8]; 3] = [b"n:1", b"1:1", b"m:n"];
const THREADS_MAX: u64 = 4_000;
const WORK_MAX: u64 = 10_000;

/// What was typed.
struct Options {
    model: Option<&'static [u8]>,
    threads: u64,
    million_steps: u64,
}

program!(main);

fn main(arguments: &'static [u8]) -> u64 {
    let Some(options) = options(Words::of(arguments)) else {
        line!("threads [--model n:1|1:1|m:n] [--threads 1..4000] [--work 1..10000]");
        return 2;
    };
    let question = Question {
        threads: options.threads as usize,
        steps: options.million_steps * 1_000_000,
        cpus: kernel::cpus(),
        memory_before: kernel::memory(),
    };
    // The first look at the clock asks the kernel how fast it is.
    kernel::now();
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
fn options(mut words: Words<'static>) -> Option<Options> {
    let mut options = Options { model: None, threads: 1000, million_steps: 20 };
    while let Some(word) = words.next() {
        match word {
            b"--model" => options.model = Some(words.next().filter(|model| MODELS.contains(model))?),
            b"--threads" => options.threads = words.number().filter(|number| (1..=THREADS_MAX).contains(number))?,
            b"--work" => options.million_steps = words.number().filter(|number| (1..=WORK_MAX).contains(number))?,
            _ => return None,
        }
    }
    Some(options)
}
