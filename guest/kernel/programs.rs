//! The ring-3 programs that are built into the kernel: one row each. Their sources are `guest/process/NAME.rs`.

/// A program.
pub struct Program {
    /// What the shell starts it by.
    pub name: &'static str,
    /// Its arguments, for the list.
    pub arguments: &'static str,
    /// What it does, in one line.
    pub does: &'static str,
    /// The ELF file.
    pub image: &'static [u8],
}

/// A file's bytes, from the start of a page on: the pages of its code are mapped where they are.
#[repr(C, align(4096))]
struct Pages<T>(T);

/// The row of the program with this name.
macro_rules! program {
    ($name:literal, $arguments:literal, $does:literal) => {{
        const BYTES: usize = include_bytes!(concat!(env!("OUT_DIR"), "/process-", $name)).len();
        static IMAGE: Pages<[u8; BYTES]> = Pages(*include_bytes!(concat!(env!("OUT_DIR"), "/process-", $name)));
        Program { name: $name, arguments: $arguments, does: $does, image: &IMAGE.0 }
    }};
}

/// Every program, in the order in which the shell lists them.
pub static PROGRAMS: &[Program] = &[
    program!("spin", " WORD [SECONDS]", "work without end, or so long, and say the word each 200 ms"),
    program!("trespass", " kernel|process|code|port", "touch what is not its own, and be ended"),
    program!("locks", " [COUNT]", "four threads count, with a mutex and a condition variable"),
    program!("calls", " [ROUNDS]", "what the kernel's services take"),
    program!("hostile", "", "make every call with arguments that make no sense"),
    program!("vectors", " [SECONDS]", "check that the vector registers stay its own"),
    program!(
        "threads",
        " [--model n:1|1:1|m:n] [--threads N] [--work N]",
        "what threads cost in three models, as a table"
    ),
    program!("race", " [--model n:1|1:1|m:n]", "threads add to a counter, without a mutex and with one"),
    program!("switch", "", "what a switch to another process takes, and to another thread"),
    program!("server", " single|workers|states [WORKERS] [ADDRESS/BITS]", "serve the disk's files by HTTP"),
];

/// The program of this name.
pub fn find(name: &[u8]) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.name.as_bytes() == name)
}
