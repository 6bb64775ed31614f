//! The table: a row a question, a column a model.

use threads::text::Line;

use crate::measure::{Cost, Figures, LWPS, Memory, Question};

/// Where the columns end.
const ENDS: [usize; 3] = [56, 68, 80];

/// A model's answers.
pub struct Column {
    pub name: &'static str,
    pub figures: Figures,
}

/// Prints what was found out.
pub fn print(question: Question, columns: &[Option<Column>]) {
    Line::new()
        .number(question.threads as u64)
        .text(" threads, ")
        .number(question.cpus as u64)
        .text(" processors")
        .print();
    row("", columns, |line, column| _ = line.text(column.name));
    cost("create and join a thread", columns, |figures| figures.create);
    cost("switch", columns, |figures| figures.switch);
    cost("lock and unlock a mutex", columns, |figures| figures.lock);
    cost("hand over by mutex and condition variable", columns, |figures| figures.hand_over);
    row("one blocks; the others run, % of that time", columns, |line, column| _ = line.number(column.figures.others));
    for (index, lwps) in LWPS.into_iter().enumerate() {
        let mut name = Line::new();
        name.text("speed-up on ").number(lwps as u64).text(if lwps == 1 { " LWP" } else { " LWPs" });
        row(name.as_str(), columns, |line, column| match column.figures.speed_up[index] {
            0 => _ = line.text("-"),
            speed_up => _ = line.thousandths(speed_up),
        });
    }
    row("threads that waited for all others", columns, |line, column| _ = line.number(column.figures.met));
    memory("memory of a thread, bytes", columns, |memory| memory.user);
    memory("  and of the kernel's", columns, |memory| memory.kernel);
}

/// Two rows about an operation: its time, and its system calls.
fn cost(name: &str, columns: &[Option<Column>], cost: impl Fn(&Figures) -> Cost) {
    let mut time = Line::new();
    time.text(name).text(", ns");
    row(time.as_str(), columns, |line, column| _ = line.thousandths(cost(&column.figures).time));
    row("  system calls", columns, |line, column| _ = line.thousandths(cost(&column.figures).calls));
}

/// A row about memory, if the kernel tells.
fn memory(name: &str, columns: &[Option<Column>], bytes: impl Fn(Memory) -> u64) {
    row(name, columns, |line, column| match column.figures.memory {
        None => _ = line.text("-"),
        Some(memory) => _ = line.number(bytes(memory)),
    });
}

fn row(name: &str, columns: &[Option<Column>], cell: impl Fn(&mut Line, &Column)) {
    let mut line = Line::new();
    line.text(name);
    for (column, end) in columns.iter().flatten().zip(ENDS) {
        line.right(end, |part| cell(part, column));
    }
    line.print();
}
