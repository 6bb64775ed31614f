//! The table: a row a question, a column a model.

use core::fmt::{self, Display, Write};

use models::line;
use models::text::{Line, Thousandths};

use crate::measure::{Cost, Figures, LWPS, Memory, Question};

/// A model's answers.
pub struct Column {
    pub name: &'static str,
    pub figures: Figures,
}

/// What stands in a row and a column.
enum Cell {
    Text(&'static str),
    Number(u64),
    Thousandths(u64),
}

impl Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.pad(text),
            Cell::Number(number) => number.fmt(f),
            Cell::Thousandths(number) => Thousandths(*number).fmt(f),
        }
    }
}

/// What was not found out.
const UNKNOWN: Cell = Cell::Text("-");

/// Prints what was found out.
pub fn print(question: Question, columns: &[Option<Column>]) {
    let Question { threads, cpus, .. } = question;
    line!("threads: {threads}, processors: {cpus}");
    row(format_args!(""), columns, |column| Cell::Text(column.name));
    cost("create and join a thread", columns, |figures| figures.create);
    cost("switch", columns, |figures| figures.switch);
    cost("lock and unlock a mutex", columns, |figures| figures.lock);
    cost("hand over by mutex and condition variable", columns, |figures| figures.hand_over);
    row(format_args!("one blocks; the others run, % of that time"), columns, |column| {
        Cell::Number(column.figures.others)
    });
    for (index, lwps) in LWPS.into_iter().enumerate() {
        let name = format_args!("speed-up on {lwps} {}", if lwps == 1 { "LWP" } else { "LWPs" });
        row(name, columns, |column| match column.figures.speed_up[index] {
            0 => UNKNOWN,
            speed_up => Cell::Thousandths(speed_up),
        });
    }
    row(format_args!("threads that waited for all others"), columns, |column| Cell::Number(column.figures.met));
    memory("memory of a thread, bytes", columns, |memory| memory.user);
    memory("  and of the kernel's", columns, |memory| memory.kernel);
}

/// Two rows about an operation: its time, and its system calls.
fn cost(name: &str, columns: &[Option<Column>], cost: impl Fn(&Figures) -> Cost) {
    row(format_args!("{name}, ns"), columns, |column| Cell::Thousandths(cost(&column.figures).time));
    row(format_args!("  system calls"), columns, |column| Cell::Thousandths(cost(&column.figures).calls));
}

/// A row about memory, if the kernel tells.
fn memory(name: &str, columns: &[Option<Column>], bytes: impl Fn(Memory) -> u64) {
    row(format_args!("{name}"), columns, |column| match column.figures.memory {
        None => UNKNOWN,
        Some(memory) => Cell::Number(bytes(memory)),
    });
}

fn row(name: fmt::Arguments, columns: &[Option<Column>], cell: impl Fn(&Column) -> Cell) {
    let (mut start, mut cells) = (Line::default(), Line::default());
    let _ = write!(start, "{name}");
    for column in columns.iter().flatten() {
        let _ = write!(cells, "{:>11}", cell(column));
    }
    line!("{:<45}{}", start.as_str(), cells.as_str());
}
