//! The functions of INT 21h: one flat table, by the number in AH.
//!
//! Of a function that is not in the table the run's last line tells; it returns with CF set and 1 in AX, as DOS says of one that does not
//! exist. A function from 2Fh on tells by CF whether it succeeded; older ones leave CF alone.
//! Source: Interrupt List, INT 21h.

use super::call::{Answer, Call, INVALID_FUNCTION, Stop};
use super::{console, file_functions as files, system};
use rustix::io::Errno;

/// What answers a function.
type Handler = fn(&mut Call) -> Answer;

/// A row of the table.
pub struct Function {
    /// What is in AH.
    pub number: u8,
    /// A word for it.
    pub name: &'static str,
    /// What it does with which registers.
    pub about: &'static str,
    answer: Handler,
}

const fn row(number: u8, name: &'static str, answer: Handler, about: &'static str) -> Function {
    Function { number, name, about, answer }
}

/// The first function that tells by CF whether it succeeded.
const FIRST_WITH_CARRY: u8 = 0x2f;

/// All functions, by number.
#[rustfmt::skip]
pub const FUNCTIONS: &[Function] = &[
    row(0x00, "end", system::end, "ends the program with status 0"),
    row(0x01, "read-echo", console::read_and_show, "reads a character into AL and shows it"),
    row(0x02, "show", console::show_character, "shows the character in DL"),
    row(0x07, "read-raw", console::read_silently, "reads a character into AL"),
    row(0x08, "read", console::read_silently, "the same"),
    row(0x09, "show-text", console::show_text, "shows the text at DS:DX up to its `$`"),
    row(0x0a, "read-line", console::read_line, "reads a line into the buffer at DS:DX"),
    row(0x19, "drive", system::drive, "the current drive in AL: 2, which is C:"),
    row(0x25, "set-vector", system::set_vector, "sets interrupt vector AL to DS:DX"),
    row(0x2a, "date", system::date, "year in CX, month in DH, day in DL, weekday in AL"),
    row(0x2c, "time", system::time, "hour in CH, minute in CL, second in DH, hundredths in DL"),
    row(0x30, "version", system::version, "5 in AL, 0 in AH"),
    row(0x35, "get-vector", system::get_vector, "interrupt vector AL in ES:BX"),
    row(0x3c, "create", files::create, "makes or empties the file of the name at DS:DX; a handle in AX"),
    row(0x3d, "open", files::open, "opens it as AL says: 0 to read, 1 to write, 2 both; a handle in AX"),
    row(0x3e, "close", files::close, "closes handle BX"),
    row(0x3f, "read-file", files::read, "reads CX bytes of handle BX to DS:DX; how many in AX"),
    row(0x40, "write-file", files::write, "writes CX bytes at DS:DX to handle BX; how many in AX"),
    row(0x41, "delete", files::delete, "removes the file of the name at DS:DX"),
    row(0x42, "seek", files::seek, "moves handle BX by CX:DX from where AL says; the position in DX:AX"),
    row(0x44, "device", files::device, "with 0 in AL: whether handle BX is a device, in DX"),
    row(0x48, "allocate", system::allocate, "BX paragraphs of memory; the segment in AX"),
    row(0x49, "free", system::free, "gives the block at ES back"),
    row(0x4a, "resize", system::resize, "gives the block at ES a size of BX paragraphs"),
    row(0x4c, "exit", system::exit, "ends the program with the status in AL"),
    row(0x62, "prefix", system::prefix, "the segment of the PSP in BX"),
];

/// The function of this number.
pub fn find(number: u8) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.number == number)
}

/// How a call returns: what becomes of CF, or how the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// CF is set or cleared, or as it was.
    To(Option<bool>),
    /// There is no such function, or not this part of it; CF is set.
    Unknown,
    /// The program ends with this status.
    Exit(u8),
    /// Standard output takes nothing more.
    Output(Errno),
}

/// Answers the call that the registers ask for.
pub fn answer(call: &mut Call) -> Return {
    let [number, _] = call.regs.a();
    match find(number).map_or(Err(Stop::Missing), |function| (function.answer)(call)) {
        Ok(()) => Return::To((number >= FIRST_WITH_CARRY).then_some(false)),
        Err(Stop::Error(code)) => {
            call.regs.ax = code;
            Return::To(Some(true))
        }
        Err(Stop::Missing) => {
            call.regs.ax = INVALID_FUNCTION;
            Return::Unknown
        }
        Err(Stop::Exit(status)) => Return::Exit(status),
        Err(Stop::Output(error)) => Return::Output(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocks::Blocks;
    use super::super::call::Words;
    use super::super::memory::{Far, Memory};
    use super::super::program::{self, PSP};
    use super::*;
    use crate::process::fake_files::FakeFiles;
    use proptest::prelude::*;

    /// A program's surroundings.
    struct Desk {
        memory: Memory,
        blocks: Blocks,
        files: FakeFiles,
    }

    /// Where texts and buffers lie.
    const DATA: u16 = 0x200;

    impl Desk {
        fn new(input: &[u8]) -> Desk {
            let memory = Memory::new().unwrap();
            program::load(&memory, b"\xc3", b"/a.com", &[]).unwrap();
            let files = FakeFiles { input: input.to_vec(), ..FakeFiles::default() };
            Desk { memory, blocks: Blocks::default(), files }
        }

        fn call(&mut self, regs: Words) -> (Return, Words) {
            let mut call = Call { regs, memory: &self.memory, blocks: &mut self.blocks, files: &mut self.files };
            let answer = answer(&mut call);
            (answer, call.regs)
        }

        /// A call with AX, BX, CX and with DS:DX at the data.
        fn ask(&mut self, ax: u16, bx: u16, cx: u16) -> (Return, Words) {
            self.call(Words { ax, bx, cx, dx: DATA, ds: PSP, es: PSP })
        }

        fn put(&self, bytes: &[u8]) {
            self.memory.write(Far { segment: PSP, offset: DATA }, bytes);
        }

        fn data(&self, size: usize) -> Vec<u8> {
            self.memory.read(Far { segment: PSP, offset: DATA }, size)
        }
    }

    const DONE: Return = Return::To(Some(false));
    const FAILED: Return = Return::To(Some(true));
    const AS_IT_WAS: Return = Return::To(None);

    #[test]
    fn the_table_ascends_and_the_page_has_it() {
        assert!(FUNCTIONS.is_sorted_by_key(|function| function.number));
        let page = include_str!("../../../docs/dos-programs.md");
        for Function { number, name, about, .. } in FUNCTIONS {
            assert!(page.contains(&format!("| `{number:02X}h` | {name} | {about} |")), "{name}");
        }
        assert_eq!(page.matches("h` | ").count(), FUNCTIONS.len());
    }

    #[test]
    fn characters_and_lines_are_read_and_shown() {
        let mut desk = Desk::new(b"xyline\r\nlonger than that\nend");
        assert_eq!(desk.ask(0x0100, 0, 0).1.ax, 0x0100 | u16::from(b'x'));
        assert_eq!((desk.ask(0x0800, 0, 0).1.ax, &desk.files.output[0][..]), (0x0800 | u16::from(b'y'), &b"x"[..]));
        let mut line = |room: u8| {
            desk.put(&[&[room][..], &[0xee; 20]].concat());
            assert_eq!(desk.ask(0x0a00, 0, 0).0, AS_IT_WAS);
            let line = desk.data(20);
            assert_eq!(line[2 + usize::from(line[1])], b'\r');
            line[2..2 + usize::from(line[1])].to_vec()
        };
        assert_eq!(
            (line(16), line(7), line(16), line(16), line(1)),
            (b"line".into(), b"longer".into(), b"end".into(), b"\x1a".into(), b"".into())
        );
        desk.files.output[0].clear();
        desk.put(b"text$more");
        assert_eq!((desk.ask(0x0900, 0, 0).0, desk.ask(0x0700, 0, 0).1.ax), (AS_IT_WAS, 0x071a));
        let character = Words { ax: 0x0200, dx: u16::from(b'!'), ..Words::default() };
        assert_eq!(desk.call(character).1.ax, 0x0200 | u16::from(b'!'));
        assert_eq!(desk.files.output[0], b"text!");
    }

    #[test]
    fn a_file_is_made_read_cut_and_removed() {
        let mut desk = Desk::new(b"");
        desk.put(b"C:\\new\0");
        assert_eq!((desk.ask(0x3d00, 0, 0).0, desk.ask(0x3d00, 0, 0).1.ax), (FAILED, 2));
        assert_eq!(desk.ask(0x3d07, 0, 0).1.ax, 12);
        let handle = desk.ask(0x3c00, 0, 0).1.ax;
        let (answer, regs) = desk.ask(0x4000, handle, 6);
        assert_eq!((answer, regs.ax, &desk.files.files[&b"/new"[..]][..]), (DONE, 6, &b"C:\\new"[..]));
        let from = |how: u16, offset: u16| Words { ax: 0x4200 | how, bx: handle, dx: offset, ..Words::default() };
        assert_eq!(desk.call(from(0, 3)).1.ax, 3);
        assert_eq!((desk.ask(0x3f00, handle, 100).1.ax, desk.data(3)), (3, b"new".to_vec()));
        assert_eq!(desk.call(from(0, 2)).1.ax, 2);
        assert_eq!((desk.ask(0x4000, handle, 0).0, desk.call(from(2, 0)).1.ax), (DONE, 2));
        assert_eq!(desk.call(from(3, 0)).1.ax, INVALID_FUNCTION);
        assert_eq!((desk.ask(0x4400, handle, 0).1.dx, desk.ask(0x4401, handle, 0).0), (0x42, Return::Unknown));
        assert_eq!((desk.ask(0x3e00, handle, 0).0, desk.ask(0x3e00, handle, 0).1.ax), (DONE, 6));
        assert_eq!(desk.ask(0x3f00, handle, 1).1.ax, 6);
        desk.put(b"C:\\new\0");
        assert_eq!((desk.ask(0x4100, 0, 0).0, desk.ask(0x4100, 0, 0).1.ax), (DONE, 2));
        desk.put(&[b'a'; 300]);
        assert_eq!(desk.ask(0x3d00, 0, 0).1.ax, 3, "a path without an end");
    }

    #[test]
    fn vectors_memory_and_the_end() {
        let mut desk = Desk::new(b"");
        assert_eq!((desk.ask(0x3521, 0, 0).1.es, desk.ask(0x3521, 0, 0).1.bx), (program::STUBS, 0x42));
        assert_eq!(desk.ask(0x2521, 0, 0).0, AS_IT_WAS);
        assert_eq!((desk.ask(0x3521, 0, 0).1.es, desk.ask(0x3521, 0, 0).1.bx), (PSP, DATA));
        let (answer, regs) = desk.ask(0x4800, 1, 0);
        assert_eq!((answer, regs.ax, regs.bx), (FAILED, 8, 0), "the program has all of it");
        assert_eq!((desk.ask(0x4a00, 0x1000, 0).0, desk.ask(0x4800, 1, 0).1.ax), (DONE, PSP + 0x1000));
        assert_eq!((desk.ask(0x4900, 0, 0).0, desk.ask(0x4900, 0, 0).1.ax), (DONE, 9));
        assert_eq!(
            (desk.ask(0x3000, 1, 1).1.ax, desk.ask(0x6200, 0, 0).1.bx, desk.ask(0x1900, 0, 0).1.ax),
            (5, PSP, 0x1902)
        );
        let date = desk.ask(0x2a00, 0, 0).1;
        assert!(date.cx > 2020 && (0x101..=0xc1f).contains(&date.dx) && date.ax <= 0x2a06, "{date:?}");
        let time = desk.ask(0x2c00, 0, 0).1;
        assert!(time.cx <= 0x173b && time.dx <= 0x3b63, "{time:?}");
        assert_eq!(desk.ask(0x4c07, 0, 0).0, Return::Exit(7));
        assert_eq!((desk.ask(0xff00, 0, 0).0, desk.ask(0xff00, 0, 0).1.ax), (Return::Unknown, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_asked_for_is_answered(
            calls in prop::collection::vec(any::<[u16; 7]>(), 1..40),
            memory in prop::collection::vec(any::<(u32, u8)>(), 0..200),
        ) {
            let mut desk = Desk::new(b"some input\nand more");
            for (at, byte) in memory {
                desk.memory.write(Far { segment: (at >> 16) as u16, offset: at as u16 }, &[byte]);
            }
            for [row, al, bx, cx, dx, ds, es] in calls {
                let number = FUNCTIONS.get(usize::from(row) % (FUNCTIONS.len() + 1)).map_or(row as u8, |row| row.number);
                // Small numbers are handles and blocks that exist more often than not.
                let bx = if row & 0x8000 != 0 { bx % 8 } else { bx };
                let es = if row & 0x4000 != 0 { PSP } else { es };
                let (answer, regs) = desk.call(Words { ax: u16::from_be_bytes([number, al as u8]), bx, cx, dx, ds, es });
                if answer == FAILED {
                    prop_assert!((1..=31).contains(&regs.ax), "error {}", regs.ax);
                }
            }
        }
    }
}
